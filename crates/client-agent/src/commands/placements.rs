//! Placement of the parts of split files, by the manifests beside the CARs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use carferry_car::{Placement, read_car_root};
use tracing::warn;

use crate::makecars::dataset::manifest;

/// What the manifests beside some CARs say of parts.
#[derive(Debug)]
pub(super) struct Parts {
    /// Parts that are joined.
    pub(super) placements: Vec<Placement>,
    /// Parts of older states of files; they stay parts.
    pub(super) older: Vec<Placement>,
    /// Whether a CAR has no manifest that can be used.
    pub(super) without_manifest: bool,
}

/// A part, and the plan that cut the file.
struct Planned {
    part: Placement,
    plan: String,
}

/// Looks into all manifests.
///
/// A file that was packed again since lies in the CARs in two states: only the parts of the newer one are
/// joined. Parts that one plan cut are of one state, whatever times the manifests say: earlier versions of
/// `regenerate` wrote the time of the day.
pub(super) fn placements(cars: &[PathBuf]) -> Parts {
    let mut without_manifest = false;
    let mut all: Vec<Planned> = Vec::new();
    for car in cars {
        match parts_of(car) {
            Some(parts) => all.extend(parts),
            None => without_manifest = true,
        }
    }
    let mut times = HashMap::new();
    let of_plan =
        |planned: &Planned| (planned.plan.clone(), planned.part.file.clone(), planned.part.file_size);
    for planned in &all {
        let time = times.entry(of_plan(planned)).or_insert(planned.part.mtime_nanos);
        *time = (*time).min(planned.part.mtime_nanos);
    }
    for planned in &mut all {
        planned.part.mtime_nanos = times.get(&of_plan(planned)).copied().flatten();
    }
    // No time is older than any.
    let state = |part: &Placement| (part.mtime_nanos, part.file_size);
    let mut newest = HashMap::new();
    for Planned { part, .. } in &all {
        let newest = newest.entry(part.file.clone()).or_insert(state(part));
        *newest = (*newest).max(state(part));
    }
    let (placements, older): (Vec<_>, Vec<_>) = all
        .into_iter()
        .map(|planned| planned.part)
        .partition(|part| newest.get(&part.file) == Some(&state(part)));
    if !older.is_empty() {
        let mut files: Vec<_> = older.iter().map(|part| part.file.to_string_lossy()).collect();
        files.sort_unstable();
        files.dedup();
        warn!(
            parts = older.len(),
            files = files.iter().take(NAMED_MAX).map(|file| &**file).collect::<Vec<_>>().join(", "),
            "parts of older states of files stay parts: name only the CARs of one state to join them"
        );
    }
    Parts { placements, older, without_manifest }
}

/// Files that a message names at most.
const NAMED_MAX: usize = 20;

/// `None` without a manifest of this very CAR.
fn parts_of(car: &Path) -> Option<Vec<Planned>> {
    let path = manifest::path_of(car);
    let root = read_car_root(car).ok()?;
    let (piece, entries) = match manifest::read(&path) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "this manifest cannot be read: parts stay parts");
            return None;
        }
    };
    if piece.facts.payloadcid != Some(root.to_string()) {
        warn!(path = %path.display(), "this manifest is of another CAR: parts stay parts");
        return None;
    }
    let place = |entry: std::io::Result<manifest::EntryLine>| {
        let entry = entry
            .inspect_err(
                |error| warn!(path = %path.display(), %error, "a line of this manifest cannot be read"),
            )
            .ok()?;
        let part = Placement {
            payload_cid: root.clone(),
            inside: entry.inside?.into(),
            file: entry.path.into(),
            offset: entry.from?,
            file_size: entry.size?,
            mtime_nanos: entry.mtimenanos,
        };
        Some(Planned { part, plan: piece.of.plan.clone() })
    };
    Some(entries.filter_map(place).collect())
}

/// The path of the whole file, if this is the path of a part: `x.part-0000000000000-of-0000000000009` is of
/// `x`.
pub(super) fn is_part_name(inside: &Path) -> Option<PathBuf> {
    let name = inside.file_name()?.to_str()?;
    let (file, numbers) = name.rsplit_once(".part-")?;
    let (from, of) = numbers.trim_end_matches('~').split_once("-of-")?;
    let is_number = |text: &str| text.len() >= 13 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(from) && is_number(of)).then(|| inside.with_file_name(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_told_from_other_names() {
        for (name, file) in [
            ("a/huge.img.part-0000000000000-of-0042949672960", Some("a/huge.img")),
            ("huge.img.part-0034087108608-of-0042949672960~~", Some("huge.img")),
            ("x.part-01-of-10.mkv", None),
            ("x.part-01-of-10", None),
            ("huge.img.part-0034087108608", None),
            ("huge.img", None),
        ] {
            assert_eq!(is_part_name(Path::new(name)), file.map(PathBuf::from), "{name}");
        }
    }
}
