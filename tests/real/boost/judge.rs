//! The judge: what Boost and the chain say of every deal against the records.

use std::fmt;
use std::time::Duration;

use harness::eventually;

use crate::boost::node::{ADDED_PIECE, COMPLETE, Node};
use crate::boost::setup::Deal;
use crate::setup::Setup;

/// Sealing of all pieces on two processors that do other things too.
const ACTIVE_WITHIN: Duration = Duration::from_secs(900);

/// What was seen.
#[derive(Debug)]
pub(crate) struct Counts {
    deals: usize,
    tags: usize,
    calls: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deals, tags, calls } = self;
        write!(f, "{deals} deals active on chain with isdeal 1, {tags} tags of funds, {calls} calls")
    }
}

/// Waits until every deal is in a sector and active on chain, and compares. Boost took two files for those
/// of which it refused the first, and one for all others.
///
/// # Panics
///
/// Where one of them does not come so far, was handed over another number of times, or is not recorded as
/// imported.
pub(crate) async fn check(setup: &Setup<Node>, deals: &[Deal], refused: &[String], calls: usize) -> Counts {
    for deal in deals {
        eventually!(
            within ACTIVE_WITHIN,
            {
                let at_boost = setup.node.deal(&deal.made).await;
                let checkpoint = at_boost["Checkpoint"].as_i64().unwrap();
                let id = at_boost["ChainDealID"].as_i64().unwrap();
                assert_ne!(checkpoint, COMPLETE, "the deal is dead: {at_boost}");
                if checkpoint < ADDED_PIECE || id == 0 {
                    Err(at_boost.to_string())
                } else {
                    let on_chain = setup.node.on_chain(id).await;
                    assert_eq!(on_chain["Proposal"]["PieceCID"]["/"], deal.car.piece_cid.as_str());
                    let is_active = on_chain["State"]["SectorStartEpoch"].as_i64() > Some(0);
                    if is_active { Ok(()) } else { Err(on_chain.to_string()) }
                }
            },
            "{} is active on chain", deal.made.uuid
        );
    }
    let tags = setup.node.tags().await;
    let mut wrong = Vec::new();
    for deal in deals {
        let tagged = tags.get(&deal.made.uuid).copied().unwrap_or(0);
        if tagged != 1 + usize::from(refused.contains(&deal.made.uuid)) {
            wrong.push(format!("{}: {tagged} tags of funds", deal.made.uuid));
        }
        let record = setup.record_of(&deal.made).await;
        if record.get("isdeal").and_then(as_number) != Some(1) || record.contains_key("claim") {
            wrong.push(format!("{}: {record}", deal.made.uuid));
        }
    }
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
    Counts { deals: deals.len(), tags: tags.values().sum(), calls }
}

fn as_number(value: &bson::Bson) -> Option<i64> {
    value.as_i64().or_else(|| value.as_i32().map(i64::from))
}
