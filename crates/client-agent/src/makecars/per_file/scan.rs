//! Scan of the input: the files that become CARs, in a stable order.
//!
//! Nothing is read but names and metadata. What cannot be packed is said, never left out in silence.

use std::fs::{DirEntry, FileType};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use carferry_car::is_reserved_name;
use carferry_core::fsx;

use crate::makecars::error::SkippedEntry;

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Files to pack, sorted by path.
    pub files: Vec<Found>,
    /// What is left out on purpose.
    pub skipped: Vec<SkippedEntry>,
    /// What should have been packed or walked and cannot be.
    pub failed: Vec<SkippedEntry>,
}

/// A file to pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Absolute, with no symbolic link in it.
    pub path: PathBuf,
    /// Below the input; the file's name if the input is the file itself.
    pub relative: PathBuf,
}

/// Walks `input` (absolute and canonical), a file or a folder; leaves the folder `output` out.
///
/// # Errors
///
/// When the input itself cannot be looked at, or is neither a file nor a folder.
pub(crate) fn scan(input: &Path, output: &Path) -> io::Result<Scan> {
    let metadata = fs::metadata(input).map_err(|error| fsx::named("cannot read", input, error))?;
    let mut walk = Walk { input, output, scan: Scan::default() };
    if metadata.is_file() {
        let name = input.file_name().map(PathBuf::from).unwrap_or_default();
        walk.found(input.to_owned(), name);
    } else if metadata.is_dir() {
        walk.folder(input);
    } else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a folder");
        return Err(fsx::named("cannot pack", input, error));
    }
    let Scan { files, skipped, failed } = &mut walk.scan;
    files.sort_by(|a, b| a.relative.cmp(&b.relative));
    skipped.sort_by(|a, b| a.path.cmp(&b.path));
    failed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.scan)
}

struct Walk<'a> {
    input: &'a Path,
    output: &'a Path,
    scan: Scan,
}

impl Walk<'_> {
    fn folder(&mut self, top: &Path) {
        // A stack on the heap: deeply nested folders must not overflow the thread's stack.
        let mut to_walk = vec![top.to_owned()];
        while let Some(folder) = to_walk.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    self.failed(folder, format!("cannot list the folder: {error}"));
                    continue;
                }
            };
            for entry in entries {
                match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
                    Ok((kind, entry)) => self.entry(kind, &entry, &mut to_walk),
                    Err(error) => self.failed(folder.clone(), format!("cannot list the folder: {error}")),
                }
            }
        }
    }

    fn entry(&mut self, kind: FileType, entry: &DirEntry, to_walk: &mut Vec<PathBuf>) {
        let path = entry.path();
        if kind.is_dir() {
            if path != self.output {
                to_walk.push(path);
            }
        } else if kind.is_file() && is_reserved_name(entry.file_name().as_bytes()) {
            self.scan.skipped.push(SkippedEntry { path, reason: "a temporary file of carferry".to_owned() });
        } else if kind.is_file() {
            let relative = path.strip_prefix(self.input).unwrap_or(&path).to_owned();
            self.found(path, relative);
        } else {
            let reason =
                if kind.is_symlink() { "a symbolic link, not followed" } else { "not a regular file" };
            self.scan.skipped.push(SkippedEntry { path, reason: reason.to_owned() });
        }
    }

    fn found(&mut self, path: PathBuf, relative: PathBuf) {
        if path.to_str().is_some() {
            self.scan.files.push(Found { path, relative });
        } else {
            // Records and JSON are UTF-8: a path that is not could never be found again.
            self.failed(path, "its name is not UTF-8".to_owned());
        }
    }

    fn failed(&mut self, path: PathBuf, reason: String) {
        self.scan.failed.push(SkippedEntry { path, reason });
    }
}

/// Name of the data set of a file: what comes before `_<digits>.<ext>`, as the first files were named
/// (`Fedora_001.tar`), else the folder's name.
pub(crate) fn group_of(file_name: &str, folder: Option<&str>) -> String {
    let mut rest = file_name;
    while let Some((stem, _extension)) = rest.rsplit_once('.') {
        if let Some((name, digits)) = stem.rsplit_once('_')
            && !name.is_empty()
            && !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            return name.to_owned();
        }
        rest = stem;
    }
    folder.unwrap_or("default").to_owned()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;

    use super::*;

    fn relative(scan: &Scan) -> Vec<&str> {
        scan.files.iter().map(|file| file.relative.to_str().unwrap()).collect()
    }

    #[test]
    fn every_regular_file_is_found_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().canonicalize().unwrap();
        for file in
            ["b.tar", "a.tar", "sub/deep/c", ".hidden", "sub/a", "out/x.car", "out2/y", ".x.carferry-part"]
        {
            fs::create_dir_all(input.join(file).parent().unwrap()).unwrap();
            fs::write(input.join(file), file).unwrap();
        }
        symlink("a.tar", input.join("link")).unwrap();
        symlink("sub", input.join("folder-link")).unwrap();
        symlink("/nowhere", input.join("broken")).unwrap();
        let scan = scan(&input, &input.join("out")).unwrap();
        assert_eq!(relative(&scan), [".hidden", "a.tar", "b.tar", "out2/y", "sub/a", "sub/deep/c"]);
        assert!(scan.files.iter().all(|file| file.path == input.join(&file.relative)));
        let skipped: Vec<_> = scan.skipped.iter().map(|entry| entry.path.file_name().unwrap()).collect();
        assert_eq!(skipped, [".x.carferry-part", "broken", "folder-link", "link"]);
        assert_eq!(scan.failed, []);
    }

    #[test]
    fn a_file_as_input_is_the_only_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.tar"), "a").unwrap();
        fs::write(folder.path().join("b.tar"), "b").unwrap();
        let scan = scan(&folder.path().join("a.tar"), folder.path()).unwrap();
        assert_eq!(relative(&scan), ["a.tar"]);
    }

    #[test]
    fn names_that_are_not_utf8_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(OsStr::from_bytes(b"bad\xff.tar")), "x").unwrap();
        fs::write(folder.path().join("good.tar"), "x").unwrap();
        let scan = scan(folder.path(), Path::new("/nowhere")).unwrap();
        assert_eq!(relative(&scan), ["good.tar"]);
        assert_eq!(scan.failed.len(), 1);
        assert_eq!(scan.failed[0].reason, "its name is not UTF-8");
    }

    #[test]
    fn missing_inputs_and_devices_are_errors_that_name_them() {
        for path in ["/nowhere/at/all", "/dev/null"] {
            let error = scan(Path::new(path), Path::new("/")).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn groups_follow_the_first_files_names() {
        for (name, folder, group) in [
            ("Fedora_001.tar", Some("in"), "Fedora"),
            ("Fedora_1.tar.gz", Some("in"), "Fedora"),
            ("my_data_0042.zip", Some("in"), "my_data"),
            ("a.b_7.tar", Some("in"), "a.b"),
            ("Fedora_001", Some("in"), "in"),
            ("_001.tar", Some("in"), "in"),
            ("Fedora_x1.tar", Some("in"), "in"),
            ("a.tar", Some("in"), "in"),
            ("a.tar", None, "default"),
        ] {
            assert_eq!(group_of(name, folder), group, "{name}");
        }
    }
}
