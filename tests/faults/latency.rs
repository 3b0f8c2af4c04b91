//! How soon a deal is imported when all is well, and what that costs, while a client proposes.

use std::time::{Duration, SystemTime};

use harness::eventually;
use tokio::time::{Instant, sleep_until};

use crate::costs::{commands, make_indexes, note_commands};
use crate::fault_cluster::{FaultCluster, FaultConfig, instant};
use crate::iterations::{SeededRng, iterations};

const MINER: &str = "f01000";
const IMPORT: &str = "Filecoin.MarketImportDealData";
const LIST: &str = "Filecoin.MarketListIncompleteDeals";
/// Commands of the database for each deal, at most; some belong to the polls of the provider's view.
const COMMANDS_A_DEAL: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_is_imported_soon_after_it_is_committed() {
    let seeded = SeededRng::of("latency");
    let cluster = FaultCluster::open(FaultConfig {
        sim: instant(),
        import_setting: &[("importsPerMiner", "1"), ("scanInterval", "300s")],
        ..FaultConfig::default()
    })
    .await;
    make_indexes(&cluster).await;
    note_commands(&cluster).await;
    let miner = cluster.miner(None);
    eventually!(miner.has_logged("watching for CARs").unwrap(), "the agent runs");
    let lists = cluster.env.sim.count(LIST);
    let count = iterations(60, 1000);
    let mut committed = Vec::new();
    let begun = Instant::now();
    for number in 0..u32::try_from(count).unwrap() {
        // Twenty a second. Each is new to the provider too: it is proposed, accepted and recorded while the
        // agent runs.
        sleep_until(begun + Duration::from_millis(50) * number).await;
        let (car, deal) = cluster.env.proposed(&format!("content of file {number} ")).await.unwrap();
        cluster.env.record(&car, &deal, MINER).await.unwrap();
        committed.push((deal, SystemTime::now()));
    }
    let all = u64::try_from(count).unwrap();
    eventually!(within Duration::from_secs(120), cluster.env.imported_count().await.unwrap() == all, "all are imported");
    let seconds = begun.elapsed().as_secs();
    let calls = cluster.env.sim.calls();
    let mut latencies: Vec<f64> = committed
        .iter()
        .map(|(deal, committed)| {
            let call =
                calls.iter().find(|call| call.method == IMPORT && call.params.to_string().contains(deal));
            call.unwrap().at.duration_since(*committed).unwrap_or_default().as_secs_f64() * 1000.0
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    let at = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    let asked = commands(&cluster).await;
    let lists = u64::try_from(cluster.env.sim.count(LIST) - lists).unwrap();
    let per_deal = asked.values().sum::<u64>().div_ceil(all);
    let counted = format!("{lists} lists in {seconds} s, {per_deal} commands a deal: {asked:?}");
    seeded.tell(
        1,
        &format!(
            "{count} deals at 20/s: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; {counted}",
            at(50),
            at(99),
            at(100)
        ),
    );
    assert_eq!(cluster.env.sim.count(IMPORT), count, "one call for each");
    // A list for each look at a new deal, one for its confirmation and one more, and those of the polls.
    assert!(lists <= 3 * all + 2 * seconds + 10, "{counted}");
    assert!(per_deal <= COMMANDS_A_DEAL, "{counted}");
    drop(miner);
}
