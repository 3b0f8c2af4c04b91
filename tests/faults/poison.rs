//! (i) Deals that can never succeed, and records that cannot be read, among good ones.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bson::{Bson, doc};
use harness::test_env::move_file;
use harness::{eventually, eventually_eq};
use lotus_sim::{Fault, FaultKind};
use serde_json::Value;
use tokio::time::Instant;

use crate::fault_cluster::{FaultCluster, FaultConfig};
use crate::iterations::SeededRng;

const MINER: &str = "f01000";
const IMPORT: &str = "Filecoin.MarketImportDealData";
/// `setting.maxTries` here.
const TRIES: usize = 3;

fn flip_last_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    // As a copy that arrives: under another name first.
    let beside = path.with_extension("partial");
    fs::write(&beside, bytes).unwrap();
    move_file(&beside, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_set_aside_and_good_deals_pass() {
    let seeded = SeededRng::of("poison");
    // Nothing is found by waiting: what a test waits for here comes by itself.
    let import_setting =
        &[("maxTries", "3"), ("scanInterval", "300s"), ("waitInterval", "300s"), ("retryMin", "100ms")];
    let mut cluster = FaultCluster::open(FaultConfig { import_setting, ..FaultConfig::default() }).await;
    let env = &cluster.env;
    let (damaged, damaged_deal) = env.recorded("damaged").await.unwrap();
    flip_last_byte(&damaged.path);
    let (_, hopeless) = env.recorded("hopeless").await.unwrap();
    let unheard_of = FaultKind::ApplicationError("something unheard of".to_owned());
    env.sim.inject(Fault { params_contain: Some(hopeless.clone()), ..Fault::on(IMPORT, unheard_of) });

    let unknown = "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta";
    let payload = &damaged.payload_cid;
    let good =
        |id: Bson| doc! { "_id": id, "miner": MINER, "isdeal": 0, "filecid": payload, "dealcid": unknown };
    let mut records = vec![
        doc! { "dealcid": "Error: rpc error: deal failed", "filecid": payload },
        doc! { "dealcid": unknown },
        doc! { "startepoch": "soon", "dealcid": "a" },
        doc! { "startepoch": { "deep": [1, 2] }, "dealcid": "b" },
        doc! { "claim": 7, "import": "none", "dealcid": "c" },
        doc! { "filecid": "x".repeat(1 << 20), "dealcid": "d" },
        doc! {},
    ];
    for record in &mut records {
        record.extend(doc! { "miner": MINER, "isdeal": 0 });
    }
    for id in [Bson::from("text"), Bson::from(12_i64), Bson::from(doc! { "a": 1 })] {
        let mut record = good(id.clone());
        record.insert("dealcid", format!("{unknown}{id}"));
        records.push(record);
    }
    let poisonous = records.len();
    env.deals().insert_many(records).await.unwrap();
    for path in ["/etc/passwd", "../../etc/passwd", "/../etc/passwd", "\u{0}", ""] {
        env.cars()
            .insert_one(doc! { "filecid": payload, "outputpath": path, "inputpath": path })
            .await
            .unwrap();
    }

    // Good deals with nonsense where agents write: it goes, and they are imported.
    let nonsense = [
        doc! { "claim": { "n": "x" } },
        doc! { "claim": { "n": { "deep": 1 } } },
        doc! { "claim": { "n": i64::MAX, "until": "never" } },
        doc! { "claim": [] },
        doc! { "claim": [{}], "import": [] },
        doc! { "import": { "attempts": "3", "awaitedfiles": [] } },
        doc! { "import": [[1]], "provider": 7 },
        doc! { "provider": { "status": 26 }, "import": { "attempts": 1.0 } },
    ];
    let mut odd = Vec::new();
    for (number, fields) in nonsense.iter().enumerate() {
        let (_, deal) = env.recorded(&format!("odd {number}")).await.unwrap();
        env.deals().update_one(doc! { "dealcid": &deal }, doc! { "$set": fields.clone() }).await.unwrap();
        odd.push(deal);
    }

    let agents = (cluster.client("client", None), cluster.miner(None));
    cluster.add_cars(10).await;
    let imported = async || {
        let good = doc! { "isdeal": 1, "status": 7, "intent": { "$exists": true } };
        cluster.env.deals().count_documents(good).await.unwrap()
    };
    eventually!(within Duration::from_secs(60), imported().await >= 20, "good deals are active");

    for (deal, fields) in odd.iter().zip(&nonsense) {
        eventually!(cluster.env.is_imported(deal).await.unwrap(), "imported in spite of {fields}");
    }

    // Set aside after so many calls, and shown with the reason.
    let env = &cluster.env;
    eventually_eq!(env.import_field(&hopeless, "state").await.unwrap(), "setaside", "the hopeless deal");
    let calls = || {
        let all = env.sim.calls();
        all.iter().filter(|call| call.method == IMPORT && call.params.to_string().contains(&hopeless)).count()
    };
    assert_eq!(calls(), TRIES);
    let status: Value = serde_json::from_str(&cluster.ask_miner(&["status", "--json"])).unwrap();
    let shown =
        status["deals"].as_array().unwrap().iter().find(|deal| deal["deal"] == hopeless.as_str()).unwrap();
    assert_eq!(shown["state"], "set aside", "{shown}");
    assert!(shown["reason"].as_str().unwrap().contains("something unheard of"), "{shown}");
    let marked = doc! { "import.state": "waiting", "import.reason": { "$regex": "cannot be used" } };
    assert!(env.deals().count_documents(marked).await.unwrap() >= 3, "unreadable records are marked");

    // The damaged CAR: named with both piece CIDs, not sent again, and imported as soon as the right one is
    // there.
    let reason = eventually!(
        Some(env.import_field(&damaged_deal, "reason").await.unwrap()).filter(|reason| !reason.is_empty()),
        "the damaged CAR is named"
    );
    assert!(
        reason.contains(&*damaged.path.to_string_lossy()) && reason.contains(&damaged.piece_cid),
        "{reason}"
    );
    assert_eq!(env.sim.imports_for(&damaged_deal), 1, "what is known to be wrong is not copied again");
    flip_last_byte(&damaged.path);
    let arrived = Instant::now();
    eventually!(env.is_imported(&damaged_deal).await.unwrap(), "the right CAR is imported");
    let by_watch = arrived.elapsed();

    // A person's word.
    env.sim.clear_faults();
    cluster.ask_miner(&["retry", &hopeless]);
    let mut miner = agents.1;
    miner.kill9().unwrap();
    let miner = cluster.miner(None);
    eventually!(env.is_imported(&hopeless).await.unwrap(), "another try was asked for");
    seeded.tell(
        1,
        &format!("{poisonous} unreadable or hopeless records; right CAR imported {by_watch:?} after it came"),
    );
    drop((agents.0, miner));
}
