//! A market node: where it is, which market it runs, which miner it works for, and what ends its troubles.

use carferry_core::boost::{Boost, Graphql};
use carferry_core::config::Secret;
use carferry_core::config::sections::LotusSection;
use carferry_core::error_chain::Hint;
use carferry_core::lotus::Provider;
use carferry_core::model::address::MinerId;
use carferry_core::rpc::endpoint::{Endpoint, EndpointError};
use carferry_core::rpc::{CallTimeouts, Client, RpcError, endpoint};
use serde::Deserialize;
use tracing::debug;
use url::Url;

/// How a variable of the environment is read.
pub type Environment = fn(&str) -> Option<String>;

/// Which market a miner runs (`miners[].market`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarketKind {
    /// The node is asked.
    #[default]
    Auto,
    /// Lotus' own market, up to v1.27.0.
    Lotus,
    /// Boost.
    Boost,
}

/// The configured address of a market node. It is resolved each time the node must identify itself: the
/// address in a repository folder exists only while the node runs, and may differ after a restart.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// The configuration.
    pub section: LotusSection,
    /// Reads the variables that Lotus itself reads, where the configuration leaves something out.
    pub env: Environment,
    /// Limits of calls to it.
    pub timeouts: CallTimeouts,
    /// The market that runs there.
    pub market: MarketKind,
    /// URL of Boost's GraphQL (`miners[].graphql`).
    pub graphql: Option<Url>,
}

/// Where Boost's GraphQL listens unless it is configured otherwise. Source: boost v2.5.2
/// `node/config/def.go`.
const GRAPHQL_PORT: u16 = 8080;

/// The calls of a node, by the market that it runs.
#[derive(Clone, Debug)]
pub(super) enum Api {
    /// Lotus' own market.
    Lotus(Provider),
    /// Boost.
    Boost(Boost),
}

/// A node that has identified itself.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its calls.
    pub(super) api: Api,
    /// The token they carry.
    pub(super) token: Option<Secret>,
    /// The miner it works for, as it writes the address.
    pub(super) miner: String,
}

/// A node with a resolved address, which nothing is known of yet.
#[derive(Clone, Debug)]
pub struct UnknownNode {
    client: Client,
    token: Option<Secret>,
    market: MarketKind,
}

impl Node {
    /// URL of the node.
    pub fn endpoint(&self) -> &str {
        match &self.api {
            Api::Lotus(provider) => provider.endpoint(),
            Api::Boost(boost) => boost.endpoint(),
        }
    }

    /// The market it runs, for people.
    pub fn market_name(&self) -> &'static str {
        match &self.api {
            Api::Lotus(_) => "Lotus",
            Api::Boost(_) => "Boost",
        }
    }
}

impl UnknownNode {
    /// Asks the node which market it runs and which miner it works for.
    ///
    /// Boost has no `ActorAddress`, and its ask names its miner (boost v2.5.2).
    ///
    /// # Errors
    ///
    /// The error of the call. A node that is neither is told of as a Lotus without a market.
    pub async fn identify(self) -> Result<Node, RpcError> {
        let (lotus, boost) = (Provider::new(self.client.clone()), Boost::new(self.client));
        let as_lotus = |miner| (Api::Lotus(lotus.clone()), miner);
        let as_boost = |miner| (Api::Boost(boost.clone()), miner);
        let (api, miner) = match self.market {
            MarketKind::Lotus => as_lotus(lotus.actor_address().await?),
            MarketKind::Boost => as_boost(boost.miner().await?),
            MarketKind::Auto => match lotus.actor_address().await {
                Ok(miner) => as_lotus(miner),
                Err(error @ RpcError::MethodNotFound { .. }) => match boost.miner().await {
                    Ok(miner) => as_boost(miner),
                    Err(RpcError::MethodNotFound { .. }) => return Err(error),
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            },
        };
        Ok(Node { api, token: self.token, miner })
    }
}

impl NodeAddress {
    /// The node at this address; nothing is called yet.
    ///
    /// # Errors
    ///
    /// [`NodeError`].
    pub fn node(&self) -> Result<UnknownNode, NodeError> {
        let found = self.resolve()?;
        debug!(endpoint = %found, "market node");
        let client = Client::of(&found, self.timeouts)?;
        Ok(UnknownNode { client, token: found.token, market: self.market })
    }

