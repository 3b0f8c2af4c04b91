//! Joins files from parts, in any order and over any number of runs.
//!
//! ```text
//! .name.carferry-part      the file, with holes where parts are missing
//! .name.carferry-ranges    the list of finished ranges, and the state of the file:
//!                          "file <bytes> changed <nanoseconds>", then "<from> <to>" for each part
//! name                     the file after its last part
//! ```
//!
//! A range is listed only after its bytes are synced, so after a crash the list has no missing range. One
//! list is of one state of the file: a newer state starts the file again, and parts of other states are not
//! joined. If the modification time is unknown, the first line ends after the bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fsync, openat, renameat};
use rustix::io::Errno;

use crate::extract::name::is_inside;
use crate::extract::output_dir::{Folder, Tree};
use crate::extract::target::{Purpose, Replace, Started, State, Target, check_existing, remove, rename};
use crate::extract::{BadParts, Existing, ExtractError, OtherState, Outcome, Placement};
use crate::temporary_name::{Beside, beside};

/// Longest list that is read. Chosen: a hundred thousand parts.
const LIST_BYTES_MAX: u64 = 4 << 20;

/// The parts of this run.
#[derive(Debug, Default)]
pub(super) struct Parts {
    begun: HashMap<PathBuf, List>,
    /// Locked while a list is changed.
    lists: Arc<Mutex<()>>,
}

/// A state compared with the state of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Same,
    Newer,
    Older,
    /// The modification time of one of them is unknown.
    Unknown,
}

/// The finished ranges of a file, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    state: State,
    ranges: Vec<Range<u64>>,
}

/// How a part is restored.
#[derive(Debug)]
pub(super) enum Begun {
    /// Into the whole file.
    Joined(Started),
    /// As its own file: the existing parts are of another state.
    Left(OtherState),
}

/// The unfinished file of a part.
enum Opened {
    Part { file: File, list: List, other_state: Option<OtherState> },
    Left(OtherState),
}

impl Parts {
    /// Starts a part of a file, before its first byte.
    pub(super) fn start(
        &mut self,
        tree: &mut Tree,
        placement: &Placement,
        inside: &Path,
        size: u64,
        existing: Existing,
    ) -> Result<Begun, ExtractError> {
        let Placement { file: path, offset, file_size, mtime_nanos, .. } = placement;
        let failed = |reason| ExtractError::parts(path, reason);
        let name = path.file_name().filter(|_| is_inside(path)).ok_or(failed(BadParts::Path))?;
        let name = name.as_encoded_bytes();
        let end = offset.checked_add(size).filter(|end| end <= file_size);
        let outside = BadParts::Outside { offset: *offset, bytes: size, file_size: *file_size };
        let range = *offset..end.ok_or(failed(outside))?;
        let state = State { mtime_nanos: *mtime_nanos, file_size: *file_size };
        let begun = self.begun.entry(path.clone()).or_insert_with(|| List::new(state));
        begun.check(state).and_then(|()| begun.insert(range.clone())).map_err(failed)?;

        let folder = tree.enter(path.parent().unwrap_or(Path::new("")))?;
        let settled = check_existing(&folder, name, inside, *offset, size, *file_size, existing)?;
        let _lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(settled) = settled {
            // A run that was killed after the last part has left the list.
            if folder.stat(&beside(name, Beside::Part))?.is_none() {
                remove_lists(&folder, name)?;
            }
            return Ok(Begun::Joined(settled));
        }
        let (file, mut list, other_state) = match open_part(&folder, name, state)? {
            Opened::Part { file, list, other_state } => (file, list, other_state),
            Opened::Left(other_state) => return Ok(Begun::Left(other_state)),
        };
        // A repeated part leaves the list until it is written again.
        if list.remove(&range) {
            list.write(&folder, name)?;
            sync(&folder)?;
        }
        list.insert(range).map_err(failed)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let reads_as_zeros = size == 0 || fallocate(&file, punch, *offset, size).is_ok();
        let purpose = Purpose::Part { state, reads_as_zeros };
        let mut target = Target::new(folder, name, file, inside, *offset, size, purpose);
        target.other_state = other_state;
        Ok(Begun::Joined(Started::Target(target)))
    }

    /// The lock for changes of lists, which [`finish`] needs.
    pub(super) fn lists(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.lists)
    }
}

