//! Every bound of this crate in one place, each with its source.

/// Longest CAR header that is read. A header with one root has at most about 170 bytes.
///
/// Source: go-car v2 options.go, `DefaultMaxAllowedHeaderSize` is 32 MiB; one root needs far less.
pub(crate) const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Longest section (CID and block) that is read.
///
/// Source: go-car v0.6.1 util/util.go, `MaxAllowedSectionSize` is 32 MiB: what Lotus' importer accepts.
pub(crate) const SECTION_BYTES_MAX: u64 = 32 << 20;

/// Longest digest inside a CID, which bounds what an identity CID can carry.
///
/// Source: go-cidutil v0.1.0 inline.go: Lotus inlines up to 126 bytes; 128 leaves no real CID out.
pub(crate) const CID_DIGEST_BYTES_MAX: usize = 128;

/// A directory node above this is sharded by every importer, by the widest of their estimates.
///
/// Source: boxo v0.10.1 `HAMTShardingSize` and kubo's current profile, 256 KiB. The first counts names and
/// CIDs, the second the block's bytes, which are more; the stricter one is used, so that no plain
/// directory is written that one of them would shard.
pub(crate) const PLAIN_DIRECTORY_BYTES_MAX: u64 = 256 << 10;

/// Deepest directory tree that is packed. Source: ours; bounds the stack, `PATH_MAX` allows 2048 levels.
pub(crate) const DIRECTORY_DEPTH_MAX: usize = 1024;

/// Deepest chain of nodes inside of one file that is read. Source: ours; two links a node reach 2^64 bytes with it.
pub(crate) const FILE_DEPTH_MAX: usize = 64;

/// Copies of one block that are tried before it counts as damaged. Source: ours; bounds what repetitions cost.
pub(crate) const BLOCK_COPIES_MAX: usize = 8;

/// Files, folders and links that are restored unless the caller allows more. Source: ours; what ext4 can hold.
pub(crate) const ENTRIES_MAX: u64 = 1 << 32;
