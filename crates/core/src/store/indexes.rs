//! Creates missing indexes, and accepts equivalent indexes of an existing database.

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::options::IndexOptions;
use mongodb::{Collection, IndexModel};
use tracing::warn;

use crate::error_chain::ErrorChain;
use crate::model::{ImportState, IntentState, PublishMethod};
use crate::store::Store;
use crate::store::error::StoreError;

/// The result of creating or checking the indexes.
#[derive(Clone, Debug, Default)]
pub struct IndexReport {
    /// Indexes made now.
    pub created: Vec<String>,
    /// Indexes that could not be made, with the server's reason; the agents work without them, slower or
    /// with one guard less.
    pub missing: Vec<(String, String)>,
    /// Whether trying again may help: one of them is missing for another reason than a refusal or the data.
    pub is_to_be_tried_again: bool,
}

/// The agent whose queries need the indexes. Its database user may have no access to other collections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexUser {
    /// `cars`, `offlinedeals`, `dealintents`.
    ClientAgent,
    /// The plans of data sets as well: `packplans`, `packpieces`, `packfiles`.
    Planner,
    /// `cars`, `offlinedeals`.
    MinerAgent,
}

/// The reason for an index that is missing and can be created.
pub const MADE_AT_START: &str = "made at the next start of client-agent";

/// What to do about a missing index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Report,
}

struct Wanted {
    name: &'static str,
    keys: Document,
    unique: bool,
    partial: Option<Document>,
}

impl Store {
    /// Creates the indexes that an agent relies on, where an index over the same keys does not stand already
    /// (the prototype's unique indexes on `cars` and `offlinedeals` count).
    ///
    /// An index that cannot be made (no permission, duplicates in old data) is reported, not fatal.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked at all.
    pub async fn ensure_indexes(&self, user: IndexUser) -> Result<IndexReport, StoreError> {
        self.indexes(user, Missing::Create).await
    }

    /// Reports which of them are missing; creates none.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked at all.
    pub async fn check_indexes(&self, user: IndexUser) -> Result<IndexReport, StoreError> {
        self.indexes(user, Missing::Report).await
    }

