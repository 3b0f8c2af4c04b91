//! A sample of real files, in many sizes, gathered from this machine.
//!
//! Files are copied as they are where one of about the wanted size exists; larger ones are several
//! files one after another. The same disk gives the same sample.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context as _, ensure};
use tokio_util::sync::CancellationToken;

const FILES: u32 = 26;
/// The largest file's part of the whole: 120 of 300 MiB.
const LARGEST_PERCENT: u64 = 40;
/// Each further file has this part of the one before it.
const NEXT_PERCENT: u64 = 60;
/// The smallest file: a little less, and its piece would be smaller than miners take.
const SMALLEST: u64 = 300;
/// A file this much smaller or larger than wanted is taken as it is. Such ranges do not meet, so no
/// two files of the sample have the same size, nor the same bytes.
const TOLERANCE_PERCENT: u64 = 20;
/// Enough to choose from; walking on would only take time.
const CANDIDATES_MAX: usize = 60_000;

/// What was gathered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) smallest: u64,
    pub(crate) largest: u64,
}

#[derive(Clone, Debug)]
struct Candidate {
    path: PathBuf,
    size: u64,
}

/// Counts the regular files below a folder.
pub(crate) fn measure(folder: &Path) -> anyhow::Result<Sample> {
    let mut sizes = Vec::new();
    walk(folder, usize::MAX, &mut |_, size| sizes.push(size))
        .with_context(|| format!("cannot read {}", folder.display()))?;
    ensure!(!sizes.is_empty(), "there is no file below {}", folder.display());
    Ok(Sample {
        files: u64::try_from(sizes.len())?,
        bytes: sizes.iter().sum(),
        smallest: sizes.iter().copied().min().unwrap_or(0),
        largest: sizes.iter().copied().max().unwrap_or(0),
    })
}

/// Fills `folder` with about `bytes` bytes.
pub(crate) fn gather(folder: &Path, bytes: u64, stop: &CancellationToken) -> anyhow::Result<Sample> {
    ensure!(bytes >= 1 << 20, "a sample needs 1 MiB at least");
    let mut candidates = Vec::new();
    for place in places() {
        let room = CANDIDATES_MAX.saturating_sub(candidates.len());
        // A place that cannot be read has nothing to offer.
        drop(walk(&place, room, &mut |path, size| candidates.push(Candidate { path, size })));
        ensure!(!stop.is_cancelled(), "interrupted");
    }
    ensure!(
        candidates.iter().map(|candidate| candidate.size).sum::<u64>() >= bytes,
        "found too few files on this machine for a sample\nhint: cargo demo --input DIR takes yours"
    );
    candidates.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    fs::create_dir_all(folder)?;
    let mut taken = BTreeSet::new();
    for (number, wanted) in (1..).zip(sizes(bytes)) {
        ensure!(!stop.is_cancelled(), "interrupted");
        let copied = match closest(&candidates, wanted) {
            Some(index) => {
                taken.insert(index);
                copy(&candidates[index], number, folder)
            }
            None => join(&candidates, &mut taken, wanted, number, folder),
        };
        // A file may vanish or change meanwhile; the sample is as good without it.
        drop(copied);
    }
    measure(folder)
}

fn sizes(bytes: u64) -> Vec<u64> {
    let largest = bytes / 100 * LARGEST_PERCENT;
    std::iter::successors(Some(largest), |size| Some(size * NEXT_PERCENT / 100))
        .take_while(|size| *size >= SMALLEST)
        .take(usize::try_from(FILES).unwrap_or(usize::MAX))
        .collect()
}

/// Where files are looked for: what cargo has built and fetched, then the system's.
fn places() -> Vec<PathBuf> {
    let target = env::current_exe().ok().and_then(|demo| Some(demo.parent()?.join("deps")));
    let cargo = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registry = cargo.map(|cargo| cargo.join("registry/cache"));
    let system = ["/usr/bin", "/usr/lib", "/usr/share/doc"].map(PathBuf::from);
    target.into_iter().chain(registry).chain(system).collect()
}

