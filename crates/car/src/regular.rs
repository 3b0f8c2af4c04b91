//! Opens regular files only: a named pipe would block its reader for ever.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// Opens a regular file for reading.
///
/// # Errors
///
/// Errors of the operating system. [`io::ErrorKind::InvalidInput`] for folders, pipes, sockets and devices; a
/// pipe does not block the call.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::from(open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(file),
        _ if kind.is_dir() => "a folder, not a file",
        _ if kind.is_fifo() => "a named pipe, not a regular file",
        _ => "a device or socket, not a regular file",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for (path, what) in
            [(&*pipe, "a named pipe"), (Path::new("/dev/null"), "a device"), (folder.path(), "a folder")]
        {
            let error = open_regular(path).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        std::fs::write(folder.path().join("file"), "x").unwrap();
        open_regular(&folder.path().join("file")).unwrap();
    }
}