    async fn indexes(&self, user: IndexUser, missing: Missing) -> Result<IndexReport, StoreError> {
        let mut report = IndexReport::default();
        let cars = [
            // The prototype's index lacks the host, and so did that of this name in earlier versions: where
            // it stands, hosts with the same paths share a document (`record_car`).
            wanted("carferry_hostsource", doc! { "inputpath": 1, "outputpath": 1, "filecid": 1, "host": 1 })
                .unique(),
            wanted("carferry_output", doc! { "outputpath": 1 }),
            wanted("carferry_filecid", doc! { "filecid": 1 }),
            wanted("carferry_piececid", doc! { "piececid": 1 }),
            wanted("carferry_verified", doc! { "host": 1, "verifiedtime": 1, "_id": 1 }),
        ];
        let deals = [
            // Text only, because documents without a proposal CID would all collide on null. By `$gt`, not
            // `$type`: the server uses a partial index only if it sees that the query implies its filter,
            // which it does not see of `$type`.
            wanted("carferry_dealcid", doc! { "dealcid": 1 })
                .unique()
                .partial(doc! { "dealcid": { "$gt": "" } }),
            wanted("carferry_pending", doc! { "miner": 1, "isdeal": 1, "startepoch": 1 })
                .partial(doc! { "isdeal": 0 }),
            // Due deals among many that wait: deals without a time by start epoch, the others by their time.
            // State and status are part of it so that finished deals are passed over without reading them.
            wanted(
                "carferry_due",
                doc! {
                    "miner": 1, "isdeal": 1, "import.nexttry": 1, "startepoch": 1, "import.state": 1, "status": 1
                },
            )
            .partial(doc! { "isdeal": 0 }),
            // Deals to be retried, apart from deals that only wait.
            wanted("carferry_retrying", doc! { "miner": 1, "import.nexttry": 1 })
                .partial(doc! { "isdeal": 0, "import.state": ImportState::Retrying }),
            // Deals that were handed over, which are as many as a market has in hand.
            wanted("carferry_handed", doc! { "miner": 1, "import.nexttry": 1, "import.state": 1 })
                .partial(doc! { "isdeal": 0, "import.state": ImportState::Handed }),
            // Holds the deals under a lease only.
            wanted("carferry_claims", doc! { "miner": 1, "claim.until": 1 })
                .partial(doc! { "isdeal": 0, "claim.until": { "$exists": true } }),
            // Holds the deals with a call whose answer is not known: as many as are called at a time.
            wanted("carferry_calls", doc! { "miner": 1, "import.pendingcall": 1 })
                .partial(doc! { "isdeal": 0, "import.pendingcall": { "$exists": true } }),
            // What a file that arrives is looked up by.
            wanted("carferry_awaited", doc! { "import.awaitedfiles": 1 })
                .partial(doc! { "isdeal": 0, "import.awaitedfiles": { "$exists": true } }),
            wanted("carferry_miner", doc! { "miner": 1, "_id": 1 }),
            // What may move at the provider, among all that is active or over.
            wanted("carferry_followed", doc! { "miner": 1, "isdeal": 1, "provider.status": 1, "status": 1 }),
            wanted("carferry_filecid", doc! { "filecid": 1, "miner": 1 }),
            wanted("carferry_status", doc! { "wallet": 1, "status": 1 }),
            wanted("carferry_intent", doc! { "intent": 1 }).partial(doc! { "intent": { "$gt": "" } }),
        ];
        let intents = [
            wanted("carferry_filecid", doc! { "filecid": 1 }),
            wanted("carferry_state", doc! { "state": 1, "owner": 1 }),
            // Those that wait to be settled, the oldest first, however many there were before.
            wanted("carferry_open", doc! { "wallet": 1, "createdtime": 1 })
                .partial(doc! { "state": IntentState::Intended }),
            wanted("carferry_dealcid", doc! { "dealcid": 1 }),
            // Deals that cost something, which are few beside those at price 0: what they will take from the
            // wallet.
            wanted("carferry_priced", doc! { "wallet": 1, "dealid": 1 })
                .partial(doc! { "method": PublishMethod::Start, "priceattofil": { "$gt": "0" } }),
        ];
        let plans = [wanted("carferry_key", doc! { "input": 1, "group": 1, "state": 1 })];
        let pieces = [wanted("carferry_open", doc! { "plan": 1, "state": 1, "index": 1 })];
        let files = [wanted("carferry_piece", doc! { "plan": 1, "piece": 1, "chunk": 1 })];
        self.ensure_on(&self.cars, &cars, missing, &mut report).await?;
        self.ensure_on(&self.deals, &deals, missing, &mut report).await?;
        if user != IndexUser::MinerAgent {
            self.ensure_on(&self.intents, &intents, missing, &mut report).await?;
        }
        if user == IndexUser::Planner {
            self.ensure_on(&self.plans, &plans, missing, &mut report).await?;
            self.ensure_on(&self.pieces, &pieces, missing, &mut report).await?;
            self.ensure_on(&self.files, &files, missing, &mut report).await?;
        }
        Ok(report)
    }

