//! Proposals to the storage market of Lotus, through the client's full node.
//!
//! What lives here: the calls ([`preflight`], `publish`, `node_imports`) and what the texts of their answers
//! mean (`answers`). What does not: which deals are wanted, in what order, and what is recorded of them.

pub(crate) mod answers;
pub(super) mod node_imports;
pub mod preflight;
pub(super) mod publish;
