//! The Lotus API over JSON-RPC: full nodes and markets nodes.
//!
//! [`full_node`] and [`provider`] hold the calls that the agents make, [`wire`] their JSON shapes, and
//! `hints` the advice about failed calls. Calls go over HTTP: polling loses nothing, while Lotus' WebSocket
//! streams lose what happens while they are closed. Shapes and error texts are those of the legacy market,
//! Lotus v1.5.0 to v1.27.0.

pub mod full_node;
mod hints;
pub mod provider;
pub mod wire;

use std::marker::PhantomData;

use serde_json::json;

pub use crate::lotus::full_node::FullNode;
pub use crate::lotus::provider::Provider;
use crate::lotus::wire::Version;
use crate::rpc::client::Client;
use crate::rpc::error::RpcError;
use crate::rpc::go_values::List;

/// The API of a Lotus node, `/rpc/v0`: what both kinds of nodes answer.
#[derive(Clone, Debug)]
pub struct Api<Kind> {
    client: Client,
    kind: PhantomData<Kind>,
}

impl<Kind> Api<Kind> {
    /// Calls through this client.
    pub fn new(client: Client) -> Self {
        Self { client, kind: PhantomData }
    }

    /// Its URL.
    pub fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    /// The node's version (permission `read`).
    pub async fn version(&self) -> Result<Version, RpcError> {
        self.client.call("Filecoin.Version", vec![], self.client.timeouts.quick).await
    }

    /// The permissions of the token, checked by the node itself (permission `read`).
    pub async fn permissions(&self, token: &str) -> Result<Vec<String>, RpcError> {
        let list: List<String> =
            self.client.call("Filecoin.AuthVerify", vec![json!(token)], self.client.timeouts.quick).await?;
        Ok(list.0)
    }
}
