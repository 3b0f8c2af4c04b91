//! (e) Answers that are lost, late, cut, wrong or huge.

use std::time::Duration;

use lotus_sim::{Fault, FaultKind};
use tokio::time::sleep;

use crate::{
    rounds::{Dice, rounds},
    scene::{Scene, Stage},
};

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

fn kind(dice: &mut Dice) -> FaultKind {
    let while_ms = Duration::from_millis(dice.rng.u64(100..3000));
    match dice.rng.u8(0..10) {
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
    let mut dice = Dice::of(name);
    let mut scene = Scene::open(Stage { method, ..Stage::default() }).await;
    let agents = (scene.client("client", None), scene.miner(None));
    let count = rounds(12, 200);
    for round in 0..count {
        scene.add_cars(2).await;
        for _ in 0..dice.rng.usize(1..4) {
            let call = *dice.pick(&CALLS);
            let kind = kind(&mut dice);
            scene.road.sim.inject(Fault::on(call, kind).times(dice.rng.usize(1..3)));
        }
        if round == count / 2 {
            scene.road.sim.pad_lists(HUGE);
        }
        sleep(Duration::from_millis(dice.rng.u64(100..800))).await;
        if round == count / 2 {
            sleep(Duration::from_secs(2)).await;
            scene.road.sim.pad_lists(0);
        }
    }
    scene.road.sim.clear_faults();
    scene.settled(Duration::from_secs(180)).await;
    let counts = scene.check().await;
    dice.tell(count, &format!("{counts:?}"));
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
