//! (a) Each agent killed with -9, at every step of a deal and at random instants.

use std::time::Duration;

use harness::test_env::Process;
use lotus_sim::{SimConfig, Timings};
use tokio::time::{Instant, sleep};

use crate::fault_cluster::{FaultCluster, FaultConfig, sim, timings};
use crate::iterations::{SeededRng, iterations};

const PACK: [&str; 3] = ["pack.built", "pack.published", "pack.recorded"];
const CLIENT: [&str; 7] = [
    "publish.intended",
    "publish.calling",
    "publish.called",
    "publish.recorded",
    "publish.settled",
    "track.writing",
    "track.written",
];
const MINER: [&str; 6] = [
    "import.claimed",
    "import.assessed",
    "import.noted",
    "import.called",
    "import.confirmed",
    "import.finished",
];
/// How long a process may take to come to its fail point; then it is killed where it is.
const PATIENCE: Duration = Duration::from_secs(3);

async fn died(process: &mut Process) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if !process.is_running() {
            return true;
        }
        sleep(Duration::from_millis(10)).await;
    }
    process.kill9().unwrap();
    false
}

async fn kill_everybody(name: &'static str, method: &'static str) {
    let mut seeded = SeededRng::of(name);
    // The market is in the middle of an import when its caller is killed.
    let timings = Timings { import_commp: Duration::from_millis(150), ..timings() };
    let sim = SimConfig { timings, ..sim(3) };
    let mut cluster = FaultCluster::open(FaultConfig { sim, method, ..FaultConfig::default() }).await;
    let steps: Vec<_> = PACK.iter().chain(&CLIENT).chain(&MINER).copied().collect();
    let count = iterations(steps.len() + 4, 250);
    let (mut client, mut miner) = (cluster.client("client", None), cluster.miner(None));
    let mut at_their_step = 0;
    for round in 0..count {
        // Each step once, then steps by chance; now and then a random instant instead of a step.
        let step = steps.get(round).copied().unwrap_or_else(|| *seeded.pick(&steps[..]));
        let by_chance = round >= steps.len() && seeded.rng.u8(0..4) == 0;
        cluster.add_cars(1).await;
        if PACK.contains(&step) {
            cluster.cars += 1;
            let file = cluster.inputs.join(format!("{round}.bin"));
            std::fs::write(file, format!("input of round {round} ").repeat(40)).unwrap();
            at_their_step += usize::from(died(&mut cluster.makecars(Some(step))).await);
        }
        if by_chance {
            sleep(Duration::from_millis(seeded.rng.u64(0..800))).await;
        }
        let named = format!("{step}:{}", seeded.rng.u8(1..=2));
        let point = Some(named.as_str()).filter(|_| !by_chance);
        if CLIENT.contains(&step) {
            client.kill9().unwrap();
            client = cluster.client("client", point);
            at_their_step += usize::from(!by_chance && died(&mut client).await);
            client = cluster.client("client", None);
        } else if MINER.contains(&step) {
            miner.kill9().unwrap();
            miner = cluster.miner(point);
            at_their_step += usize::from(!by_chance && died(&mut miner).await);
            miner = cluster.miner(None);
        }
    }
    let mut last = cluster.makecars(None);
    died(&mut last).await;
    cluster.settled(Duration::from_secs(180)).await;
    let counts = cluster.check().await;
    seeded.tell(count, &format!("{at_their_step} died at their step, {counts:?}"));
    // Steps that are no longer reached would prove nothing.
    assert!(at_their_step * 2 > count, "only {at_their_step} of {count} died at their step");
    drop((client, miner));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_killed_at_every_step_lose_and_double_nothing_that_goes_stateless() {
    kill_everybody("killed-stateless", "stateless").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_killed_at_every_step_lose_and_double_nothing_that_the_node_follows() {
    kill_everybody("killed-start", "start").await;
}
