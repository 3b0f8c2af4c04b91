//! Names of temporary files beside a file that is not complete.
//!
//! What lives here: the names that `extract` gives, and the check for reserved names. What does not: the
//! writing of published files, whose names `.carferry-<name>.<…>.tmp` are reserved here as well.

use crate::kernels::hash_blocks;
use crate::profile::BlockHash;

/// Part of every temporary name.
const MARK: &[u8] = b".carferry-";
/// Longest name. Source: Linux include/uapi/linux/limits.h, `NAME_MAX`.
const NAME_BYTES_MAX: usize = 255;

/// The temporary files beside a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// The file itself.
    New,
    /// The file itself while it is joined from parts. It has its own name, because it outlives a run, and a
    /// whole file of another state must not overwrite it.
    Part,
    /// The list of its finished ranges.
    Ranges,
    /// The list while it is written.
    NewRanges,
}

const ALL_BESIDE: [Beside; 4] = [Beside::New, Beside::Part, Beside::Ranges, Beside::NewRanges];

impl Beside {
    /// Ending of the name.
    const fn ending(self) -> &'static [u8] {
        match self {
            Self::New => b"new",
            Self::Part => b"part",
            Self::Ranges => b"ranges",
            Self::NewRanges => b"new-ranges",
        }
    }
}

/// Whether a name is reserved for temporary files: those of `extract`, `.<name>.carferry-<what>`, and those
/// of published files, `.carferry-<name>.<…>.tmp`.
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

/// The name of a temporary file beside a file. Long names are cut and get a hash.
pub(crate) fn beside(name: &[u8], what: Beside) -> Vec<u8> {
    let ending = what.ending();
    let mut beside = [b".", name].concat();
    if beside.len() + MARK.len() + b"new-ranges".len() > NAME_BYTES_MAX {
        let digest = hash_blocks(BlockHash::Sha2_256, &[name])[0];
        beside.truncate(200);
        // Not cut inside of a character: some file systems take only UTF-8.
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
    fn temporary_names_are_reserved_and_distinct() {
        let long = "é".repeat(127);
        let names = ["a".to_owned(), "b".to_owned(), long.clone() + "x", long + "y"];
        let mut seen = std::collections::HashSet::new();
        for name in &names {
            for what in [Beside::New, Beside::Part, Beside::Ranges, Beside::NewRanges] {
                let beside = beside(name.as_bytes(), what);
                assert!(beside.len() <= NAME_BYTES_MAX, "{name}");
                assert!(is_reserved_name(&beside), "{name}");
                assert!(std::str::from_utf8(&beside).is_ok(), "{name}");
                assert!(seen.insert(beside), "{name}");
            }
        }
    }
}
