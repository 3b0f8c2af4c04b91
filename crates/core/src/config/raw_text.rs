//! Reads text keys as they are written in a YAML file. YAML itself reads `0123`, `yes` and `1e5` as a number,
//! a boolean and a number, and loses the letters.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::config::{Key, Kind};

/// The text keys with the text that is written for them. A key that cannot be read this way is left out, and
/// the reader of the values reports it.
pub(super) fn of_keys(yaml: &str, keys: &[Key]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let level = Level { above: String::new(), keys, found: &mut found };
    let read = serde_saphyr::with_deserializer_from_str(yaml, |deserializer| level.deserialize(deserializer));
    if read.is_ok() { found } else { Vec::new() }
}

/// The keys of a section, or nothing after its name.
struct Level<'a> {
    above: String,
    keys: &'a [Key],
    found: &'a mut Vec<(String, String)>,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of keys")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let path = if self.above.is_empty() { name } else { format!("{}.{name}", self.above) };
            let takes_text =
                self.keys.iter().any(|key| key.path == path && matches!(key.kind, Kind::Text | Kind::Secret));
            let is_section = self
                .keys
                .iter()
                .any(|key| key.path.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.')));
            if takes_text {
                if let Some(text) = map.next_value::<Option<String>>()? {
                    self.found.push((path, text));
                }
            } else if is_section {
                map.next_value_seed(Level { above: path, keys: self.keys, found: &mut *self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_survive_what_yaml_makes_of_them() {
        const KEYS: &[Key] = &[
            Key::new("mongodb.password", Kind::Secret, ""),
            Key::new("mongodb.username", Kind::Text, ""),
            Key::new("mongodb.port", Kind::Integer, ""),
            Key::new("lotus.token", Kind::Secret, ""),
        ];
        for written in ["0123", "yes", "1e5", "007", "0x1F", "true", "1_000", "12.50", "+1"] {
            let yaml = format!(
                "miners: [{{miner: f01000}}]\nmongodb:\n  password: {written} # note\n  username: \"{written}\"\n  port: 1\nlotus:\n"
            );
            let found = of_keys(&yaml, KEYS);
            let expected = [("mongodb.password", written), ("mongodb.username", written)]
                .map(|(path, text)| (path.to_owned(), text.to_owned()));
            assert_eq!(found, expected, "{written}");
        }
    }
}
