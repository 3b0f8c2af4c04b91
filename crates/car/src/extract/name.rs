//! Names as they come from strangers, and the names of files that are not whole yet.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::extract::BadName;
use crate::kernels::hash_blocks;
use crate::profile::BlockHash;

/// In every name that this program gives by itself.
const MARK: &[u8] = b".carferry-";
/// Longest name. Source: Linux include/uapi/linux/limits.h, `NAME_MAX`.
const NAME_BYTES_MAX: usize = 255;

/// What is beside a file until it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// The file itself.
    New,
    /// The file itself, where it is joined from parts. A name of its own: what is joined outlives a run, and
    /// a state of the file that is whole must not be written over it.
    Part,
    /// Which ranges of it are there.
    Ranges,
    /// The same, while it is written.
    NewRanges,
}

const ALL_BESIDE: [Beside; 4] = [Beside::New, Beside::Part, Beside::Ranges, Beside::NewRanges];

impl Beside {
    /// What its name ends with.
    const fn ending(self) -> &'static [u8] {
        match self {
            Self::New => b"new",
            Self::Part => b"part",
            Self::Ranges => b"ranges",
            Self::NewRanges => b"new-ranges",
        }
    }
}

/// Whether a name is one that this program gives to files that are not whole: those of `extract`,
/// `.<name>.carferry-<what>`, and those of files that are published, `.carferry-<name>.<…>.tmp`.
pub fn is_reserved_name(name: &[u8]) -> bool {
    let is_beside = || {
        ALL_BESIDE.iter().any(|what| {
            let name = name.strip_suffix(what.ending());
            name.is_some_and(|name| name.starts_with(b".") && name.ends_with(MARK))
        })
    };
    let is_temporary = || name.starts_with(MARK) && name.ends_with(b".tmp");
    is_temporary() || is_beside()
}

/// Checks a name inside of a folder.
pub(super) fn check_name(name: &[u8]) -> Result<(), BadName> {
    match name {
        b"" => Err(BadName::Empty),
        b"." | b".." => Err(BadName::Dots),
        _ if name.contains(&b'/') || name.contains(&0) => Err(BadName::Separator),
        _ if is_reserved_name(name) => Err(BadName::Reserved),
        _ => Ok(()),
    }
}

/// Checks the target of a link: anything goes that the system takes.
pub(super) fn check_target(target: &[u8]) -> Result<(), BadName> {
    if target.is_empty() || target.contains(&0) { Err(BadName::Target) } else { Ok(()) }
}

/// Whether a path of the caller's leads to something inside of the output.
pub(super) fn is_inside(path: &Path) -> bool {
    let is_name =
        |component| matches!(component, Component::Normal(name) if check_name(name.as_bytes()).is_ok());
    path.components().next().is_some() && path.components().all(is_name)
}

/// A name as a path of one component.
pub(super) fn as_path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// The name of what is beside a file. Long names are cut and told apart by a hash.
pub(super) fn beside(name: &[u8], what: Beside) -> Vec<u8> {
    let ending = what.ending();
    let mut beside = [b".", name].concat();
    if beside.len() + MARK.len() + b"new-ranges".len() > NAME_BYTES_MAX {
        let digest = hash_blocks(BlockHash::Sha2_256, &[name])[0];
        beside.truncate(200);
        // No half of a letter: some file systems take only UTF-8.
        while beside.last().is_some_and(|byte| !byte.is_ascii()) {
            beside.pop();
        }
        for byte in &digest[..16] {
            beside.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
    }
    [&beside, MARK, ending].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, wanted) in [
            (&b""[..], Err(BadName::Empty)),
            (b".", Err(BadName::Dots)),
            (b"..", Err(BadName::Dots)),
            (b"a/b", Err(BadName::Separator)),
            (b"/", Err(BadName::Separator)),
            (b"a\0", Err(BadName::Separator)),
            (b".a.carferry-part", Err(BadName::Reserved)),
            (b".a.carferry-new-ranges", Err(BadName::Reserved)),
            (b".carferry-a.car.0123abcd.7.0123abcd.tmp", Err(BadName::Reserved)),
            (b".x.carferry-y", Ok(())),
            (b".carferry-y", Ok(())),
            (b"a.carferry-part", Ok(())),
            (b"...", Ok(())),
            (b"-rf", Ok(())),
            (b"a\nb\xff", Ok(())),
        ] {
            assert_eq!(check_name(name), wanted, "{name:?}");
        }
        for path in ["", "/", "/a", "..", "a/../b", "a/.b.carferry-new"] {
            assert!(!is_inside(Path::new(path)), "{path:?}");
        }
        assert!(is_inside(Path::new("a/b c")));
    }

    #[test]
    fn what_is_beside_a_file_has_a_name_of_its_own() {
        let long = "é".repeat(127);
        let names = ["a".to_owned(), "b".to_owned(), long.clone() + "x", long + "y"];
        let mut seen = std::collections::HashSet::new();
        for name in &names {
            for what in [Beside::New, Beside::Part, Beside::Ranges, Beside::NewRanges] {
                let beside = beside(name.as_bytes(), what);
                assert!(beside.len() <= NAME_BYTES_MAX, "{name}");
                assert_eq!(check_name(&beside), Err(BadName::Reserved), "{name}");
                assert!(std::str::from_utf8(&beside).is_ok(), "{name}");
                assert!(seen.insert(beside), "{name}");
            }
        }
    }
}
