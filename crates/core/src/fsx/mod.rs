//! Atomic and durable file publishing, lock files between processes, and free disk space.
//!
//! ```text
//! create_temp_beside ──► write, drop the file ──► TempGuard::publish, or publish_all for many
//! ```
//!
//! A file that another process may look for is written under a hidden temporary name beside its final name,
//! then published. Errors name the path; the system's error is their source.

mod publish;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;

pub use crate::fsx::publish::{all as publish_all, create_folders};

/// Creates an empty file under a hidden temporary name in the folder of `target`.
///
/// The file is locked while the guard lives, so that [`sweep_stale_temps`] can tell a file that is being
/// written from a leftover. Write through the file, flush and drop it, then call [`TempGuard::publish`].
pub fn create_temp_beside(target: &Path) -> io::Result<(File, TempGuard)> {
    let name = target.file_name().ok_or_else(|| {
        named("cannot write", target, io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))
    })?;
    let folder = folder_of(target);
    for _ in 0..TEMP_NAMES_MAX {
        let temp = folder.join(temp_name(name));
        let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&temp) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(named("cannot create", &temp, error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A sweeper may have locked or removed the file between its creation and the lock.
            Err(rustix::io::Errno::WOULDBLOCK) => continue,
            Ok(()) if !temp.exists() => continue,
            // File systems without locks: the sweeper then goes by the process number.
            Ok(()) | Err(_) => {}
        }
        let held = file.try_clone().map_err(|error| named("cannot open", &temp, error))?;
        return Ok((
            file,
            TempGuard { held, temp, target: target.to_owned(), published: false, refuses: false },
        ));
    }
    Err(named("cannot find a temporary name beside", target, io::ErrorKind::AlreadyExists.into()))
}

/// Removes the temporary file when dropped, unless it was published.
#[derive(Debug)]
pub struct TempGuard {
    held: File,
    temp: PathBuf,
    target: PathBuf,
    published: bool,
    /// A file that appeared at the target meanwhile is not replaced.
    refuses: bool,
}

impl TempGuard {
    /// The temporary name.
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Makes publishing fail with [`io::ErrorKind::AlreadyExists`] if the target exists. File systems without
    /// `RENAME_NOREPLACE` replace it.
    pub fn refuse_existing(&mut self) {
        self.refuses = true;
    }

    /// Makes the file visible under its final name, durably: sync of the file, rename over the target, sync
    /// of the folder. Everything must have been flushed.
    ///
    /// After an error the target is either the old file or the new one, never a part.
    pub fn publish(self) -> io::Result<()> {
        publish::all(vec![self]).pop().unwrap_or(Ok(()))
    }
}

impl Drop for TempGuard {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = fs::remove_file(&self.temp)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.temp.display(), %error, "temporary file left behind");
        }
    }
}

/// Removes temporary files that killed processes of this host left in `folder`. Returns their number.
///
/// Files that are being written, and files of other hosts on shared storage, stay.
pub fn sweep_stale_temps(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(|error| named("cannot list", folder, error))? {
        let entry = entry.map_err(|error| named("cannot list", folder, error))?;
        let name = entry.file_name();
        let Some((host, pid)) = name.to_str().and_then(parse_temp_name) else { continue };
        let path = entry.path();
        // The lock is held until the file is removed, so that no other process uses the file in between.
        let stale = if host == host_tag() { lock_if_stale(&path, pid)? } else { None };
        if stale.is_some() {
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(named("cannot remove", &path, error)),
            }
        }
    }
    Ok(removed)
}

/// Bytes that an ordinary user can still write to the file system of `path`.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat =
        rustix::fs::statvfs(path).map_err(|error| named("cannot read free space of", path, error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The name of this host.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Why a lock file cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{path} is held by {holder}", path = path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder, as `process 4711 on host a`, as far as the file names it.
        holder: String,
    },
    /// The file cannot be opened or locked.
    #[error("no lock")]
    Io(#[from] io::Error),
}

impl crate::error_chain::Hint for LockError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Held { .. } => {
                Some("another agent works here; end it first, or give this one its own folder".to_owned())
            }
            Self::Io(_) => None,
        }
    }
}

/// An exclusive lock between processes, released when dropped or when the process ends.
///
/// The file stays: after a removal, a third process could lock a file of the same name while the removed one
/// is still locked.
#[derive(Debug)]
pub struct LockFile {
    _file: File,
    path: PathBuf,
}

impl LockFile {
    /// Takes the lock, without waiting.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] with the holder's process number.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(|error| named("cannot open lock file", path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The content is for the message only: without it the holder is unknown.
                drop((&file).take(200).read_to_string(&mut holder));
                let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
                return Err(LockError::Held { path: path.to_owned(), holder: holder.to_owned() });
            }
            Err(error) => return Err(named("cannot lock", path, error.into()).into()),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "process {} on host {}", std::process::id(), hostname()))
            .map_err(|error| named("cannot write lock file", path, error))?;
        Ok(Self { _file: file, path: path.to_owned() })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file operation that failed, with the path; the system's error is the source.
#[derive(Debug)]
struct NamedError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for NamedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.path.display())
    }
}

impl std::error::Error for NamedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The error with action and path in its message; its kind stays (`StorageFull`, `NotFound`, …).
pub fn named(action: &'static str, path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), NamedError { action, path: path.to_owned(), source })
}

