//! From `cars` to tracked deals: client-agent against a simulated Lotus and a real database.

use std::time::Duration;

use anyhow::Context as _;
use bson::{Document, doc};
use carferry_core::config::MongoTarget;
use carferry_core::error_chain::Hint as _;
use carferry_core::lotus::FullNode;
use carferry_core::model::{AttoFil, PublishMethod};
use carferry_core::rpc::{CallTimeouts, Client};
use carferry_core::store::{IndexUser, Store, StoreOptions};
use client_agent::config::{StartDelay, SyncRule};
use client_agent::propose::lotus::preflight::PreflightError;
use client_agent::propose::policy::HoldReason;
use client_agent::propose::terms::{Limits, MethodChoice, Target, Terms};
use client_agent::propose::{DealState, Held, Mode, ProposeError, Proposer, Report};
use client_agent::track::Tracker;
use harness::eventually;
use harness::test_env::{Car, MINER, TestEnv};
use lotus_sim::{Fault, FaultKind, LotusVersion, MinerConfig, Permission, SimConfig, WalletConfig};
use tokio_util::sync::CancellationToken;

pub(crate) const OTHER: &str = "f01001";
const LIMITS: Limits = Limits {
    replicas_max: 10,
    deals_per_payload_and_miner_max: 1,
    open_deals_per_miner_max: None,
    deals_per_pass_max: None,
    failures_max: 3,
    failures_within: Duration::from_secs(3600),
};
pub(crate) const START: MethodChoice = MethodChoice::Only(PublishMethod::Start);

pub(crate) fn two_miners() -> SimConfig {
    SimConfig { miners: vec![MinerConfig::new(MINER), MinerConfig::new(OTHER)], ..SimConfig::default() }
}

fn of_version(version: LotusVersion) -> SimConfig {
    SimConfig { version, ..two_miners() }
}

/// client-agent's side of a test environment.
pub(crate) struct DataPrep {
    pub(crate) store: Store,
    pub(crate) node: FullNode,
    pub(crate) terms: Terms,
    pub(crate) targets: Vec<Target>,
    pub(crate) limits: Limits,
}

impl DataPrep {
    pub(crate) async fn of(env: &TestEnv, method: MethodChoice) -> anyhow::Result<Self> {
        let options = StoreOptions {
            target: MongoTarget::parse(&env.uri, env.db.name())?,
            app_name: "client-agent test".to_owned(),
            call_timeout: Duration::from_secs(10),
        };
        let store = Store::open(&options).await?;
        store.ensure_indexes(IndexUser::ClientAgent).await?;
        let token = env.sim.token(Permission::Admin);
        let client = Client::new(&env.sim.full_node_url(), Some(&token), CallTimeouts::default())?;
        let terms = Terms {
            wallet: WalletConfig::default().address,
            duration: "200 days".parse()?,
            start_delay: StartDelay::Epochs(5000),
            provider_collateral: None,
            verified: false,
            fast_retrieval: true,
            method,
            sync: SyncRule::Required,
            groups: Vec::new(),
            car_paths: Vec::new(),
            own_cars_only: None,
            owner: "box-1".to_owned(),
        };
        let targets =
            env.sim.miners().into_iter().map(|miner| Target { miner, price: AttoFil::ZERO }).collect();
        Ok(Self { store, node: FullNode::new(client), terms, targets, limits: LIMITS })
    }

    pub(crate) fn proposer(&self) -> Proposer {
        self.proposer_until(CancellationToken::new())
    }

    fn proposer_until(&self, stop: CancellationToken) -> Proposer {
        Proposer::new(
            self.store.clone(),
            self.node.clone(),
            self.terms.clone(),
            self.targets.clone(),
            self.limits,
            stop,
        )
    }

    /// One pass of an agent that lives only for it.
    pub(crate) async fn pass(&self) -> Result<Report, ProposeError> {
        let mut proposer = self.proposer();
        let mut report = proposer.pass(Mode::Publish).await?;
        report.absorb(proposer.finish().await);
        Ok(report)
    }

    pub(crate) fn tracker(&self) -> Tracker {
        Tracker::new(self.store.clone(), self.node.clone(), self.terms.wallet.clone())
    }
}

