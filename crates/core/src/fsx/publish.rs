//! Durable renames of one file, or of many with shared waiting.
//!
//! A sync waits for the disk's journal, and others can wait for the same commit. So the files of a batch are
//! synced in parallel and renamed, and each folder is synced once for all of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, thread};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error_chain::ErrorChain;
use crate::fsx::{TempGuard, folder_of, named};

/// Syncs that wait for the disk at the same time; they sleep, so this has nothing to do with processors.
///
/// Measured on ext4 with batches of 128 files of 1 to 64 KiB (`examples/publish.rs`): about half the time of
/// one file after the other; 8, 16, 32 and 64 at once differ by less than two runs do.
const SYNCS_AT_ONCE: usize = 32;

/// Makes finished temporary files visible under their final names, durably: what
/// [`TempGuard::publish`] does, with the waiting shared. One result for each, in their order.
pub fn all(mut guards: Vec<TempGuard>) -> Vec<io::Result<()>> {
    let mut results = side_by_side(&guards, |guard| {
        guard.held.sync_data().map_err(|error| named("cannot sync", &guard.temp, error))
    });
    for (guard, result) in guards.iter_mut().zip(&mut results) {
        if result.is_ok() {
            *result = guard.rename();
        }
    }
    let published = || guards.iter().filter(|guard| guard.published);
    let folders: Vec<&Path> =
        published().map(|guard| folder_of(&guard.target)).collect::<BTreeSet<_>>().into_iter().collect();
    let synced = side_by_side(&folders, |folder| sync_folder(folder));
    let failed: BTreeMap<&Path, io::Error> = folders
        .into_iter()
        .zip(synced)
        .filter_map(|(folder, result)| Some((folder, result.err()?)))
        .collect();
    for (guard, result) in guards.iter().zip(&mut results) {
        if let Some(error) = failed.get(folder_of(&guard.target))
            && guard.published
        {
            // An error is not cloneable, so each file of the folder gets one with the same text.
            *result = Err(likeness(error));
        }
    }
    results
}

/// Makes a folder and those above it, durably: their names are on disk when this returns.
///
/// # Errors
///
/// The first that cannot be made; its path is named.
pub fn create_folders(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => {}
            // Another thread or machine made it first; its name is synced as well.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) => return Err(named("cannot make folder", folder, error)),
        }
        sync_folder(folder_of(folder))?;
    }
    if folder.is_dir() {
        Ok(())
    } else {
        Err(named("cannot make folder", folder, io::ErrorKind::AlreadyExists.into()))
    }
}

impl TempGuard {
    fn rename(&mut self) -> io::Result<()> {
        if self.refuses {
            match renameat_with(CWD, &self.temp, CWD, &self.target, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.published = true;
                    return Ok(());
                }
                // Not every file system can refuse.
                Err(Errno::INVAL | Errno::NOSYS) => {}
                Err(error) => return Err(named("cannot publish", &self.target, error.into())),
            }
        }
        #[expect(clippy::disallowed_methods, reason = "this is the durable rename")]
        fs::rename(&self.temp, &self.target).map_err(|error| named("cannot publish", &self.target, error))?;
        self.published = true;
        Ok(())
    }
}

/// The same kind of error in the same words, the system's included.
fn likeness(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), ErrorChain(error).to_string())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| named("cannot sync", folder, error))
}

/// Does the same with each item, many at a time; results in the items' order.
fn side_by_side<T: Sync>(items: &[T], act: impl Fn(&T) -> io::Result<()> + Sync) -> Vec<io::Result<()>> {
    if let [only] = items {
        return vec![act(only)];
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(index)
        {
            done.push((index, act(item)));
        }
        done
    };
    let mut results: Vec<(usize, io::Result<()>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..items.len().min(SYNCS_AT_ONCE)).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no call here panics")).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;
    use crate::fsx::create_temp_beside;

    #[test]
    fn many_files_are_published_at_once_each_with_its_own_result() {
        let folder = tempfile::tempdir().unwrap();
        let targets: Vec<PathBuf> =
            (0..100).map(|index| folder.path().join(format!("{}/{index}", index % 3))).collect();
        let guards = targets
            .iter()
            .enumerate()
            .map(|(index, target)| {
                create_folders(target.parent().unwrap()).unwrap();
                let (mut file, guard) = create_temp_beside(target).unwrap();
                write!(file, "content {index}").unwrap();
                guard
            })
            .collect();
        // Nothing can be renamed over a folder.
        fs::create_dir(&targets[40]).unwrap();
        let results = all(guards);
        for (index, (target, result)) in targets.iter().zip(results).enumerate() {
            if index == 40 {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("cannot publish") && error.contains("1/40"), "{error}");
            } else {
                result.unwrap();
                assert_eq!(fs::read_to_string(target).unwrap(), format!("content {index}"));
            }
        }
        let left = fs::read_dir(folder.path().join("1")).unwrap().count();
        assert_eq!(left, 33, "the one that failed leaves no temporary file");
    }

    #[test]
    fn each_file_of_a_folder_that_cannot_be_synced_gets_the_systems_words() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let words = full.to_string();
        let error = likeness(&named("cannot sync", Path::new("/out"), full));
        assert_eq!(
            (error.kind(), error.to_string()),
            (io::ErrorKind::StorageFull, format!("cannot sync /out: {words}"))
        );
    }

    #[test]
    fn folders_are_made_where_they_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_folders(&deep).unwrap();
        create_folders(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(folder.path().join("file"), "").unwrap();
        for name in ["file/x", "file"] {
            let error = create_folders(&folder.path().join(name)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