    /// Boost's GraphQL: as configured, else on the host of its API.
    pub(super) fn graphql(&self, endpoint: &str) -> Result<Graphql, RpcError> {
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| RpcError::Transport {
            method: "connecting",
            endpoint: endpoint.to_owned(),
            source,
        };
        let url = if let Some(url) = &self.graphql {
            url.clone()
        } else {
            let api = Url::parse(endpoint).map_err(|error| unusable(error.into()))?;
            let host = api.host_str().unwrap_or("127.0.0.1");
            Url::parse(&format!("http://{host}:{GRAPHQL_PORT}")).map_err(|error| unusable(error.into()))?
        };
        Ok(Graphql::new(url, self.timeouts.list))
    }

    /// URL and token of the node.
    ///
    /// # Errors
    ///
    /// [`EndpointError`].
    pub fn resolve(&self) -> Result<Endpoint, EndpointError> {
        match self.market {
            MarketKind::Boost => endpoint::resolve_boost(&self.section, &self.env),
            MarketKind::Auto | MarketKind::Lotus => endpoint::resolve_miner(&self.section, &self.env),
        }
    }
}

/// Why there is no node to call.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Neither configuration nor environment tells a usable address.
    #[error(transparent)]
    Address(#[from] EndpointError),
    /// Its URL or token cannot be sent at all.
    #[error(transparent)]
    Lotus(#[from] RpcError),
}

/// Why a node cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It works for another miner.
    #[error("the node at {endpoint} works for miner {found}, not for {expected}")]
    OtherMiner {
        /// URL of the node.
        endpoint: String,
        /// The miner that the node works for.
        found: String,
        /// The configured miner.
        expected: String,
    },
    /// Its address cannot be resolved.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// It did not answer.
    #[error(transparent)]
    Lotus(#[from] RpcError),
}

impl IdentityError {
    /// Whether something must be configured otherwise before the node can be worked with.
    pub fn is_permanent(&self) -> bool {
        match self {
            // The address of a node that is down is not in its repository.
            Self::Node(NodeError::Address(EndpointError::Repo { .. })) => false,
            Self::OtherMiner { .. } | Self::Node(_) => true,
            Self::Lotus(error) => error.is_permanent(),
        }
    }

    /// What ends the trouble.
    pub fn remedy(&self) -> Remedy {
        Remedy::of(self.is_permanent())
    }
}

impl Hint for IdentityError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::OtherMiner { .. } => Some("give every entry of `miners` its own node".to_owned()),
            Self::Node(NodeError::Address(error)) => error.hint(),
            Self::Node(NodeError::Lotus(error)) | Self::Lotus(error) => error.hint(),
        }
    }
}

/// What ends the trouble of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Waiting: the node is away, busy, or in trouble itself.
    Time,
    /// The operator, with another token or another address.
    Operator,
}

impl Remedy {
    /// The remedy of a trouble that is permanent, or is not.
    pub const fn of(is_permanent: bool) -> Self {
        if is_permanent { Self::Operator } else { Self::Time }
    }

    /// The remedy of a call that failed.
    pub fn of_call(error: &RpcError) -> Self {
        Self::of(error.is_permanent())
    }
}

/// Whether two addresses name one actor; the network prefix does not count.
pub(super) fn same_actor(one: &str, other: &str) -> bool {
    match (one.parse::<MinerId>(), other.parse::<MinerId>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_prefix_does_not_make_another_miner() {
        for (one, other, same) in [
            ("f01000", "f01000", true),
            ("t01000", "f01000", true),
            ("f01000", "f01001", false),
            ("", "", false),
        ] {
            assert_eq!(same_actor(one, other), same, "{one} {other}");
        }
    }
}
