//! UnixFS profiles: the parameters that decide the bytes of a DAG, and named sets of them from other tools.

use std::fmt;
use std::str::FromStr;

/// The parameters of a DAG: together with the files they decide its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DagParams {
    /// Bytes of file content in one leaf.
    pub chunk_size: u32,
    /// Most children of one file node.
    pub links_per_node: usize,
    /// Hash function of the blocks.
    pub block_hash: BlockHash,
    /// Blocks of at most this many bytes are inlined in their CID (identity multihash).
    pub inline_limit: Option<usize>,
    /// Which folders are sharded.
    pub shard_rule: ShardRule,
    /// Whether the block of a root folder may be inlined in its CID.
    pub folder_root: FolderRoot,
    /// Order of the blocks in the CAR.
    pub order: CarOrder,
}

/// The CID of a root that is a folder. The CID of a root that is a file follows [`DagParams::inline_limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FolderRoot {
    /// Like the CID of every other block: inlined within [`DagParams::inline_limit`].
    #[default]
    MayBeInlined,
    /// Always a hash. Markets and their indexes handle CARs with identity CIDs as roots badly.
    ///
    /// Source: boost issue 715, go-fil-markets issue 747, dagstore pull request 138.
    Hashed,
}

/// Order of the blocks in a CAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CarOrder {
    /// One DAG, depth first from its root: every node before its children, every block once.
    DepthFirst,
    /// One file after the other, in the order of the tree: the leaves of a file, then each level above them
    /// up to its root. Blocks of repeated content are repeated.
    ///
    /// The size in a link is the bytes of *file content* below it. The CAR's root is its first block, from
    /// which no other block is reachable; [`BuiltCar::file_cids`](crate::BuiltCar::file_cids) has the CID
    /// of each file. Folders have no blocks, symbolic links are left out.
    ///
    /// Source: singularity 1.0.0-RC1 pack/assembler.go, pack/packutil/util.go.
    LeavesFirst,
}

/// Size from which on a folder is a tree of shards (HAMT) and not one block.
///
/// Shards have 256 places and murmur3-x64-64 by every rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShardRule {
    /// Names and CIDs of all links have 256 KiB or more: `links-bytes` of IPIP-499.
    ///
    /// Source: boxo v0.10.1 ipld/unixfs/io/directory.go:27, 81-83, 224; the same up to v0.36.0.
    LinksBytes,
    /// The folder's one block would have more than 256 KiB: `block-bytes` of IPIP-499.
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

/// A named parameter set. All sets have `CIDv1`, raw leaves, balanced layout and canonical dag-pb.
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
    /// Files as singularity packs them; without its CARs of directories, and without the zeros with which it
    /// pads small CARs.
    Singularity,
}

/// The name is not that of a profile.
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
