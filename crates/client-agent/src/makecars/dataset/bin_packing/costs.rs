//! Upper bounds of the bytes that items and folders take in a CAR.

use crate::makecars::dataset::bin_packing::{FillRules, PART_SUFFIX_MAX, PieceItem};
use crate::makecars::dataset::survey::{Folder, FolderId, Kind, Survey, index};

/// Links of a folder below which it is never sharded, in bytes. Source: boxo v0.10.1
/// ipld/unixfs/io/directory.go, `HAMTShardingSize` of 256 KiB, which counts less than whole links.
const NEVER_SHARDED_BYTES: u64 = 256 << 10;

/// What everything costs in bytes of a CAR.
pub(super) struct Costs<'a> {
    pub(super) survey: &'a Survey,
    pub(super) rules: &'a FillRules,
    /// Bytes of a piece, unpadded.
    pub(super) capacity: u64,
    /// Folders with so many links that they may be sharded.
    may_shard: Vec<bool>,
}

impl<'a> Costs<'a> {
    pub(super) fn new(survey: &'a Survey, rules: &'a FillRules) -> Self {
        let mut links = vec![0_u64; survey.folders.len()];
        for item in &survey.items {
            links[index(item.folder)] += rules.params.link_bytes_max(item.name.len());
        }
        for folder in survey.folders.iter().skip(1) {
            links[index(folder.parent)] += rules.params.link_bytes_max(folder.name.len());
        }
        let may_shard = links.iter().map(|bytes| *bytes >= NEVER_SHARDED_BYTES).collect();
        Self { survey, rules, capacity: rules.piece_size.unpadded().get(), may_shard }
    }

    /// All items, in the order of the survey.
    pub(super) fn items(&self) -> impl Iterator<Item = u32> {
        0..u32::try_from(self.survey.items.len()).expect("fewer than 2^32 items")
    }

    fn link(&self, folder: FolderId, name_len: usize) -> u64 {
        let params = &self.rules.params;
        if self.may_shard[index(folder)] {
            params.sharded_link_bytes_max(name_len)
        } else {
            params.link_bytes_max(name_len)
        }
    }

    /// A folder's node and the link to it.
    pub(super) fn folder(&self, folder: FolderId) -> u64 {
        let Folder { parent, name, .. } = self.folder_of(folder);
        self.rules.params.folder_bytes_max() + self.link(*parent, name.len())
    }

    pub(super) fn folder_of(&self, folder: FolderId) -> &Folder {
        &self.survey.folders[index(folder)]
    }

    /// An item without the folders above it.
    pub(super) fn item(&self, content: PieceItem) -> u64 {
        let item = &self.survey.items[usize::try_from(content.item).expect("u32 fits in usize")];
        let params = &self.rules.params;
        let name_len = item.name.len();
        match &item.kind {
            Kind::File { size, .. } => match content.part {
                None if item.range.is_none() => params.file_bytes(*size) + self.link(item.folder, name_len),
                None => self.part(item.folder, name_len, item.bytes()),
                Some((from, to)) => self.part(item.folder, name_len, to - from),
            },
            Kind::Symlink(target) => {
                params.symlink_bytes(target.as_bytes()) + self.link(item.folder, name_len)
            }
            // It is a folder, and counted as one.
            Kind::EmptyFolder => 0,
        }
    }

    fn part(&self, folder: FolderId, name_len: usize, bytes: u64) -> u64 {
        self.rules.params.file_bytes(bytes) + self.link(folder, name_len + PART_SUFFIX_MAX)
    }

    /// A CAR without content.
    pub(super) fn empty_car(&self) -> u64 {
        let params = &self.rules.params;
        params.header_bytes_max() + params.folder_bytes_max()
    }
}
