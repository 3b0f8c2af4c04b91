//! Proposals to the storage market of Lotus, through the client's full node.

pub(super) mod node_imports;
pub mod preflight;
pub(super) mod publish;
