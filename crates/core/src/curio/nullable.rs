//! Reads values that Go may write in three ways: plain, `null`, or as one of its `sql.Null…` types.
//!
//! ```text
//! 5    null    {"Int64":5,"Valid":true}    {"String":"","Valid":false}
//! ```
//!
//! Curio's answers have all of them side by side, and releases differ. What is none of them reads as absent,
//! so that one field that changed its type hides no other.

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

/// The value, if there is one and it can be read.
pub(super) fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(read(Value::deserialize(deserializer)?))
}

fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    let value = match value {
        Value::Object(mut fields) if fields.contains_key("Valid") => {
            if fields.remove("Valid")? != Value::Bool(true) {
                return None;
            }
            fields.into_iter().next()?.1
        }
        value => value,
    };
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_number_and_of_its_absence_is_read() {
        for (text, expected) in [
            ("5", Some(5)),
            ("null", None),
            (r#"{"Int64":5,"Valid":true}"#, Some(5)),
            (r#"{"Int64":0,"Valid":false}"#, None),
            (r#"{"Valid":true}"#, None),
            (r#"{"Valid":"yes","Int64":5}"#, None),
            (r#""5""#, None),
            ("[]", None),
        ] {
            assert_eq!(read::<i64>(serde_json::from_str(text).unwrap()), expected, "{text}");
        }
        let text = |text| read::<String>(serde_json::from_str(text).unwrap());
        assert_eq!(text(r#"{"String":"a","Valid":true}"#).as_deref(), Some("a"));
        assert_eq!(text(r#""a""#).as_deref(), Some("a"));
        assert_eq!(read::<bool>(serde_json::from_str(r#"{"Bool":true,"Valid":true}"#).unwrap()), Some(true));
    }
}
