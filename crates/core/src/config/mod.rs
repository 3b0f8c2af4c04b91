//! Configuration: one table of keys drives the YAML file, environment variables and flags.
//!
//! Precedence: defaults < file < environment < flags. A key `setting.dealTimeout` is the variable
//! `CARFERRY_SETTING__DEAL_TIMEOUT` and the flag `--deal-timeout`; `lotus.tokenFile` is
//! `CARFERRY_LOTUS__TOKEN_FILE` and `--lotus-token-file` (only the section `setting` is left out of
//! flags). Secrets have no flag, because every user of a host can read a command line.
//!
//! What an agent's keys mean lives with the agent; what both share is in [`sections`].

pub mod human;
pub mod secret;
pub mod sections;

mod auth_mechanism;
mod error;
mod indentation;
mod load;
mod mongodb;
mod position;
mod raw_text;

use clap::builder::ArgAction;
use clap::{Arg, ArgMatches};

pub use crate::config::auth_mechanism::AuthMechanism;
pub use crate::config::error::{ConfigError, Origin};
pub use crate::config::load::{OtherProgram, Sources, load};
pub use crate::config::mongodb::{DEFAULT_DATABASE, MongoTarget, MongodbSection};
pub use crate::config::secret::Secret;

/// Every variable of the agents begins with this.
pub const ENV_PREFIX: &str = "CARFERRY_";

/// Variables with the agents' prefix that are no keys: of the command line, of the kernels' choice, and of
/// the tests and the demonstration, which start agents in their own environment.
pub const RESERVED_VARIABLES: &[&str] = &[
    "CARFERRY_CONFIG",
    "CARFERRY_KERNEL",
    "CARFERRY_LOTUS_ITEST",
    "CARFERRY_MONGOD",
    "CARFERRY_TEST_IDLE_MS",
    "CARFERRY_TEST_LOG",
    "CARFERRY_TEST_RUN_DIR",
];

/// The type of a key's value, and so how text from a variable or a flag is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, kept as written even where it looks like a number.
    Text,
    /// Text that is never shown and has no flag.
    Secret,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Bool,
    /// A duration: seconds, or a number with a unit ([`human::parse_duration`]).
    Duration,
    /// A size: bytes, or a number with a unit ([`human::parse_bytes`]).
    Bytes,
    /// A list of text; variables and flags separate with commas.
    List,
    /// A structure that only a file can hold.
    FileOnly,
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its path in the file: `setting.dealTimeout`.
    pub path: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// One sentence for `--help`, with the unit where there is one.
    pub help: &'static str,
    /// The default, written as in a variable.
    pub default: Option<&'static str>,
}

impl Key {
    /// A key without default.
    pub const fn new(path: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { path, kind, help, default: None }
    }

    /// The key with a default.
    #[must_use]
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// The environment variable: `CARFERRY_SETTING__DEAL_TIMEOUT`. `None` where only a file can hold the
    /// value.
    pub fn variable(&self) -> Option<String> {
        (self.kind != Kind::FileOnly).then(|| {
            let levels: Vec<_> = self.path.split('.').map(|level| words(level).join("_")).collect();
            format!("{ENV_PREFIX}{}", levels.join("__").to_ascii_uppercase())
        })
    }

    /// The flag without its dashes: `deal-timeout`, `mongodb-uri`. `None` for secrets and structures.
    pub fn flag(&self) -> Option<String> {
        (!matches!(self.kind, Kind::FileOnly | Kind::Secret)).then(|| {
            let path = self.path.strip_prefix("setting.").unwrap_or(self.path);
            path.split('.').flat_map(words).collect::<Vec<_>>().join("-")
        })
    }
}

/// The flags of the keys, global to all commands, with unit, default and variable in their help.
pub fn args(keys: &[Key]) -> Vec<Arg> {
    keys.iter().filter_map(arg).collect()
}