    async fn ensure_on(
        &self,
        collection: &Collection<Document>,
        wanted: &[Wanted],
        missing: Missing,
        report: &mut IndexReport,
    ) -> Result<(), StoreError> {
        let existing = match self.existing(collection).await {
            Ok(existing) => existing,
            // A user that may not list indexes may still create them: creating an index that exists changes
            // nothing.
            Err(error @ StoreError::Refused { .. }) if missing == Missing::Report => {
                report.missing.push((collection.name().to_owned(), ErrorChain(&error).to_string()));
                return Ok(());
            }
            Err(StoreError::Refused { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        for index in wanted {
            if existing.iter().any(|standing| standing.serves(index)) {
                continue;
            }
            let label = format!("{}.{}", collection.name(), index.name);
            if missing == Missing::Report {
                let standing = existing.iter().any(|standing| standing.keys == index.keys);
                let reason = if standing {
                    "an index over these keys stands and is not unique, or leaves documents out"
                } else {
                    MADE_AT_START
                };
                report.missing.push((label, reason.to_owned()));
                continue;
            }
            let options = IndexOptions::builder()
                .name(index.name.to_owned())
                .unique(index.unique.then_some(true))
                .partial_filter_expression(index.partial.clone())
                .build();
            let model = IndexModel::builder().keys(index.keys.clone()).options(options).build();
            match self.bounded("createIndexes", collection.create_index(model)).await {
                Ok(_) => report.created.push(label),
                Err(error @ StoreError::Unreachable { .. }) => return Err(error),
                Err(error @ StoreError::Timeout { .. }) => {
                    let reason = format!("not there yet: {}", ErrorChain(&error));
                    warn!(index = %label, "index takes long to make; looked at again later");
                    report.missing.push((label, reason));
                    report.is_to_be_tried_again = true;
                    // The server goes on with it; the others of a collection this large would take as long.
                    return Ok(());
                }
                Err(error) => {
                    let reason = ErrorChain(&error).to_string();
                    warn!(index = %label, reason = %reason, "index could not be created");
                    report.missing.push((label, reason));
                    match error {
                        // What is refused once is refused for every index of the collection.
                        StoreError::Refused { .. } => return Ok(()),
                        StoreError::Duplicate { .. } => {}
                        _ => report.is_to_be_tried_again = true,
                    }
                }
            }
        }
        Ok(())
    }

    /// The indexes that stand already. A collection that does not exist has none.
    async fn existing(&self, collection: &Collection<Document>) -> Result<Vec<Standing>, StoreError> {
        const NAMESPACE_NOT_FOUND: i32 = 26;
        let listed = match self.bounded("listIndexes", collection.list_indexes()).await {
            Ok(cursor) => self.bounded("listIndexes", cursor.try_collect::<Vec<IndexModel>>()).await?,
            Err(StoreError::Other { source, .. }) if source.code() == Some(NAMESPACE_NOT_FOUND) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(listed.into_iter().map(Standing::from).collect())
    }
}

/// An index of the database.
#[derive(Debug)]
struct Standing {
    keys: Document,
    unique: bool,
    /// Whether it leaves documents out that lack a field.
    sparse: bool,
    partial: Option<Document>,
}

impl From<IndexModel> for Standing {
    fn from(index: IndexModel) -> Self {
        let options = index.options.unwrap_or_default();
        Self {
            keys: normalised(&index.keys),
            unique: options.unique == Some(true),
            sparse: options.sparse == Some(true),
            partial: options.partial_filter_expression,
        }
    }
}

impl Standing {
    /// Whether it does what is wanted: the same keys, unique where that is a guard, and no documents left out
    /// that the wanted one has.
    fn serves(&self, wanted: &Wanted) -> bool {
        let has_all = match (&self.partial, &wanted.partial) {
            (None, None) => !self.sparse,
            // The wanted filters ask for a field that is there.
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(standing), Some(wanted)) => normalised(standing) == *wanted,
        };
        self.keys == wanted.keys && (self.unique || !wanted.unique) && has_all
    }
}

/// Key directions as Int32, whatever type the index was made with (a shell writes doubles).
fn normalised(keys: &Document) -> Document {
    keys.iter()
        .map(|(field, direction)| {
            let direction = crate::model::stored::integer(direction)
                .and_then(|number| i32::try_from(number).ok())
                .map_or_else(|| direction.clone(), bson::Bson::Int32);
            (field.clone(), direction)
        })
        .collect()
}

fn wanted(name: &'static str, keys: Document) -> Wanted {
    Wanted { name, keys, unique: false, partial: None }
}

impl Wanted {
    fn unique(mut self) -> Self {
        self.unique = true;
        self
    }

    fn partial(mut self, filter: Document) -> Self {
        self.partial = Some(filter);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_stands_in_for_one_of_the_same_keys_only_if_it_guards_and_finds_the_same() {
        let keys = || doc! { "dealcid": 1 };
        let standing = |unique, sparse, partial| Standing { keys: keys(), unique, sparse, partial };
        let plain = wanted("plain", keys());
        let guard = wanted("guard", keys()).unique().partial(doc! { "dealcid": { "$gt": "" } });
        let open = wanted("open", keys()).partial(doc! { "isdeal": 0 });
        for (standing, serves) in [
            (standing(false, false, None), [true, false, true]),
            (standing(true, false, None), [true, true, true]),
            (standing(true, true, None), [false, true, true]),
            (standing(true, false, Some(doc! { "dealcid": { "$gt": "" } })), [false, true, false]),
            (standing(false, false, Some(doc! { "isdeal": 0.0 })), [false, false, true]),
            (Standing { keys: doc! { "dealcid": -1 }, ..standing(true, false, None) }, [false; 3]),
        ] {
            assert_eq!([&plain, &guard, &open].map(|wanted| standing.serves(wanted)), serves, "{standing:?}");
        }
    }
}
