//! How proposals are sent and settled: what cannot succeed now keeps nothing else waiting.

use std::{collections::BTreeSet, fs, process::Stdio, time::Duration};

use anyhow::Context as _;
use bson::{Document, doc};
use carferry_core::{
    lotus::{
        CallTimeouts, Client, Moment,
        wire::{CidLink, DataRef, StartDealParams},
    },
    model::PublishMethod,
};
use client_agent::propose::{DealState, Mode, Proposer, preflight::MethodChoice};
use harness::{
    eventually, eventually_eq,
    road::{self, Car, MINER, Road},
};
use lotus_sim::{Fault, FaultKind, Permission, SimConfig, WalletConfig};
use serde_json::{Value, json};

use crate::deals::{DataPrep, START, deals, open_intents, write_cars};

const IMPORT: &str = "Filecoin.ClientImport";
const LIST_IMPORTS: &str = "Filecoin.ClientListImports";
const LATER_WALLET: &str = "f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za";
/// More than one queue holds.
const POISONED: usize = 70;

/// CARs whose files the node cannot open.
async fn write_poison(road: &Road, count: usize) -> anyhow::Result<()> {
    for number in 0..count {
        let mut document = road.car(&format!("poison {number} "))?.document();
        document.insert("outputpath", format!("/nowhere/{number}.car"));
        road.cars().insert_one(document).await?;
    }
    Ok(())
}

/// A command of client-agent, ready to be started.
fn command(road: &Road, words: &[&str], setting: &str) -> anyhow::Result<std::process::Command> {
    let file = road.new_path("client.yaml");
    let text = format!(
        "miners: [{{miner: {MINER}, price: 0}}]\nsetting: {{wallet: {}, duration: 200, agentName: box-1, {setting}}}\n\
         lotus: {{endpoint: '{}', token: '{}', requestTimeout: 5s}}\nmongodb: {{uri: '{}', database: '{}'}}\n",
        WalletConfig::default().address,
        road.sim.full_node_url(),
        road.sim.token(Permission::Admin),
        road.uri,
        road.db.name(),
    );
    fs::write(&file, text)?;
    let mut command = road::client_agent_command()?;
    command.args(words).arg("-c").arg(file).stdin(Stdio::null());
    Ok(command)
}

fn intents(road: &Road) -> mongodb::Collection<Document> {
    road.db.collection("dealintents")
}

fn proposed(road: &Road, car: &Car) -> usize {
    road.sim.proposals_for(&car.payload_cid, MINER)
}

