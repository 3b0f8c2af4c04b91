//! Opens and creates folders of the output one component at a time, without following symbolic links.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, mkdirat, openat, statat};
use rustix::io::Errno;

use crate::extract::ExtractError;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    /// Path for error messages.
    path: PathBuf,
}

/// The output folder, and the folder in it that was used last.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<Folder>,
    here: Arc<Folder>,
    /// Path of `here` inside of the output.
    inside: PathBuf,
}

impl Folder {
    /// The path of an entry of the folder.
    pub(super) fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(crate::extract::name::as_path(name))
    }

    /// Metadata of an entry of the folder, if it exists. Links are not followed.
    pub(super) fn stat(&self, name: &[u8]) -> Result<Option<Stat>, ExtractError> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(ExtractError::output(&self.path_of(name), error)),
        }
    }

    /// Opens a subfolder, which is created if it does not exist.
    fn enter(&self, name: &OsStr) -> Result<Self, ExtractError> {
        let path = self.path.join(name);
        // Without O_NOFOLLOW a link to a folder would be followed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(&self.fd, name, flags, Mode::empty());
        let made = match open() {
            Err(Errno::NOENT) => match mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(error) => Err(error),
            },
            result => result,
        };
        match made {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(ExtractError::InTheWay { path }),
            Err(error) => Err(ExtractError::output(&path, error)),
        }
    }
}

impl Tree {
    /// Opens the output folder, which is created if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Self, ExtractError> {
        std::fs::create_dir_all(path).map_err(|error| ExtractError::output(path, error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(rustix::fs::CWD, path, flags, Mode::empty());
        let fd = fd.map_err(|error| ExtractError::output(path, error))?;
        let root = Arc::new(Folder { fd, path: path.to_owned() });
        Ok(Self { here: Arc::clone(&root), root, inside: PathBuf::new() })
    }

    /// The output folder, open for reading.
    pub(super) fn root(&self) -> Arc<Folder> {
        Arc::clone(&self.root)
    }

    /// Opens a folder inside of the output, which is created if it does not exist.
    pub(super) fn enter(&mut self, inside: &Path) -> Result<Arc<Folder>, ExtractError> {
        if inside != self.inside {
            let (mut folder, below) = match inside.strip_prefix(&self.inside) {
                Ok(below) => (Arc::clone(&self.here), below),
                Err(_) => (Arc::clone(&self.root), inside),
            };
            for name in below {
                folder = Arc::new(folder.enter(name)?);
            }
            self.here = folder;
            inside.clone_into(&mut self.inside);
        }
        Ok(Arc::clone(&self.here))
    }
}

/// Whether an entry is a regular file.
pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether an entry is a folder.
pub(super) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether an entry is a symbolic link.
pub(super) fn is_symlink(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// Bytes of a file.
pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
