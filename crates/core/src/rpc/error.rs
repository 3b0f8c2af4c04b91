//! Errors of JSON-RPC calls, by what the caller does next. Advice about Lotus is in `lotus::hints`.

use jsonrpsee::core::ClientError;
use jsonrpsee::core::http_helpers::HttpError;
use jsonrpsee::http_client::transport;

use crate::rpc::go_jsonrpc::WebPage;

/// A failed call to a node.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The node could not be reached, or the connection broke: whether the call had an effect is unknown.
    #[error("{method} did not reach {endpoint} or its answer was lost")]
    Transport {
        /// Full method name.
        method: &'static str,
        /// Where it was sent, without the token.
        endpoint: String,
        /// The broken connection.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time: whether the call had an effect is unknown.
    #[error("{method} at {endpoint} did not answer within {seconds} s")]
    Timeout {
        /// Full method name.
        method: &'static str,
        /// Where it was sent.
        endpoint: String,
        /// The limit.
        seconds: u64,
    },
    /// A web page instead of the API's answer: a proxy, or another server. Whether the call had an effect is
    /// unknown.
    #[error("{method} at {endpoint} was answered with a web page (HTTP {status}{title})")]
    WebPage {
        /// Full method name.
        method: &'static str,
        /// Where it was sent.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// The page's title with a comma before it, or nothing.
        title: String,
    },
    /// The token does not verify.
    #[error("{endpoint} refused the token for {method} (HTTP {status})")]
    Unauthorized {
        /// Full method name.
        method: &'static str,
        /// Where it was sent.
        endpoint: String,
        /// HTTP status.
        status: u16,
    },
    /// The token lacks a permission.
    #[error("{method} at {endpoint}: {message}")]
    Permission {
        /// Full method name.
        method: &'static str,
        /// Where it was sent.
        endpoint: String,
        /// The node's message.
        message: String,
    },
    /// The node does not have this method.
    #[error("{endpoint} has no method {method}")]
    MethodNotFound {
        /// Full method name.
        method: &'static str,
        /// Where it was sent.
        endpoint: String,
    },
    /// The node answered with an error: the call itself was received and refused or failed.
    #[error("{method}: {message}")]
    Application {
        /// Full method name.
        method: &'static str,
        /// JSON-RPC error code (1 for ordinary errors, 0 for a panic in the node).
        code: i32,
        /// The node's message.
        message: String,
    },
    /// The answer has an unknown shape; a call that has an effect may have had it.
    #[error("{method} at {endpoint} gave an answer that cannot be read")]
    Decode {
        /// Full method name.
        method: &'static str,
        /// Where it was sent.
        endpoint: String,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// JSON-RPC's code for an unknown method.
const METHOD_NOT_FOUND: i32 = -32601;
/// JSON-RPC's code for wrong parameters.
pub(crate) const INVALID_PARAMS: i32 = -32602;

impl RpcError {
    pub(crate) fn classify(method: &'static str, endpoint: &str, error: ClientError) -> Self {
        let endpoint = endpoint.to_owned();
        match error {
            ClientError::Call(object) => {
                let message = object.message().to_owned();
                match object.code() {
                    METHOD_NOT_FOUND => Self::MethodNotFound { method, endpoint },
                    1 if message.starts_with("missing permission to invoke") => {
                        Self::Permission { method, endpoint, message }
                    }
                    code => Self::Application { method, code, message },
                }
            }
            ClientError::ParseError(source) => Self::Decode { method, endpoint, source: source.into() },
            ClientError::InvalidRequestId(source) => Self::Decode { method, endpoint, source: source.into() },
            ClientError::Transport(source) => match source.downcast_ref::<transport::Error>() {
                Some(transport::Error::Http(HttpError::Stream(page))) if page.is::<WebPage>() => {
                    let (status, title) = page.downcast_ref().map(WebPage::told).unwrap_or_default();
                    Self::WebPage { method, endpoint, status, title }
                }
                Some(transport::Error::Rejected { status_code: status @ (401 | 403) }) => {
                    Self::Unauthorized { method, endpoint, status: *status }
                }
                _ => Self::Transport { method, endpoint, source },
            },
            other => Self::Transport { method, endpoint, source: other.into() },
        }
    }

    /// Whether the call may have had its effect although it failed: the state must be read before it is
    /// called again.
    pub fn effect_is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Transport { .. } | Self::Timeout { .. } | Self::Decode { .. } | Self::WebPage { .. }
        )
    }

    /// Whether the node itself fails, and not only this call: every other call would fail as well.
    pub fn is_about_the_node(&self) -> bool {
        !matches!(self, Self::Application { .. } | Self::Decode { .. })
    }

    /// Whether something must be configured otherwise before this can succeed: another token, another node.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Permission { .. } | Self::MethodNotFound { .. })
    }

    /// The node's message, where it answered with an error.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Application { message, .. } | Self::Permission { message, .. } => Some(message),
            _ => None,
        }
    }
}
