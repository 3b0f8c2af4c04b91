//! Which item goes into which piece. A pure function of paths and sizes: the same on every machine.
//!
//! ```text
//! files larger than a piece ─► parts of a full piece each, and a rest
//! large files and rests     ─► first-fit decreasing; or, where that wastes more than 1 %, one behind the other,
//!                              cut where a piece is full
//! small files, links, empty folders ─► into what is left, in the order of their paths
//! ```
//!
//! Small files keep their neighbours; only what fills a good part of a piece is moved about. Files are cut
//! between leaves alone. Sizes are upper bounds of what the CAR will have: it has fewer bytes only where
//! blocks repeat.

use std::cmp::Reverse;
use std::collections::HashSet;

use carferry_car::{DagParams, PaddedPieceSize, PayloadSize};

use crate::makecars::dataset::first_fit::FirstFitTree;
use crate::makecars::dataset::survey::{Folder, FolderId, Kind, Survey, index};

/// An item counts as large from this share of a piece on: smaller ones leave at most as much unused. Source:
/// ours.
const LARGE_SHARE: u64 = 256;
/// No part of a file is smaller than this share of a piece, but for its rest. Source: ours.
const PART_SHARE: u64 = 64;
/// Waste in thousandths above which files are cut to fill pieces. Source: ours.
const WASTE_MAX_PERMILLE: u64 = 10;
/// Bytes of a part's name beyond the file's: `.part-0000000000000-of-0000000000000`, and some against names
/// that are taken.
pub(crate) const PART_SUFFIX_MAX: usize = 48;
/// Links of a folder below which it is never sharded, in bytes. Source: boxo v0.10.1
/// ipld/unixfs/io/directory.go, `HAMTShardingSize` of 256 KiB, which counts less than whole links.
const NEVER_SHARDED_BYTES: u64 = 256 << 10;

/// A piece of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlannedPiece {
    /// What is in it, in the order of the paths.
    pub contents: Vec<PieceItem>,
    /// Bytes of its CAR, at most.
    pub car_bytes_max: u64,
}

/// An item, or a part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PieceItem {
    /// Place in [`Survey::items`].
    pub item: u32,
    /// Which bytes of those that the item has to pack, if not all.
    pub part: Option<(u64, u64)>,
}

/// How pieces are filled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FillRules {
    /// What decides the blocks.
    pub params: DagParams,
    /// The largest piece.
    pub piece_size: PaddedPieceSize,
    /// Files that fit into a piece are never cut.
    pub keep_whole: bool,
}

/// Something for which no piece is large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a piece of {piece_size} bytes cannot hold a single leaf of this profile below its folders")]
pub(crate) struct PieceTooSmall {
    /// The piece.
    pub piece_size: PaddedPieceSize,
}

/// Divides everything in a survey into pieces.
///
/// # Errors
///
/// [`PieceTooSmall`].
pub(crate) fn fill(survey: &Survey, rules: &FillRules) -> Result<Vec<PlannedPiece>, PieceTooSmall> {
    let costs = Costs::new(survey, rules);
    let whole = Filler::new(&costs).run(Large::Decreasing)?;
    if rules.keep_whole || waste_permille(&whole) <= WASTE_MAX_PERMILLE {
        return Ok(whole);
    }
    let cut = Filler::new(&costs).run(Large::Cut)?;
    Ok(if waste_permille(&cut) < waste_permille(&whole) { cut } else { whole })
}

/// Everything in one piece, or how many bytes that would take.
pub(crate) fn fill_one(survey: &Survey, rules: &FillRules) -> Result<PlannedPiece, PayloadSize> {
    let costs = Costs::new(survey, rules);
    let mut bin = costs.empty_bin();
    for item in costs.items() {
        bin.add(&costs, PieceItem { item, part: None });
    }
    if bin.used > costs.capacity { Err(PayloadSize::new(bin.used)) } else { Ok(bin.finish()) }
}

/// What padding takes of all pieces, in thousandths.
pub(crate) fn waste_permille(fills: &[PlannedPiece]) -> u64 {
    let (payload, pieces) = fills.iter().fold((0_u128, 0_u128), |(payload, pieces), fill| {
        let piece =
            PayloadSize::new(fill.car_bytes_max).padded_piece_size().map_or(0, |size| size.unpadded().get());
        (payload + u128::from(fill.car_bytes_max), pieces + u128::from(piece))
    });
    let wasted = pieces.saturating_sub(payload);
    u64::try_from((wasted * 1000).checked_div(pieces).unwrap_or(0)).unwrap_or(1000)
}