pub(crate) async fn write_cars(env: &TestEnv, count: usize) -> anyhow::Result<Vec<Car>> {
    let mut cars = Vec::new();
    for number in 0..count {
        let car = env.car(&format!("payload {number} "))?;
        env.cars().insert_one(car.document()).await?;
        cars.push(car);
    }
    Ok(cars)
}

pub(crate) async fn deals(env: &TestEnv) -> anyhow::Result<Vec<Document>> {
    use futures::TryStreamExt as _;
    Ok(env.deals().find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?)
}

pub(crate) async fn open_intents(env: &TestEnv) -> anyhow::Result<u64> {
    let intents = env.db.collection::<Document>("dealintents");
    Ok(intents.count_documents(doc! { "state": "intended" }).await?)
}

/// Every deal of the database is one that the simulator knows, with these terms.
async fn assert_one_deal_each(env: &TestEnv, cars: &[Car], method: &str) -> anyhow::Result<()> {
    let recorded = deals(env).await?;
    assert_eq!(recorded.len(), cars.len() * env.sim.miners().len());
    for car in cars {
        for miner in env.sim.miners() {
            assert_eq!(
                env.sim.proposals_for(&car.payload_cid, &miner),
                1,
                "{} with {miner}",
                car.payload_cid
            );
            let document = recorded
                .iter()
                .find(|deal| {
                    deal.get_str("filecid").ok() == Some(car.payload_cid.as_str())
                        && deal.get_str("miner").ok() == Some(miner.as_str())
                })
                .context("no document for this CAR and miner")?;
            let known =
                env.sim.deal(document.get_str("dealcid")?).context("the simulator knows no such deal")?;
            assert_eq!(document.get_i64("startepoch")?, known.start_epoch);
            assert_eq!(document.get_i32("isdeal")?, 0);
            assert_eq!(document.get_str("method")?, method);
            assert_eq!(document.get_i64("duration")?, 200 * 2880);
        }
    }
    assert_eq!(open_intents(env).await?, 0);
    Ok(())
}

#[tokio::test]
async fn price_zero_goes_stateless_and_a_second_pass_adds_nothing() -> anyhow::Result<()> {
    let env = TestEnv::open_with(two_miners()).await?;
    let cars = write_cars(&env, 3).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    let report = client.pass().await?;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.count(DealState::Published), 6);
    assert_one_deal_each(&env, &cars, "stateless").await?;
    let again = client.pass().await?;
    assert_eq!((again.deals.len(), env.sim.count("Filecoin.ClientStatelessDeal")), (0, 6 + 2), "two probes");
    Ok(())
}

#[tokio::test]
async fn a_node_that_demands_imports_gets_each_root_once() -> anyhow::Result<()> {
    let env = TestEnv::open_with(two_miners()).await?;
    let cars = write_cars(&env, 3).await?;
    let report = DataPrep::of(&env, START).await?.pass().await?;
    assert!(report.is_clean(), "{report:?}");
    assert_one_deal_each(&env, &cars, "start").await?;
    assert_eq!(env.sim.count("Filecoin.ClientImport"), 3);
    Ok(())
}

#[tokio::test]
async fn an_old_node_has_no_stateless_deals_and_needs_no_imports() -> anyhow::Result<()> {
    let env = TestEnv::open_with(of_version(LotusVersion::V1_5)).await?;
    let cars = write_cars(&env, 2).await?;
    let report = DataPrep::of(&env, MethodChoice::Auto).await?.pass().await?;
    assert!(report.is_clean(), "{report:?}");
    assert_one_deal_each(&env, &cars, "start").await?;
    assert_eq!(env.sim.count("Filecoin.ClientImport"), 0);
    Ok(())
}

#[tokio::test]
async fn a_lotus_without_a_market_is_named() -> anyhow::Result<()> {
    let env = TestEnv::open_with(of_version(LotusVersion::V1_27_1)).await?;
    write_cars(&env, 1).await?;
    let error = DataPrep::of(&env, MethodChoice::Auto).await?.pass().await.err().context("it published")?;
    assert!(matches!(error, ProposeError::Preflight(PreflightError::NoMarket { .. })), "{error}");
    assert!(error.hint().context("no hint")?.contains("v1.27.1"));
    assert_eq!(deals(&env).await?.len(), 0);
    Ok(())
}

