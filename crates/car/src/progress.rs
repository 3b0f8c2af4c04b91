//! Progress reports and cancellation of long operations.

/// Receives the progress of an operation, from any of its threads.
pub trait Progress: Send + Sync {
    /// A further `source_bytes` of the source have been processed.
    fn advance(&self, source_bytes: u64);

    /// Whether the operation is to stop. Operations ask every few MiB.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Ignores progress and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn advance(&self, _source_bytes: u64) {}
}
