//! A market node: where it is, how it is called, which miner it works for, and what ends its troubles.

use carferry_core::config::Secret;
use carferry_core::config::sections::LotusSection;
use carferry_core::error_chain::Hint;
use carferry_core::lotus::Provider;
use carferry_core::model::address::MinerId;
use carferry_core::rpc::endpoint::EndpointError;
use carferry_core::rpc::{CallTimeouts, Client, RpcError, endpoint};
use tracing::debug;

/// How a variable of the environment is read.
pub type Environment = fn(&str) -> Option<String>;

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
}

/// A node with a resolved address.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its calls.
    pub(super) provider: Provider,
    /// The token they carry.
    pub(super) token: Option<Secret>,
}

impl Node {
    /// URL of the node.
    pub fn endpoint(&self) -> &str {
        self.provider.endpoint()
    }
}

impl NodeAddress {
    /// The node at this address; nothing is called yet.
    ///
    /// # Errors
    ///
    /// [`NodeError`].
    pub fn node(&self) -> Result<Node, NodeError> {
        let found = endpoint::resolve_miner(&self.section, &self.env)?;
        debug!(endpoint = %found, "market node");
        let client = Client::of(&found, self.timeouts)?;
        Ok(Node { provider: Provider::new(client), token: found.token })
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
