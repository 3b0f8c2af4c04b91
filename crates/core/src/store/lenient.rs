//! Reads deals with unreadable fields: such a field counts as missing, and is named.
//!
//! A database user that may close a deal may write every field of it. One value that no agent writes must not
//! end the deal, which needs few of its fields.

use bson::{Bson, Document};
use serde::de::DeserializeOwned;

use crate::model::{ClaimDoc, ImportDoc, OfflineDealDoc, ProviderViewDoc};

/// Reads a deal, and returns the names of its unreadable fields.
pub(super) fn deal(document: Document) -> (OfflineDealDoc, Vec<String>) {
    if let Ok(deal) = bson::deserialize_from_document(document.clone()) {
        return (deal, Vec::new());
    }
    let mut unreadable = Vec::new();
    let inner = document.into_iter().map(|(name, value)| {
        let value = match (name.as_str(), value) {
            ("claim", Bson::Document(claim)) => fields::<ClaimDoc>("claim.", claim, &mut unreadable).into(),
            ("import", Bson::Document(import)) => {
                fields::<ImportDoc>("import.", import, &mut unreadable).into()
            }
            ("provider", Bson::Document(view)) => {
                fields::<ProviderViewDoc>("provider.", view, &mut unreadable).into()
            }
            (_, value) => value,
        };
        (name, value)
    });
    let inner: Document = inner.collect();
    let readable = fields::<OfflineDealDoc>("", inner, &mut unreadable);
    (bson::deserialize_from_document(readable).unwrap_or_default(), unreadable)
}

/// The readable fields; each is tried alone.
fn fields<T: DeserializeOwned>(within: &str, document: Document, unreadable: &mut Vec<String>) -> Document {
    let mut readable = Document::new();
    for (name, value) in document {
        let mut alone = Document::new();
        alone.insert(&name, value.clone());
        if bson::deserialize_from_document::<T>(alone).is_ok() {
            readable.insert(name, value);
        } else {
            unreadable.push(format!("{within}{name}"));
        }
    }
    readable
}

#[cfg(test)]
mod tests {
    use bson::doc;

    #[test]
    fn a_value_that_cannot_be_read_takes_nothing_else_with_it() {
        let document = doc! {
            "_id": "text", "dealcid": "bafyreia", "filecid": { "deep": 1 }, "startepoch": { "deep": [1] },
            "isdeal": 0, "unknown": [1],
            "claim": { "owner": 7, "until": "never", "n": 3_i64 },
            "import": { "state": "retrying", "attempts": [], "awaitedfiles": 7, "reason": "x" },
            "provider": 7,
        };
        let (deal, mut unreadable) = super::deal(document);
        unreadable.sort_unstable();
        assert_eq!(
            unreadable,
            [
                "_id",
                "claim.owner",
                "claim.until",
                "filecid",
                "import.attempts",
                "import.awaitedfiles",
                "provider",
                "startepoch"
            ]
        );
        assert_eq!((deal.dealcid.as_deref(), deal.isdeal), (Some("bafyreia"), Some(0)));
        assert_eq!(deal.claim.and_then(|claim| claim.n), Some(3));
        let import = deal.import.unwrap();
        assert_eq!(
            (import.state, import.reason.as_deref()),
            (crate::model::ImportState::Retrying, Some("x"))
        );
        assert!(deal.provider.is_none() && deal.filecid.is_none());
    }
}
