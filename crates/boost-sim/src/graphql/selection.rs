//! Builds answers: objects with the selected fields, big integers.

use serde_json::{Map, Value, json};

use crate::graphql::parse::Field;

/// An object of a type with the selected fields, each with its value.
pub(super) fn object(
    type_name: &str,
    selected: &[Field],
    mut value_of: impl FnMut(&Field) -> Value,
) -> Value {
    let mut fields = Map::new();
    for field in selected {
        let value = if field.name == "__typename" { json!(type_name) } else { value_of(field) };
        fields.insert(field.alias.clone(), value);
    }
    Value::Object(fields)
}

/// An object of a type with the selected fields of a whole object of scalars.
pub(super) fn pick(type_name: &str, selected: &[Field], whole: &Value) -> Value {
    object(type_name, selected, |field| whole.get(&field.name).cloned().unwrap_or_default())
}

/// A `BigInt` or `Uint64`. Source: boost v2.5.2 `gql/types/bigint.go` and `uint64.go`.
pub(super) fn big(number: impl std::fmt::Display) -> Value {
    json!({ "__typename": "BigInt", "n": number.to_string() })
}
