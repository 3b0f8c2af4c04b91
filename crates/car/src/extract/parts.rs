//! Files that are joined from parts, in any order and over any number of runs.
//!
//! ```text
//! .name.carferry-part      the file, with holes where parts are missing
//! .name.carferry-ranges    which ranges are in it: "file <bytes>", then "<from> <to>" for each part
//! name                     when every part is in
//! ```
//!
//! A range is listed only after it is on disk, so a list never says more than there is, whatever was killed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, fallocate, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::name::{Beside, beside, is_inside};
use super::target::{Purpose, Replace, Started, Target, look_at_existing, move_to_place};
use super::tree::{Folder, Tree};
use super::{BadParts, Existing, ExtractError, Outcome, Placement};

/// Longest list that is read. Source: ours; a hundred thousand parts.
const LIST_BYTES_MAX: u64 = 4 << 20;

/// The parts that this run has begun.
#[derive(Debug, Default)]
pub(super) struct Parts {
    begun: HashMap<PathBuf, List>,
    /// Whoever changes a list holds this.
    lists: Arc<Mutex<()>>,
}

/// The ranges of a file that are there, in the order of their starts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    file_size: u64,
    ranges: Vec<Range<u64>>,
}

impl Parts {
    /// What a part of a file is before its first byte.
    pub(super) fn start(
        &mut self,
        tree: &mut Tree,
        placement: &Placement,
        inside: &Path,
        size: u64,
        existing: Existing,
    ) -> Result<Started, ExtractError> {
        let Placement { file: path, offset, file_size, .. } = placement;
        let failed = |reason| ExtractError::parts(path, reason);
        let name = path.file_name().filter(|_| is_inside(path)).ok_or(failed(BadParts::Path))?;
        let name = name.as_encoded_bytes();
        let end = offset.checked_add(size).filter(|end| end <= file_size);
        let outside = BadParts::Outside { offset: *offset, bytes: size, file_size: *file_size };
        let range = *offset..end.ok_or(failed(outside))?;
        let begun = self.begun.entry(path.clone()).or_insert_with(|| List::new(*file_size));
        begun.check_size(*file_size).and_then(|()| begun.insert(range.clone())).map_err(failed)?;

        let folder = tree.enter(path.parent().unwrap_or(Path::new("")))?;
        let settled = look_at_existing(&folder, name, inside, *offset, size, *file_size, existing)?;
        if let Some(settled) = settled {
            return Ok(settled);
        }
        let _lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, mut list) = open_part(&folder, name, *file_size)?;
        list.check_size(*file_size).map_err(failed)?;
        // It is written once more, and not there while it is.
        if list.remove(&range) {
            list.write(&folder, name)?;
        }
        list.insert(range).map_err(failed)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let reads_as_zeros = size == 0 || fallocate(&file, punch, *offset, size).is_ok();
        let purpose = Purpose::Part { file_size: *file_size, reads_as_zeros };
        Ok(Started::Target(Target::new(folder, name, file, inside, *offset, size, purpose)))
    }

    /// What those need who end parts.
    pub(super) fn lists(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.lists)
    }
}

/// Ends a part: lists it, and moves the file to its place if it was the last.
pub(super) fn finish(target: &Target, file_size: u64, lists: &Mutex<()>) -> Result<Outcome, ExtractError> {
    let path = target.path();
    // Before the list says so; several parts are made durable at a time.
    target.file.sync_data().map_err(|error| ExtractError::output(&path, error))?;
    let _lists = lists.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, name) = (&target.folder, &target.name);
    let mut list = List::read(folder, name)?.unwrap_or_else(|| List::new(file_size));
    let range = target.start..target.start + target.size;
    list.insert(range).map_err(|reason| ExtractError::parts(&path, reason))?;
    if list.is_whole() {
        move_to_place(folder, &beside(name, Beside::Part), name, Replace::Yes)?;
        remove(folder, &beside(name, Beside::Ranges))?;
        return Ok(Outcome::Written);
    }
    list.write(folder, name)?;
    Ok(Outcome::Part { bytes_in: list.bytes(), file_size })
}

/// The unfinished file and its list, which are made if there are none.
fn open_part(folder: &Folder, name: &[u8], file_size: u64) -> Result<(File, List), ExtractError> {
    let part = beside(name, Beside::Part);
    let path = folder.path_of(&part);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(&folder.fd, &*part, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => {
            // A list without its file is of no use, and would lie about the new one.
            remove(folder, &beside(name, Beside::Ranges))?;
            let mode = Mode::from_raw_mode(0o666);
            let made = openat(&folder.fd, &*part, flags | OFlags::CREATE | OFlags::EXCL, mode);
            File::from(made.map_err(|error| ExtractError::output(&path, error))?)
        }
        Err(error) => return Err(ExtractError::output(&path, error)),
    };
    let list = match List::read(folder, name)? {
        Some(list) if file.metadata().is_ok_and(|metadata| metadata.len() == list.file_size) => list,
        Some(_) => return Err(ExtractError::parts(&folder.path_of(name), BadParts::List)),
        None => {
            let emptied = file.set_len(0).and_then(|()| file.set_len(file_size));
            emptied.map_err(|error| ExtractError::output(&path, error))?;
            List::new(file_size)
        }
    };
    Ok((file, list))
}

