//! How proposals are sent and settled: what cannot succeed now keeps nothing else waiting.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use bson::{Document, doc};
use carferry_core::lotus::wire::{CidLink, DataRef, StartDealParams};
use carferry_core::model::PublishMethod;
use carferry_core::rpc::{BootInstant, CallTimeouts, Client};
use client_agent::propose::terms::MethodChoice;
use client_agent::propose::{DealState, Held, Mode, Proposer};
use harness::test_env::{Car, MINER, TestEnv};
use harness::{eventually, eventually_eq, test_env};
use lotus_sim::{Fault, FaultKind, Permission, SimConfig, WalletConfig};
use serde_json::{Value, json};

use crate::deals::{DataPrep, START, deals, open_intents, write_cars};

const IMPORT: &str = "Filecoin.ClientImport";
const LIST_IMPORTS: &str = "Filecoin.ClientListImports";
const LATER_WALLET: &str = "f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za";
/// More than one queue holds.
const POISONED: usize = 70;

/// CARs whose files the node cannot open.
async fn write_poison(env: &TestEnv, count: usize) -> anyhow::Result<()> {
    for number in 0..count {
        let mut document = env.car(&format!("poison {number} "))?.document();
        document.insert("outputpath", format!("/nowhere/{number}.car"));
        env.cars().insert_one(document).await?;
    }
    Ok(())
}

/// A command of client-agent, ready to be started.
fn command(env: &TestEnv, words: &[&str], setting: &str) -> anyhow::Result<std::process::Command> {
    let file = env.new_path("client.yaml");
    let text = format!(
        "miners: [{{miner: {MINER}, price: 0}}]\nsetting: {{wallet: {}, duration: 200, agentName: box-1, {setting}}}\n\
         lotus: {{endpoint: '{}', token: '{}', requestTimeout: 5s}}\nmongodb: {{uri: '{}', database: '{}'}}\n",
        WalletConfig::default().address,
        env.sim.full_node_url(),
        env.sim.token(Permission::Admin),
        env.uri,
        env.db.name(),
    );
    fs::write(&file, text)?;
    let mut command = test_env::client_agent_command()?;
    command.args(words).arg("-c").arg(file).stdin(Stdio::null());
    Ok(command)
}

fn intents(env: &TestEnv) -> mongodb::Collection<Document> {
    env.db.collection("dealintents")
}

fn proposed(env: &TestEnv, car: &Car) -> usize {
    env.sim.proposals_for(&car.payload_cid, MINER)
}

async fn idle(proposer: &Proposer) {
    eventually!(within Duration::from_secs(30), proposer.is_idle(), "the queues are empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_hopeless_intents_than_a_queue_holds_neither_starve_a_provider_nor_keep_makedeals_running()
-> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_poison(&env, POISONED).await?;
    let good = write_cars(&env, 3).await?;
    let ended = command(&env, &["makedeals"], "publishMethod: start")?.output()?;
    let (said, log) = (String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?);
    assert_eq!(ended.status.code(), Some(3), "partly: {said}{log}");
    assert!(
        said.contains("3 deals published, 0 found from earlier runs, 0 refused, 70 not confirmed yet"),
        "{said}"
    );
    assert!(good.iter().all(|car| proposed(&env, car) == 1), "{said}");
    let waiting =
        doc! { "state": "intended", "tries": 1, "nexttry": { "$type": "date" }, "reason": { "$ne": null } };
    assert_eq!(intents(&env).count_documents(waiting).await?, POISONED as u64);

    // Another run gives each of them one call, however many they are, and says so line by line.
    let due = doc! { "$unset": { "nexttry": 1 } };
    intents(&env).update_many(doc! { "state": "intended" }, due.clone()).await?;
    let ended = command(&env, &["makedeals", "--json"], "publishMethod: start")?.output()?;
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
    assert_eq!(intents(&env).count_documents(twice).await?, POISONED as u64);

    // An agent that goes on takes new CARs beside them, whether or not they are due.
    let client = DataPrep::of(&env, START).await?;
    let late = env.car("a good one that comes late ")?;
    env.cars().insert_one(late.document()).await?;
    intents(&env).update_many(doc! { "state": "intended" }, due).await?;
    let mut proposer = client.proposer();
    proposer.pass(Mode::Publish).await?;
    idle(&proposer).await;
    assert_eq!(proposed(&env, &late), 1);
    let tried_again = intents(&env).count_documents(doc! { "state": "intended", "tries": 3 }).await?;
    assert!((1..POISONED as u64).contains(&tried_again), "{tried_again} at a time");
    Ok(())
}

#[tokio::test]
async fn a_postponed_intent_is_called_when_it_is_due_and_not_before() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_poison(&env, 1).await?;
    let client = DataPrep::of(&env, START).await?;
    client.pass().await?;
    assert_eq!(env.sim.count(IMPORT), 1);
    for (next, calls) in [(600, 1), (-1, 2), (7200, 3)] {
        // The last is a time that no agent sets: a server's clock was ahead.
        let moment = doc! { "$add": ["$$NOW", next * 1000_i64] };
        intents(&env).update_many(doc! {}, vec![doc! { "$set": { "nexttry": moment } }]).await?;
        client.pass().await?;
        assert_eq!(env.sim.count(IMPORT), calls, "due in {next} s");
    }
    Ok(())
}

