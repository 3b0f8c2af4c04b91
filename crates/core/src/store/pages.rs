//! Reads deals in pages, so that a hundred thousand of them need little memory.

use bson::Document;
use futures::TryStreamExt;
use mongodb::Cursor;

use crate::model::OfflineDealDoc;
use crate::store::Store;
use crate::store::bounded::readable;
use crate::store::error::StoreError;

/// Deals of one page.
pub(super) const DEALS_AT_ONCE: u32 = 1000;

/// Deals that a query finds.
///
/// Deals are read in the order of an index. A deal that changes meanwhile may come twice; a deal that is
/// missed because it changed is seen by the agent that changed it.
#[derive(Debug)]
pub struct DealPages {
    store: Store,
    what: &'static str,
    cursor: Cursor<Document>,
}

impl DealPages {
    pub(super) fn new(store: &Store, what: &'static str, cursor: Cursor<Document>) -> Self {
        Self { store: store.clone(), what, cursor }
    }

    /// The next of them; `None` at the end.
    pub async fn page(&mut self) -> Result<Option<Vec<OfflineDealDoc>>, StoreError> {
        let mut page = Vec::new();
        for _ in 0..DEALS_AT_ONCE {
            match self.store.bounded(self.what, self.cursor.try_next()).await? {
                Some(document) => page.push(document),
                None => break,
            }
        }
        Ok((!page.is_empty()).then(|| readable("offlinedeals", page)))
    }
}
