//! What the flow needs besides the nodes: the agents' configurations, and deals as a client records them.

use bson::{Document, doc};

use crate::boost::node::{GRAPHQL, Made, Node};
use crate::setup::{Car, Folders, Setup};

/// A CAR and the deal about it.
#[derive(Debug, Clone)]
pub(crate) struct Deal {
    pub(crate) car: Car,
    pub(crate) made: Made,
}

/// Epochs until deals of the test start, some twenty minutes.
pub(crate) const START_AHEAD: i64 = 6000;
/// Epochs before the start at which the agent gives up.
pub(crate) const START_MARGIN: i64 = 20;

impl Setup<Node> {
    pub(crate) async fn open_boost() -> Self {
        let folders = Folders::new();
        let node = Node::start(&folders.create("boost")).await;
        let info = &node.info;
        // It packs, and calls no node.
        let client_text = format!(
            "miners: [{{miner: {}, price: 0}}]\nlotus: {{endpoint: '{}'}}\nsetting: {{wallet: {}, duration: 200}}\n",
            info.miner_addr,
            node.full_url(),
            info.wallet,
        );
        let miner_text = format!(
            "miners: [{{miner: {}, endpoint: '{}', token: '{}', graphql: '{GRAPHQL}'}}]\nfullNode: {{endpoint: '{}'}}\n\
             roots: ['{}']\nsetting: {{scanInterval: 5s, lease: 5s, waitInterval: 1s, retryMin: 500ms, retryMax: 5s, \
             providerPollInterval: 2s, confirmTimeout: 20s, startEpochMargin: {START_MARGIN}}}\n",
            info.miner_addr,
            node.door.url(),
            info.boost_token,
            node.full_url(),
            folders.provider.display(),
        );
        Self::around(node, folders, &client_text, &miner_text).await
    }

    /// Makes a deal and records it as a client does.
    pub(crate) async fn make_and_record(&self, car: &Car, start: i64) -> Deal {
        let made = self.node.make(car, start).await;
        let now = bson::DateTime::now();
        let record = doc! {
            "filecid": &car.payload_cid, "dealcid": &made.signed_cid, "piececid": &car.piece_cid,
            "dealsizebytes": car.deal_bytes, "startepoch": start, "miner": &self.node.info.miner_addr,
            "isdeal": 0_i32, "createdtime": now, "updatedtime": now,
        };
        self.collection("offlinedeals").insert_one(record).await.unwrap();
        Deal { car: car.clone(), made }
    }

    /// The record of a deal, empty if there is none.
    pub(crate) async fn record_of(&self, made: &Made) -> Document {
        let filter = doc! { "dealcid": &made.signed_cid };
        self.collection("offlinedeals").find_one(filter).await.unwrap().unwrap_or_default()
    }

    /// State and reason of a deal's import, as the record says them.
    pub(crate) async fn import_of(&self, made: &Made) -> (String, String) {
        let record = self.record_of(made).await;
        let import = record.get_document("import").cloned().unwrap_or_default();
        let text = |field: &str| import.get_str(field).unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }
}
