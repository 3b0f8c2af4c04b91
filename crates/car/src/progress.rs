//! How a caller follows a long operation, and stops it.

/// Told about the bytes that an operation has dealt with, from whichever thread dealt with them.
pub trait Progress: Send + Sync {
    /// So many more bytes of the source have been read.
    fn advance(&self, source_bytes: u64);

    /// Whether the caller wants the operation to stop; asked every few MiB.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// For callers that neither watch nor stop.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn advance(&self, _source_bytes: u64) {}
}