const TEMP_PREFIX: &str = ".carferry-";
const TEMP_SUFFIX: &str = ".tmp";
/// Bytes of the final name that a temporary name repeats: file names end at 255 bytes.
const TEMP_STEM_MAX: usize = 180;
const TEMP_NAMES_MAX: usize = 16;

/// `.carferry-<name>.<host tag>.<pid>.<random>.tmp`
fn temp_name(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    let mut bytes_left = TEMP_STEM_MAX;
    let fits = |c: &char| {
        let left = bytes_left.checked_sub(c.len_utf8());
        bytes_left = left.unwrap_or(bytes_left);
        left.is_some()
    };
    let stem: String = name.chars().take_while(fits).collect();
    let (tag, pid, random) = (host_tag(), std::process::id(), fastrand::u32(..));
    format!("{TEMP_PREFIX}{stem}.{tag}.{pid}.{random:08x}{TEMP_SUFFIX}")
}

/// Host tag and process number of a temporary name.
fn parse_temp_name(name: &str) -> Option<(&str, Pid)> {
    let inner = name.strip_prefix(TEMP_PREFIX)?.strip_suffix(TEMP_SUFFIX)?;
    let mut fields = inner.rsplitn(4, '.');
    let random = fields.next()?;
    let pid = fields.next()?.parse().ok().and_then(Pid::from_raw)?;
    let host = fields.next()?;
    fields.next()?;
    (random.len() == 8 && host.len() == 8).then_some((host, pid))
}

/// Eight hex digits of the host's name (FNV-1a, 32 bits): enough to tell hosts that share a folder apart.
fn host_tag() -> String {
    let hash = hostname()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

/// Process numbers are used again (in a container always the same ones), so the lock decides where the file
/// system has locks.
fn lock_if_stale(path: &Path, pid: Pid) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        // The file is already removed, or belongs to another user.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(error) => return Err(named("cannot open", path, error)),
    };
    let stale = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(rustix::io::Errno::WOULDBLOCK) => false,
        Err(_) => rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH),
    };
    Ok(stale.then_some(file))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::ErrorChain;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_under_its_final_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.tar.car");
        fs::write(&target, "old").unwrap();
        let (mut file, guard) = create_temp_beside(&target).unwrap();
        file.write_all(b"new content").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert!(guard.path().file_name().unwrap().to_str().unwrap().starts_with(".carferry-a.tar.car."));
        drop(file);
        guard.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new content");
        assert_eq!(names(folder.path()), ["a.tar.car"]);
    }

    #[test]
    fn an_abandoned_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, guard) = create_temp_beside(&folder.path().join("a.car")).unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        drop((file, guard));
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn what_came_meanwhile_is_not_replaced_where_that_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.car");
        let (file, mut guard) = create_temp_beside(&target).unwrap();
        guard.refuse_existing();
        drop(file);
        fs::write(&target, "another's").unwrap();
        let error = guard.publish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"another's");
        assert_eq!(names(folder.path()), ["a.car"]);
    }

    #[test]
    fn long_names_still_fit() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("ä".repeat(127));
        let (_file, guard) = create_temp_beside(&target).unwrap();
        guard.publish().unwrap();
        assert!(target.exists());
    }

    #[test]
    fn sweeping_removes_leftovers_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let (file, guard) = create_temp_beside(&path.join("in-the-making.car")).unwrap();
        drop(file);
        // A killed process leaves its file without a lock, and its number may be in use again.
        let leftover = temp_name(OsStr::new("killed.car"));
        let elsewhere = ".carferry-other.car.00000000.1.00c0ffee.tmp";
        for name in [leftover.as_str(), elsewhere, ".carferry-mine.tmp", "kept.car"] {
            fs::write(path.join(name), "x").unwrap();
        }
        assert_eq!(sweep_stale_temps(path).unwrap(), 1);
        let mut kept = vec![elsewhere.to_owned(), ".carferry-mine.tmp".to_owned(), "kept.car".to_owned()];
        kept.push(guard.path().file_name().unwrap().to_str().unwrap().to_owned());
        kept.sort();
        assert_eq!(names(path), kept);
        guard.publish().unwrap();
        assert!(path.join("in-the-making.car").exists());
    }

    #[test]
    fn a_lock_names_its_holder_and_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.lock");
        let held = LockFile::acquire(&path).unwrap();
        let error = LockFile::acquire(&path).unwrap_err();
        let message = ErrorChain(&error).to_string();
        assert!(message.contains(&format!("held by process {} on host", std::process::id())), "{message}");
        drop(held);
        LockFile::acquire(&path).unwrap();
    }

    #[test]
    fn errors_name_the_path_and_keep_their_kind() {
        let missing = Path::new("/nonexistent/folder/a.car");
        for error in [create_temp_beside(missing).unwrap_err(), free_space(missing).unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            let message = ErrorChain(&error).to_string();
            assert!(
                message.contains("/nonexistent/folder/") && message.contains(": No such file"),
                "{message}"
            );
        }
    }

    #[test]
    fn free_space_and_hostname_answer() {
        assert!(free_space(Path::new("/")).unwrap() > 0);
        assert!(!hostname().is_empty());
        assert_eq!(host_tag().len(), 8);
    }
}
