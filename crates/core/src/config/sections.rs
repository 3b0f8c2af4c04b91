//! The sections both agents have: `lotus` and `log`; `mongodb` is [`super::MongodbSection`].
//!
//! Each comes with its table of [`Key`]s, to be joined with the agent's own.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Key, Kind, Secret, human};

/// How a Lotus node is reached. How these resolve to an address: [`crate::lotus::endpoint`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LotusSection {
    /// URL or multiaddr of the node's API.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub endpoint: Option<String>,
    /// The API token.
    pub token: Option<Secret>,
    /// A file that holds the API token.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub token_file: Option<PathBuf>,
    /// `<token>:<multiaddr>` as `lotus auth api-info` prints it.
    pub api_info: Option<Secret>,
    /// A Lotus repository folder with the files `api` and `token`.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub repo: Option<PathBuf>,
    /// How long one call may take.
    #[serde(deserialize_with = "human::duration::deserialize")]
    pub request_timeout: Duration,
}

impl LotusSection {
    /// The keys of this section.
    pub const KEYS: &'static [Key] = &[
        Key::new("lotus.endpoint", Kind::Text, "Lotus API as URL or multiaddr"),
        Key::new("lotus.token", Kind::Secret, "Lotus API token"),
        Key::new("lotus.tokenFile", Kind::Text, "File with the Lotus API token"),
        Key::new("lotus.apiInfo", Kind::Secret, "<token>:<multiaddr> as `lotus auth api-info` prints it"),
        Key::new("lotus.repo", Kind::Text, "Lotus repository folder, with its files `api` and `token`"),
        Key::new("lotus.requestTimeout", Kind::Duration, "Longest time one Lotus call may take").or("30s"),
    ];
}

impl Default for LotusSection {
    fn default() -> Self {
        Self {
            endpoint: None,
            token: None,
            token_file: None,
            api_info: None,
            repo: None,
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// What is logged and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LogSection {
    /// How log lines look.
    pub format: LogFormat,
    /// Which events are logged, as `level` or `target=level` separated by commas.
    #[serde(deserialize_with = "human::text::deserialize")]
    pub filter: String,
}

impl LogSection {
    /// The keys of this section.
    pub const KEYS: &'static [Key] = &[
        Key::new("log.format", Kind::Text, "Log lines: auto (text on a terminal), text or json").or("auto"),
        Key::new(
            "log.filter",
            Kind::Text,
            "Events logged: error, warn, info, debug, trace, or target=level,…",
        )
        .or("info"),
    ];
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}
