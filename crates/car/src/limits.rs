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

/// Size of a folder from which on, or above which, it is sharded; how it is counted is a matter of the
/// profile.
///
/// Source: boxo v0.10.1 ipld/unixfs/io/directory.go:27, `HAMTShardingSize`; IPIP-499, both profiles.
pub(crate) const SHARDING_BYTES: u64 = 256 << 10;

/// Deepest directory tree that is packed. Source: ours; bounds the stack, `PATH_MAX` allows 2048 levels.
pub(crate) const DIRECTORY_DEPTH_MAX: usize = 1024;

/// Deepest chain of nodes inside of one file that is read. Source: ours; two links a node reach 2^64 bytes
/// with it.
pub(crate) const FILE_DEPTH_MAX: usize = 64;

/// Copies of one block that are tried before it counts as damaged. Source: ours; bounds what repetitions
/// cost.
pub(crate) const BLOCK_COPIES_MAX: usize = 8;

/// Files, folders and links that are restored unless the caller allows more. Source: ours; what ext4 can
/// hold.
pub(crate) const ENTRIES_MAX: u64 = 1 << 32;
