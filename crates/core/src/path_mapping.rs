//! Path mappings: one folder under the names that two machines or processes have for it.
//!
//! Whole folder names count: a mapping from `/data/out` says nothing about `/data/output`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One folder under two names; `carPaths`, `paths` and `nodePaths` in the configurations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathMapping {
    /// The folder's name on one side.
    pub from: PathBuf,
    /// Its name on the other.
    pub to: PathBuf,
}

impl PathMapping {
    /// The path under its other name, if it lies in this folder.
    pub fn apply(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.from).ok()?;
        // Joining nothing would leave a slash at the end.
        Some(if below.as_os_str().is_empty() { self.to.clone() } else { self.to.join(below) })
    }
}

/// The path under its other name by the mapping with the longest matching folder; unchanged where none
/// matches.
pub fn map_longest(mappings: &[PathMapping], path: &Path) -> PathBuf {
    mappings
        .iter()
        .filter(|mapping| path.starts_with(&mapping.from))
        .max_by_key(|mapping| mapping.from.components().count())
        .and_then(|mapping| mapping.apply(path))
        .unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings() -> Vec<PathMapping> {
        [("/mnt", "/srv"), ("/mnt/cars", "/cars"), ("/data/out", "/mnt/out")]
            .map(|(from, to)| PathMapping { from: from.into(), to: to.into() })
            .to_vec()
    }

    #[test]
    fn the_longest_folder_decides_and_half_a_name_is_no_folder() {
        for (path, mapped) in [
            ("/mnt/a.car", "/srv/a.car"),
            ("/mnt/cars/a.car", "/cars/a.car"),
            ("/mnt/cars", "/cars"),
            ("/mnt/carsold/a.car", "/srv/carsold/a.car"),
            ("/data/output/a.car", "/data/output/a.car"),
        ] {
            assert_eq!(map_longest(&mappings(), Path::new(path)), Path::new(mapped), "{path}");
        }
    }

    #[test]
    fn a_mapping_keeps_what_lies_below() {
        let mapping = PathMapping { from: "/data/out/".into(), to: "/mnt/cars".into() };
        assert_eq!(mapping.apply(Path::new("/data/out/x/a.car")), Some("/mnt/cars/x/a.car".into()));
        assert_eq!(mapping.apply(Path::new("/data/out")), Some("/mnt/cars".into()));
        assert_eq!(mapping.apply(Path::new("/data")), None);
    }
}
