//! Runs calls of the MongoDB driver within a time limit, reads cursors to their end, and decodes documents.

use std::future::IntoFuture;

use bson::{Bson, Document, doc};
use futures::TryStreamExt;
use mongodb::Cursor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::expr::millis;

impl Store {
    /// Runs one driver call within the time limit and classifies its error.
    pub(super) async fn bounded<T, F>(&self, what: &'static str, call: F) -> Result<T, StoreError>
    where
        F: IntoFuture<Output = mongodb::error::Result<T>>,
    {
        match tokio::time::timeout(self.call_timeout, call.into_future()).await {
            Ok(answer) => answer.map_err(|source| StoreError::classify(what, source)),
            Err(_elapsed) => Err(StoreError::Timeout { what, seconds: self.call_timeout.as_secs() }),
        }
    }

    /// Runs many updates of `offlinedeals` in one command and returns the server's reply. A failed update
    /// does not keep the others from being made.
    pub(super) async fn update_deals(
        &self,
        what: &'static str,
        updates: Vec<Document>,
    ) -> Result<Document, StoreError> {
        let command = doc! {
            "update": self.deals.name(), "updates": updates, "ordered": false,
            "writeConcern": { "w": "majority", "wtimeout": millis(self.call_timeout) },
        };
        self.bounded(what, self.database.run_command(command)).await
    }

    /// Reads a cursor to its end; each batch within the time limit.
    pub(super) async fn drain(
        &self,
        what: &'static str,
        mut cursor: Cursor<Document>,
    ) -> Result<Vec<Document>, StoreError> {
        let mut documents = Vec::new();
        while let Some(document) = self.bounded(what, cursor.try_next()).await? {
            documents.push(document);
        }
        Ok(documents)
    }
}

/// Reads one stored document; the error names it.
pub(super) fn decode<T: DeserializeOwned>(
    collection: &'static str,
    document: Document,
) -> Result<T, StoreError> {
    let id = document.get("_id").map_or_else(|| "without _id".to_owned(), Bson::to_string);
    bson::deserialize_from_document(document).map_err(|source| StoreError::BadDocument {
        collection,
        id,
        source: Box::new(source),
    })
}

/// The readable ones of these documents. An unreadable document is logged and does not hide the others.
pub(super) fn readable<T: DeserializeOwned>(collection: &'static str, documents: Vec<Document>) -> Vec<T> {
    let read = |document| {
        decode(collection, document)
            .inspect_err(|error| warn!(error = %crate::error_chain::ErrorChain(error), "left out"))
            .ok()
    };
    documents.into_iter().filter_map(read).collect()
}

/// A value as a document of `collection`.
pub(super) fn document_of<T: Serialize>(
    collection: &'static str,
    id: &str,
    value: &T,
) -> Result<Document, StoreError> {
    bson::serialize_to_document(value).map_err(|source| StoreError::BadDocument {
        collection,
        id: id.to_owned(),
        source: Box::new(source),
    })
}
