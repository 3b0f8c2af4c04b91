//! Bin packing: which file goes into which piece. A pure function of paths and sizes, the same on every
//! machine.
//!
//! ```text
//! files larger than a piece ─► parts of a full piece each, and a rest
//! large files and rests     ─► first-fit decreasing; or, where that wastes more than 1 %,
//!                              one behind the other, cut where a piece is full
//! small files, links, empty folders ─► into what is left, in the order of their paths
//! ```
//!
//! Small files keep their neighbours; only what fills a good part of a piece is moved about. Files are cut
//! between leaves alone. Sizes are upper bounds of what the CAR will have: it has fewer bytes only where
//! blocks repeat.

mod costs;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashSet;

use carferry_car::{DagParams, PaddedPieceSize, PayloadSize};

use crate::makecars::dataset::bin_packing::costs::Costs;
use crate::makecars::dataset::first_fit::FirstFitTree;
use crate::makecars::dataset::survey::{FolderId, Survey};

/// An item counts as large from this share of a piece on. Chosen: smaller items leave at most as much unused.
const LARGE_SHARE: u64 = 256;
/// No part of a file is smaller than this share of a piece, except the last. Chosen: few parts for a file.
const PART_SHARE: u64 = 64;
/// Waste in thousandths above which files are cut to fill pieces. Chosen: below it, whole files are worth
/// more.
const WASTE_MAX_PERMILLE: u64 = 10;
/// Bytes of a part's name beyond the file's: `.part-0000000000000-of-0000000000000`, and some against names
/// that are taken.
pub(crate) const PART_SUFFIX_MAX: usize = 48;

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
    let mut bin = OpenBin::new(&costs);
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

/// A piece that is being filled.
#[derive(Default)]
struct OpenBin {
    contents: Vec<PieceItem>,
    folders: HashSet<FolderId>,
    used: u64,
}

impl OpenBin {
    fn new(costs: &Costs<'_>) -> Self {
        Self { used: costs.empty_car(), ..Self::default() }
    }

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
    free_space: FirstFitTree,
}

impl<'a> Filler<'a> {
    fn new(costs: &'a Costs<'a>) -> Self {
        Self { costs, bins: Vec::new(), free_space: FirstFitTree::default() }
    }

    fn run(mut self, large_order: Large) -> Result<Vec<PlannedPiece>, PieceTooSmall> {
        let costs = self.costs;
        let alone = |content| OpenBin::new(costs).cost(costs, content);
        let free_alone = costs.capacity.saturating_sub(OpenBin::new(costs).used);
        let large_from = costs.capacity / LARGE_SHARE;
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for item in costs.items() {
            let whole = PieceItem { item, part: None };
            if alone(whole) > free_alone && self.size(item) == 0 {
                return Err(PieceTooSmall { piece_size: costs.rules.piece_size });
            } else if alone(whole) > free_alone && large_order == Large::Decreasing {
                large.push(self.full_parts(item)?);
            } else if alone(whole) >= large_from {
                large.push(whole);
            } else {
                small.push(whole);
            }
        }
        match large_order {
            Large::Decreasing => {
                large.sort_by_key(|content| (Reverse(alone(*content)), *content));
                for content in large {
                    let cost = alone(content);
                    let bin = self.free_space.first_with(cost).unwrap_or_else(|| self.open_bin());
                    self.add(bin, content);
                }
            }
            Large::Cut => self.cut(&large)?,
        }
        self.add_small(&small);
        Ok(self.bins.into_iter().map(OpenBin::finish).collect())
    }

    fn open_bin(&mut self) -> usize {
        let bin = OpenBin::new(self.costs);
        self.free_space.push(self.costs.capacity.saturating_sub(bin.used));
        self.bins.push(bin);
        self.bins.len() - 1
    }

    fn add(&mut self, bin: usize, content: PieceItem) {
        self.bins[bin].add(self.costs, content);
        self.free_space.set(bin, self.costs.capacity.saturating_sub(self.bins[bin].used));
    }

    /// Fills pieces with a file that is larger than one; returns the rest of it.
    fn full_parts(&mut self, item: u32) -> Result<PieceItem, PieceTooSmall> {
        let size = self.size(item);
        let mut from = 0;
        loop {
            let rest = PieceItem { item, part: Some((from, size)) };
            let bin = OpenBin::new(self.costs);
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