/// Finishes a part: lists its range, and renames the file after the last part.
pub(super) fn finish(target: &Target, state: State, lists: &Mutex<()>) -> Result<Outcome, ExtractError> {
    let path = target.path();
    // Before the range is listed, and without the lock, so that several parts are synced at a time.
    target.file.sync_data().map_err(|error| ExtractError::output(&path, error))?;
    let _lists = lists.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, name) = (&target.folder, &target.name);
    let mut list = List::read(folder, name)?.unwrap_or_else(|| List::new(state));
    let range = target.start..target.start + target.size;
    // Another process may have started the file again.
    let listed = list.check(state).and_then(|()| list.insert(range));
    listed.map_err(|reason| ExtractError::parts(&path, reason))?;
    if list.is_whole() {
        rename(folder, &beside(name, Beside::Part), name, Replace::Yes)?;
        remove_lists(folder, name)?;
        return Ok(Outcome::Written);
    }
    list.write(folder, name)?;
    Ok(Outcome::Part { bytes_in: list.bytes(), file_size: state.file_size })
}

/// Opens the unfinished file and its list, which are created if they do not exist.
fn open_part(folder: &Folder, name: &[u8], state: State) -> Result<Opened, ExtractError> {
    let part = beside(name, Beside::Part);
    let path = folder.path_of(&part);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(&folder.fd, &*part, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => {
            // A list without its file would be false for the new file.
            remove_lists(folder, name)?;
            let mode = Mode::from_raw_mode(0o666);
            let made = openat(&folder.fd, &*part, flags | OFlags::CREATE | OFlags::EXCL, mode);
            File::from(made.map_err(|error| ExtractError::output(&path, error))?)
        }
        Err(error) => return Err(ExtractError::output(&path, error)),
    };
    let there = List::read(folder, name)?;
    let is_long = |list: &List| file.metadata().is_ok_and(|found| found.len() == list.state.file_size);
    let other_state = match there {
        Some(list) if list.state == state && is_long(&list) => {
            return Ok(Opened::Part { file, list, other_state: None });
        }
        // The file has no part yet. A killed run may have left it without its length.
        None => None,
        Some(list) if list.ranges.is_empty() => None,
        Some(list) => match list.age_of(state) {
            Age::Same => return Err(ExtractError::parts(&folder.path_of(name), BadParts::List)),
            Age::Newer => Some(OtherState::BegunAnew),
            Age::Older => return Ok(Opened::Left(OtherState::Older)),
            Age::Unknown => return Ok(Opened::Left(OtherState::Unknown)),
        },
    };
    // The list is replaced before the file is emptied, so that no range of the old state is listed for the
    // new one. It exists from the start, so that a second part of this run does not empty the file again.
    let list = List::new(state);
    list.write(folder, name)?;
    sync(folder)?;
    let emptied = file.set_len(0).and_then(|()| file.set_len(state.file_size));
    emptied.map_err(|error| ExtractError::output(&path, error))?;
    Ok(Opened::Part { file, list, other_state })
}

/// Removes the lists of a file's parts.
fn remove_lists(folder: &Folder, name: &[u8]) -> Result<(), ExtractError> {
    remove(folder, &beside(name, Beside::Ranges))?;
    remove(folder, &beside(name, Beside::NewRanges))
}

/// Syncs the names in a folder. Without that, an older list could return after a power failure, with ranges
/// that were emptied since.
fn sync(folder: &Folder) -> Result<(), ExtractError> {
    // The folder's descriptor is opened with O_PATH, which cannot be synced.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let synced = openat(&folder.fd, ".", flags, Mode::empty()).and_then(fsync);
    synced.map_err(|error| ExtractError::output(&folder.path_of(b""), error))
}

impl List {
    fn new(state: State) -> Self {
        Self { state, ranges: Vec::new() }
    }

    /// Checks that a state is that of the list.
    fn check(&self, state: State) -> Result<(), BadParts> {
        let (before, now) = (self.state.file_size, state.file_size);
        match self.age_of(state) {
            Age::Same => Ok(()),
            _ if before != now => Err(BadParts::Size { before, now }),
            _ => Err(BadParts::States),
        }
    }

    fn age_of(&self, state: State) -> Age {
        let (there, new) = (self.state, state);
        match (there.mtime_nanos, new.mtime_nanos) {
            _ if there == new => Age::Same,
            // Of two sizes with the same time the larger one counts as newer.
            (Some(before), Some(now)) if (now, new.file_size) > (before, there.file_size) => Age::Newer,
            (Some(_), Some(_)) => Age::Older,
            _ => Age::Unknown,
        }
    }

