//! Tests the rights of the database user by trying the agents' own calls, without changing anything.

use bson::{Document, doc};
use mongodb::Collection;

use crate::store::error::StoreError;
use crate::store::{IndexUser, Store};

/// The call that is tried on a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Find,
    /// An update.
    Update,
    /// An upsert.
    Upsert,
    Watch,
}

/// No document has this id.
const NOBODY: &str = "carferry: no document";
/// The server's code for a change of `_id`: it is found after the rights were checked and before anything is
/// written.
const IMMUTABLE_FIELD: i32 = 66;

const RECORDER: &[(&str, Right, &str)] =
    &[("cars", Right::Find, "cars find"), ("cars", Right::Upsert, "cars upsert")];
const CLIENT: &[(&str, Right, &str)] = &[
    ("cars", Right::Find, "cars find"),
    ("cars", Right::Upsert, "cars upsert"),
    ("dealintents", Right::Find, "dealintents find"),
    ("dealintents", Right::Upsert, "dealintents upsert"),
    ("offlinedeals", Right::Find, "offlinedeals find"),
    ("offlinedeals", Right::Upsert, "offlinedeals upsert"),
];
const PLANNER: &[(&str, Right, &str)] = &[
    ("cars", Right::Find, "cars find"),
    ("cars", Right::Upsert, "cars upsert"),
    ("packplans", Right::Find, "packplans find"),
    ("packplans", Right::Upsert, "packplans upsert"),
    ("packpieces", Right::Find, "packpieces find"),
    ("packpieces", Right::Upsert, "packpieces upsert"),
    ("packfiles", Right::Find, "packfiles find"),
    ("packfiles", Right::Upsert, "packfiles upsert"),
];
const MINER: &[(&str, Right, &str)] = &[
    ("offlinedeals", Right::Find, "offlinedeals find"),
    ("offlinedeals", Right::Update, "offlinedeals update"),
    ("offlinedeals", Right::Watch, "offlinedeals change stream"),
    ("cars", Right::Find, "cars find"),
];

impl Store {
    /// Tries what this user's agent will do: reads, writes that find no document, and the change stream.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] for the first that the server does not allow.
    pub async fn check_rights(&self, user: IndexUser) -> Result<(), StoreError> {
        let tries = match user {
            IndexUser::ClientAgent => CLIENT,
            IndexUser::Planner => PLANNER,
            IndexUser::MinerAgent => MINER,
        };
        self.try_all(tries).await
    }

    /// Tries what recording a CAR takes, before hours of packing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] for the first that the server does not allow.
    pub async fn check_may_record(&self) -> Result<(), StoreError> {
        self.try_all(RECORDER).await
    }

    async fn try_all(&self, tries: &[(&'static str, Right, &'static str)]) -> Result<(), StoreError> {
        for (collection, right, what) in tries {
            let database = if *right == Right::Watch { &self.watch_database } else { &self.database };
            self.try_right(&database.collection(collection), *right, what).await?;
        }
        Ok(())
    }

    async fn try_right(
        &self,
        collection: &Collection<Document>,
        right: Right,
        what: &'static str,
    ) -> Result<(), StoreError> {
        let nobody = doc! { "_id": NOBODY };
        match right {
            Right::Find => self.bounded(what, collection.find_one(nobody)).await.map(drop),
            Right::Update => {
                let update = doc! { "$set": { "tried": true } };
                self.bounded(what, collection.update_one(nobody, update)).await.map(drop)
            }
            Right::Upsert => {
                let update = doc! { "$set": { "_id": "carferry: another document" } };
                let tried = self.bounded(what, collection.update_one(nobody, update).upsert(true)).await;
                match tried {
                    Err(StoreError::Other { source, .. }) if source.code() == Some(IMMUTABLE_FIELD) => Ok(()),
                    other => other.map(drop),
                }
            }
            Right::Watch => self.bounded(what, collection.watch()).await.map(drop),
        }
    }
}