async fn idle(proposer: &Proposer) {
    eventually!(within Duration::from_secs(30), proposer.is_idle(), "the queues are empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_hopeless_intents_than_a_queue_holds_neither_starve_a_provider_nor_keep_makedeals_running()
-> anyhow::Result<()> {
    let road = Road::open().await?;
    write_poison(&road, POISONED).await?;
    let good = write_cars(&road, 3).await?;
    let ended = command(&road, &["makedeals"], "publishMethod: start")?.output()?;
    let (said, log) = (String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?);
    assert_eq!(ended.status.code(), Some(3), "partly: {said}{log}");
    assert!(
        said.contains("3 deals published, 0 found from earlier runs, 0 refused, 70 not confirmed yet"),
        "{said}"
    );
    assert!(good.iter().all(|car| proposed(&road, car) == 1), "{said}");
    let waiting =
        doc! { "state": "intended", "tries": 1, "nexttry": { "$type": "date" }, "reason": { "$ne": null } };
    assert_eq!(intents(&road).count_documents(waiting).await?, POISONED as u64);

    // Another run gives each of them one call, however many they are, and says so line by line.
    let due = doc! { "$unset": { "nexttry": 1 } };
    intents(&road).update_many(doc! { "state": "intended" }, due.clone()).await?;
    let ended = command(&road, &["makedeals", "--json"], "publishMethod: start")?.output()?;
    let said = String::from_utf8(ended.stdout)?;
    let mut lines: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let sum = lines.pop().context("no sum")?;
    assert_eq!(
        (ended.status.code(), sum["deals"].as_array().map(Vec::len)),
        (Some(1), Some(POISONED)),
        "{sum}"
    );
    let unsettled: BTreeSet<&str> = lines
        .iter()
        .filter(|line| line["state"] == "unsettled")
        .filter_map(|line| line["intent"].as_str())
        .collect();
    assert_eq!(unsettled.len(), POISONED, "{said}");
    assert!(String::from_utf8(ended.stderr)?.contains("run the same command again later"));
    let twice = doc! { "state": "intended", "tries": 2 };
    assert_eq!(intents(&road).count_documents(twice).await?, POISONED as u64);

    // An agent that goes on takes new CARs beside them, whether or not they are due.
    let client = DataPrep::of(&road, START).await?;
    let late = road.car("a good one that comes late ")?;
    road.cars().insert_one(late.document()).await?;
    intents(&road).update_many(doc! { "state": "intended" }, due).await?;
    let mut proposer = client.proposer();
    proposer.pass(Mode::Publish).await?;
    idle(&proposer).await;
    assert_eq!(proposed(&road, &late), 1);
    let tried_again = intents(&road).count_documents(doc! { "state": "intended", "tries": 3 }).await?;
    assert!((1..POISONED as u64).contains(&tried_again), "{tried_again} at a time");
    Ok(())
}

#[tokio::test]
async fn a_postponed_intent_is_called_when_it_is_due_and_not_before() -> anyhow::Result<()> {
    let road = Road::open().await?;
    write_poison(&road, 1).await?;
    let client = DataPrep::of(&road, START).await?;
    client.pass().await?;
    assert_eq!(road.sim.count(IMPORT), 1);
    for (next, calls) in [(600, 1), (-1, 2), (7200, 3)] {
        // The last is a time that no agent sets: a server's clock was ahead.
        let moment = doc! { "$add": ["$$NOW", next * 1000_i64] };
        intents(&road).update_many(doc! {}, vec![doc! { "$set": { "nexttry": moment } }]).await?;
        client.pass().await?;
        assert_eq!(road.sim.count(IMPORT), calls, "due in {next} s");
    }
    Ok(())
}

#[tokio::test]
async fn cars_of_another_host_are_not_offered_to_a_node_that_must_read_them() -> anyhow::Result<()> {
    let road = Road::open().await?;
    for (name, host) in [("own ", Some("box-1")), ("foreign ", Some("box-2")), ("of the prototype ", None)] {
        let mut document = road.car(name)?.document();
        document.extend(host.map(|host| doc! { "host": host }).unwrap_or_default());
        road.cars().insert_one(document).await?;
    }
    let mut client = DataPrep::of(&road, START).await?;
    let report = client.pass().await?;
    assert_eq!(report.count(DealState::Published), 2, "{report:?}");
    assert_eq!(report.held.get("the CAR is on another host (setting.ownCarsOnly)"), Some(&1), "{report:?}");
    client.terms.own_cars_only = Some(false);
    assert_eq!(client.pass().await?.count(DealState::Published), 1);

    let road = Road::open().await?;
    let mut document = road.car("foreign ")?.document();
    document.insert("host", "box-2");
    road.cars().insert_one(document).await?;
    let mut client = DataPrep::of(&road, MethodChoice::Auto).await?;
    client.terms.own_cars_only = Some(true);
    assert_eq!(client.pass().await?.count(DealState::Published), 0);
    client.terms.own_cars_only = None;
    assert_eq!(client.pass().await?.count(DealState::Published), 1, "stateless deals need no import");
    Ok(())
}

#[tokio::test]
async fn a_root_that_the_node_has_dropped_is_imported_again() -> anyhow::Result<()> {
    let road = Road::open_with(crate::deals::two_miners()).await?;
    let cars = write_cars(&road, 1).await?;
    let mut client = DataPrep::of(&road, START).await?;
    // The second deal of the CAR is for the second pass.
    client.limits.deals_per_pass_max = Some(1);
    let mut proposer = client.proposer();
    proposer.pass(Mode::Publish).await?;
    idle(&proposer).await;
    assert_eq!((proposed(&road, cars.first().context("one")?), road.sim.count(IMPORT)), (1, 1));

    let node = Client::new(
        &road.sim.full_node_url(),
        Some(&road.sim.token(Permission::Admin)),
        CallTimeouts::default(),
    )?;
    let _void: Value =
        node.call("Filecoin.ClientRemoveImport", vec![json!(1)], Duration::from_secs(5)).await?;
    eventually!(
        {
            // The provider may need more than one pass to tell its terms.
            proposer.pass(Mode::Publish).await?;
            anyhow::ensure!(deals(&road).await?.len() == 2, "the second deal is not made yet");
            anyhow::Ok(())
        },
        "the second deal is made"
    );
    assert_eq!((road.sim.count(IMPORT), road.sim.count(LIST_IMPORTS)), (2, 2));
    Ok(())
}

#[tokio::test]
async fn an_import_whose_answer_was_lost_is_looked_for_before_it_is_repeated() -> anyhow::Result<()> {
    let road = Road::open().await?;
    let cars = write_cars(&road, 1).await?;
    let client = DataPrep::of(&road, START).await?;
    road.sim.inject(Fault::on(IMPORT, FaultKind::DropAfterWork).times(1));
    let mut proposer = client.proposer();
    proposer.pass(Mode::Publish).await?;
    idle(&proposer).await;
    assert_eq!((proposed(&road, cars.first().context("one")?), open_intents(&road).await?), (0, 1));
    eventually!(
        {
            proposer.pass(Mode::Publish).await?;
            anyhow::ensure!(open_intents(&road).await? == 0, "still open");
            anyhow::Ok(())
        },
        "the deal is made"
    );
    assert_eq!((proposed(&road, cars.first().context("one")?), road.sim.count(IMPORT)), (1, 1));
    Ok(())
}

#[tokio::test]
async fn intents_of_an_earlier_wallet_are_settled() -> anyhow::Result<()> {
    let later = WalletConfig { address: LATER_WALLET.to_owned(), ..WalletConfig::default() };
    let wallets = vec![WalletConfig::default(), later];
    let road = Road::open_with(SimConfig { wallets, ..SimConfig::default() }).await?;
    write_cars(&road, 1).await?;
    let mut client = DataPrep::of(&road, MethodChoice::Auto).await?;
    let mut proposer = client.proposer();
    // The probe has no parameters.
    let mut lost = Fault::on("Filecoin.ClientStatelessDeal", FaultKind::DropAfterWork).times(1);
    lost.params_contain = Some(client.terms.wallet.clone());
    road.sim.inject(lost);
    proposer.pass(Mode::Publish).await?;
    eventually_eq!(road.sim.deals().len(), 1, "the deal is made");
    proposer.finish().await;
    assert_eq!((deals(&road).await?.len(), open_intents(&road).await?), (0, 1));

    client.terms.wallet = LATER_WALLET.to_owned();
    client.pass().await?;
    let recorded = deals(&road).await?;
    let wallet = recorded.first().context("nothing was settled")?.get_str("wallet")?;
    assert_eq!((recorded.len(), open_intents(&road).await?), (1, 0));
    assert_eq!(wallet, WalletConfig::default().address);
    Ok(())
}

#[tokio::test]
async fn a_proposal_is_not_sent_after_its_time() -> anyhow::Result<()> {
    let road = Road::open().await?;
    let cars = write_cars(&road, 1).await?;
    let car = cars.first().context("one")?;
    let client = DataPrep::of(&road, MethodChoice::Auto).await?;
    let params = StartDealParams {
        data: DataRef {
            transfer_type: "manual".to_owned(),
            root: CidLink::new(&car.payload_cid),
            piece_cid: Some(CidLink::new(&car.piece_cid)),
            piece_size: car.deal_size_bytes,
            raw_block_size: 0,
        },
        wallet: client.terms.wallet.clone(),
        miner: MINER.to_owned(),
        epoch_price: "0".to_owned(),
        min_blocks_duration: 600_000,
        provider_collateral: "0".to_owned(),
        deal_start_epoch: road.sim.height() + 5000,
        fast_retrieval: true,
        verified_deal: false,
    };
    let stateless = PublishMethod::Stateless;
    let error = client.node.publish(stateless, &params, Moment::now()).await.err().context("it was sent")?;
    assert!(error.effect_is_unknown(), "{error}");
    assert_eq!(road.sim.count("Filecoin.ClientStatelessDeal"), 0);
    client.node.publish(stateless, &params, Moment::now().plus(Duration::from_secs(60))).await?;
    assert_eq!(proposed(&road, car), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_refilled_before_the_next_look_for_cars_is_due() -> anyhow::Result<()> {
    let road = Road::open().await?;
    let cars = write_cars(&road, 100).await?;
    let agent = road::spawn(command(&road, &["run"], "planInterval: 300s")?, &road.new_path("client.log"))?;
    let made = || cars.iter().filter(|car| proposed(&road, car) == 1).count();
    eventually!(within Duration::from_secs(60), made() == cars.len(), "all are proposed");
    drop(agent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn makedeals_says_at_ctrl_c_how_many_are_left() -> anyhow::Result<()> {
    const METHOD: &str = "Filecoin.ClientStatelessDeal";
    let road = Road::open().await?;
    write_cars(&road, 3).await?;
    let mut hanging = Fault::on(METHOD, FaultKind::Hang);
    // The probe has no parameters.
    hanging.params_contain = Some(WalletConfig::default().address);
    road.sim.inject(hanging);
    let log = road.new_path("makedeals.log");
    let mut agent = road::spawn(command(&road, &["makedeals"], "minerMaxDeals: 1")?, &log)?;
    eventually!(
        {
            let open = open_intents(&road).await?;
            anyhow::ensure!(road.sim.count(METHOD) >= 2 && open == 3, "{open} are open");
            anyhow::Ok(())
        },
        "the first proposal is under way, the others are queued"
    );
    agent.signal(rustix::process::Signal::INT)?;
    eventually!(within Duration::from_secs(30), !agent.is_running(), "the run ends");
    let said = fs::read_to_string(&log)?;
    assert!(said.contains("run the same command again for the rest"), "{said}");
    assert!(said.contains("\"proposals\":3"), "{said}");
    assert_eq!(open_intents(&road).await?, 3);
    Ok(())
}

/// What `retry` needs is the database alone.
#[tokio::test(flavor = "multi_thread")]
async fn retry_says_what_it_would_forget_and_forgets_it_without_a_wallet() -> anyhow::Result<()> {
    let road = Road::open().await?;
    write_cars(&road, 1).await?;
    road.sim.reject_next(MINER, "miner is not accepting offline storage deals");
    let client = DataPrep::of(&road, MethodChoice::Auto).await?;
    assert_eq!(client.pass().await?.count(DealState::Refused), 1);
    let config = road.new_path("database-only.yaml");
    fs::write(&config, format!("mongodb: {{uri: '{}', database: '{}'}}\n", road.uri, road.db.name()))?;
    let retry = |words: &[&str]| -> anyhow::Result<String> {
        let mut command = road::client_agent_command()?;
        let ended = command.args(["retry", "--all"]).args(words).arg("-c").arg(&config).output()?;
        anyhow::ensure!(ended.status.success(), "{}", String::from_utf8(ended.stderr)?);
        Ok(String::from_utf8(ended.stdout)?)
    };
    let json = |words: &[&str]| -> anyhow::Result<Value> { Ok(serde_json::from_str(&retry(words)?)?) };
    let counts = json!({ "failures": 1, "cars": 1, "miners": { MINER: 1 }, "dryrun": true });
    // Twice: nothing is forgotten by looking.
    assert_eq!(json(&["--json", "--dry-run"])?, counts);
    assert_eq!(json(&["--json", "--dry-run"])?, counts);
    let said = retry(&["--dry-run"])?;
    let words = "1 refusal, failed deal or postponed proposal of 1 CAR would be forgotten";
    assert!(said.contains(words), "{said}");
    assert_eq!(
        json(&["--json"])?,
        json!({ "failures": 1, "cars": 1, "miners": { MINER: 1 }, "dryrun": false })
    );
    assert_eq!(json(&["--json"])?, json!({ "failures": 0, "cars": 0, "miners": {}, "dryrun": false }));
    assert_eq!(client.pass().await?.count(DealState::Published), 1, "it is proposed again");
    Ok(())
}

#[tokio::test]
async fn an_import_that_hangs_keeps_no_other_root_waiting() -> anyhow::Result<()> {
    let road = Road::open_with(crate::deals::two_miners()).await?;
    let cars = write_cars(&road, 2).await?;
    let [hanging, other] = cars.as_slice() else { anyhow::bail!("two CARs") };
    let mut client = DataPrep::of(&road, START).await?;
    // One deal a CAR and a provider: each CAR is in a queue of its own.
    (client.limits.replicas_max, client.limits.open_deals_per_miner_max) = (1, Some(1));
    let mut hang = Fault::on(IMPORT, FaultKind::Hang);
    hang.params_contain = Some(hanging.path.display().to_string());
    road.sim.inject(hang);
    let mut proposer = client.proposer();
    let total =
        |car: &Car| road.sim.miners().iter().map(|m| road.sim.proposals_for(&car.payload_cid, m)).sum();
    eventually!(
        {
            proposer.pass(Mode::Publish).await?;
            let (of_hanging, of_other): (usize, usize) = (total(hanging), total(other));
            anyhow::ensure!((of_hanging, of_other) == (0, 1), "{of_hanging} and {of_other}");
            anyhow::Ok(())
        },
        "the other CAR is imported and proposed"
    );
    assert_eq!((road.sim.count(IMPORT), open_intents(&road).await?), (2, 1), "the first import still hangs");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn makedeals_says_how_far_it_is() -> anyhow::Result<()> {
    let road = Road::open().await?;
    write_cars(&road, 3).await?;
    let mut hanging = Fault::on("Filecoin.ClientStatelessDeal", FaultKind::Hang);
    // The probe has no parameters.
    hanging.params_contain = Some(WalletConfig::default().address);
    road.sim.inject(hanging);
    let agent =
        road::spawn(command(&road, &["makedeals"], "minerMaxDeals: 1")?, &road.new_path("makedeals.log"))?;
    eventually!(within Duration::from_secs(40), agent.has_logged("0 of 3 proposals").unwrap_or(false), "a line every ten seconds");
    Ok(())
}
