//! `minerstates`: which miner-agents there are, and whether they work. One document per miner and host.
//!
//! For people alone: nothing is decided by it. An agent whose role lacks the collection works as well
//! without.

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

/// An agent that says how it stands with a miner.
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
    /// Why it imports nothing for this miner now; `None`: it does.
    pub pause: Option<&'a str>,
}

/// The same, as stored.
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
    /// When it last said so (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub lastseen: Option<DateTime>,
    /// Since when it imports nothing (server time).
    #[serde(deserialize_with = "stored::opt_time")]
    pub pausedsince: Option<DateTime>,
    /// Why.
    #[serde(deserialize_with = "stored::opt_text")]
    pub reason: Option<String>,
    /// Whether it was heard of lately; told by [`Store::miner_states`], not stored.
    #[serde(skip_serializing)]
    pub isalive: bool,
}

/// An agent that was not heard of for so long is taken for gone: it writes once a minute.
const ALIVE_FOR: Duration = Duration::from_secs(180);

impl Store {
    /// Says how an agent stands with a miner.
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

    /// How the agents stand with these miners.
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
