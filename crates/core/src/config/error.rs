//! Configuration errors: each names the source (file, variable, flag) and the key.

use std::fmt;
use std::path::PathBuf;

use strsim::levenshtein;

use crate::config::OtherProgram;
use crate::error_chain::Hint;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The YAML file, with line and column (from 1) where they are known.
    File(PathBuf, Option<(u64, u64)>),
    /// An environment variable.
    Variable(String),
    /// A flag, with its dashes.
    Flag(String),
    /// The table of defaults.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, Some((line, column))) => write!(f, "{}:{line}:{column}", file.display()),
            Self::File(file, None) => write!(f, "{}", file.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why the configuration cannot be used. None of these errors passes by itself: the user must change
/// something.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {file}", file = file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file that a key names cannot be read.
    #[error("cannot read {file} (`{key}`)", file = file.display())]
    KeyFile {
        /// The key.
        key: String,
        /// The file.
        file: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is not YAML, or has a key twice.
    #[error("{at}: {problem}")]
    Syntax {
        /// The file and the place in it.
        at: Origin,
        /// The YAML reader's error.
        problem: String,
        /// The lines as they should be, where that is known.
        hint: Option<String>,
    },
    /// An unknown key.
    #[error("{at}: unknown key `{key}`")]
    UnknownKey {
        /// Where it is written.
        at: Origin,
        /// Its full path.
        key: String,
        /// The known key with the smallest edit distance.
        nearest: Option<String>,
        /// The keys that are known in this section.
        known: Vec<String>,
    },
    /// A key of the other agent's file.
    #[error("{at}: `{key}` is a key of {program}'s file, {file}", program = other.program, file = other.file)]
    OtherProgram {
        /// Where it is written.
        at: Origin,
        /// Its full path.
        key: String,
        /// The other agent, with its keys.
        other: &'static OtherProgram,
    },
    /// An unknown variable with the prefix `CARFERRY_`.
    #[error("unknown environment variable {name}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The known variable with the smallest edit distance.
        nearest: Option<String>,
    },
    /// A value of the wrong form.
    #[error("{at}: `{key}`: {problem}")]
    Value {
        /// Where it is written.
        at: Origin,
        /// The key's path.
        key: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// A key without value anywhere.
    #[error("`{key}` is not set")]
    Missing {
        /// The key's path.
        key: String,
        /// Where it may be set.
        places: Vec<String>,
    },
    /// Keys that contradict each other.
    #[error("`{key}`: {problem}")]
    Conflict {
        /// The key's path.
        key: String,
        /// What contradicts it.
        problem: String,
        /// How to resolve it.
        hint: String,
    },
    /// A secret that cannot be read.
    #[error("secret unavailable")]
    Secret(#[from] crate::config::secret::SecretError),
}

impl Hint for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some("name a readable file with --config".to_owned()),
            Self::KeyFile { .. } => {
                Some("the file must exist and be readable by the agent's user".to_owned())
            }
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownKey { known, .. } if !known.is_empty() => {
                Some(format!("known here: {}", known.join(", ")))
            }
            Self::UnknownVariable { nearest: Some(nearest), .. } => Some(format!("did you mean {nearest}?")),
            Self::UnknownVariable { .. } => Some("unset it; --help lists the variables".to_owned()),
            Self::Missing { places, .. } if !places.is_empty() => {
                Some(format!("set {}", places.join(" or ")))
            }
            Self::Conflict { hint, .. } => Some(hint.clone()),
            Self::OtherProgram { other, .. } => Some(other.hint.to_owned()),
            Self::Syntax { hint, .. } => hint.clone(),
            Self::Secret(error) => error.hint(),
            Self::UnknownKey { .. } | Self::Value { .. } | Self::Missing { .. } => None,
        }
    }
}

/// The candidate with the smallest edit distance to `written`; `None` if all of them differ too much.
pub(super) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let bound = (written.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (levenshtein(&written.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in
            [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
        {
            assert_eq!(levenshtein(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn nearest_needs_likeness() {
        let known = ["dealTimeout", "minerMaxDeals", "wallet"];
        assert_eq!(nearest("dealTimout", known).as_deref(), Some("dealTimeout"));
        assert_eq!(nearest("deal_timeout", known).as_deref(), Some("dealTimeout"));
        assert_eq!(nearest("colour", known), None);
    }
}