    /// Adds a range that does not overlap the others.
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
        self.bytes() == self.state.file_size
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
        // A truncated list does not end with a newline.
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let first = lines.next()?.strip_prefix("file ")?;
        let (file_size, mtime_nanos) = match first.split_once(" changed ") {
            Some((file_size, nanos)) => (file_size, Some(nanos.parse().ok()?)),
            None => (first, None),
        };
        let mut list = Self::new(State { mtime_nanos, file_size: file_size.parse().ok()? });
        for line in lines {
            let (start, end) = line.split_once(' ')?;
            let (start, end) = (start.parse().ok()?, end.parse().ok()?);
            if start >= end || end > list.state.file_size {
                return None;
            }
            list.insert(start..end).ok()?;
        }
        Some(list)
    }

    /// Replaces the list on disk atomically.
    fn write(&self, folder: &Folder, name: &[u8]) -> Result<(), ExtractError> {
        let line = |range: &Range<u64>| format!("{} {}\n", range.start, range.end);
        let lines: String = self.ranges.iter().map(line).collect();
        let State { mtime_nanos, file_size } = self.state;
        let changed = mtime_nanos.map_or_else(String::new, |nanos| format!(" changed {nanos}"));
        let text = format!("file {file_size}{changed}\n{lines}");
        let (new, ranges) = (beside(name, Beside::NewRanges), beside(name, Beside::Ranges));
        remove(folder, &new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&folder.fd, &*new, flags, Mode::from_raw_mode(0o666));
        let made = made.map_err(std::io::Error::from).and_then(|file| {
            let mut file = File::from(file);
            file.write_all(text.as_bytes())?;
            // The text must be durable before the name.
            file.sync_data()
        });
        let moved = made.and_then(|()| Ok(renameat(&folder.fd, &*new, &folder.fd, &*ranges)?));
        moved.map_err(|error| ExtractError::output(&folder.path_of(&ranges), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(file_size: u64, mtime_nanos: impl Into<Option<i64>>) -> State {
        State { mtime_nanos: mtime_nanos.into(), file_size }
    }

    #[test]
    fn lists_know_what_is_missing() {
        let mut list = List::new(state(100, None));
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
        assert!(List::new(state(0, None)).is_whole());
    }

    #[test]
    fn lists_are_read_whole_or_not_at_all() {
        // The first as lists were before they knew states.
        for (text, of, between_lines) in [
            ("file 100\n0 20\n50 100\n", state(100, None), [9, 14]),
            ("file 100 changed -5\n0 20\n50 100\n", state(100, -5), [20, 25]),
        ] {
            let list = List { state: of, ranges: vec![0..20, 50..100] };
            assert_eq!(List::parse(text), Some(list));
            // A list that is cut between lines lists fewer ranges.
            for length in (0..text.len()).filter(|length| !between_lines.contains(length)) {
                assert_eq!(List::parse(&text[..length]), None, "{length} of {text:?}");
            }
        }
        for text in [
            "file 100\n0 101\n",
            "file 100\n5 5\n",
            "file 100\n0 9\n8 10\n",
            "file -1\n",
            "file 1\n\n",
            "file 1 changed\n",
            "file 1 changed \n",
            "file 1 changed soon\n",
            "file 1 2\n",
        ] {
            assert_eq!(List::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn states_are_told_apart_by_time_and_then_by_size() {
        for (there, new, wanted) in [
            (state(9, 5), state(9, 5), Age::Same),
            (state(9, None), state(9, None), Age::Same),
            (state(9, 5), state(9, 6), Age::Newer),
            (state(9, 5), state(1, 6), Age::Newer),
            (state(9, 5), state(9, 4), Age::Older),
            (state(9, 5), state(99, 4), Age::Older),
            (state(9, -5), state(9, 0), Age::Newer),
            (state(9, 5), state(10, 5), Age::Newer),
            (state(9, 5), state(8, 5), Age::Older),
            (state(9, None), state(9, 5), Age::Unknown),
            (state(9, 5), state(9, None), Age::Unknown),
            (state(9, None), state(8, None), Age::Unknown),
        ] {
            assert_eq!(List::new(there).age_of(new), wanted, "{there:?} {new:?}");
        }
    }
}
