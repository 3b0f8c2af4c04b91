//! What one provider could do to another's deals: its database user may update `offlinedeals`, and roles know
//! no rows.

use std::time::Duration;

use bson::{Bson, DateTime, Document, Timestamp, doc};
use futures::TryStreamExt as _;
use harness::eventually_eq;
use lotus_sim::DealState;

use crate::fault_cluster::{FaultCluster, FaultConfig, REPLICAS};
use crate::iterations::SeededRng;

/// A date that no lease reaches.
fn far_future() -> DateTime {
    DateTime::from_millis(DateTime::now().timestamp_millis() + 365 * 24 * 3_600_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_writes_into_others_deals_is_undone_and_doubles_nothing() {
    let seeded = SeededRng::of("vandal");
    let mut cluster = FaultCluster::open(FaultConfig::default()).await;
    cluster.add_cars(12).await;
    let wanted = u64::try_from(12 * REPLICAS).unwrap();
    let mut client = cluster.client("client", None);
    let deals = cluster.env.deals();
    eventually_eq!(within Duration::from_secs(60), deals.count_documents(doc! {}).await.unwrap(), wanted, "deals are recorded");
    let intents = cluster.env.db.collection::<Document>("dealintents");
    let open = doc! { "state": "intended" };
    eventually_eq!(intents.count_documents(open.clone()).await.unwrap(), 0, "all are confirmed");
    client.kill9().unwrap();

    // No agent is up: the worst moment.
    let writes: [(&str, Document); 18] = [
        ("closed without the data", doc! { "isdeal": 1 }),
        ("closed with a made up view", doc! { "isdeal": 1, "provider": { "status": 24, "statusname": "x" } }),
        ("given up", doc! { "status": 26, "statusmsg": "StorageDealError" }),
        ("ended", doc! { "status": 8 }),
        ("another miner's", doc! { "miner": "f01001" }),
        ("another CAR's", doc! { "filecid": "bafkqaaa" }),
        (
            "other terms",
            doc! { "startepoch": 1, "piececid": "baga", "dealsizebytes": 1, "wallet": "f1x", "method": 7 },
        ),
        ("no intent, no sense", doc! { "intent": Bson::Null, "isdeal": 5 }),
        ("held for ever", doc! { "claim": { "owner": "vandal", "until": far_future(), "n": 9 } }),
        ("failed for good", doc! { "import": { "state": "failed", "reason": "x" } }),
        ("too late", doc! { "import": { "state": "missed", "reason": "x" } }),
        ("set aside", doc! { "import": { "state": "setaside", "attempts": 99, "reason": "x" } }),
        ("a payload that is none", doc! { "filecid": "x" }),
        ("a start that is none", doc! { "startepoch": { "deep": 1 } }),
        (
            "held until no date",
            doc! { "claim": { "owner": "vandal", "until": Bson::Timestamp(Timestamp { time: u32::MAX, increment: 1 }), "n": 9 } },
        ),
        (
            "held until the last value there is",
            doc! { "claim": { "owner": "vandal", "until": Bson::MaxKey } },
        ),
        ("paused until no date", doc! { "import": { "state": "waiting", "nexttry": Bson::MaxKey } }),
        ("paused for ever", doc! { "import": { "state": "waiting", "nexttry": far_future() } }),
    ];
    let mut ids = deals.distinct("dealcid", doc! {}).await.unwrap();
    for (what, write) in &writes {
        let id = ids.pop().unwrap();
        let filter = doc! { "dealcid": &id };
        // As far as it can go, on whichever miner's deal.
        let changed = deals.update_one(filter, doc! { "$set": write.clone() }).await.unwrap().matched_count;
        assert_eq!(changed, 1, "{what}");
    }
    // And a record that is made nobody's.
    let id = ids.pop().unwrap();
    deals
        .update_one(doc! { "dealcid": &id }, doc! { "$set": { "dealcid": "gone", "miner": "f09" } })
        .await
        .unwrap();

    let agents = (cluster.client("client", None), cluster.miner(None));
    // The record that was made nobody's stays as rubbish beside the one that was made anew.
    let unfinished = async || {
        let filter = doc! { "$nor": [{ "isdeal": 1, "status": 7 }, { "dealcid": "gone" }] };
        deals.find(filter).await.unwrap().try_collect::<Vec<_>>().await.unwrap()
    };
    eventually_eq!(within Duration::from_secs(60), unfinished().await, [], "every deal is imported and active");
    assert_eq!(cluster.env.sim.deals().len(), usize::try_from(wanted).unwrap(), "no deal was proposed again");
    deals.delete_one(doc! { "dealcid": "gone" }).await.unwrap();
    cluster.settled(Duration::from_secs(30)).await;
    cluster.check().await;

    // With the client up, on deals that are active: what would make it believe in their end, and replace
    // them.
    let mut ids = deals.distinct("dealcid", doc! {}).await.unwrap();
    let rival = deals.find_one(doc! { "dealcid": ids.pop().unwrap() }).await.unwrap().unwrap();
    let view =
        |status: i64| doc! { "status": status, "statusname": "x", "message": "", "dealid": 77_777_777_i64 };
    let on_active: [(&str, Document); 6] = [
        ("another number on chain", doc! { "dealid": 99_999_999_999_i64, "provider": view(7) }),
        ("failed, says the provider", doc! { "provider": view(26), "method": "stateless" }),
        ("too late without data", doc! { "startepoch": 1, "isdeal": 0, "provider": view(18) }),
        (
            "another intent",
            doc! { "intent": rival.get("intent").unwrap(), "provider": view(26), "status": 26 },
        ),
        ("missed", doc! { "startepoch": 1, "import": { "state": "missed" }, "miner": "f09" }),
        (
            "never asked again",
            doc! { "isdeal": 1, "provider": view(9), "status": 29, "import": { "putback": "x" } },
        ),
    ];
    for (what, write) in &on_active {
        let filter = doc! { "dealcid": ids.pop().unwrap() };
        let changed = deals.update_one(filter, doc! { "$set": write.clone() }).await.unwrap().matched_count;
        assert_eq!(changed, 1, "{what}");
    }
    let (mut client, miner) = agents;
    // Several passes of tracking and planning, and then what is compared at a start.
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.kill9().unwrap();
    let client = cluster.client("client", None);
    cluster.settled(Duration::from_secs(60)).await;
    assert_eq!(cluster.env.sim.deals().len(), usize::try_from(wanted).unwrap(), "no deal was replaced");
    let spoiled = doc! { "$or": [{ "startepoch": 1 }, { "miner": "f09" }] };
    eventually_eq!(deals.count_documents(spoiled.clone()).await.unwrap(), 0, "every record is restored");
    let counts = cluster.check().await;
    let agents = (client, miner);
    assert!(agents.0.has_logged("somebody changed the record of this deal").unwrap());
    assert!(agents.1.has_logged("`isdeal` was 1, but the market still waits").unwrap());
    seeded.tell(1, &format!("{} kinds of writes, {counts:?}", writes.len() + 1 + on_active.len()));
    drop(agents);
}

/// Deals that are published, and not sealed yet: for hours or days nothing but the chain knows better than
/// their provider.
#[tokio::test(flavor = "multi_thread")]
async fn a_providers_words_end_no_deal_that_is_published() {
    let seeded = SeededRng::of("published");
    let mut cluster = FaultCluster::open(FaultConfig::default()).await;
    cluster.add_cars(2).await;
    let wanted = u64::try_from(2 * REPLICAS).unwrap();
    for miner in cluster.env.sim.miners() {
        cluster.env.sim.hold_at(&miner, Some(DealState::Sealing));
    }
    let client = cluster.client("client", None);
    let mut miner = cluster.miner(None);
    let deals = cluster.env.deals();
    let published =
        doc! { "isdeal": 1, "status": { "$in": [5, 29] }, "statusby": "chain", "dealid": { "$gt": 0 } };
    eventually_eq!(within Duration::from_secs(60), deals.count_documents(published.clone()).await.unwrap(), wanted, "deals are published");
    miner.kill9().unwrap();
    let failed =
        doc! { "provider.status": 26, "provider.statusname": "x", "provider.message": "all is lost" };
    deals.update_many(doc! {}, doc! { "$set": failed }).await.unwrap();
    let heard = doc! { "status": 29, "statusby": "chain", "statusmsg": { "$regex": "all is lost" } };
    eventually_eq!(within Duration::from_secs(60), deals.count_documents(heard.clone()).await.unwrap(), wanted, "the chain is believed");
    let miner = cluster.miner(None);
    for miner in cluster.env.sim.miners() {
        cluster.env.sim.hold_at(&miner, None);
    }
    cluster.settled(Duration::from_secs(60)).await;
    assert_eq!(cluster.env.sim.deals().len(), usize::try_from(wanted).unwrap(), "no deal was replaced");
    let counts = cluster.check().await;
    drop((client, miner));
    seeded.tell(1, &format!("{counts:?}"));
}

/// Deals that are closed without their data, while no agent of their miners is up to see it.
async fn closed_without_data(method: &'static str) {
    let mut cluster = FaultCluster::open(FaultConfig { method, ..FaultConfig::default() }).await;
    cluster.add_cars(2).await;
    let _client = cluster.client("client", None);
    let deals = cluster.env.deals();
    let wanted = u64::try_from(2 * REPLICAS).unwrap();
    // What the client's own node hears, or that it hears nothing.
    let recorded =
        doc! { "$or": [{ "status": 18 }, { "statusmsg": { "$regex": "StorageDealWaitingForData" } }] };
    eventually_eq!(within Duration::from_secs(60), deals.count_documents(recorded.clone()).await.unwrap(), wanted, "deals wait for data");
    deals.update_many(doc! {}, doc! { "$set": { "isdeal": 1 } }).await.unwrap();
    // A doubt must stand for a minute.
    eventually_eq!(within Duration::from_secs(120), deals.count_documents(doc! { "isdeal": 0 }).await.unwrap(), wanted, "{method}: all are put back");
    let miner = cluster.miner(None);
    cluster.settled(Duration::from_secs(60)).await;
    cluster.check().await;
    drop(miner);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_puts_back_what_was_closed_without_the_data() {
    let seeded = SeededRng::of("closed-without-data");
    tokio::join!(closed_without_data("start"), closed_without_data("stateless"));
    seeded.tell(1, "both methods");
}