/// The node makes the deal and the agent never hears of it: the next agent finds it and makes no second.
async fn lost_answer(method: MethodChoice, name: &str, settled: DealState) -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, method).await?;
    // The first call of the method with parameters; the probe has none.
    let mut fault = Fault::on(name, FaultKind::DropAfterWork).times(1);
    fault.params_contain = Some(cars.first().context("one")?.payload_cid.clone());
    if method == START {
        // Otherwise the first call only learns that the root must be imported.
        client.node.import_car(&cars.first().context("one")?.path.display().to_string()).await?;
    }
    env.sim.inject(fault);
    let first = client.pass().await?;
    assert_eq!(first.count(DealState::Unsettled), 1, "{first:?}");
    assert_eq!(deals(&env).await?.len(), 0, "no document without a proposal CID");
    assert_eq!(open_intents(&env).await?, 1);

    let second = client.pass().await?;
    assert_eq!(second.count(settled), 1, "{second:?}");
    assert_eq!(open_intents(&env).await?, 0);
    let recorded = deals(&env).await?;
    assert_eq!((recorded.len(), env.sim.deals().len()), (1, 1));
    assert!(env.sim.deal(recorded.first().context("one")?.get_str("dealcid")?).is_some());
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_of_start_deal_is_found_in_the_nodes_list() -> anyhow::Result<()> {
    lost_answer(START, "Filecoin.ClientStartDeal", DealState::Settled).await
}

#[tokio::test]
async fn a_lost_answer_of_stateless_deal_is_the_same_deal_when_repeated() -> anyhow::Result<()> {
    lost_answer(MethodChoice::Auto, "Filecoin.ClientStatelessDeal", DealState::Published).await
}

#[tokio::test]
async fn a_node_that_lists_nothing_keeps_only_its_own_open_proposals_waiting() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, START).await?;
    let path = cars.first().context("one")?.path.display().to_string();
    client.node.import_car(&path).await?;
    let mut lost = Fault::on("Filecoin.ClientStartDeal", FaultKind::DropAfterWork).times(1);
    lost.params_contain = Some(cars.first().context("one")?.payload_cid.clone());
    env.sim.inject(lost);
    client.pass().await?;
    let failing = FaultKind::ApplicationError("datastore closed".to_owned());
    env.sim.inject(Fault::on("Filecoin.ClientListDeals", failing));
    env.cars().insert_one(env.car("another payload ")?.document()).await?;
    let report = client.pass().await?;
    assert_eq!((report.count(DealState::Unsettled), report.count(DealState::Published)), (1, 1));
    env.sim.clear_faults();
    assert_eq!(client.pass().await?.count(DealState::Settled), 1);
    assert_eq!((deals(&env).await?.len(), env.sim.deals().len()), (2, 2));
    Ok(())
}

#[tokio::test]
async fn two_agents_that_plan_at_once_keep_to_the_limits() -> anyhow::Result<()> {
    plan_at_once("box-2").await
}

/// As when `makedeals` is run by hand beside the daemon of the same box.
#[tokio::test]
async fn two_processes_of_one_name_that_plan_at_once_keep_to_the_limits() -> anyhow::Result<()> {
    plan_at_once("box-1").await
}

async fn plan_at_once(other_owner: &str) -> anyhow::Result<()> {
    let env = TestEnv::open_with(two_miners()).await?;
    let cars = write_cars(&env, 25).await?;
    let one = DataPrep::of(&env, MethodChoice::Auto).await?;
    let mut other = DataPrep::of(&env, MethodChoice::Auto).await?;
    other.terms.owner = other_owner.to_owned();
    let (first, second) = tokio::join!(one.pass(), other.pass());
    let (first, second) = (first?, second?);
    one.pass().await?;
    assert_one_deal_each(&env, &cars, "stateless").await?;
    assert!(first.count(DealState::Refused) + second.count(DealState::Refused) == 0);
    Ok(())
}

