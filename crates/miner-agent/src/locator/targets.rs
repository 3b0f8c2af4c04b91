//! What a locator has to offer: the pieces of the miners' deals that are neither active nor over.

use std::collections::HashMap;

use carferry_car::{PieceCid, UnpaddedPieceSize};
use carferry_core::model::OfflineDealDoc;
use carferry_core::store::{Store, StoreError};

use crate::car_files::locate::Wanted;

/// One piece, with the deal that needs it first.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// What the file must be.
    pub(super) wanted: Wanted,
    /// The earliest start of its deals.
    pub(super) start_epoch: Option<i64>,
}

/// The pieces that deals of these miners are about. A deal whose record names no piece is passed over:
/// nothing could be compared with it.
///
/// # Errors
///
/// A failed database call.
pub(super) async fn targets(
    store: &Store,
    miners: &[String],
) -> Result<HashMap<PieceCid, Target>, StoreError> {
    let mut found = HashMap::<PieceCid, Target>::new();
    let mut deals = store.deals_to_offer(miners).await?;
    while let Some(page) = deals.page().await? {
        for deal in page {
            let Some((piece_cid, target)) = target(&deal) else { continue };
            let known = found.entry(piece_cid).or_insert_with(|| target.clone());
            known.start_epoch = known.start_epoch.into_iter().chain(target.start_epoch).min();
        }
    }
    Ok(found)
}

fn target(deal: &OfflineDealDoc) -> Option<(PieceCid, Target)> {
    let piece_cid = deal.piececid.as_deref()?.parse().ok()?;
    // Without one, the piece CID alone decides.
    let payload_cid = deal.filecid.as_deref().and_then(|cid| cid.parse().ok());
    let size = || UnpaddedPieceSize::new(u64::try_from(deal.dealsizebytes?).ok()?).ok();
    let wanted = Wanted { payload_cid, piece_cid: Some(piece_cid), piece_size: size() };
    Some((piece_cid, Target { wanted, start_epoch: deal.startepoch }))
}
