//! Checks an operation against the schema, with the error texts of graph-gophers.
//!
//! Source: graph-gophers/graphql-go v1.9.0 `internal/validation`.

use crate::graphql::parse::{Field, Literal};
use crate::graphql::schema;
use crate::graphql::tokens::RequestError;
use crate::record::Checkpoint;
use crate::version::BoostVersion;

/// Finds every error of a selection on a type.
pub(super) fn validate(owner: &str, fields: &[Field], version: BoostVersion, errors: &mut Vec<RequestError>) {
    for field in fields {
        if field.name == "__typename" {
            continue;
        }
        let Some(field_type) = schema::field_type(owner, &field.name, version) else {
            let text = format!("Cannot query field \"{}\" on type \"{owner}\".", field.name);
            errors.push(RequestError::at(field.place, text));
            continue;
        };
        check_arguments(owner, field, version, errors);
        let name = &field.name;
        match (schema::is_object(field_type), field.fields.is_empty()) {
            (true, true) => errors.push(RequestError::at(
                field.place,
                format!(
                    "Field \"{name}\" of type \"{field_type}\" must have a selection of subfields. Did you mean \
                     \"{name} {{ ... }}\"?"
                ),
            )),
            (false, false) => errors.push(RequestError::at(
                field.place,
                format!(
                    "Field \"{name}\" must not have a selection since type \"{field_type}\" has no subfields."
                ),
            )),
            (true, false) => validate(schema::bare(field_type), &field.fields, version, errors),
            (false, true) => {}
        }
    }
}

fn check_arguments(owner: &str, field: &Field, version: BoostVersion, errors: &mut Vec<RequestError>) {
    let is_root = owner.starts_with("Root");
    let known: Vec<_> = if is_root { schema::arguments(&field.name, version).collect() } else { Vec::new() };
    for (name, value) in &field.arguments {
        let Some((_name, argument_type)) = known.iter().find(|(known, _type)| known == name) else {
            let text =
                format!("Unknown argument \"{name}\" on field \"{}\" of type \"{owner}\".", field.name);
            errors.push(RequestError::at(field.place, text));
            continue;
        };
        if let Some(reason) = mismatch(argument_type, value) {
            let text = format!("Argument \"{name}\" has invalid value {value}.\n{reason}");
            errors.push(RequestError::at(field.place, text));
        }
    }
    for (name, argument_type) in known {
        if argument_type.ends_with('!') && !field.arguments.iter().any(|(given, _value)| given == name) {
            let text = format!(
                "Field \"{}\" argument \"{name}\" of type \"{argument_type}\" is required but not provided.",
                field.name
            );
            errors.push(RequestError::at(field.place, text));
        }
    }
}

/// Why a value does not fit a type.
fn mismatch(argument_type: &str, value: &Literal) -> Option<String> {
    let name = schema::bare(argument_type);
    let fits = match (name, value) {
        (_, Literal::Null) => !argument_type.ends_with('!'),
        ("Int", Literal::Number(number)) => {
            number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
        }
        (_, Literal::Variable(_))
        | ("BigInt" | "ID", Literal::Number(_) | Literal::Text(_))
        | ("String", Literal::Text(_))
        | ("Boolean", Literal::Bool(_)) => true,
        ("Checkpoint", Literal::Enum(word)) => Checkpoint::from_name(word).is_some(),
        (_, Literal::Object(fields)) => {
            let Some(known) = schema::input(name) else { return Some(expected(argument_type, value)) };
            return fields.iter().find_map(|(field, value)| {
                match known.iter().find(|(known, _type)| known == field) {
                    Some((_name, field_type)) => {
                        mismatch(field_type, value).map(|reason| format!("In field \"{field}\": {reason}"))
                    }
                    None => Some(format!("In field \"{field}\": Unknown field.")),
                }
            });
        }
        _ => false,
    };
    (!fits).then(|| expected(argument_type, value))
}

fn expected(argument_type: &str, value: &Literal) -> String {
    format!("Expected type \"{}\", found {value}.", argument_type.trim_end_matches('!'))
}
