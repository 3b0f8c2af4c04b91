//! (e) Answers that are lost, late, cut, wrong or huge.

use std::time::Duration;

use lotus_sim::{Fault, FaultKind};
use tokio::time::sleep;

use crate::fault_cluster::{FaultCluster, FaultConfig};
use crate::iterations::{SeededRng, iterations};

const CALLS: [&str; 7] = [
    "Filecoin.MarketImportDealData",
    "Filecoin.MarketListIncompleteDeals",
    "Filecoin.ActorAddress",
    "Filecoin.ClientStatelessDeal",
    "Filecoin.ClientStartDeal",
    "Filecoin.ClientListDeals",
    "Filecoin.ChainHead",
];
/// Larger than any client's default limit.
const HUGE: usize = 80 << 20;

fn kind(seeded: &mut SeededRng) -> FaultKind {
    let while_ms = Duration::from_millis(seeded.rng.u64(100..3000));
    match seeded.rng.u8(0..10) {
        0 => FaultKind::DropBefore,
        1 | 2 => FaultKind::DropAfterWork,
        3 => FaultKind::Http500,
        4 => FaultKind::Hang,
        5 | 6 => FaultKind::HangAfterWork,
        7 => FaultKind::CutAnswer,
        8 => FaultKind::Delay(while_ms),
        _ => FaultKind::DelayAnswer(while_ms),
    }
}

async fn answer_badly(name: &'static str, method: &'static str) {
    let mut seeded = SeededRng::of(name);
    let mut cluster = FaultCluster::open(FaultConfig { method, ..FaultConfig::default() }).await;
    let agents = (cluster.client("client", None), cluster.miner(None));
    let count = iterations(12, 200);
    for round in 0..count {
        cluster.add_cars(2).await;
        for _ in 0..seeded.rng.usize(1..4) {
            let call = *seeded.pick(&CALLS);
            let kind = kind(&mut seeded);
            cluster.env.sim.inject(Fault::on(call, kind).times(seeded.rng.usize(1..3)));
        }
        if round == count / 2 {
            cluster.env.sim.pad_lists(HUGE);
        }
        sleep(Duration::from_millis(seeded.rng.u64(100..800))).await;
        if round == count / 2 {
            sleep(Duration::from_secs(2)).await;
            cluster.env.sim.pad_lists(0);
        }
    }
    cluster.env.sim.clear_faults();
    cluster.settled(Duration::from_secs(180)).await;
    let counts = cluster.check().await;
    seeded.tell(count, &format!("{counts:?}"));
    drop(agents);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_lose_and_double_nothing_that_goes_stateless() {
    answer_badly("answers-stateless", "stateless").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_lose_and_double_nothing_that_the_node_follows() {
    answer_badly("answers-start", "start").await;
}
