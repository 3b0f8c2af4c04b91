//! Folders and boxes that have the CARs of a data set that is packed already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carferry_core::model::{PackPieceDoc, PieceState, PlanKey};
use carferry_core::store::StoreError;
use carferry_core::words::counted;

use crate::makecars::dataset::plan_store::SharedPlans;

/// Finished pieces of one plan in one folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    pieces: u64,
    /// Payload CIDs of pieces of which the CAR is not there any more.
    missing: Vec<String>,
}

/// A line for each plan and folder with finished pieces of a data set.
pub(super) async fn places(
    shared: &SharedPlans<'_>,
    key: &PlanKey,
    host: &str,
) -> Result<Vec<String>, StoreError> {
    let mut lines = Vec::new();
    for plan in shared.store.plans_of(key).await? {
        let pieces = shared.store.pack_pieces(&plan.id).await?;
        lines.extend(lines_of(&plan.id, &pieces, host, Path::is_file));
    }
    Ok(lines)
}

fn lines_of(
    plan: &str,
    pieces: &[PackPieceDoc],
    host: &str,
    is_there: impl Fn(&Path) -> bool,
) -> Vec<String> {
    let mut places: BTreeMap<(PathBuf, &str), Place> = BTreeMap::new();
    for piece in pieces.iter().filter(|piece| piece.state == PieceState::Done) {
        let (Some(path), Some(on)) = (piece.outputpath.as_deref().map(Path::new), piece.host.as_deref())
        else {
            continue;
        };
        let folder = path.parent().unwrap_or(path).to_owned();
        let place = places.entry((folder, on)).or_default();
        place.pieces += 1;
        // What other boxes have, only they can see.
        if on == host && !is_there(path) {
            place.missing.extend(piece.filecid.clone());
        }
    }
    places.iter().map(|((folder, on), place)| words(plan, folder, on, place, host)).collect()
}

fn words(plan: &str, folder: &Path, on: &str, place: &Place, host: &str) -> String {
    let Place { pieces, missing } = place;
    let is = if *pieces == 1 { "is" } else { "are" };
    let mut words = format!(
        "{} of plan {} {is} in {}",
        counted(*pieces, "piece"),
        plan.get(..8).unwrap_or(plan),
        folder.display()
    );
    if on != host {
        words = format!("{words} on {on}");
    }
    if let Some(first) = missing.first() {
        let are = if missing.len() == 1 { "1 is".to_owned() } else { format!("{} are", missing.len()) };
        words = format!(
            "{words}, but {are} not there any more: `client-agent regenerate {first}` makes it again"
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(index: i64, state: PieceState, path: &str, host: &str) -> PackPieceDoc {
        PackPieceDoc {
            id: format!("plan#{index}"),
            plan: "plan".to_owned(),
            index,
            chunks: 1,
            sourcebytes: 1,
            carsizemaxbytes: 1,
            state,
            reason: None,
            filecid: Some(format!("root{index}")),
            piececid: None,
            outputpath: Some(path.to_owned()),
            host: Some(host.to_owned()),
            updatedtime: None,
        }
    }

    #[test]
    fn places_are_named_with_what_is_missing_there() {
        let pieces = [
            piece(0, PieceState::Done, "/out/0.car", "here"),
            piece(1, PieceState::Done, "/out/1.car", "here"),
            piece(2, PieceState::Open, "/out/2.car", "here"),
            piece(3, PieceState::Done, "/out/3.car", "there"),
            piece(4, PieceState::Done, "/moved/4.car", "here"),
        ];
        let lines = lines_of("0123456789", &pieces, "here", |path| path != Path::new("/out/1.car"));
        assert_eq!(
            lines,
            [
                "1 piece of plan 01234567 is in /moved",
                "2 pieces of plan 01234567 are in /out, but 1 is not there any more: `client-agent regenerate root1` \
                 makes it again",
                "1 piece of plan 01234567 is in /out on there",
            ]
        );
    }
}
