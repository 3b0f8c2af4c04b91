//! Loads an agent's configuration struct from defaults, YAML file, environment and flags, in this order of
//! precedence.
//!
//! The struct uses `#[serde(deny_unknown_fields, rename_all = "camelCase")]` on every level and no
//! `#[serde(flatten)]`, which would switch that off.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::error::Kind as Problem;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use serde::de::DeserializeOwned;

use crate::config::error::nearest;
use crate::config::indentation::TooFarIn;
use crate::config::{ConfigError, ENV_PREFIX, Key, Kind, Origin, human, indentation, position, raw_text};

/// Where configuration comes from besides the defaults of the keys.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// The YAML file; it must exist when it is named.
    pub file: Option<&'a Path>,
    /// The whole environment. Variables without the prefix `CARFERRY_` are ignored, and empty values count
    /// as unset.
    pub env: Vec<(String, String)>,
    /// Variables with the prefix that are no keys (`CARFERRY_CONFIG`, `CARFERRY_LOG`, …).
    pub reserved: &'a [&'a str],
    /// Flags as [`crate::config::overrides`] gives them.
    pub flags: &'a [(String, String)],
    /// The other agent, whose file may have been named by mistake.
    pub other: Option<&'static OtherProgram>,
}

/// The keys of the other agent, by which its file is recognised.
#[derive(Debug)]
pub struct OtherProgram {
    /// Its name.
    pub program: &'static str,
    /// What its file is called.
    pub file: &'static str,
    /// The last parts of keys that only it has.
    pub keys: &'static [&'static str],
    /// What this program needs instead.
    pub hint: &'static str,
}

/// Loads the configuration of an agent.
///
/// # Errors
///
/// [`ConfigError`], which names file, variable or flag, and the key.
pub fn load<T: DeserializeOwned>(keys: &[Key], sources: &Sources<'_>) -> Result<T, ConfigError> {
    let mut figment = Figment::new();
    let mut origins = BTreeMap::new();
    let mut add = |figment: Figment, key: &Key, text: &str, at: Origin| -> Result<Figment, ConfigError> {
        let value = value_of(key, text, &at)?;
        let name = at.to_string();
        let one = One { metadata: Metadata::named(name.clone()), path: key.path, value };
        origins.insert(name, at);
        Ok(figment.merge(one))
    };

    for key in keys {
        if let Some(default) = key.default {
            figment = add(figment, key, default, Origin::Default)?;
        }
    }
    let yaml = match sources.file {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
            figment = figment.merge(YamlFile::read(file, &text, keys)?);
            Some((file, text))
        }
    };
    for (name, text) in variables(keys, sources)? {
        if let Some(key) = keys.iter().find(|key| key.variable().as_deref() == Some(name)) {
            figment = add(figment, key, text, Origin::Variable(name.to_owned()))?;
        }
    }
    for (path, text) in sources.flags {
        if let Some(key) = keys.iter().find(|key| key.path == path) {
            let flag = key.flag().unwrap_or_else(|| path.clone());
            figment = add(figment, key, text, Origin::Flag(format!("--{flag}")))?;
        }
    }

    figment.extract().map_err(|error| {
        let by_name = error.metadata.as_ref().and_then(|metadata| origins.get(&*metadata.name)).cloned();
        explain(
            &error,
            keys,
            by_name,
            yaml.as_ref().map(|(file, text)| (*file, text.as_str())),
            sources.other,
        )
    })
}

/// The set variables that are keys, in order of their names.
fn variables<'s>(keys: &[Key], sources: &'s Sources<'_>) -> Result<BTreeMap<&'s str, &'s str>, ConfigError> {
    let known: Vec<String> = keys.iter().filter_map(Key::variable).collect();
    let mut found = BTreeMap::new();
    for (name, text) in &sources.env {
        match owner(name, text, &known, sources.reserved) {
            Owner::Key if !text.is_empty() => {
                found.insert(name.as_str(), text.as_str());
            }
            Owner::Nobody { nearest } => {
                return Err(ConfigError::UnknownVariable { name: name.clone(), nearest });
            }
            Owner::Key | Owner::Another => {}
        }
    }
    Ok(found)
}