#[tokio::test]
async fn a_dry_run_plans_and_touches_nothing() -> anyhow::Result<()> {
    let env = TestEnv::open_with(two_miners()).await?;
    write_cars(&env, 2).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    let plan = client.proposer().pass(Mode::DryRun).await?;
    assert_eq!(plan.count(DealState::Planned), 4);
    assert_eq!(plan.miners.get(OTHER).context("no total")?.deals, 2);
    assert_eq!((deals(&env).await?.len(), open_intents(&env).await?, env.sim.deals().len()), (0, 0, 0));
    Ok(())
}

#[tokio::test]
async fn a_miner_that_cannot_be_asked_and_a_bad_car_stop_nothing_else() -> anyhow::Result<()> {
    let mut config = two_miners();
    if let Some(miner) = config.miners.first_mut() {
        miner.peer_id = None;
    }
    let env = TestEnv::open_with(config).await?;
    let cars = write_cars(&env, 2).await?;
    env.cars().insert_one(doc! { "outputpath": "/prototype.car", "filecid": "stderr text" }).await?;
    let report = DataPrep::of(&env, MethodChoice::Auto).await?.pass().await?;
    assert!(report.miner_problems.get(MINER).context("no problem")?.contains("peer id"));
    assert!(report.car_problems.iter().any(|problem| problem.contains("/prototype.car")), "{report:?}");
    for car in &cars {
        assert_eq!(env.sim.proposals_for(&car.payload_cid, OTHER), 1);
    }
    Ok(())
}

/// More CARs than a lane holds, after a page of documents that cannot be read.
#[tokio::test]
async fn a_pass_goes_on_where_lanes_were_full_and_misses_no_car() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let unreadable = (0..200).map(|number| doc! { "outputpath": number, "dealsizebytes": "many" });
    env.cars().insert_many(unreadable).await?;
    let cars = write_cars(&env, 150).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    let mut proposer = client.proposer();
    let mut passes = 0;
    loop {
        let report = proposer.pass(Mode::Publish).await?;
        passes += 1;
        while !proposer.is_idle() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::ensure!(passes < 100, "{report:?}");
        if !report.found_busy_miners() {
            assert_eq!(report.cars, 150, "{report:?}");
            assert_eq!(u64::try_from(report.car_problems.len())? + report.more_car_problems, 200);
            break;
        }
    }
    assert!(passes > 1, "{passes}");
    for car in &cars {
        assert_eq!(env.sim.proposals_for(&car.payload_cid, MINER), 1);
    }
    // From the first again.
    let report = proposer.pass(Mode::Publish).await?;
    assert_eq!((report.cars, report.found_busy_miners()), (150, false));
    Ok(())
}

#[tokio::test]
async fn a_stop_writes_no_further_intents() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 3).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    let stop = CancellationToken::new();
    let mut proposer = client.proposer_until(stop.clone());
    stop.cancel();
    let report = proposer.pass(Mode::Publish).await?;
    assert_eq!((report.cars, open_intents(&env).await?, env.sim.deals().len()), (0, 0, 0));
    Ok(())
}

#[tokio::test]
async fn a_collateral_is_asked_for_once_and_costs_nothing_where_there_is_none() -> anyhow::Result<()> {
    const METHOD: &str = "Filecoin.StateDealProviderCollateralBounds";
    let env = TestEnv::open_with(two_miners()).await?;
    write_cars(&env, 3).await?;
    let client = DataPrep::of(&env, MethodChoice::Auto).await?;
    env.sim.inject(Fault::on(METHOD, FaultKind::ApplicationError("no such bounds".to_owned())));
    let report = client.pass().await?;
    assert_eq!((report.car_problems.len(), env.sim.count(METHOD)), (3, 1), "{report:?}");
    env.sim.clear_faults();
    env.sim.inject(Fault::on(METHOD, FaultKind::DropBefore).times(1));
    let error = client.pass().await.err().context("it published")?;
    assert!(matches!(error, ProposeError::Preflight(PreflightError::Lotus(_))), "{error}");
    assert_eq!((env.sim.count(METHOD), open_intents(&env).await?), (2, 0));
    Ok(())
}

