//! What `doctor` asks of a market node, whichever market it runs.

use carferry_core::doctor::Check;

use crate::market::node::{Api, Node};
use crate::market::{ImportMethod, boost, lotus};

/// The answers of a market node.
#[derive(Debug)]
pub struct NodeChecks {
    /// Version and token.
    pub checks: Vec<Check>,
    /// How many deals it lists; `None` where it lists none, or why not.
    pub listed: Result<Option<u64>, Check>,
}

/// Asks a market node; calls nothing that has an effect.
pub async fn check_node(subject: &str, node: &Node, method: ImportMethod) -> NodeChecks {
    match &node.api {
        Api::Lotus(provider) => {
            let checks = lotus::checks::check_lotus(subject, provider, node.token.as_ref(), method).await;
            let listed = match provider.list_deals().await {
                Ok(deals) => Ok(Some(u64::try_from(deals.len()).unwrap_or(u64::MAX))),
                Err(error) => Err(Check::lotus(subject, &error)),
            };
            NodeChecks { checks, listed }
        }
        Api::Boost(boost) => NodeChecks {
            checks: boost::checks::check_boost(subject, boost, node.token.as_ref()).await,
            listed: Ok(None),
        },
    }
}