/// What a variable with the prefix is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// A key of this program.
    Key,
    /// Another program, or a container platform.
    Another,
    /// It looks like a key and is none: its value would be ignored silently.
    Nobody { nearest: Option<String> },
}

fn owner(name: &str, text: &str, known: &[String], reserved: &[&str]) -> Owner {
    if !name.starts_with(ENV_PREFIX) || reserved.contains(&name) {
        return Owner::Another;
    }
    if known.iter().any(|known| known == name) {
        return Owner::Key;
    }
    // What Kubernetes, and links between Docker's containers, set for a service that is called
    // carferry-something.
    let of_service = name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains(protocol))
        || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    // One underscore of a key forgotten: CARFERRY_SETTING_WALLET.
    let bare = |name: &str| name.replace('_', "");
    let is_slip = known.iter().any(|known| bare(known) == bare(name));
    if of_service || !(name.contains("__") || is_slip) {
        return Owner::Another;
    }
    let candidates = known.iter().map(String::as_str).chain(reserved.iter().copied());
    Owner::Nobody { nearest: nearest(name, candidates) }
}

/// Reads the text of a variable, a flag or a default as the kind of its key.
fn value_of(key: &Key, text: &str, at: &Origin) -> Result<Value, ConfigError> {
    let wrong = |problem: String| ConfigError::Value { at: at.clone(), key: key.path.to_owned(), problem };
    let trimmed = text.trim();
    Ok(match key.kind {
        Kind::Text | Kind::Secret => Value::from(text),
        Kind::Integer => match (trimmed.parse::<u64>(), trimmed.parse::<i64>()) {
            (Ok(number), _) => Value::from(number),
            (_, Ok(number)) => Value::from(number),
            _ => return Err(wrong(format!("\"{text}\" is not a whole number"))),
        },
        Kind::Bool => match trimmed.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Value::from(true),
            "false" | "no" | "off" | "0" => Value::from(false),
            _ => return Err(wrong(format!("\"{text}\" is neither true nor false"))),
        },
        Kind::Duration => {
            human::parse_duration(text).map_err(|error| wrong(error.to_string()))?;
            Value::from(trimmed)
        }
        Kind::Bytes => {
            human::parse_bytes(text).map_err(|error| wrong(error.to_string()))?;
            Value::from(trimmed)
        }
        Kind::List => {
            Value::from(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect::<Vec<_>>())
        }
        Kind::FileOnly => return Err(wrong("only a file can hold this key".to_owned())),
    })
}

/// Converts figment's error into [`ConfigError`]: source, full key and the nearest known key.
fn explain(
    error: &figment::Error,
    keys: &[Key],
    by_name: Option<Origin>,
    yaml: Option<(&Path, &str)>,
    other: Option<&'static OtherProgram>,
) -> ConfigError {
    let mut path = error.path.clone();
    if let Problem::UnknownField(field, _) = &error.kind
        && path.last() != Some(field)
    {
        path.push(field.clone());
    }
    let key = path.join(".");
    let in_file = || yaml.map(|(file, text)| Origin::File(file.to_owned(), position::of_key(text, &path)));
    let at = by_name.or_else(in_file).unwrap_or(Origin::Default);
    match &error.kind {
        Problem::UnknownField(field, _)
            if let Some(other) = other
                && other.keys.contains(&field.as_str()) =>
        {
            ConfigError::OtherProgram { at, key, other }
        }
        Problem::UnknownField(field, known) => ConfigError::UnknownKey {
            at,
            nearest: nearest(field, known.iter().copied()).or_else(|| elsewhere(field, keys)),
            key,
            known: known.iter().map(|&known| known.to_owned()).collect(),
        },
        Problem::MissingField(field) => {
            let key = if key.is_empty() { field.to_string() } else { format!("{key}.{field}") };
            let known = keys.iter().find(|known| known.path == key);
            let mut places = vec![match yaml {
                Some((file, _)) => format!("`{key}` in {}", file.display()),
                None => format!("`{key}` in a file given with --config"),
            }];
            places.extend(known.and_then(Key::variable));
            places.extend(known.and_then(Key::flag).map(|flag| format!("--{flag}")));
            ConfigError::Missing { key, places }
        }
        Problem::UnknownVariant(written, known) => {
            let problem = format!("\"{written}\" is none of {}", known.join(", "));
            ConfigError::Value { at, key, problem }
        }
        problem => ConfigError::Value { at, key, problem: problem.to_string() },
    }
}