#[tokio::test]
async fn cars_of_another_host_are_not_offered_to_a_node_that_must_read_them() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    for (name, host) in [("own ", Some("box-1")), ("foreign ", Some("box-2")), ("of the prototype ", None)] {
        let mut document = env.car(name)?.document();
        document.extend(host.map(|host| doc! { "host": host }).unwrap_or_default());
        env.cars().insert_one(document).await?;
    }
    let mut client = DataPrep::of(&env, START).await?;
    let report = client.pass().await?;
    assert_eq!(report.count(DealState::Published), 2, "{report:?}");
    assert_eq!(report.held.get(&Held::OutOfReach), Some(&1), "{report:?}");
    client.terms.own_cars_only = Some(false);
    assert_eq!(client.pass().await?.count(DealState::Published), 1);

    let env = TestEnv::open().await?;
    let mut document = env.car("foreign ")?.document();
    document.insert("host", "box-2");
    env.cars().insert_one(document).await?;
    let mut client = DataPrep::of(&env, MethodChoice::Auto).await?;
    client.terms.own_cars_only = Some(true);
    assert_eq!(client.pass().await?.count(DealState::Published), 0);
    client.terms.own_cars_only = None;
    assert_eq!(client.pass().await?.count(DealState::Published), 1, "stateless deals need no import");
    Ok(())
}

#[tokio::test]
async fn a_root_that_the_node_has_dropped_is_imported_again() -> anyhow::Result<()> {
    let env = TestEnv::open_with(crate::deals::two_miners()).await?;
    let cars = write_cars(&env, 1).await?;
    let mut client = DataPrep::of(&env, START).await?;
    // The second deal of the CAR is for the second pass.
    client.limits.deals_per_pass_max = Some(1);
    let mut proposer = client.proposer();
    proposer.pass(Mode::Publish).await?;
    idle(&proposer).await;
    assert_eq!((proposed(&env, cars.first().context("one")?), env.sim.count(IMPORT)), (1, 1));

    let node = Client::new(
        &env.sim.full_node_url(),
        Some(&env.sim.token(Permission::Admin)),
        CallTimeouts::default(),
    )?;
    let _void: Value =
        node.call("Filecoin.ClientRemoveImport", vec![json!(1)], Duration::from_secs(5)).await?;
    eventually!(
        {
            // The provider may need more than one pass to tell its terms.
            proposer.pass(Mode::Publish).await?;
            anyhow::ensure!(deals(&env).await?.len() == 2, "the second deal is not made yet");
            anyhow::Ok(())
        },
        "the second deal is made"
    );
    assert_eq!((env.sim.count(IMPORT), env.sim.count(LIST_IMPORTS)), (2, 2));
    Ok(())
}

#[tokio::test]
async fn an_import_whose_answer_was_lost_is_looked_for_before_it_is_repeated() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, START).await?;
    env.sim.inject(Fault::on(IMPORT, FaultKind::DropAfterWork).times(1));
    let mut proposer = client.proposer();
    proposer.pass(Mode::Publish).await?;
    idle(&proposer).await;
    assert_eq!((proposed(&env, cars.first().context("one")?), open_intents(&env).await?), (0, 1));
    eventually!(
        {
            proposer.pass(Mode::Publish).await?;
            anyhow::ensure!(open_intents(&env).await? == 0, "still open");
            anyhow::Ok(())
        },
        "the deal is made"
    );
    assert_eq!((proposed(&env, cars.first().context("one")?), env.sim.count(IMPORT)), (1, 1));
    Ok(())
}

#[tokio::test]
async fn intents_of_an_earlier_wallet_are_settled() -> anyhow::Result<()> {
    let later = WalletConfig { address: LATER_WALLET.to_owned(), ..WalletConfig::default() };
    let wallets = vec![WalletConfig::default(), later];
    let env = TestEnv::open_with(SimConfig { wallets, ..SimConfig::default() }).await?;
    write_cars(&env, 1).await?;
    let mut client = DataPrep::of(&env, MethodChoice::Auto).await?;
    let mut proposer = client.proposer();
    // The probe has no parameters.
    let mut lost = Fault::on("Filecoin.ClientStatelessDeal", FaultKind::DropAfterWork).times(1);
    lost.params_contain = Some(client.terms.wallet.clone());
    env.sim.inject(lost);
    proposer.pass(Mode::Publish).await?;
    eventually_eq!(env.sim.deals().len(), 1, "the deal is made");
    proposer.finish().await;
    assert_eq!((deals(&env).await?.len(), open_intents(&env).await?), (0, 1));

    client.terms.wallet = LATER_WALLET.to_owned();
    client.pass().await?;
    let recorded = deals(&env).await?;
    let wallet = recorded.first().context("nothing was settled")?.get_str("wallet")?;
    assert_eq!((recorded.len(), open_intents(&env).await?), (1, 0));
    assert_eq!(wallet, WalletConfig::default().address);
    Ok(())
}

