//! The parameters that decide the bytes of a DAG, and the named sets of them that other tools use.

use std::fmt;
use std::str::FromStr;

/// What decides a DAG's blocks besides the files themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DagParams {
    /// Bytes of file content in one leaf.
    pub chunk_size: u32,
    /// Children of one file node at most.
    pub links_per_node: usize,
    /// How blocks are hashed.
    pub block_hash: BlockHash,
    /// Blocks of at most this many bytes live inside their CID (identity multihash).
    pub inline_limit: Option<usize>,
    /// Which folders are sharded.
    pub shard_rule: ShardRule,
    /// Whether the block of a root folder may live inside its CID as well.
    pub folder_root: FolderRoot,
    /// In which order blocks follow, and which there are.
    pub order: CarOrder,
}

/// What the CID of a root that is a folder may be. A root that is a file follows [`DagParams::inline_limit`]
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FolderRoot {
    /// As that of every other block: what [`DagParams::inline_limit`] allows is inlined.
    #[default]
    MayBeInlined,
    /// Always that of a hash. Markets and their indexes handle CARs with identity CIDs as roots badly.
    ///
    /// Source: boost issue 715, go-fil-markets issue 747, dagstore pull request 138.
    Hashed,
}

/// What comes where in a CAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CarOrder {
    /// One DAG from its root on: depth first, every node before its children, every block once.
    DepthFirst,
    /// One file after the other, in the order of their places in the tree: its leaves, then the level above
    /// them, and so on to its root. Blocks repeat where content does.
    ///
    /// Links carry the bytes of *file content* below them as their size. The CAR's root is its first block,
    /// so that other blocks cannot be reached from it; each file has its own CID, in
    /// [`BuiltCar::file_cids`](crate::BuiltCar::file_cids). Folders have no blocks, symbolic links are left
    /// out.
    ///
    /// Source: singularity 1.0.0-RC1 pack/assembler.go, pack/packutil/util.go.
    LeavesFirst,
}

/// From which size on a folder is a tree of shards (HAMT) and not one block.
///
/// Shards have 256 places and murmur3-x64-64 by every rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShardRule {
    /// Names and CIDs of all its links have 256 KiB or more: `links-bytes` of IPIP-499.
    ///
    /// Source: boxo v0.10.1 ipld/unixfs/io/directory.go:27, 81-83, 224; the same up to v0.36.0.
    LinksBytes,
    /// Its one block would have more than 256 KiB: `block-bytes` of IPIP-499.
    ///
    /// Source: boxo v0.37.0 ipld/unixfs/io/directory.go:777-797, ipld/unixfs/io/profile.go `UnixFS_v1_2025`.
    BlockBytes,
}

/// The hash functions for blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockHash {
    /// `BLAKE2b` with a 32-byte digest (multihash 0xb220), as Lotus does.
    Blake2b256,
    /// SHA2-256 (multihash 0x12), as kubo does.
    Sha2_256,
}

/// A named parameter set. All of them: `CIDv1`, raw leaves, balanced layout, canonical dag-pb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// `lotus client generate-car` and `client import`.
    ///
    /// Source: lotus v1.23.3 build/params_shared_vals.go:21-22, lib/unixfs/filestore.go:28-41.
    #[default]
    Lotus,
    /// kubo's profile of that name, from IPIP-499; also ipfs-car.
    UnixfsV1_2025,
    /// kubo up to v0.39 `--chunker=size-1048576 --cid-version=1`, with the older limit of 174 links.
    ///
    /// Source: IPIP-499, profile `test-cid-v1`.
    Ipfs1m174,
    /// kubo up to v0.39 `--cid-version=1`.
    Ipfs256k174,
    /// Files as singularity packs them, without the directories that it keeps in a CAR of their own, and
    /// without the zeros that it writes behind a small CAR.
    Singularity,
}

/// A name that is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile {0:?}: expected lotus, unixfs-v1-2025, ipfs-1m-174, ipfs-256k-174 or singularity")]
pub struct UnknownProfile(String);

impl Profile {
    /// Every profile, the default first.
    pub const ALL: [Self; 5] =
        [Self::Lotus, Self::UnixfsV1_2025, Self::Ipfs1m174, Self::Ipfs256k174, Self::Singularity];

    /// The name, as in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lotus => "lotus",
            Self::UnixfsV1_2025 => "unixfs-v1-2025",
            Self::Ipfs1m174 => "ipfs-1m-174",
            Self::Ipfs256k174 => "ipfs-256k-174",
            Self::Singularity => "singularity",
        }
    }

    /// The parameters behind the name.
    pub const fn params(self) -> DagParams {
        const MIB: u32 = 1 << 20;
        match self {
            Self::Lotus => DagParams {
                chunk_size: MIB,
                links_per_node: 1024,
                block_hash: BlockHash::Blake2b256,
                inline_limit: Some(126),
                shard_rule: ShardRule::LinksBytes,
                folder_root: FolderRoot::MayBeInlined,
                order: CarOrder::DepthFirst,
            },
            Self::UnixfsV1_2025 => DagParams {
                chunk_size: MIB,
                links_per_node: 1024,
                block_hash: BlockHash::Sha2_256,
                inline_limit: None,
                shard_rule: ShardRule::BlockBytes,
                folder_root: FolderRoot::MayBeInlined,
                order: CarOrder::DepthFirst,
            },
            Self::Ipfs1m174 => DagParams {
                chunk_size: MIB,
                links_per_node: 174,
                block_hash: BlockHash::Sha2_256,
                inline_limit: None,
                shard_rule: ShardRule::LinksBytes,
                folder_root: FolderRoot::MayBeInlined,
                order: CarOrder::DepthFirst,
            },
            Self::Ipfs256k174 => DagParams {
                chunk_size: MIB / 4,
                links_per_node: 174,
                block_hash: BlockHash::Sha2_256,
                inline_limit: None,
                shard_rule: ShardRule::LinksBytes,
                folder_root: FolderRoot::MayBeInlined,
                order: CarOrder::DepthFirst,
            },
            Self::Singularity => DagParams { order: CarOrder::LeavesFirst, ..Self::UnixfsV1_2025.params() },
        }
    }
}

impl Default for DagParams {
    fn default() -> Self {
        Profile::default().params()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| UnknownProfile(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_the_name_they_show() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        let error = "lotos".parse::<Profile>().unwrap_err().to_string();
        for profile in Profile::ALL {
            assert!(error.contains(profile.name()), "{error} names {profile}");
        }
    }
}
