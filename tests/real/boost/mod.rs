//! The provider's side against a real Boost: real libp2p, a real market, real chain rules; only sealing
//! proofs are mocked.

mod call_counter;
mod http;
mod judge;
mod node;
mod setup;
mod wrong_files;

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::boost::node::ACCEPTED;
use crate::boost::setup::START_AHEAD;
use crate::boost::wrong_files::{Fault, lay, mend};
use crate::setup::{Setup, number};

/// Names the binary.
pub(crate) const BINARY_VARIABLE: &str = "CARFERRY_BOOST_ITEST";
const IMPORTED_WITHIN: Duration = Duration::from_secs(300);
/// How long an agent lives between two kills.
const LIFE_MS: std::ops::Range<u64> = 50..1500;

/// Makes deals while the agent is killed again and again; each is handed over once, and becomes active.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Boost, which tests/real/README.md tells how to build; then .ci/real"]
async fn every_deal_is_handed_over_once() {
    let (pieces, kills) = (number("REAL_PIECES", 12), number("REAL_KILLS", 30));
    let seed = number("REAL_SEED", fastrand::u64(0..1_000_000));
    eprintln!("real-boost: seed {seed}; again with REAL_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let setup = Setup::open_boost().await;
    let cars = setup.pack(usize::try_from(pieces).unwrap(), &mut rng).await;

    let started = Instant::now();
    let start = setup.node.height().await + START_AHEAD;
    let mut deals = Vec::new();
    let mut waiting = cars.iter();
    let mut miner = setup.miner();
    for kill in 1..=kills {
        // In equal portions, so that every life of the agent may have an import in it.
        let due = usize::try_from(pieces * kill / kills).unwrap();
        for car in waiting.by_ref().take(due - deals.len()) {
            deals.push(setup.make_and_record(car, start).await);
        }
        sleep(Duration::from_millis(rng.u64(LIFE_MS))).await;
        miner.kill9().unwrap();
        miner = setup.miner();
    }
    let killed = started.elapsed();
    setup.wait_for_imports(deals.len(), IMPORTED_WITHIN).await;
    let imported = started.elapsed();
    let counts = judge::check(&setup, &deals, &[], setup.node.door.calls()).await;
    assert_eq!(setup.node.door.calls(), deals.len());
    let seconds = |duration: Duration| duration.as_secs_f64().round();
    eprintln!(
        "REAL boost | seed {seed} | kills {kills} | {counts} | last kill {} s, imported {} s, active {} s",
        seconds(killed),
        seconds(imported),
        seconds(started.elapsed()),
    );
    drop(miner);
}

/// No file that Boost could not read is handed over, since that would end the deal for good; what is another
/// piece is refused by Boost and replaced by the right one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Boost, which tests/real/README.md tells how to build; then .ci/real"]
async fn no_deal_dies_of_a_wrong_file() {
    let mut rng = fastrand::Rng::with_seed(number("REAL_SEED", 1));
    let setup = Setup::open_boost().await;
    let cars = setup.pack(Fault::ALL.len() + 2, &mut rng).await;
    let height = setup.node.height().await;
    // Its start passes before the agent begins.
    let late = setup.make_and_record(&cars[0], height + 15).await;
    let mut deals = Vec::new();
    for car in &cars[1..] {
        deals.push(setup.make_and_record(car, height + START_AHEAD).await);
    }
    let by_hand = deals.last().unwrap().clone();
    setup.node.import_by_hand(&by_hand.made, &setup.provider_folder.join(by_hand.car.name())).await;
    for (deal, fault) in deals.iter().zip(Fault::ALL) {
        lay(&setup, &deal.car, fault);
    }
    while setup.node.height().await <= height + 15 {
        sleep(Duration::from_millis(200)).await;
    }

    let miner = setup.miner();
    for (deal, fault) in deals.iter().zip(Fault::ALL) {
        harness::eventually!(
            within IMPORTED_WITHIN,
            {
                let (state, reason) = setup.import_of(&deal.made).await;
                if reason.contains(fault.words()) { Ok(()) } else { Err(format!("{state}: {reason}")) }
            },
            "the record of {fault:?} says so"
        );
        let at_boost = setup.node.deal(&deal.made).await;
        assert_eq!(at_boost["Checkpoint"], ACCEPTED, "{fault:?}: {at_boost}");
        let was_handed = !at_boost["InboundFilePath"].as_str().unwrap().is_empty();
        assert_eq!(was_handed, fault == Fault::OneBit, "{fault:?}: {at_boost}");
        let is_refused = at_boost["Err"].as_str().unwrap().ends_with("commp mismatch");
        assert_eq!(is_refused, fault == Fault::OneBit, "{fault:?}: {at_boost}");
    }
    harness::eventually!(
        within IMPORTED_WITHIN,
        {
            let (state, reason) = setup.import_of(&late.made).await;
            if state == "missed" { Ok(()) } else { Err(format!("{state}: {reason}")) }
        },
        "the deal whose start has passed is missed"
    );
    assert_eq!(setup.node.deal(&late.made).await["Checkpoint"], ACCEPTED);
    setup.wait_for_imports(1, IMPORTED_WITHIN).await;
    assert_eq!(setup.record_of(&by_hand.made).await.get_i32("isdeal").unwrap(), 1);
    // The file with one bit changed, and no other.
    assert_eq!(setup.node.door.calls(), 1);

    for deal in &deals[..Fault::ALL.len()] {
        mend(&setup, &deal.car);
    }
    setup.wait_for_imports(deals.len(), IMPORTED_WITHIN).await;
    let calls = setup.node.door.calls();
    assert_eq!(calls, 1 + Fault::ALL.len());
    let refused = &deals[Fault::ALL.iter().position(|fault| *fault == Fault::OneBit).unwrap()];
    let counts = judge::check(&setup, &deals, std::slice::from_ref(&refused.made.uuid), calls).await;
    assert_eq!(setup.node.deal(&late.made).await["InboundFilePath"], "");
    eprintln!("REAL boost, wrong files | {counts}");
    drop(miner);
}

/// Paths that mean nothing to Boost end one deal, and no second one; relative ones end none.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Boost, which tests/real/README.md tells how to build; then .ci/real"]
async fn wrong_node_paths_end_one_deal_at_most() {
    let mut rng = fastrand::Rng::with_seed(number("REAL_SEED", 3));
    let setup = Setup::open_boost().await;
    let cars = setup.pack(4, &mut rng).await;
    let start = setup.node.height().await + START_AHEAD;
    let mut deals = Vec::new();
    for car in &cars {
        deals.push(setup.make_and_record(car, start).await);
    }
    let relative = setup.with_node_paths("cars");
    let refused = setup.miner_command(&relative, &["import"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    assert_eq!(setup.node.door.calls(), 0);

    let mut miner = setup.miner_on(&setup.with_node_paths("/nowhere"));
    let states = async || {
        let mut states = Vec::new();
        for deal in &deals {
            states.push(setup.import_of(&deal.made).await);
        }
        states
    };
    harness::eventually!(
        within IMPORTED_WITHIN,
        {
            let states = states().await;
            let failed = states.iter().filter(|(state, _)| state == "failed").count();
            let told = states.iter().filter(|(_, reason)| reason.contains("nodePaths")).count();
            if failed == 1 && told >= 1 { Ok(()) } else { Err(format!("{states:?}")) }
        },
        "one deal is over, and the next say why they wait"
    );
    miner.kill9().unwrap();
    assert_eq!(setup.node.door.calls(), 1);
    let mut living = Vec::new();
    for deal in &deals {
        if setup.node.deal(&deal.made).await["Checkpoint"] == ACCEPTED {
            living.push(deal.clone());
        }
    }
    assert_eq!(living.len(), deals.len() - 1);

    let miner = setup.miner();
    setup.wait_for_imports(living.len(), IMPORTED_WITHIN).await;
    let counts = judge::check(&setup, &living, &[], setup.node.door.calls()).await;
    eprintln!("REAL boost, wrong nodePaths | 1 deal over | {counts}");
    drop(miner);
}

/// Deals that no client recorded are found at Boost and imported; their files are checked first.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Boost, which tests/real/README.md tells how to build; then .ci/real"]
async fn deals_without_a_record_are_adopted() {
    let mut rng = fastrand::Rng::with_seed(number("REAL_SEED", 2));
    let setup = Setup::open_boost().await;
    let cars = setup.pack(3, &mut rng).await;
    let start = setup.node.height().await + START_AHEAD;
    let mut deals = Vec::new();
    for car in &cars {
        deals.push(setup::Deal { car: car.clone(), made: setup.node.make(car, start).await });
    }
    lay(&setup, &cars[0], Fault::OneBit);

    let first = setup.miner_command(&setup.miner_yaml, &["import", "--adopt"]).await;
    let told = String::from_utf8_lossy(&first.stdout) + String::from_utf8_lossy(&first.stderr);
    let isdeal = async |index: usize| setup.record_of(&deals[index].made).await.get_i32("isdeal").unwrap();
    assert_eq!((isdeal(0).await, isdeal(1).await, isdeal(2).await), (0, 1, 1), "{told}");
    // The commitment of an adopted deal's file is computed before it is handed over.
    assert_eq!(setup.node.door.calls(), 2);
    mend(&setup, &cars[0]);
    // A single pass takes what is due, and hears of no file that arrives.
    for arguments in [["retry", "--all"], ["import", "--adopt"]] {
        let done = setup.miner_command(&setup.miner_yaml, &arguments).await;
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    setup.wait_for_imports(3, Duration::from_secs(1)).await;
    let counts = judge::check(&setup, &deals, &[], setup.node.door.calls()).await;
    eprintln!("REAL boost, adopted | {counts}");
    assert_eq!(setup.node.door.calls(), 3);
    assert!(fs::read_dir(&setup.provider_folder).unwrap().count() >= 3, "files are the operator's");
}