/// The candidate nearest to the wanted size, if one is near enough.
fn closest(candidates: &[Candidate], wanted: u64) -> Option<usize> {
    let above = candidates.partition_point(|candidate| candidate.size < wanted);
    [above.checked_sub(1), Some(above)]
        .into_iter()
        .flatten()
        .filter_map(|index| Some((candidates.get(index)?.size.abs_diff(wanted), index)))
        .filter(|(off, _)| off * 100 <= wanted * TOLERANCE_PERCENT)
        .min()
        .map(|(_, index)| index)
}

fn copy(candidate: &Candidate, number: u32, folder: &Path) -> anyhow::Result<()> {
    let name = candidate.path.file_name().context("a file without a name")?;
    let name = format!("{number:02}-{}", name.to_string_lossy());
    let mut from = File::open(&candidate.path)?.take(candidate.size);
    let mut to = File::create(folder.join(name))?;
    io::copy(&mut from, &mut to)?;
    Ok(())
}

/// Joins files that were not taken yet, the largest first, to exactly the wanted size.
fn join(
    candidates: &[Candidate],
    taken: &mut BTreeSet<usize>,
    wanted: u64,
    number: u32,
    folder: &Path,
) -> anyhow::Result<()> {
    let mut to = File::create(folder.join(format!("{number:02}-joined.bin")))?;
    let mut missing = wanted;
    for (index, candidate) in candidates.iter().enumerate().rev() {
        if missing == 0 {
            break;
        }
        if taken.insert(index)
            && let Ok(from) = File::open(&candidate.path)
        {
            missing -= io::copy(&mut from.take(missing), &mut to)?;
        }
    }
    to.flush()?;
    Ok(())
}

/// Regular files below a folder, in a fixed order; symbolic links are not followed.
fn walk(folder: &Path, room: usize, found: &mut dyn FnMut(PathBuf, u64)) -> io::Result<()> {
    let mut room = room;
    let mut folders = vec![folder.to_owned()];
    let mut first = true;
    while let Some(folder) = folders.pop() {
        let listed = match fs::read_dir(&folder) {
            Err(error) if first => return Err(error),
            Err(_) => continue,
            Ok(listed) => listed,
        };
        first = false;
        let mut entries: Vec<_> = listed.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Ok(file) = entry.metadata()
            {
                if room == 0 {
                    return Ok(());
                }
                room -= 1;
                found(entry.path(), file.len());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(sizes: &[u64]) -> Vec<Candidate> {
        sizes.iter().map(|size| Candidate { path: PathBuf::from("/x"), size: *size }).collect()
    }

    #[test]
    fn sizes_fall_from_a_hundred_mebibytes_to_a_few_hundred_bytes() {
        let of_default = sizes(300 << 20);
        assert_eq!(of_default.len(), 26);
        assert!(of_default[0] > 100 << 20 && (200..1000).contains(&of_default[25]), "{of_default:?}");
        let sum: u64 = of_default.iter().sum();
        assert!(sum.abs_diff(300 << 20) < 1 << 20, "{sum}");
        assert!(sizes(1 << 20).iter().all(|size| *size >= SMALLEST));
    }

    #[test]
    fn nearest_file_is_taken_only_if_near_enough() {
        let candidates = candidates(&[100, 190, 400]);
        assert_eq!(closest(&candidates, 200), Some(1));
        assert_eq!(closest(&candidates, 395), Some(2));
        assert_eq!(closest(&candidates, 300), None);
        assert_eq!(closest(&candidates, 1 << 30), None);
    }

    #[test]
    fn joined_file_has_the_wanted_size_and_takes_each_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut candidates = Vec::new();
        for (name, text) in [("a", "aaaa"), ("b", "bbbbbb"), ("c", "cccccccc")] {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            candidates.push(Candidate { path, size: 0 });
        }
        let mut taken = BTreeSet::new();
        join(&candidates, &mut taken, 10, 1, folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("01-joined.bin")).unwrap(), b"ccccccccbb");
        assert_eq!(taken, BTreeSet::from([1, 2]));
    }
}