fn remove(folder: &Folder, name: &[u8]) -> Result<(), ExtractError> {
    match unlinkat(&folder.fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(ExtractError::output(&folder.path_of(name), error)),
    }
}

impl List {
    fn new(file_size: u64) -> Self {
        Self { file_size, ranges: Vec::new() }
    }

    fn check_size(&self, file_size: u64) -> Result<(), BadParts> {
        let before = self.file_size;
        if before == file_size { Ok(()) } else { Err(BadParts::Size { before, now: file_size }) }
    }

    /// Adds a range that touches no byte of the others.
    fn insert(&mut self, range: Range<u64>) -> Result<(), BadParts> {
        let overlaps = |other: &&Range<u64>| other.start < range.end && range.start < other.end;
        if let Some(other) = self.ranges.iter().find(overlaps) {
            return Err(BadParts::Overlap { first: other.start, second: range.start });
        }
        let at = self.ranges.partition_point(|other| other.start < range.start);
        if !range.is_empty() {
            self.ranges.insert(at, range);
        }
        Ok(())
    }

    fn remove(&mut self, range: &Range<u64>) -> bool {
        let before = self.ranges.len();
        self.ranges.retain(|other| other != range);
        self.ranges.len() < before
    }

    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    fn is_whole(&self) -> bool {
        self.bytes() == self.file_size
    }

    fn read(folder: &Folder, name: &[u8]) -> Result<Option<Self>, ExtractError> {
        let ranges = beside(name, Beside::Ranges);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&folder.fd, &*ranges, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(ExtractError::output(&folder.path_of(&ranges), error)),
        };
        let mut text = String::new();
        let read = file.take(LIST_BYTES_MAX).read_to_string(&mut text);
        let list = read.ok().and_then(|_| Self::parse(&text));
        list.map(Some).ok_or_else(|| ExtractError::parts(&folder.path_of(name), BadParts::List))
    }

    fn parse(text: &str) -> Option<Self> {
        // A list that was cut ends inside a line.
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let mut list = Self::new(lines.next()?.strip_prefix("file ")?.parse().ok()?);
        for line in lines {
            let (start, end) = line.split_once(' ')?;
            let (start, end) = (start.parse().ok()?, end.parse().ok()?);
            if start >= end || end > list.file_size {
                return None;
            }
            list.insert(start..end).ok()?;
        }
        Some(list)
    }

    /// Takes the place of the list in one step.
    fn write(&self, folder: &Folder, name: &[u8]) -> Result<(), ExtractError> {
        let line = |range: &Range<u64>| format!("{} {}\n", range.start, range.end);
        let lines: String = self.ranges.iter().map(line).collect();
        let text = format!("file {}\n{lines}", self.file_size);
        let (new, ranges) = (beside(name, Beside::NewRanges), beside(name, Beside::Ranges));
        remove(folder, &new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&folder.fd, &*new, flags, Mode::from_raw_mode(0o666));
        let made = made.map_err(std::io::Error::from).and_then(|file| {
            let mut file = File::from(file);
            file.write_all(text.as_bytes())?;
            // Its name must not be there before its text.
            file.sync_data()
        });
        let moved = made.and_then(|()| Ok(renameat(&folder.fd, &*new, &folder.fd, &*ranges)?));
        moved.map_err(|error| ExtractError::output(&folder.path_of(&ranges), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_know_what_is_missing() {
        let mut list = List::new(100);
        list.insert(50..100).unwrap();
        list.insert(0..20).unwrap();
        list.insert(20..20).unwrap();
        assert_eq!((list.bytes(), list.is_whole()), (70, false));
        for range in [0..1, 19..21, 40..60, 0..100, 99..100] {
            assert!(matches!(list.insert(range.clone()), Err(BadParts::Overlap { .. })), "{range:?}");
        }
        list.insert(20..50).unwrap();
        assert!(list.is_whole());
        assert!(list.remove(&(0..20)));
        assert!(!list.remove(&(0..20)));
        assert_eq!(list.bytes(), 80);
        assert!(List::new(0).is_whole());
    }

    #[test]
    fn lists_are_read_whole_or_not_at_all() {
        let text = "file 100\n0 20\n50 100\n";
        let list = List { file_size: 100, ranges: vec![0..20, 50..100] };
        assert_eq!(List::parse(text), Some(list));
        // Cut between lines, it says less than there is.
        for length in (0..text.len()).filter(|length| ![9, 14].contains(length)) {
            assert_eq!(List::parse(&text[..length]), None, "{length}");
        }
        for text in
            ["file 100\n0 101\n", "file 100\n5 5\n", "file 100\n0 9\n8 10\n", "file -1\n", "file 1\n\n"]
        {
            assert_eq!(List::parse(text), None, "{text:?}");
        }
    }
}
