//! (c) What ends change streams: an oplog that rolled over, errors of the server, a collection that is
//! dropped.

use std::time::Duration;

use bson::{Document, doc};
use harness::faults::{FailPoint, FailWith, Times};
use harness::{Members, Options, eventually};
use tokio::time::{Instant, sleep};

use crate::fault_cluster::{BY_EVENTS, FaultCluster, FaultConfig};
use crate::iterations::{SeededRng, iterations};

/// Fills the oplog until its oldest entry is younger than this call.
async fn roll_over(cluster: &FaultCluster) {
    let client = cluster.set.client().await.unwrap();
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let oldest = async || {
        let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap();
        first.get_timestamp("ts").unwrap()
    };
    let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.unwrap().unwrap();
    let now = newest.get_timestamp("ts").unwrap();
    let rubbish = client.database("rubbish").collection::<Document>("rubbish");
    let started = Instant::now();
    while oldest().await <= now {
        assert!(started.elapsed() < Duration::from_secs(120), "the oplog does not roll over");
        let batch: Vec<_> = (0..16).map(|_| doc! { "filler": "x".repeat(1 << 20) }).collect();
        rubbish.insert_many(batch).await.unwrap();
        // Truncation follows the checkpoints.
        sleep(Duration::from_millis(300)).await;
    }
    rubbish.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_rolled_over_loses_no_deal() {
    let mut seeded = SeededRng::of("oplog");
    let options =
        Options { oplog_mb: 1, extra_args: vec!["--syncdelay".into(), "1".into()], ..Options::default() };
    let mut cluster = FaultCluster::open(FaultConfig {
        members: Members::One,
        options,
        import_setting: &[BY_EVENTS],
        ..FaultConfig::default()
    })
    .await;
    let count = iterations(1, 5);
    let client = cluster.client("client", None);
    let mut miner = cluster.miner(None);
    for round in 0..count {
        cluster.add_cars(10).await;
        // An agent that has no stream yet would prove nothing.
        let before = i64::try_from(round).unwrap();
        eventually!(within Duration::from_secs(60), cluster.streams_opened().await > before, "the agent watches");
        sleep(Duration::from_millis(seeded.rng.u64(0..1500))).await;
        // Frozen, its stream stays where it is; killed, there is none.
        let is_frozen = seeded.rng.bool();
        if is_frozen {
            miner.signal(rustix::process::Signal::STOP).unwrap();
        } else {
            miner.kill9().unwrap();
        }
        cluster.add_cars(10).await;
        roll_over(&cluster).await;
        if is_frozen {
            miner.signal(rustix::process::Signal::CONT).unwrap();
        } else {
            miner = cluster.miner(None);
        }
    }
    cluster.settled_and_watched(Duration::from_secs(120)).await;
    let counts = cluster.check().await;
    // The last stream may come after the deals, which other wakes may find first.
    let least = i64::try_from(count).unwrap();
    eventually!(within Duration::from_secs(60), cluster.streams_opened().await > least, "a stream after each cut");
    let opened = cluster.streams_opened().await;
    seeded.tell(count, &format!("{opened} streams, {counts:?}"));
    drop((client, miner));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_a_stream_is_followed_by_the_next() {
    let mut seeded = SeededRng::of("streams");
    let mut cluster = FaultCluster::open(FaultConfig {
        members: Members::One,
        import_setting: &[BY_EVENTS],
        ..FaultConfig::default()
    })
    .await;
    let agents = (cluster.client("client", None), cluster.miner(None));
    let count = iterations(8, 60);
    for round in 0..count {
        cluster.add_cars(2).await;
        let codes = [286, 136, 280, 260, 50_738, 43, 11_601, 91];
        let code = *codes.get(round).unwrap_or_else(|| seeded.pick(&codes));
        // The stream that stands, which asks anew every second; by turns also those that are opened
        // meanwhile, where other commands may meet the errors instead.
        let (commands, longest): (&[&str], _) = match round % 2 {
            0 => (&["getMore"], 1300..1600),
            _ => (&["getMore", "aggregate"], 200..900),
        };
        let labels: &[&str] = if seeded.rng.bool() { &["ResumableChangeStreamError"] } else { &[] };
        let times = Times::Next(seeded.rng.i32(1..4));
        let point =
            FailPoint::on(&cluster.set, 0, commands, FailWith::Error { code, labels }, times).unwrap();
        sleep(Duration::from_millis(seeded.rng.u64(longest))).await;
        point.off().unwrap();
    }
    cluster.settled_and_watched(Duration::from_secs(120)).await;
    let counts = cluster.check().await;
    // Some of the errors meet other commands; a stream that ends is opened again once, after a pause.
    eventually!(within Duration::from_secs(60), cluster.streams_opened().await > 1, "a stream ended and was opened again");
    let (opened, most) = (cluster.streams_opened().await, i64::try_from(1 + 4 * count).unwrap());
    assert!(opened > 1 && opened <= most, "{opened} streams in {count} iterations");

    // The collection vanishes under the open stream and comes back.
    let (client, miner) = agents;
    drop(client);
    cluster.env.deals().drop().await.unwrap();
    let car = cluster.env.car("after the drop").unwrap();
    let deal = cluster.env.propose(&car, "f01000").await.unwrap();
    cluster.env.record(&car, &deal, "f01000").await.unwrap();
    eventually!(cluster.env.is_imported(&deal).await.unwrap(), "a deal of the new collection is imported");
    drop(miner);

    // Made anew from what client-agent knows, and nothing is proposed again.
    cluster.env.deals().delete_one(doc! { "dealcid": &deal }).await.unwrap();
    cluster.env.cars().delete_one(doc! { "filecid": &car.payload_cid }).await.unwrap();
    let client = cluster.client("client", None);
    let miner = cluster.miner(None);
    cluster.settled(Duration::from_secs(60)).await;
    assert_eq!(cluster.env.sim.deals().len(), counts.deals + 1);
    seeded.tell(count, &format!("{opened} streams, {counts:?}"));
    drop((client, miner));
}