/// A key of the same name that stands in another section.
fn elsewhere(field: &str, keys: &[Key]) -> Option<String> {
    let last = |key: &Key| key.path.rsplit('.').next().unwrap_or(key.path);
    keys.iter().find(|key| last(key).eq_ignore_ascii_case(field)).map(|key| key.path.to_owned())
}

/// One value at one path, with a name that leads back to its origin.
struct One {
    metadata: Metadata,
    path: &'static str,
    value: Value,
}

impl Provider for One {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let nested = self
            .path
            .rsplit('.')
            .fold(self.value.clone(), |value, level| Value::from(Map::from([(level.to_owned(), value)])));
        Ok(Map::from([(Profile::Default, nested.into_dict().unwrap_or_default())]))
    }
}

struct YamlFile {
    file: PathBuf,
    dict: Dict,
}

impl YamlFile {
    /// A known key with nothing after it, or with empty quotes, counts as not written.
    fn read(file: &Path, text: &str, keys: &[Key]) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let value: Option<Value> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let position = error.location().map(|location| (location.line(), location.column()));
            match indentation::too_far_in(text) {
                Some(TooFarIn { line, column, problem, hint }) => ConfigError::Syntax {
                    at: Origin::File(file.to_owned(), Some((line, column))),
                    problem,
                    hint: Some(hint),
                },
                None => ConfigError::Syntax {
                    at: Origin::File(file.to_owned(), position),
                    problem: without_position(&error),
                    hint: None,
                },
            }
        })?;
        let mut dict = match value {
            None | Some(Value::Empty(..)) => Dict::new(),
            Some(Value::Dict(_, dict)) => dict,
            Some(_) => {
                return Err(ConfigError::Syntax {
                    at: Origin::File(file.to_owned(), None),
                    problem: "a configuration file is a map of keys, one `key: value` a line".to_owned(),
                    hint: None,
                });
            }
        };
        for (path, text) in raw_text::of_keys(text, keys) {
            put_text(&mut dict, &path, text);
        }
        drop_unset(&mut dict, "", keys);
        Ok(Self { file: file.to_owned(), dict })
    }
}

impl Provider for YamlFile {
    fn metadata(&self) -> Metadata {
        Metadata::from("YAML file", Source::File(self.file.clone()))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// Sets the text that is written for a text key. A value that is no scalar is left to the reader of the
/// values.
fn put_text(dict: &mut Dict, path: &str, text: String) {
    match path.split_once('.') {
        Some((section, below)) => {
            if let Some(Value::Dict(_, dict)) = dict.get_mut(section) {
                put_text(dict, below, text);
            }
        }
        None => {
            if let Some(value @ (Value::Num(..) | Value::Bool(..) | Value::Char(..))) = dict.get_mut(path) {
                *value = Value::from(text);
            }
        }
    }
}

fn drop_unset(dict: &mut Dict, above: &str, keys: &[Key]) {
    dict.retain(|name, value| {
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        let known = keys.iter().any(|key| {
            key.path.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        match value {
            Value::Empty(..) => !known,
            // As in `username: ""` of the first configuration files.
            Value::String(_, text) if text.trim().is_empty() => !known,
            Value::Dict(_, below) => {
                drop_unset(below, &path, keys);
                true
            }
            _ => true,
        }
    });
}

/// The message of the YAML reader in one line; line and column stand before it already.
fn without_position(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let line = message.lines().next().unwrap_or(&message).trim();
    let cut = line.rfind(" at line ").and_then(|at| line.get(..at)).unwrap_or(line);
    let cut = cut.strip_prefix("error: ").unwrap_or(cut);
    // This advice is for programmers, not for the author of the file.
    let cut = cut.split(", set DuplicateKeyPolicy").next().unwrap_or(cut);
    match cut.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest.to_owned(),
        _ => cut.to_owned(),
    }
}

#[cfg(test)]
mod tests;