/// How large items are laid.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Large {
    Decreasing,
    Cut,
}

/// What everything costs in bytes of a CAR.
struct Costs<'a> {
    survey: &'a Survey,
    rules: &'a FillRules,
    capacity: u64,
    /// Folders with so many links that they may be sharded.
    may_shard: Vec<bool>,
}

impl<'a> Costs<'a> {
    fn new(survey: &'a Survey, rules: &'a FillRules) -> Self {
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

    fn items(&self) -> impl Iterator<Item = u32> {
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
    fn folder(&self, folder: FolderId) -> u64 {
        let Folder { parent, name, .. } = self.folder_of(folder);
        self.rules.params.folder_bytes_max() + self.link(*parent, name.len())
    }

    fn folder_of(&self, folder: FolderId) -> &Folder {
        &self.survey.folders[index(folder)]
    }

    /// An item without the folders above it.
    fn item(&self, content: PieceItem) -> u64 {
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

    fn empty_bin(&self) -> OpenBin {
        let params = &self.rules.params;
        OpenBin { used: params.header_bytes_max() + params.folder_bytes_max(), ..OpenBin::default() }
    }
}

/// A piece that is being filled.
#[derive(Default)]
struct OpenBin {
    contents: Vec<PieceItem>,
    folders: HashSet<FolderId>,
    used: u64,
}

impl OpenBin {
    /// Bytes that this would add.
    fn cost(&self, costs: &Costs<'_>, content: PieceItem) -> u64 {
        let mut cost = costs.item(content);
        let mut at = costs.survey.items[usize::try_from(content.item).expect("u32 fits in usize")].folder;
        while at != 0 && !self.folders.contains(&at) {
            cost += costs.folder(at);
            at = costs.folder_of(at).parent;
        }
        cost
    }

    fn add(&mut self, costs: &Costs<'_>, content: PieceItem) {
        self.used = self.used.saturating_add(self.cost(costs, content));
        let mut at = costs.survey.items[usize::try_from(content.item).expect("u32 fits in usize")].folder;
        while at != 0 && self.folders.insert(at) {
            at = costs.folder_of(at).parent;
        }
        self.contents.push(content);
    }

    fn finish(mut self) -> PlannedPiece {
        self.contents.sort_unstable();
        PlannedPiece { contents: self.contents, car_bytes_max: self.used }
    }
}

struct Filler<'a> {
    costs: &'a Costs<'a>,
    bins: Vec<OpenBin>,
    room: FirstFitTree,
}

impl<'a> Filler<'a> {
    fn new(costs: &'a Costs<'a>) -> Self {
        Self { costs, bins: Vec::new(), room: FirstFitTree::default() }
    }

    fn run(mut self, large_way: Large) -> Result<Vec<PlannedPiece>, PieceTooSmall> {
        let costs = self.costs;
        let alone = |content| costs.empty_bin().cost(costs, content);
        let room = costs.capacity.saturating_sub(costs.empty_bin().used);
        let large_from = costs.capacity / LARGE_SHARE;
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for item in costs.items() {
            let whole = PieceItem { item, part: None };
            if alone(whole) > room && self.size(item) == 0 {
                return Err(PieceTooSmall { piece_size: costs.rules.piece_size });
            } else if alone(whole) > room && large_way == Large::Decreasing {
                large.push(self.full_parts(item)?);
            } else if alone(whole) >= large_from {
                large.push(whole);
            } else {
                small.push(whole);
            }
        }
        match large_way {
            Large::Decreasing => {
                large.sort_by_key(|content| (Reverse(alone(*content)), *content));
                for content in large {
                    let cost = alone(content);
                    let bin = self.room.first_with(cost).unwrap_or_else(|| self.open_bin());
                    self.add(bin, content);
                }
            }
            Large::Cut => self.cut(&large)?,
        }
        self.add_small(&small);
        Ok(self.bins.into_iter().map(OpenBin::finish).collect())
    }

    fn open_bin(&mut self) -> usize {
        let bin = self.costs.empty_bin();
        self.room.push(self.costs.capacity.saturating_sub(bin.used));
        self.bins.push(bin);
        self.bins.len() - 1
    }

    fn add(&mut self, bin: usize, content: PieceItem) {
        self.bins[bin].add(self.costs, content);
        self.room.set(bin, self.costs.capacity.saturating_sub(self.bins[bin].used));
    }

    /// Fills pieces with a file that is larger than one; returns the rest of it.
    fn full_parts(&mut self, item: u32) -> Result<PieceItem, PieceTooSmall> {
        let size = self.size(item);
        let mut from = 0;
        loop {
            let rest = PieceItem { item, part: Some((from, size)) };
            let bin = self.costs.empty_bin();
            if bin.cost(self.costs, rest) <= self.costs.capacity.saturating_sub(bin.used) {
                return Ok(rest);
            }
            let bin = self.open_bin();
            let bytes = self.fitting(bin, item);
            if bytes == 0 {
                return Err(PieceTooSmall { piece_size: self.costs.rules.piece_size });
            }
            self.add(bin, PieceItem { item, part: Some((from, from + bytes)) });
            from += bytes;
        }
    }

    /// Lays large files one behind the other, cut where a piece is full.
    fn cut(&mut self, large: &[PieceItem]) -> Result<(), PieceTooSmall> {
        let part_min = self.costs.capacity / PART_SHARE;
        let mut bin = None;
        for content in large {
            let size = self.size(content.item);
            let mut from = 0;
            loop {
                let at = *bin.get_or_insert_with(|| self.open_bin());
                let part = if from == 0 { None } else { Some((from, size)) };
                let rest = PieceItem { item: content.item, part };
                let free = self.costs.capacity.saturating_sub(self.bins[at].used);
                if self.bins[at].cost(self.costs, rest) <= free {
                    self.add(at, rest);
                    break;
                }
                let is_new = self.bins[at].contents.is_empty();
                let bytes = self.fitting(at, content.item).min(size - from);
                if bytes > 0 && (is_new || bytes >= part_min) && bytes < size - from {
                    self.add(at, PieceItem { item: content.item, part: Some((from, from + bytes)) });
                    from += bytes;
                } else if is_new {
                    return Err(PieceTooSmall { piece_size: self.costs.rules.piece_size });
                }
                bin = None;
            }
        }
        Ok(())
    }

    /// Bytes of whole leaves of a file that a piece has room for.
    fn fitting(&self, bin: usize, item: u32) -> u64 {
        let costs = self.costs;
        let bin = &self.bins[bin];
        let free = costs.capacity.saturating_sub(bin.used);
        let chunk = u64::from(costs.rules.params.chunk_size);
        let fits = |chunks: u64| bin.cost(costs, PieceItem { item, part: Some((0, chunks * chunk)) }) <= free;
        // The most chunks that fit: between these two.
        let (mut least, mut most) = (0, free / chunk + 1);
        while least + 1 < most {
            let middle = least.midpoint(most);
            if fits(middle) {
                least = middle;
            } else {
                most = middle;
            }
        }
        least * chunk
    }

    /// Small items into what is left, neighbours together.
    fn add_small(&mut self, small: &[PieceItem]) {
        let mut bin = 0;
        for content in small {
            loop {
                if bin == self.bins.len() {
                    self.open_bin();
                }
                let free = self.costs.capacity.saturating_sub(self.bins[bin].used);
                if self.bins[bin].cost(self.costs, *content) <= free {
                    break;
                }
                bin += 1;
            }
            self.bins[bin].add(self.costs, *content);
        }
    }

    fn size(&self, item: u32) -> u64 {
        self.costs.survey.items[usize::try_from(item).expect("u32 fits in usize")].bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use carferry_car::Profile;
    use carferry_core::model::{PackEntryDoc, PlanKey};
    use proptest::prelude::*;

    use super::*;
    use crate::makecars::dataset::build_piece::{SourceTimes, tree};
    use crate::makecars::dataset::plan::Plan;
    use crate::makecars::dataset::rules::PlanRules;
    use crate::makecars::dataset::survey::Item;

    const SMALL: PaddedPieceSize = match PaddedPieceSize::new(1 << 23) {
        Ok(size) => size,
        Err(_) => unreachable!(),
    };

    /// Folders `f0/f1/…`, and in each some files of these sizes.
    fn survey(folders: &[Vec<u64>]) -> Survey {
        let mut survey = Survey::default();
        survey.folders.push(Folder { parent: 0, name: "".into(), depth: 0 });
        for (number, sizes) in (0_u32..).zip(folders) {
            let name = format!("folder {number}").into();
            survey.folders.push(Folder { parent: number / 2, name, depth: 1 });
            let folder = number + 1;
            for (file, size) in sizes.iter().enumerate() {
                let kind = Kind::File { size: *size, mtime_nanos: 0, is_sparse: false };
                survey.items.push(Item { folder, name: format!("file {file}").into(), kind, range: None });
            }
            if sizes.is_empty() {
                survey.items.push(Item { folder, name: "".into(), kind: Kind::EmptyFolder, range: None });
            }
        }
        survey
    }

    fn rules(profile: Profile, keep_whole: bool) -> FillRules {
        FillRules { params: PlanRules::LATEST.params(profile), piece_size: SMALL, keep_whole }
    }

    /// What must be true of any plan.
    fn check(survey: Survey, rules: &FillRules, profile: Profile) -> Vec<PlannedPiece> {
        let fills = fill(&survey, rules).unwrap();
        assert_eq!(fill(&survey, rules).unwrap(), fills, "the same again");
        let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
        for item in &survey.items {
            wanted.insert(survey.path(item), item.size());
        }
        let key = PlanKey {
            input: "/in".into(),
            group: "g".into(),
            layout: "pack".into(),
            profile: profile.name().into(),
            piecesizebytes: 0,
        };
        let plan = Plan::new(key, "box", survey, fills.clone());
        let mut parts: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        for (piece, fill) in fills.iter().enumerate() {
            let stored: Vec<PackEntryDoc> = plan.files(piece).flat_map(|files| files.entries).collect();
            assert!(plan.entries(piece).eq(stored.iter().cloned()));
            // Every name is used once, or the tree could not be made.
            let exact =
                tree(Path::new("/in"), &stored, SourceTimes::AsPlanned).unwrap().plan(&rules.params).unwrap();
            let (bound, capacity) = (fill.car_bytes_max, rules.piece_size.unpadded().get());
            assert!(exact.payload_size_max.get() <= bound && bound <= capacity, "{exact:?} {bound}");
            for entry in stored {
                match entry {
                    PackEntryDoc::File { path, size, part, .. } => {
                        let bytes = part.map_or((0, size), |part| (part.from, part.to));
                        parts.entry(path).or_default().push(bytes);
                    }
                    other => parts.entry(other.path().to_owned()).or_default().push((0, 0)),
                }
            }
        }
        assert_eq!(parts.len(), wanted.len());
        for (path, mut parts) in parts {
            parts.sort_unstable();
            let end = parts.iter().try_fold(0, |end, (from, to)| (*from == end).then_some(*to));
            assert_eq!(end, Some(i64::try_from(wanted[&path]).unwrap()), "{path}: {parts:?}");
            let chunk = i64::from(rules.params.chunk_size);
            assert!(parts.iter().all(|(from, _)| from % chunk == 0), "{path}: {parts:?}");
            assert!(!rules.keep_whole || wanted[&path] > rules.piece_size.get() / 2 || parts.len() == 1);
        }
        fills
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn everything_is_in_exactly_one_piece_and_every_piece_fits(
            folders in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![4 => 0_u64..100_000, 2 => 0_u64..4_000_000, 1 => 0_u64..40_000_000], 0..20),
                1..12),
            keep_whole in any::<bool>(),
        ) {
            for profile in [Profile::Lotus, Profile::Ipfs256k174] {
                check(survey(&folders), &rules(profile, keep_whole), profile);
            }
        }
    }

    #[test]
    fn a_sharded_folder_fits_too() {
        let fills = check(survey(&[vec![700; 30_000]]), &rules(Profile::Lotus, false), Profile::Lotus);
        assert!(waste_permille(&fills[..fills.len() - 1]) < 250, "{}", waste_permille(&fills));
    }

    #[test]
    fn data_sets_much_larger_than_a_piece_waste_less_than_one_percent() {
        let mut rng = fastrand::Rng::with_seed(3);
        let piece_size = PaddedPieceSize::new(1 << 30).unwrap();
        // Files of which two never fit together; many middling ones; and small ones.
        let folders = [
            (0..200).map(|_| rng.u64(550_000_000..900_000_000)).collect(),
            (0..800).map(|_| rng.u64(50_000_000..300_000_000)).collect(),
            (0..40_000).map(|_| rng.u64(0..4_000_000)).collect::<Vec<_>>(),
        ];
        for folders in [&folders[..1], &folders[1..2], &folders[2..], &folders[..]] {
            let rules = FillRules { piece_size, ..rules(Profile::Lotus, false) };
            let fills = check(survey(folders), &rules, Profile::Lotus);
            assert!(fills.len() > 70 && waste_permille(&fills) < 10, "{}", waste_permille(&fills));
        }
    }

    #[test]
    fn a_piece_that_holds_no_leaf_is_refused() {
        let tiny =
            FillRules { piece_size: PaddedPieceSize::new(1 << 20).unwrap(), ..rules(Profile::Lotus, false) };
        assert!(fill(&survey(&[vec![3 << 20]]), &tiny).is_err());
    }
}
