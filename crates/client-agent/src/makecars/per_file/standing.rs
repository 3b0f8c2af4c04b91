//! The existing file at the path of a CAR that is to be made, and whether it may be replaced.
//!
//! A file is replaced only if `cars`, or the manifest of the output, says that it is the CAR of the same
//! source; or if it is the very same CAR, as a run leaves it that was killed before it recorded the CAR.

use std::io;
use std::path::Path;

use carferry_car::{BuiltCar, CarPlan, read_car_root};
use carferry_core::model::CarDoc;

use crate::makecars::per_file::manifest::Line;

/// What stands in the place of a CAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing, and nothing may have come there when the CAR is published.
    Nothing,
    /// The CAR that was made of this source before.
    Own,
    /// A CAR of which nothing is recorded: only the very same one takes its place.
    Unknown {
        /// Why another one does not.
        reason: String,
    },
}

/// Looks at the place of a source's CAR.
///
/// # Errors
///
/// Why what stands there may not be replaced, in words.
pub(super) fn look(
    output: &Path,
    source: &Path,
    plan: &CarPlan,
    recorded: Option<&CarDoc>,
    line: Option<&Line>,
) -> Result<Standing, String> {
    let there = match output.symlink_metadata() {
        Ok(there) => there,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Standing::Nothing);
        }
        Err(error) => return Err(format!("cannot look at {}: {error}", output.display())),
    };
    let of_source = line.filter(|line| Path::new(&line.of.file) == source);
    let reason = match line {
        _ if !there.is_file() => "no regular file".to_owned(),
        Some(line) if of_source.is_none() => format!("the CAR of {}", line.of.file),
        _ => "not recorded as the CAR of this file".to_owned(),
    };
    let reason = format!(
        "{} is there already, and {reason}: it is left alone; move it away, or write to another --output",
        output.display()
    );
    if !there.is_file() {
        return Err(reason);
    }
    let roots = [
        recorded.and_then(|car| car.filecid.as_deref()),
        of_source.and_then(|line| line.facts.payloadcid.as_deref()),
    ];
    let mut roots = roots.into_iter().flatten();
    match read_car_root(output).map(|root| root.to_string()) {
        Ok(root) if roots.any(|recorded| recorded == root) => Ok(Standing::Own),
        // Damaged in its own place.
        Err(_) if roots.next().is_some() => Ok(Standing::Own),
        Ok(_) if there.len() <= plan.payload_size_max.get() => Ok(Standing::Unknown { reason }),
        _ => Err(reason),
    }
}

/// Whether the CAR that stands is the one that was built, by root and size.
pub(super) fn is_same(output: &Path, car: &BuiltCar) -> bool {
    let size = output.symlink_metadata().map(|there| there.len());
    size.is_ok_and(|size| size == car.payload_size.get())
        && read_car_root(output).is_ok_and(|root| root == car.payload_cid)
}
