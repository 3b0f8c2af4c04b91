//! The source of a deal's recorded state: chain, client's node or provider.

use bson::Bson;
use serde::{Deserialize, Deserializer, Serialize};

/// The source of a deal's recorded state. The chain overrules the client's node, and both overrule the
/// provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusSource {
    /// The deal was looked up on chain.
    Chain,
    /// The client's node follows the deal and lists it.
    Node,
    /// The provider's agent recorded it; every provider can write such a record.
    Provider,
}

impl StatusSource {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Node => "node",
            Self::Provider => "provider",
        }
    }

    /// For `#[serde(deserialize_with)]`. A value of no known name is `None`: records of earlier versions have
    /// no source, and what a provider writes there must not hide the rest of the record.
    pub(super) fn opt<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let value = Bson::deserialize(deserializer)?;
        let known = [Self::Chain, Self::Node, Self::Provider];
        Ok(known.into_iter().find(|source| value.as_str() == Some(source.as_str())))
    }
}
