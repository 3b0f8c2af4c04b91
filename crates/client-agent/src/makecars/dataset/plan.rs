//! A plan as it is stored: the entries of each piece, names of parts, and an id that is a hash of all of
//! them.

use std::collections::{HashMap, HashSet};

use carferry_core::model::{
    PackEntryDoc, PackFilesDoc, PackPartDoc, PackPieceDoc, PieceState, PlanDoc, PlanKey, PlanSeen, PlanState,
};
use sha2::{Digest, Sha256};

use crate::makecars::dataset::bin_packing::{PieceItem, PlannedPiece};
use crate::makecars::dataset::rules::PlanRules;
use crate::makecars::dataset::survey::{FolderId, Item, Kind, Survey, join};

/// Entries of one document of `packfiles` at most.
const CHUNK_ENTRIES: usize = 4096;
/// Bytes of paths of one document at most: far below the 16 MiB that MongoDB allows, whatever the names.
const CHUNK_PATH_BYTES: usize = 1 << 20;
/// Bytes of a file name at most. Source: Linux include/uapi/linux/limits.h, `NAME_MAX`.
const NAME_MAX: usize = 255;

/// A plan in memory: the survey, and what of it goes where.
#[derive(Debug)]
pub(crate) struct Plan {
    /// As it is stored.
    pub document: PlanDoc,
    survey: Survey,
    fills: Vec<PlannedPiece>,
    /// Names of parts, by content.
    part_names: HashMap<PieceItem, Box<str>>,
}

impl Plan {
    /// Names and numbers everything.
    pub(crate) fn new(key: PlanKey, host: &str, survey: Survey, fills: Vec<PlannedPiece>) -> Self {
        let part_names = name_parts(&survey, &fills);
        let document = PlanDoc {
            id: String::new(),
            key,
            state: PlanState::Writing,
            pieces: count(fills.len()),
            chunks: 0,
            sourcebytes: stored(survey.bytes()),
            entries: count(fills.iter().map(|fill| fill.contents.len()).sum()),
            host: host.to_owned(),
            seen: survey.changed_nanos.map(|changednanos| PlanSeen { host: host.to_owned(), changednanos }),
            rules: PlanRules::LATEST.stored(),
        };
        let mut plan = Self { document, survey, fills, part_names };
        plan.document.chunks = (0..plan.fills.len()).map(|piece| count(plan.chunks(piece).count())).sum();
        plan.document.id = plan.hash();
        plan
    }

    /// The pieces.
    pub(crate) fn pieces(&self) -> impl ExactSizeIterator<Item = &PlannedPiece> {
        self.fills.iter()
    }

    /// A piece as it is stored.
    pub(crate) fn piece(&self, piece: usize) -> PackPieceDoc {
        let fill = &self.fills[piece];
        PackPieceDoc {
            id: PlanDoc::piece_id(&self.document.id, count(piece)),
            plan: self.document.id.clone(),
            index: count(piece),
            chunks: count(self.chunks(piece).count()),
            sourcebytes: stored(fill.contents.iter().map(|content| self.bytes(content)).sum()),
            carsizemaxbytes: stored(fill.car_bytes_max),
            state: PieceState::Open,
            reason: None,
            filecid: None,
            piececid: None,
            outputpath: None,
            host: None,
            updatedtime: None,
        }
    }

    /// What is in a piece, as it is stored.
    pub(crate) fn files(&self, piece: usize) -> impl Iterator<Item = PackFilesDoc> {
        self.chunks(piece).enumerate().map(move |(chunk, contents)| PackFilesDoc {
            id: format!("{}#{piece}#{chunk}", self.document.id),
            plan: self.document.id.clone(),
            piece: count(piece),
            chunk: count(chunk),
            entries: contents.iter().map(|content| self.entry(content)).collect(),
        })
    }

    /// What is in a piece.
    pub(crate) fn entries(&self, piece: usize) -> impl Iterator<Item = PackEntryDoc> {
        self.fills[piece].contents.iter().map(|content| self.entry(content))
    }

    /// Files that are in more than one piece.
    pub(crate) fn split_files(&self) -> usize {
        self.part_names.keys().map(|content| content.item).collect::<HashSet<_>>().len()
    }

