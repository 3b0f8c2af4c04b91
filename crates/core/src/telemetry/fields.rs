//! Names of log fields that several modules write: `info!({ MINER } = %miner, "imported")`.

use std::time::Duration;

/// The deal's key: CID of its proposal.
pub const PROPOSAL_CID: &str = "deal.proposal_cid";
/// Bytes of a CAR on disk.
pub const PAYLOAD_SIZE: &str = "payload_size";
/// Storage provider.
pub const MINER: &str = "miner";
/// A file or folder.
pub const PATH: &str = "path";
/// API of a node, without its token.
pub const ENDPOINT: &str = "endpoint";
/// Wait before the next try.
pub const RETRY_IN_MS: &str = "retry_in_ms";
/// Time a unit of work took.
pub const ELAPSED_MS: &str = "elapsed_ms";

/// Milliseconds of a time, for fields whose names end in `_ms`.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
