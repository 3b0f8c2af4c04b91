//! The collection `minerstates`: one document per miner and host, with the state of its miner-agent.
//!
//! The documents are for the command `status`; no agent decides by them. An agent whose database role lacks
//! the collection works without it.

use std::time::Duration;

use bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::model::stored;
use crate::store::Store;
use crate::store::bounded::readable;
use crate::store::error::StoreError;
use crate::store::expr::{NOW, ago};
use crate::store::miners::any_of;

const COLLECTION: &str = "minerstates";

/// The state of an agent for one miner.
#[derive(Clone, Debug)]
pub struct AgentState<'a> {
    /// Storage provider.
    pub miner: &'a str,
    /// Where the agent runs.
    pub host: &'a str,
    /// Its process.
    pub agent: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Why it imports nothing for this miner now; `None` if it imports.
    pub pause: Option<&'a str>,
}

/// One document of `minerstates`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MinerStateDoc {
    /// Storage provider.
    #[serde(deserialize_with = "stored::opt_text")]
    pub miner: Option<String>,
    /// Where the agent runs.
    #[serde(deserialize_with = "stored::opt_text")]
    pub host: Option<String>,
    /// Its process.
    #[serde(deserialize_with = "stored::opt_text")]
    pub agent: Option<String>,
    /// Its version.
    #[serde(deserialize_with = "stored::opt_text")]
    pub version: Option<String>,
    /// When it was last written (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub lastseen: Option<DateTime>,
    /// Since when it imports nothing (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub pausedsince: Option<DateTime>,
    /// Why.
    #[serde(deserialize_with = "stored::opt_text")]
    pub reason: Option<String>,
    /// Whether it was written lately; computed by [`Store::miner_states`], not stored.
    #[serde(skip_serializing)]
    pub isalive: bool,
}

/// An agent that has written nothing for this time is taken for ended: it writes once a minute.
const ALIVE_FOR: Duration = Duration::from_secs(180);

impl Store {
    /// Records the state of an agent for a miner.
    pub async fn record_miner_state(&self, state: &AgentState<'_>) -> Result<(), StoreError> {
        let AgentState { miner, host, agent, version, pause } = state;
        let mut set = doc! {
            "miner": { "$literal": miner }, "host": { "$literal": host }, "agent": { "$literal": agent },
            "version": { "$literal": version }, "lastseen": NOW,
        };
        let mut update = Vec::new();
        if let Some(reason) = pause {
            set.insert("pausedsince", doc! { "$ifNull": ["$pausedsince", NOW] });
            set.insert("reason", doc! { "$literal": reason });
        } else {
            update.push(doc! { "$unset": ["pausedsince", "reason"] });
        }
        update.push(doc! { "$set": set });
        let key = doc! { "_id": format!("{miner}@{host}") };
        let states = self.database.collection::<Document>(COLLECTION);
        self.bounded("miner state", states.update_one(key, update).upsert(true)).await?;
        Ok(())
    }

    /// The states of the agents for these miners.
    pub async fn miner_states(&self, miners: &[String]) -> Result<Vec<MinerStateDoc>, StoreError> {
        let states = self.database.collection::<Document>(COLLECTION);
        let pipeline = [
            doc! { "$match": { "miner": any_of(miners) } },
            doc! { "$set": { "isalive": { "$gt": ["$lastseen", ago(ALIVE_FOR)] } } },
            doc! { "$sort": { "_id": 1 } },
        ];
        let cursor = self.bounded("miner states", states.aggregate(pipeline)).await?;
        Ok(readable(COLLECTION, self.drain("miner states", cursor).await?))
    }
}
