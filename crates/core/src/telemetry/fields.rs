//! The names of log fields. One thing, one name, in every event: `info!({ MINER } = %miner, "imported")`.

/// The deal's key: CID of its proposal.
pub const PROPOSAL_CID: &str = "deal.proposal_cid";
/// The deal's number on chain.
pub const DEAL_ID: &str = "deal.id";
/// Status of the deal as stored.
pub const DEAL_STATUS: &str = "deal.status";
/// Root CID of the DAG in a CAR.
pub const PAYLOAD_CID: &str = "payload_cid";
/// Commitment of the piece.
pub const PIECE_CID: &str = "piece_cid";
/// Bytes of a CAR on disk.
pub const PAYLOAD_SIZE: &str = "payload_size";
/// Bytes of a piece, 127 · 2^n.
pub const UNPADDED_PIECE_SIZE: &str = "unpadded_piece_size";
/// Storage provider.
pub const MINER: &str = "miner";
/// Client wallet.
pub const WALLET: &str = "wallet";
/// Chain epoch.
pub const EPOCH: &str = "epoch";
/// A file or folder.
pub const PATH: &str = "path";
/// Bytes of anything else.
pub const BYTES: &str = "bytes";
/// JSON-RPC method.
pub const METHOD: &str = "rpc.method";
/// API of a node, without its token.
pub const ENDPOINT: &str = "endpoint";
/// MongoDB collection.
pub const COLLECTION: &str = "collection";
/// Number of this try, from 1.
pub const ATTEMPT: &str = "attempt";
/// Wait before the next try.
pub const RETRY_IN_MS: &str = "retry_in_ms";
/// Time a unit of work took.
pub const ELAPSED_MS: &str = "elapsed_ms";
/// An error with its causes on one line.
pub const ERROR: &str = "error";
/// Name of a supervised task.
pub const TASK: &str = "task";
