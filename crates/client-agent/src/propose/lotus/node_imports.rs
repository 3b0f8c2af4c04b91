//! Imports of CARs into the client's Lotus node: Lotus v1.11.2 to v1.27.0 make a manual deal only for a root
//! in their list of imports (lotus-contract §2.5).
//!
//! Every repeated `ClientImport` adds an entry to that list. So the list is read first, a root that is in it
//! is not imported again, and after an import whose answer was lost the list is read anew. No lock is held
//! over a call except the root's own: proposals of other CARs go on meanwhile.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use carferry_core::lotus::FullNode;
use carferry_core::model::IntentDoc;
use carferry_core::path_mapping::{PathMapping, map_longest};
use carferry_core::rpc::RpcError;
use tokio::sync::OnceCell;

use crate::propose::lotus::answers::{About, Outcome, imports_not_listed, not_imported};

/// The roots that one node has imported, as far as is known.
#[derive(Debug, Default)]
pub(in crate::propose) struct Imports {
    car_paths: Vec<PathMapping>,
    listing: Mutex<Arc<Listing>>,
    /// Locked while this very root is imported.
    roots: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Roots that were imported although the node listed them. Once is enough: another entry would be no
    /// better.
    repeated: Mutex<HashSet<String>>,
}

/// The node's list at one time, and what was imported since.
#[derive(Debug, Default)]
struct Listing {
    listed: OnceCell<HashSet<String>>,
    added: Mutex<HashSet<String>>,
}

/// What is to be believed of a root that stands in the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::propose) enum Known {
    /// That the node can read it.
    Readable,
    /// The node has just said that it cannot.
    Missing,
}

impl Imports {
    /// `car_paths` turns this host's paths into the node's.
    pub(in crate::propose) fn new(car_paths: Vec<PathMapping>) -> Self {
        Self { car_paths, ..Self::default() }
    }

    /// Brings the intent's root into the node's list of imports. A root that the node has called missing is
    /// looked for in a list that is read anew, and imported once more even where it stands in that: its
    /// file may have moved.
    ///
    /// # Errors
    ///
    /// What the failed call says of the CAR or the node. It is no word on the deal.
    pub(in crate::propose) async fn ensure(
        &self,
        node: &FullNode,
        intent: &IntentDoc,
        known: Known,
    ) -> Result<(), Outcome> {
        let seen = self.current();
        let root = Arc::clone(lock(&self.roots).entry(intent.filecid.clone()).or_default());
        let importing = root.lock().await;
        let result = self.ensure_alone(node, intent, known, &seen).await;
        drop(importing);
        let mut roots = lock(&self.roots);
        // The map's own reference and this one: no other caller waits.
        if Arc::strong_count(&root) == 2 {
            roots.remove(&intent.filecid);
        }
        result
    }

    async fn ensure_alone(
        &self,
        node: &FullNode,
        intent: &IntentDoc,
        known: Known,
        seen: &Arc<Listing>,
    ) -> Result<(), Outcome> {
        let root = &intent.filecid;
        if known == Known::Missing && lock(&self.repeated).contains(root) {
            let reason = "the node lists the import of this root and cannot read it; hint: is the CAR whole, and may the \
                          Lotus node read it?";
            return Err(Outcome::Unknown { about: About::Car, reason: reason.to_owned() });
        }
        let mut listing = self.current();
        if known == Known::Missing && Arc::ptr_eq(seen, &listing) {
            listing = self.forget(&listing);
        }
        let is_listed = listing.has(node, root).await.map_err(|error| imports_not_listed(&error))?;
        let is_added = lock(&listing.added).contains(root);
        if is_added || (is_listed && known == Known::Readable) {
            return Ok(());
        }
        let path = map_longest(&self.car_paths, Path::new(&intent.carpath)).display().to_string();
        match node.import_car(&path).await {
            Ok(()) => {
                lock(&listing.added).insert(root.clone());
                if is_listed {
                    lock(&self.repeated).insert(root.clone());
                }
                Ok(())
            }
            Err(error) => {
                if error.effect_is_unknown() {
                    self.forget(&listing);
                }
                Err(not_imported(&path, &error))
            }
        }
    }

    fn current(&self) -> Arc<Listing> {
        Arc::clone(&lock(&self.listing))
    }

    /// Replaces a listing that is not true any more, unless another caller has done so; the one that counts
    /// from here on.
    fn forget(&self, old: &Arc<Listing>) -> Arc<Listing> {
        let mut listing = lock(&self.listing);
        if Arc::ptr_eq(&listing, old) {
            *listing = Arc::default();
        }
        Arc::clone(&listing)
    }
}

impl Listing {
    /// Whether the root is in the node's list. The list is read once, by whichever caller comes first; one
    /// that fails is read by the next.
    async fn has(&self, node: &FullNode, root: &str) -> Result<bool, RpcError> {
        let listed = self.listed.get_or_try_init(|| async {
            let entries = node.list_imports().await?;
            Ok(entries.into_iter().filter_map(|entry| entry.root).map(|root| root.cid).collect())
        });
        Ok(listed.await?.contains(root))
    }
}

/// Whether a node of this version (`1.23.3+mainnet+git.…`) wants roots imported, as far as the version tells:
/// one that is configured with `UseIpfs` does not.
pub(in crate::propose) fn are_wanted_by(version: &str) -> bool {
    let mut numbers =
        version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next()) >= (1, 11, 2)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_want_imports_from_lotus_1_11_2_on() {
        for (version, wanted) in [
            ("1.23.3+mainnet+git.abc123", true),
            ("1.11.2", true),
            ("1.11.1+calibnet", false),
            ("1.5.0", false),
            ("1.27.0-rc1", true),
            ("2.0", true),
            ("", false),
        ] {
            assert_eq!(are_wanted_by(version), wanted, "{version}");
        }
    }
}
