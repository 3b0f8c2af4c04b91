//! Why the agent, or one of its commands, did not end well.

use carferry_car::KernelUnavailable;
use carferry_core::config::ConfigError;
use carferry_core::error_chain::Hint;
use carferry_core::printer::ExitStatus;
use carferry_core::rpc::RpcError;
use carferry_core::rpc::endpoint::EndpointError;
use carferry_core::runtime::SupervisorError;
use carferry_core::store::StoreError;
use carferry_core::telemetry::TelemetryError;

use crate::market::node::NodeError;

/// Why the agent, or one of its commands, did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// Neither configuration nor environment tells a miner's node.
    #[error("the market node of {miner} cannot be found")]
    Endpoint {
        /// Whose node.
        miner: String,
        /// What is missing or wrong.
        source: EndpointError,
    },
    /// The full node's address is no address.
    #[error("the full node cannot be found")]
    FullNode(#[from] EndpointError),
    /// The database does not answer.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// A node's URL or token cannot be sent at all.
    #[error("the node cannot be called")]
    Lotus(#[from] RpcError),
    /// Inner loops were asked for that are not there.
    #[error("nothing can be hashed as asked for")]
    Kernel(#[from] KernelUnavailable),
    /// Logging could not be set up.
    #[error("logging cannot begin")]
    Telemetry(#[from] TelemetryError),
    /// A part of the agent failed.
    #[error("the agent ended")]
    Supervisor(#[from] SupervisorError),
    /// The system refused something.
    #[error("the system refused")]
    Io(#[from] std::io::Error),
}

impl From<NodeError> for AgentError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Address(error) => Self::FullNode(error),
            NodeError::Lotus(error) => Self::Lotus(error),
        }
    }
}

impl AgentError {
    /// The exit status: whether the user can fix it.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Config(_)
            | Self::Endpoint { .. }
            | Self::FullNode(_)
            | Self::Kernel(_)
            | Self::Telemetry(_)
            // Nothing was called: this is a URL or a token that cannot be sent.
            | Self::Lotus(_) => ExitStatus::UserError,
            Self::Store(error) if error.is_permanent() => ExitStatus::UserError,
            Self::Store(_) | Self::Supervisor(_) | Self::Io(_) => ExitStatus::Failure,
        }
    }
}

impl Hint for AgentError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Endpoint { source, .. } | Self::FullNode(source) => source.hint(),
            Self::Store(error) => error.hint(),
            Self::Lotus(error) => error.hint(),
            Self::Telemetry(error) => error.hint(),
            Self::Kernel(_) => Some("name one of these, or unset it".to_owned()),
            Self::Supervisor(_) | Self::Io(_) => None,
        }
    }
}
