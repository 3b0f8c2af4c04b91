//! Upper bounds of the bytes that files, folders and links take in a CAR, for planning.
//!
//! ```text
//! CAR ≤ header + Σ files + Σ folders + Σ links              repeated blocks are written once
//! ```
//!
//! Folders and links take no bytes with [`CarOrder::LeavesFirst`].

use crate::carv1::{header, varint};
use crate::dag_pb;
use crate::limits::SECTION_BYTES_MAX;
use crate::profile::{CarOrder, DagParams};
use crate::units::len64;
use crate::unixfs::dag::Shape;

/// Shards below the root that two entries can cause: there are seven levels below the root, and each shard
/// has at least two entries in or below it.
const SHARDS_FOR_TWO_ENTRIES: u64 = 7;
/// The last of 256 slots, with which a shard's bit field is longest.
const LAST_SLOT: u8 = u8::MAX;

impl DagParams {
    /// Bytes of all sections of a file of this size; exact if the CAR has none of its blocks already.
    pub fn file_bytes(&self, file_size: u64) -> u64 {
        self.file_shape(file_size).car_len
    }

    /// Bytes of the section of a symbolic link.
    pub fn symlink_bytes(&self, target: &[u8]) -> u64 {
        self.unless_leaves_first(|| self.section_len(len64(dag_pb::encode_symlink(target).len())))
    }

    /// Bytes of the section of a folder without entries.
    pub fn empty_folder_bytes(&self) -> u64 {
        self.unless_leaves_first(|| self.section_len(dag_pb::DIRECTORY_DATA_LEN))
    }

    /// Upper bound of a folder's section without its links.
    pub fn folder_bytes_max(&self) -> u64 {
        self.unless_leaves_first(|| self.section_prefix_len_max() + dag_pb::shard_data_len(LAST_SLOT))
    }

    /// Bytes of the link to a file, in a folder that is not sharded.
    pub fn file_link_bytes(&self, name_len: usize, file_size: u64) -> u64 {
        let Shape { block_len, tsize, .. } = self.file_shape(file_size);
        self.unless_leaves_first(|| dag_pb::link_len(self.cid_len(block_len), len64(name_len), tsize))
    }

    /// Upper bound of a link with a name of this length, in a folder that is not sharded.
    pub fn link_bytes_max(&self, name_len: usize) -> u64 {
        self.unless_leaves_first(|| self.link_len_max(len64(name_len)))
    }

    /// Upper bound of the bytes that a link adds to a sharded folder, shards and their links included.
    ///
    /// Only names that are chosen for their hashes come near this bound; a usual name adds about a fifth more
    /// than [`Self::link_bytes_max`]. [`SourceTree::plan`](crate::SourceTree::plan) calculates the exact
    /// number.
    pub fn sharded_link_bytes_max(&self, name_len: usize) -> u64 {
        let shard = self.folder_bytes_max() + self.link_len_max(2);
        self.unless_leaves_first(|| {
            self.link_len_max(len64(name_len) + 2) + (SHARDS_FOR_TWO_ENTRIES * shard).div_ceil(2)
        })
    }

    /// Upper bound of a CAR's header.
    pub fn header_bytes_max(&self) -> u64 {
        header::header_len(self.cid_len_max())
    }

    fn unless_leaves_first(&self, bytes: impl FnOnce() -> u64) -> u64 {
        match self.order {
            CarOrder::DepthFirst => bytes(),
            CarOrder::LeavesFirst => 0,
        }
    }

    fn link_len_max(&self, name_len: u64) -> u64 {
        dag_pb::link_len(self.cid_len_max(), name_len, u64::MAX)
    }

    /// Length of the longest CID: a hash, or the longest inlined block.
    fn cid_len_max(&self) -> u64 {
        let inlined = self.inline_limit.map_or(0, |limit| self.cid_len(len64(limit)));
        inlined.max(self.cid_len(u64::MAX))
    }

    fn section_prefix_len_max(&self) -> u64 {
        varint::len(SECTION_BYTES_MAX) + self.cid_len_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::unixfs::hamt::Shards;

    #[test]
    fn no_shards_take_more_than_the_bound() {
        // The worst case: pairs of names whose hashes agree in all but the last byte.
        let pairs = |count: u64| (0..count).flat_map(|pair| [pair << 56 | 1, pair << 56 | 255]).collect();
        for profile in Profile::ALL.into_iter().filter(|profile| *profile != Profile::Singularity) {
            let params = profile.params();
            let shape = params.file_shape(1 << 40);
            for hashes in [pairs(1), pairs(3), pairs(256), vec![5, 6, 7], vec![9]] {
                let hashes: Vec<u64> = hashes;
                let (_, folder) = Shards::new(&params, &hashes, |_| (40, shape)).unwrap();
                let entries = len64(hashes.len());
                let taken = folder.car_len - entries * shape.car_len;
                let bound = params.folder_bytes_max() + entries * params.sharded_link_bytes_max(40);
                assert!(taken <= bound, "{profile}, {entries}: {taken} of {bound}");
                assert!(bound < 3 * taken + 1000, "{profile}, {entries}: {taken} of {bound}");
            }
        }
    }

    #[test]
    fn bounds_are_no_smaller_than_what_they_bound() {
        for profile in Profile::ALL.into_iter().filter(|profile| *profile != Profile::Singularity) {
            let params = profile.params();
            for block_len in [0, 4, 125, 126, 127, 300, 1 << 20] {
                assert!(params.header_bytes_max() >= header::header_len(params.cid_len(block_len)));
                for (name_len, tsize) in [(1, 1), (255, u64::MAX), (4096, 7)] {
                    let link = dag_pb::link_len(params.cid_len(block_len), len64(name_len), tsize);
                    assert!(params.link_bytes_max(name_len) >= link, "{profile}, {block_len}, {name_len}");
                }
            }
            assert!(params.folder_bytes_max() >= params.empty_folder_bytes(), "{profile}");
        }
    }
}
