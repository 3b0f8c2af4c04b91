//! A hundred thousand deals.

use boost_sim::{BoostVersion, Checkpoint};
use serde_json::json;

use crate::support::{car, data, instant, must_import, proposal, wait_until};

const DEALS: usize = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_deals_are_listed_and_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "scale");
    let sim = instant(BoostVersion::V2_5_2).await;
    let mut proposal = proposal(&car);
    let mut last = String::new();
    for number in 0..DEALS {
        proposal.start_epoch = 1_010_000 + i64::try_from(number).unwrap();
        proposal.end_epoch = proposal.start_epoch + 518_400;
        last = sim.propose(&proposal).unwrap().uuid;
    }
    let mut seen = std::collections::HashSet::new();
    loop {
        let query = format!(
            "{{ deals(filter: {{Checkpoint: Accepted, IsOffline: true}}, offset: {}, limit: 2000) {{ totalCount more \
             deals {{ ID Checkpoint Retry Err PieceCid StartEpoch InboundFilePath SignedProposalCid }} }} }}",
            seen.len()
        );
        let page = data(&sim, &query).await["deals"].clone();
        assert_eq!(page["totalCount"], DEALS);
        seen.extend(page["deals"].as_array().unwrap().iter().map(|deal| deal["ID"].to_string()));
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(seen.len(), DEALS);
    let by_uuid =
        data(&sim, &format!("{{ deals(query: \"{last}\") {{ totalCount deals {{ ID }} }} }}")).await;
    assert_eq!(by_uuid["deals"], json!({ "totalCount": 1, "deals": [{ "ID": last }] }));
    must_import(&sim, &last, &car.path).await;
    wait_until(&sim, "the last deal", |sim| sim.count_at(Checkpoint::IndexedAndAnnounced) == 1).await;
    // Every start passes but the later half's.
    sim.set_epoch(1_010_000 + i64::try_from(DEALS / 2).unwrap());
    sim.restart_boost().await.unwrap();
    assert_eq!(sim.count_at(Checkpoint::Complete), DEALS / 2);
}
