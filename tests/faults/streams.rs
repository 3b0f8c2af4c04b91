//! (c) What ends change streams: an oplog that rolled over, errors of the server, a collection that is dropped.

use std::time::Duration;

use bson::{Document, doc};
use harness::{
    Members, Options, eventually,
    faults::{FailPoint, FailWith, Times},
};
use tokio::time::{Instant, sleep};

use crate::{
    rounds::{Dice, rounds},
    scene::{BY_EVENTS, Scene, Stage},
};

/// Fills the oplog until its oldest entry is younger than this call.
async fn roll_over(scene: &Scene) {
    let client = scene.set.client().await.unwrap();
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
    let mut dice = Dice::of("oplog");
    let options =
        Options { oplog_mb: 1, extra_args: vec!["--syncdelay".into(), "1".into()], ..Options::default() };
    let mut scene = Scene::open(Stage {
        members: Members::One,
        options,
        import_setting: &[BY_EVENTS],
        ..Stage::default()
    })
    .await;
    let count = rounds(1, 5);
    let client = scene.client("client", None);
    let mut miner = scene.miner(None);
    for _ in 0..count {
        scene.add_cars(10).await;
        sleep(Duration::from_millis(dice.rng.u64(0..1500))).await;
        // Frozen, its stream stays where it is; killed, there is none.
        let is_frozen = dice.rng.bool();
        if is_frozen {
            miner.signal(rustix::process::Signal::STOP).unwrap();
        } else {
            miner.kill9().unwrap();
        }
        scene.add_cars(10).await;
        roll_over(&scene).await;
        if is_frozen {
            miner.signal(rustix::process::Signal::CONT).unwrap();
        } else {
            miner = scene.miner(None);
        }
    }
    scene.settled_and_watched(Duration::from_secs(120)).await;
    let counts = scene.check().await;
    let opened = scene.streams_opened().await;
    assert!(opened > i64::try_from(count).unwrap(), "{opened} streams in {count} rounds");
    dice.tell(count, &format!("{opened} streams, {counts:?}"));
    drop((client, miner));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_a_stream_is_followed_by_the_next() {
    let mut dice = Dice::of("streams");
    let mut scene =
        Scene::open(Stage { members: Members::One, import_setting: &[BY_EVENTS], ..Stage::default() }).await;
    let agents = (scene.client("client", None), scene.miner(None));
    let count = rounds(8, 60);
    for round in 0..count {
        scene.add_cars(2).await;
        let codes = [286, 136, 280, 260, 50_738, 43, 11_601, 91];
        let code = *codes.get(round).unwrap_or_else(|| dice.pick(&codes));
        // The stream that stands, which asks anew every second; by turns also those that are opened meanwhile, where
        // other commands may meet the errors instead.
        let (commands, longest): (&[&str], _) = match round % 2 {
            0 => (&["getMore"], 1300..1600),
            _ => (&["getMore", "aggregate"], 200..900),
        };
        let labels: &[&str] = if dice.rng.bool() { &["ResumableChangeStreamError"] } else { &[] };
        let times = Times::Next(dice.rng.i32(1..4));
        let point = FailPoint::on(&scene.set, 0, commands, FailWith::Error { code, labels }, times).unwrap();
        sleep(Duration::from_millis(dice.rng.u64(longest))).await;
        point.off().unwrap();
    }
    scene.settled_and_watched(Duration::from_secs(120)).await;
    let counts = scene.check().await;
    // Some of the errors meet other commands; a stream that ends is opened again once, after a pause.
    let (opened, most) = (scene.streams_opened().await, i64::try_from(1 + 4 * count).unwrap());
    assert!(opened > 1 && opened <= most, "{opened} streams in {count} rounds");

    // The collection vanishes under the open stream and comes back.
    let (client, miner) = agents;
    drop(client);
    scene.road.deals().drop().await.unwrap();
    let car = scene.road.car("after the drop").unwrap();
    let deal = scene.road.propose(&car, "f01000").await.unwrap();
    scene.road.record(&car, &deal, "f01000").await.unwrap();
    eventually!(scene.road.is_imported(&deal).await.unwrap(), "a deal of the new collection is imported");
    drop(miner);

    // Made anew from what client-agent knows, and nothing is proposed again.
    scene.road.deals().delete_one(doc! { "dealcid": &deal }).await.unwrap();
    scene.road.cars().delete_one(doc! { "filecid": &car.payload_cid }).await.unwrap();
    let client = scene.client("client", None);
    let miner = scene.miner(None);
    scene.settled(Duration::from_secs(60)).await;
    assert_eq!(scene.road.sim.deals().len(), counts.deals + 1);
    dice.tell(count, &format!("{opened} streams, {counts:?}"));
    drop((client, miner));
}