    fn chunks(&self, piece: usize) -> impl Iterator<Item = &[PieceItem]> {
        let mut rest = &self.fills[piece].contents[..];
        std::iter::from_fn(move || {
            let (mut entries, mut bytes) = (0, 0);
            while let Some(content) = rest.get(entries)
                && entries < CHUNK_ENTRIES
                && bytes < CHUNK_PATH_BYTES
            {
                bytes += self.path_len(content);
                entries += 1;
            }
            let (chunk, after) = rest.split_at(entries);
            rest = after;
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    fn path_len(&self, content: &PieceItem) -> usize {
        let item = self.item(content);
        let target = if let Kind::Symlink(target) = &item.kind { target.len() } else { 0 };
        self.survey.path(item).len() + target
    }

    fn item(&self, content: &PieceItem) -> &Item {
        item_of(&self.survey, content)
    }

    fn bytes(&self, content: &PieceItem) -> u64 {
        content.part.map_or_else(|| self.item(content).bytes(), |(from, to)| to - from)
    }

    fn entry(&self, content: &PieceItem) -> PackEntryDoc {
        let mut entry = entry_of(&self.survey, self.item(content));
        if let (PackEntryDoc::File { part, .. }, Some((from, to))) =
            (&mut entry, range_of(&self.survey, content))
        {
            let name = self.part_names[content].to_string();
            *part = Some(PackPartDoc { from: stored(from), to: stored(to), name });
        }
        entry
    }

    /// Of everything that was planned, so that two boxes that plan the same find the same plan.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let PlanKey { input, group, layout, profile, piecesizebytes } = &self.document.key;
        for text in [input, group, layout, profile, &piecesizebytes.to_string()] {
            field(&mut hash, text.as_bytes());
        }
        for piece in 0..self.fills.len() {
            hash.update([0xff]);
            for entry in self.entries(piece) {
                hash_entry(&mut hash, &entry);
            }
        }
        hex(&hash.finalize()[..16])
    }
}

/// A whole item as a plan would have it.
pub(crate) fn entry_of(survey: &Survey, item: &Item) -> PackEntryDoc {
    let path = survey.path(item);
    match &item.kind {
        Kind::File { size, mtime_nanos, .. } => {
            PackEntryDoc::File { path, size: stored(*size), mtimenanos: *mtime_nanos, part: None }
        }
        Kind::Symlink(target) => PackEntryDoc::Symlink { path, target: target.to_string() },
        Kind::EmptyFolder => PackEntryDoc::Folder { path },
    }
}

/// What a plan calls an entry, in so many bits that no two are taken for each other.
pub(crate) fn fingerprint(entry: &PackEntryDoc) -> u128 {
    let mut hash = Sha256::new();
    hash_entry(&mut hash, entry);
    hash.finalize()[..16].iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}

fn hash_entry(hash: &mut Sha256, entry: &PackEntryDoc) {
    match entry {
        PackEntryDoc::File { path, size, mtimenanos, part } => {
            hash.update(b"f");
            field(hash, path.as_bytes());
            hash.update(size.to_be_bytes());
            hash.update(mtimenanos.to_be_bytes());
            if let Some(PackPartDoc { from, to, name }) = part {
                hash.update(from.to_be_bytes());
                hash.update(to.to_be_bytes());
                field(hash, name.as_bytes());
            }
        }
        PackEntryDoc::Folder { path } => {
            hash.update(b"d");
            field(hash, path.as_bytes());
        }
        PackEntryDoc::Symlink { path, target } => {
            hash.update(b"l");
            field(hash, path.as_bytes());
            field(hash, target.as_bytes());
        }
    }
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(bytes);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

/// Which bytes of a file these are, if not all.
fn range_of(survey: &Survey, content: &PieceItem) -> Option<(u64, u64)> {
    let item = item_of(survey, content);
    let base = item.range.map_or(0, |(from, _)| from);
    match content.part {
        Some((from, to)) => Some((base + from, base + to)),
        None => item.range,
    }
}

/// `movie.mkv.part-0017179869184-of-0042949672960`: from which byte on, of how many. Sorted they are in
/// order, and `cat` joins them. A name that is taken gets tildes.
fn name_parts(survey: &Survey, fills: &[PlannedPiece]) -> HashMap<PieceItem, Box<str>> {
    let mut parts: Vec<(PieceItem, u64)> = fills
        .iter()
        .flat_map(|fill| &fill.contents)
        .filter_map(|content| Some((*content, range_of(survey, content)?.0)))
        .collect();
    parts.sort_unstable();
    let folders: HashSet<FolderId> = parts.iter().map(|(part, _)| item_of(survey, part).folder).collect();
    let mut taken: HashSet<(FolderId, String)> = survey
        .items
        .iter()
        .filter(|item| folders.contains(&item.folder))
        .map(|item| (item.folder, item.name.to_string()))
        .chain(survey.folders.iter().map(|folder| (folder.parent, folder.name.to_string())))
        .collect();
    let mut names = HashMap::new();
    for (part, from) in parts {
        let item = item_of(survey, &part);
        let suffix = format!(".part-{from:013}-of-{:013}", item.size());
        let mut name = format!(
            "{}{suffix}",
            head(&item.name, NAME_MAX - crate::makecars::dataset::bin_packing::PART_SUFFIX_MAX)
        );
        while !taken.insert((item.folder, name.clone())) {
            name.push('~');
        }
        names.insert(part, name.into());
    }
    names
}

/// The beginning of a name, at most so many bytes of it.
fn head(name: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

fn item_of<'a>(survey: &'a Survey, content: &PieceItem) -> &'a Item {
    &survey.items[usize::try_from(content.item).expect("u32 fits in usize")]
}

/// Where an entry goes in its CAR.
pub(crate) fn inside(entry: &PackEntryDoc) -> String {
    match entry {
        PackEntryDoc::File { path, part: Some(part), .. } => {
            join(path.rsplit_once('/').map_or("", |(folder, _)| folder), &part.name)
        }
        _ => entry.path().to_owned(),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn stored(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