/// The flags given on the command line, as (path, text) pairs for [`Sources::flags`].
pub fn overrides(keys: &[Key], matches: &ArgMatches) -> Vec<(String, String)> {
    keys.iter()
        .filter_map(|key| {
            let values = matches.try_get_many::<String>(key.path).ok()??;
            let text = values.map(String::as_str).collect::<Vec<_>>().join(",");
            Some((key.path.to_owned(), text))
        })
        .collect()
}

fn arg(key: &Key) -> Option<Arg> {
    let default = key.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    let variable = key.variable().map(|variable| format!(" [env: {variable}]")).unwrap_or_default();
    let help = format!("{}{default}{variable}", key.help.trim_end_matches('.'));
    let arg = Arg::new(key.path).long(key.flag()?).help(help).help_heading("Configuration").global(true);
    Some(match key.kind {
        Kind::Bool => arg
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .action(ArgAction::Set),
        Kind::List => arg.value_name("A,B,…").action(ArgAction::Append),
        Kind::Integer => arg.value_name("N").action(ArgAction::Set).allow_negative_numbers(true),
        Kind::Duration => arg.value_name("DURATION").action(ArgAction::Set),
        Kind::Bytes => arg.value_name("SIZE").action(ArgAction::Set),
        Kind::Text | Kind::Secret | Kind::FileOnly => arg.value_name("TEXT").action(ArgAction::Set),
    })
}

/// `tlsCaFile` → `tls`, `ca`, `file`.
fn words(camel: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_names_variable_and_flag() {
        let cases = [
            (
                "setting.dealTimeout",
                Kind::Duration,
                Some("CARFERRY_SETTING__DEAL_TIMEOUT"),
                Some("deal-timeout"),
            ),
            ("mongodb.uri", Kind::Text, Some("CARFERRY_MONGODB__URI"), Some("mongodb-uri")),
            ("lotus.tokenFile", Kind::Text, Some("CARFERRY_LOTUS__TOKEN_FILE"), Some("lotus-token-file")),
            ("lotus.token", Kind::Secret, Some("CARFERRY_LOTUS__TOKEN"), None),
            ("import.pathMap", Kind::FileOnly, None, None),
            ("miners", Kind::List, Some("CARFERRY_MINERS"), Some("miners")),
        ];
        for (path, kind, variable, flag) in cases {
            let key = Key::new(path, kind, "");
            assert_eq!(key.variable().as_deref(), variable, "{path}");
            assert_eq!(key.flag().as_deref(), flag, "{path}");
        }
    }

    #[test]
    fn flags_reach_overrides_from_before_and_after_the_subcommand() {
        const KEYS: &[Key] = &[
            Key::new("setting.dealTimeout", Kind::Duration, "How often.").or("20"),
            Key::new("setting.verified", Kind::Bool, "Verified."),
            Key::new("setting.wallet", Kind::Text, "Wallet."),
            Key::new("miners", Kind::List, "Miners."),
            Key::new("lotus.token", Kind::Secret, "Token."),
        ];
        let command = clap::Command::new("agent").args(args(KEYS)).subcommand(clap::Command::new("run"));
        let line =
            ["agent", "--deal-timeout", "5m", "run", "--verified", "--miners=f01,f02", "--miners", "f03"];
        let matches = command.clone().try_get_matches_from(line).unwrap();
        let (_, run) = matches.subcommand().unwrap();
        let expected =
            [("setting.dealTimeout", "5m"), ("setting.verified", "true"), ("miners", "f01,f02,f03")]
                .map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(overrides(KEYS, run), expected);

        let help = command.clone().render_long_help().to_string();
        assert!(help.contains("How often [default: 20] [env: CARFERRY_SETTING__DEAL_TIMEOUT]"), "{help}");
        assert!(!help.contains("lotus-token"), "{help}");
        assert!(command.try_get_matches_from(["agent", "--lotus-token", "x"]).is_err());
    }
}
