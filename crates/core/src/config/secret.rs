//! Secrets: passwords, tokens, and URIs that contain them, which must not reach a log.
//!
//! `Debug` of a [`Secret`] prints `[redacted]`. A secret is written as a value or in a file of its own
//! (`passwordFile`, `tokenFile`), as systemd credentials and container secrets provide it.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::Deserializer;

use crate::config::human;
use crate::error_chain::Hint;

/// Text that is wiped from memory when dropped and never shown.
#[derive(Clone, Default)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself: for a header or a connection, never for a message.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        human::text::deserialize(deserializer).map(Self::new)
    }
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The value and its file are both set.
    #[error("`{key}` and `{key}File` are both set")]
    Both {
        /// The key of the value.
        key: String,
    },
    /// The file cannot be read.
    #[error("cannot read {file} (`{key}File`)", file = file.display())]
    Unreadable {
        /// The key of the value.
        key: String,
        /// The file named in the configuration.
        file: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file holds nothing.
    #[error("{file} (`{key}File`) is empty", file = file.display())]
    Empty {
        /// The key of the value.
        key: String,
        /// The file named in the configuration.
        file: PathBuf,
    },
}

impl Hint for SecretError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Both { key } => Some(format!("keep `{key}File` and remove `{key}`")),
            Self::Unreadable { .. } => {
                Some("the file must exist and be readable by the agent's user".to_owned())
            }
            Self::Empty { .. } => {
                Some("write the secret alone into the file; blanks around it are cut".to_owned())
            }
        }
    }
}

/// The secret of a key that has a value form (`token`) and a file form (`tokenFile`).
pub fn resolve(
    key: &str,
    value: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, SecretError> {
    match (value, file) {
        (Some(_), Some(_)) => Err(SecretError::Both { key: key.to_owned() }),
        (Some(value), None) => Ok(Some(value.clone())),
        (None, None) => Ok(None),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).map_err(|source| SecretError::Unreadable {
                key: key.to_owned(),
                file: file.to_owned(),
                source,
            })?;
            match text.trim() {
                "" => Err(SecretError::Empty { key: key.to_owned(), file: file.to_owned() }),
                text => Ok(Some(Secret::new(text))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some([redacted])");
    }

    #[test]
    fn a_secret_comes_from_its_value_or_its_trimmed_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "\n abc.def.ghi \n").unwrap();
        let value = Secret::new("from value");
        let resolved = |value, file| resolve("token", value, file).map(|s| s.map(|s| s.expose().to_owned()));
        assert_eq!(resolved(None, Some(file.as_path())).unwrap().as_deref(), Some("abc.def.ghi"));
        assert_eq!(resolved(Some(&value), None).unwrap().as_deref(), Some("from value"));
        assert_eq!(resolved(None, None).unwrap(), None);
        let both = resolved(Some(&value), Some(file.as_path())).unwrap_err();
        assert_eq!(both.to_string(), "`token` and `tokenFile` are both set");
    }

    #[test]
    fn a_missing_or_empty_secret_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let missing = resolve("token", None, Some(&file)).unwrap_err();
        assert!(missing.to_string().contains(&file.display().to_string()), "{missing}");
        std::fs::write(&file, " \n").unwrap();
        let empty = resolve("token", None, Some(&file)).unwrap_err();
        assert!(matches!(empty, SecretError::Empty { .. }), "{empty}");
    }
}
