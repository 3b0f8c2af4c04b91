//! The judge: what chain, provider and client's node say of every piece against the records. It uses no type,
//! no query and no rule of the agents.

use std::collections::BTreeMap;
use std::fmt;

use bson::{Document, doc};
use futures::TryStreamExt as _;
use serde_json::{Value, json};

use crate::setup::{Car, Setup};

const ACTIVE: i64 = 7;
const ERROR: u64 = 26;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Counts {
    pieces: usize,
    /// Proposals that the market refused, and that others took the place of.
    refused: usize,
    active_on_chain: usize,
    active: usize,
    imported: usize,
    /// Active on chain, and failed by the word of these nodes.
    failed_by_provider: usize,
    failed_by_client_node: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pieces {}, proposals refused {}, active on chain {}, recorded active {}, isdeal 1 {}, state 26 by the provider {}, by the client's \
             node {}",
            self.pieces,
            self.refused,
            self.active_on_chain,
            self.active,
            self.imported,
            self.failed_by_provider,
            self.failed_by_client_node
        )
    }
}

/// Looks at every deal.
///
/// # Panics
///
/// With everything that is wrong.
pub(crate) async fn check(setup: &Setup, cars: &[Car]) -> Counts {
    let mut wrong = Vec::new();
    let listed = setup.node.of_miner("Filecoin.MarketListIncompleteDeals", json!([])).await;
    let mut listed = listed.as_array().cloned().unwrap_or_default();
    // A market refuses a deal now and then for reasons of its own, before it has the data; another one is
    // proposed then.
    let proposed = listed.len();
    listed.retain(|deal| deal["State"] != ERROR || deal["DealID"].as_u64() > Some(0));
    let at_provider = by_piece(&listed, |deal| &deal["Proposal"]["PieceCID"]);
    let on_chain = setup.node.of_full_node("Filecoin.StateMarketDeals", json!([[]])).await;
    let on_chain: Vec<Value> =
        on_chain.as_object().into_iter().flatten().map(|(_, deal)| deal.clone()).collect();
    let on_chain = by_piece(&on_chain, |deal| &deal["Proposal"]["PieceCID"]);
    let followed = setup.node.of_full_node("Filecoin.ClientListDeals", json!([])).await;
    let mut followed = followed.as_array().cloned().unwrap_or_default();
    followed.retain(|deal| deal["State"] != ERROR || deal["DealID"].as_u64() > Some(0));
    let followed = by_piece(&followed, |deal| &deal["PieceCID"]);
    let cursor = setup.collection("offlinedeals").find(doc! {}).await.unwrap();
    let mut records: Vec<Document> = cursor.try_collect().await.unwrap();
    let is_refused = |record: &Document| {
        number(record, "status") == i64::try_from(ERROR).unwrap() && number(record, "dealid") <= 0
    };
    records.retain(|record| !is_refused(record));
    let open = setup.collection("dealintents").count_documents(doc! { "state": "intended" }).await.unwrap();

    let mut counts = Counts {
        pieces: cars.len(),
        refused: proposed - listed.len(),
        active_on_chain: 0,
        active: 0,
        imported: 0,
        failed_by_provider: 0,
        failed_by_client_node: 0,
    };
    for car in cars {
        let piece = car.piece_cid.as_str();
        let of_piece = |deals: &BTreeMap<String, Vec<Value>>| deals.get(piece).cloned().unwrap_or_default();
        let (provided, chained, seen) = (of_piece(&at_provider), of_piece(&on_chain), of_piece(&followed));
        let recorded: Vec<&Document> = records
            .iter()
            .filter(|record| record.get_str("piececid").is_ok_and(|cid| cid == piece))
            .collect();
        if (provided.len(), chained.len(), recorded.len()) != (1, 1, 1) || seen.len() > 1 {
            wrong.push(format!(
                "{piece}: {} deals at the provider, {} on chain, {} at the client's node, {} records",
                provided.len(),
                chained.len(),
                seen.len(),
                recorded.len()
            ));
        }
        let is_active = chained.iter().any(|deal| deal["State"]["SectorStartEpoch"].as_i64() > Some(0));
        counts.active_on_chain += usize::from(is_active);
        let has = |deals: &[Value], state| deals.iter().any(|deal| deal["State"].as_u64() == Some(state));
        counts.failed_by_provider += usize::from(is_active && has(&provided, ERROR));
        counts.failed_by_client_node += usize::from(is_active && has(&seen, ERROR));
        for record in recorded {
            let (status, isdeal) = (number(record, "status"), number(record, "isdeal"));
            counts.active += usize::from(status == ACTIVE);
            counts.imported += usize::from(isdeal == 1);
            if !is_active || status != ACTIVE || isdeal != 1 || record.contains_key("claim") {
                wrong.push(format!("{piece}: active on chain: {is_active}, its record: {record}"));
            }
        }
    }
    if records.len() != cars.len() || listed.len() != cars.len() {
        wrong.push(format!(
            "{} pieces, {} records, {} deals at the provider",
            cars.len(),
            records.len(),
            listed.len()
        ));
    }
    if open > 0 {
        wrong.push(format!("{open} intents are open"));
    }
    assert!(wrong.is_empty(), "{counts}\n{} findings:\n{}", wrong.len(), wrong.join("\n"));
    counts
}

fn by_piece(deals: &[Value], piece: impl Fn(&Value) -> &Value) -> BTreeMap<String, Vec<Value>> {
    let mut by_piece = BTreeMap::<String, Vec<Value>>::new();
    for deal in deals {
        if let Some(cid) = piece(deal)["/"].as_str() {
            by_piece.entry(cid.to_owned()).or_default().push(deal.clone());
        }
    }
    by_piece
}

fn number(record: &Document, field: &str) -> i64 {
    let found = record.get(field);
    found.and_then(|value| value.as_i64().or_else(|| value.as_i32().map(i64::from))).unwrap_or(-1)
}
