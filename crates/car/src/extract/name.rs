//! Checks names and link targets from CARs before they are used on the disk.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::extract::BadName;
use crate::temporary_name::is_reserved_name;

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

/// Checks the target of a link. Every target that the system accepts is valid.
pub(super) fn check_target(target: &[u8]) -> Result<(), BadName> {
    if target.is_empty() || target.contains(&0) { Err(BadName::Target) } else { Ok(()) }
}

/// Whether a path from the caller stays inside of the output.
pub(super) fn is_inside(path: &Path) -> bool {
    let is_name =
        |component| matches!(component, Component::Normal(name) if check_name(name.as_bytes()).is_ok());
    path.components().next().is_some() && path.components().all(is_name)
}

/// A name as a path of one component.
pub(super) fn as_path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
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
}
