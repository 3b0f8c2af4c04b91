//! Limits of what this crate reads, packs and restores, each with its source.

/// Longest CAR header that is read. A header with one root has at most about 170 bytes.
///
/// Source: go-car v2 options.go, `DefaultMaxAllowedHeaderSize` is 32 MiB; one root needs far less.
pub(crate) const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Longest section (CID and block) that is read.
///
/// Source: go-car v0.6.1 util/util.go, `MaxAllowedSectionSize` is 32 MiB, the limit of Lotus' importer.
pub(crate) const SECTION_BYTES_MAX: u64 = 32 << 20;

/// Longest digest inside a CID; bounds the block that an identity CID carries.
///
/// Source: go-cidutil v0.1.0 inline.go: Lotus inlines up to 126 bytes.
pub(crate) const CID_DIGEST_BYTES_MAX: usize = 128;

/// Size limit of a folder that is one block; larger folders are sharded. The profile says how the size is
/// counted.
///
/// Source: boxo v0.10.1 ipld/unixfs/io/directory.go:27, `HAMTShardingSize`; IPIP-499, both profiles.
pub(crate) const SHARDING_BYTES: u64 = 256 << 10;

/// Deepest directory tree that is packed. Chosen: bounds the stack; `PATH_MAX` allows 2048 levels.
pub(crate) const DIRECTORY_DEPTH_MAX: usize = 1024;

/// Deepest chain of nodes inside of one file that is read. Chosen: with two links per node it reaches 2^64
/// bytes.
pub(crate) const FILE_DEPTH_MAX: usize = 64;

/// Copies of one block that are tried before the block counts as damaged. Chosen: bounds the cost of CARs
/// that repeat blocks.
pub(crate) const BLOCK_COPIES_MAX: usize = 8;

/// Files, folders and links that are restored unless the caller allows more. Chosen: the inode limit of ext4.
pub(crate) const ENTRIES_MAX: u64 = 1 << 32;