#[tokio::test]
async fn a_proposal_is_not_sent_after_its_time() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 1).await?;
    let car = cars.first().context("one")?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
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
        deal_start_epoch: env.sim.height() + 5000,
        fast_retrieval: true,
        verified_deal: false,
    };
    let stateless = PublishMethod::Stateless;
    let error =
        client.node.publish(stateless, &params, BootInstant::now()).await.err().context("it was sent")?;
    assert!(error.effect_is_unknown(), "{error}");
    assert_eq!(env.sim.count("Filecoin.ClientStatelessDeal"), 0);
    client.node.publish(stateless, &params, BootInstant::now().plus(Duration::from_secs(60))).await?;
    assert_eq!(proposed(&env, car), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_refilled_before_the_next_look_for_cars_is_due() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 100).await?;
    let agent = test_env::spawn(command(&env, &["run"], "planInterval: 300s")?, &env.new_path("client.log"))?;
    let made = || cars.iter().filter(|car| proposed(&env, car) == 1).count();
    eventually!(within Duration::from_secs(60), made() == cars.len(), "all are proposed");
    drop(agent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn makedeals_says_at_ctrl_c_how_many_are_left() -> anyhow::Result<()> {
    const METHOD: &str = "Filecoin.ClientStatelessDeal";
    let env = TestEnv::open().await?;
    write_cars(&env, 3).await?;
    let mut hanging = Fault::on(METHOD, FaultKind::Hang);
    // The probe has no parameters.
    hanging.params_contain = Some(WalletConfig::default().address);
    env.sim.inject(hanging);
    let log = env.new_path("makedeals.log");
    let mut agent = test_env::spawn(command(&env, &["makedeals"], "minerMaxDeals: 1")?, &log)?;
    eventually!(
        {
            let open = open_intents(&env).await?;
            anyhow::ensure!(env.sim.count(METHOD) >= 2 && open == 3, "{open} are open");
            anyhow::Ok(())
        },
        "the first proposal is under way, the others are queued"
    );
    agent.signal(rustix::process::Signal::INT)?;
    eventually!(within Duration::from_secs(30), !agent.is_running(), "the run ends");
    let said = fs::read_to_string(&log)?;
    assert!(said.contains("run the same command again for the rest"), "{said}");
    assert!(said.contains("\"proposals\":3"), "{said}");
    assert_eq!(open_intents(&env).await?, 3);
    Ok(())
}

/// What `retry` needs is the database alone.
#[tokio::test(flavor = "multi_thread")]
async fn retry_says_what_it_would_forget_and_forgets_it_without_a_wallet() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 1).await?;
    env.sim.reject_next(MINER, "miner is not accepting offline storage deals");
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    assert_eq!(client.pass().await?.count(DealState::Refused), 1);
    let config = env.new_path("database-only.yaml");
    fs::write(&config, format!("mongodb: {{uri: '{}', database: '{}'}}\n", env.uri, env.db.name()))?;
    let retry = |words: &[&str]| -> anyhow::Result<String> {
        let mut command = test_env::client_agent_command()?;
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
    let env = TestEnv::open_with(crate::deals::two_miners()).await?;
    let cars = write_cars(&env, 2).await?;
    let [hanging, other] = cars.as_slice() else { anyhow::bail!("two CARs") };
    let mut client = DataPrep::of(&env, START).await?;
    // One deal a CAR and a provider: each CAR is in a queue of its own.
    (client.limits.replicas_max, client.limits.open_deals_per_miner_max) = (1, Some(1));
    let mut hang = Fault::on(IMPORT, FaultKind::Hang);
    hang.params_contain = Some(hanging.path.display().to_string());
    env.sim.inject(hang);
    let mut proposer = client.proposer();
    let total = |car: &Car| env.sim.miners().iter().map(|m| env.sim.proposals_for(&car.payload_cid, m)).sum();
    eventually!(
        {
            proposer.pass(Mode::Publish).await?;
            let (of_hanging, of_other): (usize, usize) = (total(hanging), total(other));
            anyhow::ensure!((of_hanging, of_other) == (0, 1), "{of_hanging} and {of_other}");
            anyhow::Ok(())
        },
        "the other CAR is imported and proposed"
    );
    assert_eq!((env.sim.count(IMPORT), open_intents(&env).await?), (2, 1), "the first import still hangs");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn makedeals_says_how_far_it_is() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 3).await?;
    let mut hanging = Fault::on("Filecoin.ClientStatelessDeal", FaultKind::Hang);
    // The probe has no parameters.
    hanging.params_contain = Some(WalletConfig::default().address);
    env.sim.inject(hanging);
    let agent =
        test_env::spawn(command(&env, &["makedeals"], "minerMaxDeals: 1")?, &env.new_path("makedeals.log"))?;
    eventually!(within Duration::from_secs(40), agent.has_logged("0 of 3 proposals").unwrap_or(false), "a line every ten seconds");
    Ok(())
}
