//! Throughput of this box, measured on the first files of a plan, for the forecast of a dry run.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use carferry_car::{BuildOptions, NoProgress, PaddedPieceSize, Profile, ThreadBudget, build_tree};
use carferry_core::model::{PackEntryDoc, PackPartDoc};
use tokio::time::Instant;

use crate::makecars::dataset::build_piece::{SourceTimes, tree};
use crate::makecars::dataset::plan::Plan;
use crate::progress::rate;

/// Bytes that are read at most.
const BYTES_MAX: i64 = 256 << 20;
/// Files that are read at most.
const FILES_MAX: usize = 2000;

/// Source bytes a second; `None` where nothing can be said.
pub(super) async fn measured(
    plan: &Plan,
    input: PathBuf,
    profile: Profile,
    budget: &Arc<ThreadBudget>,
) -> Option<u64> {
    let mut entries = Vec::new();
    let mut left = BYTES_MAX;
    for entry in plan.entries(0).take(FILES_MAX) {
        let PackEntryDoc::File { path, size, mtimenanos, part } = entry else { continue };
        if left <= 0 {
            break;
        }
        let (from, to) = part.map_or((0, size), |part| (part.from, part.to));
        let to = to.min(from + left);
        left -= to - from;
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let part = Some(PackPartDoc { from, to, name });
        entries.push(PackEntryDoc::File { path, size, mtimenanos, part });
    }
    let bytes = u64::try_from(BYTES_MAX - left).ok()?;
    let budget = Arc::clone(budget);
    let started = Instant::now();
    let build = move || {
        let nowhere = OpenOptions::new().write(true).open("/dev/null").ok()?;
        let options = BuildOptions { params: profile.params(), max_piece: PaddedPieceSize::GIB_64 };
        build_tree(
            &budget,
            &tree(&input, &entries, SourceTimes::AsPlanned).ok()?,
            &nowhere,
            &options,
            &NoProgress,
        )
        .ok()
    };
    tokio::task::spawn_blocking(build).await.ok()??;
    Some(rate(bytes, started.elapsed()))
}