#[tokio::test]
async fn money_is_counted_before_it_moves() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 3).await?;
    let mut client = DataPrep::of(&env, MethodChoice::Auto).await?;
    // 200 days and the alignment, 1 attoFIL each; enough for two deals.
    let cost = 200 * 2880 + 5758;
    env.sim.set_wallet(&client.terms.wallet, 2 * cost + cost / 2, None);
    if let Some(target) = client.targets.first_mut() {
        target.price = AttoFil::new(1);
    }
    let plan = client.proposer().pass(Mode::DryRun).await?;
    assert_eq!(plan.count(DealState::Planned), 2, "{plan:?}");
    assert!(plan.car_problems.iter().any(|problem| problem.contains("the wallet has")), "{plan:?}");

    client.terms.verified = true;
    let error = client.pass().await.err().context("it published")?;
    assert!(matches!(error, ProposeError::Preflight(PreflightError::NoDatacap { .. })), "{error}");
    client.terms.wallet = "f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za".to_owned();
    let error = client.pass().await.err().context("it published")?;
    assert!(matches!(error, ProposeError::Preflight(PreflightError::WalletUnknown { .. })), "{error}");
    env.sim.set_sync_lag(Duration::from_secs(3600));
    let error = client.pass().await.err().context("it published")?;
    assert!(matches!(error, ProposeError::Preflight(PreflightError::NotSynced { .. })), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_rejected_deal_shows_the_providers_words_and_is_no_replica() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    let cars = write_cars(&env, 1).await?;
    let car = cars.first().context("one")?;
    env.sim.reject_next(MINER, "miner is not accepting offline storage deals");
    let client = DataPrep::of(&env, START).await?;
    client.pass().await?;
    let mut tracker = client.tracker();
    eventually!(
        {
            tracker.pass().await?;
            let recorded = deals(&env).await?;
            let deal = recorded.first().context("one")?;
            let rejected = deal.get_i64("status").ok() == Some(26)
                && deal
                    .get_str("statusmsg")
                    .is_ok_and(|words| words.contains("not accepting offline storage deals"));
            anyhow::ensure!(rejected, "{deal}");
            anyhow::Ok(())
        },
        "the rejection is recorded"
    );
    let paused = client.pass().await?;
    assert_eq!(env.sim.proposals_for(&car.payload_cid, MINER), 1, "{paused:?}");
    assert_eq!(paused.held.get(&Held::By(HoldReason::Pausing)), Some(&1), "{paused:?}");
    Ok(())
}

/// Packed, published, imported by a real miner-agent, followed until the deal is active.
async fn whole_road(method: MethodChoice) -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 5).await?;
    let client = DataPrep::of(&env, method).await?;
    assert!(client.pass().await?.is_clean());
    let agent = env.miner_agent()?;
    let mut tracker = client.tracker();
    eventually!(
        {
            tracker.pass().await?;
            let active = doc! {
                "isdeal": 1, "status": 7, "statusmsg": "StorageDealActive", "dealid": { "$gt": 0 }
            };
            let active = env.deals().count_documents(active).await?;
            anyhow::ensure!(active == 5, "{active} of 5");
            anyhow::Ok(())
        },
        "every deal is active"
    );
    agent.end().await?;
    for deal in env.sim.deals() {
        assert_eq!(env.sim.imports_for(&deal.proposal_cid), 1);
    }
    Ok(())
}

#[tokio::test]
async fn the_whole_road_with_deals_the_node_follows() -> anyhow::Result<()> {
    whole_road(START).await
}

#[tokio::test]
async fn the_whole_road_with_stateless_deals() -> anyhow::Result<()> {
    whole_road(MethodChoice::Auto).await
}

#[tokio::test]
async fn an_expired_deal_is_final_and_named() -> anyhow::Result<()> {
    let env = TestEnv::open().await?;
    write_cars(&env, 1).await?;
    let client = DataPrep::of(&env, START).await?;
    client.pass().await?;
    eventually!(
        env.sim.deals().iter().any(|deal| deal.provider.as_ref().is_some_and(|side| side.state.code() == 18)),
        "the provider waits for the data"
    );
    env.sim.advance_epochs(6000);
    let mut tracker = client.tracker();
    eventually!(
        {
            tracker.pass().await?;
            let recorded = deals(&env).await?;
            let words = recorded.first().context("one")?.get_str("statusmsg");
            anyhow::ensure!(words.as_ref().is_ok_and(|words| words.contains("start epoch")), "{words:?}");
            anyhow::Ok(())
        },
        "the missed start epoch is recorded"
    );
    Ok(())
}
