//! miner-agent as the locator of a simulated Curio: from a packed CAR to a sealed sector, wrong files, a
//! restart.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bson::{Document, doc};
use carferry_core::curio::CurioWeb;
use curio_sim::{CurioConfig, CurioSim, Locator, Proposal, State};
use harness::test_env::{MINER, Process, TestEnv, miner_agent_command, spawn};
use harness::{eventually, eventually_eq};
use serde_json::Value;

use crate::pack::Pack;

const TOKEN: &str = "s3cret";

/// A miner-agent with a locator on one port, and the Curio that is configured with it.
struct Provider {
    env: TestEnv,
    pack: Pack,
    port: u16,
    state: PathBuf,
}

impl Provider {
    async fn new() -> Self {
        let env = TestEnv::open().await.unwrap();
        let pack = Pack::new(&env.uri, env.db.name());
        // Free now, and most likely still when the agent listens.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let state = env.folder().join("state");
        Self { env, pack, port, state }
    }

    async fn curio(&self, hold_after: Option<u64>) -> CurioSim {
        let headers = vec![("Authorization".to_owned(), format!("Bearer {TOKEN}"))];
        let locator = Locator { url: format!("http://127.0.0.1:{}/piece", self.port), headers };
        let config = CurioConfig {
            locators: vec![locator],
            allowed_hosts: vec![format!("127.0.0.1:{}", self.port)],
            poll_interval: Duration::from_millis(500),
            read_pause: Duration::from_millis(200),
            hold_after,
            ..CurioConfig::default()
        };
        curio_sim::start(config).await.unwrap()
    }

    /// A miner-agent of this provider, which has its CARs in this folder.
    fn agent(&self, folder: &Path, curio: &CurioSim) -> Process {
        let mut command = miner_agent_command().unwrap();
        command.arg("run").arg("-c").arg(self.env.import_yaml(&[MINER]).unwrap());
        command.arg("--roots").arg(folder).arg("--state-dir").arg(&self.state);
        command.args(["--locator-listen", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--curio-nodes", &curio.url(), "--scan-interval", "1s"]);
        command.env("CARFERRY_SETTING__LOCATOR__TOKEN", TOKEN);
        spawn(command, &self.env.new_path("miner-agent.log")).unwrap()
    }

    /// Packs a file, records a deal about its CAR, and proposes it to Curio: the deal's UUID there, and the
    /// line of `makecars`.
    async fn deal(&self, curio: &CurioSim, name: &str, bytes: usize) -> (String, Value) {
        let mut numbers = fastrand::Rng::with_seed(bytes as u64);
        self.pack.write(name, &std::iter::repeat_with(|| numbers.u8(..)).take(bytes).collect::<Vec<_>>());
        let ended = self.pack.run(&[]);
        let line = ended.lines.iter().find(|line| line["file"].as_str().unwrap().ends_with(name)).unwrap();
        let car = doc! { "piececid": line["piececid"].as_str().unwrap() };
        let car = self.env.db.collection::<Document>("cars").find_one(car).await.unwrap().unwrap();
        let deal = doc! {
            "filecid": car.get_str("filecid").unwrap(), "dealcid": proposal_cid(name), "miner": MINER,
            "isdeal": 0, "status": 18, "piececid": car.get_str("piececid").unwrap(),
            "dealsizebytes": car.get_i64("dealsizebytes").unwrap(), "startepoch": 9_000_000_i64,
            "createdtime": bson::DateTime::now(),
        };
        self.env.deals().insert_one(deal).await.unwrap();
        let uuid = curio.propose(Proposal {
            miner: MINER.to_owned(),
            piece_cid: car.get_str("piececid").unwrap().to_owned(),
            piece_size: u64::try_from(car.get_i64("piecesizebytes").unwrap()).unwrap(),
            start_epoch: 9_000_000,
        });
        (uuid, line.clone())
    }

    fn car(&self, name: &str) -> PathBuf {
        self.pack.output.join(format!("{name}.car"))
    }
}

/// A proposal CID that no node knows.
fn proposal_cid(name: &str) -> String {
    let digest: [u8; 32] =
        sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(name)).into();
    let bytes = [&[0x01, 0x71, 0x12, 0x20][..], &digest].concat();
    format!("b{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase())
}

fn state(curio: &CurioSim, uuid: &str) -> State {
    curio.deal(uuid).unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_car_becomes_a_sealed_sector_of_curio() {
    let provider = Provider::new().await;
    let curio = provider.curio(None).await;
    let agent = provider.agent(&provider.pack.output, &curio);
    let (uuid, line) = provider.deal(&curio, "a.bin", 3_000_000).await;
    eventually_eq!(state(&curio, &uuid), State::Sealed, "Curio takes the deal to its sector");
    let deal = curio.deal(&uuid).unwrap();
    let size = fs::metadata(provider.car("a.bin")).unwrap().len();
    assert_eq!((deal.raw_size, deal.failures), (Some(size), 0), "{line}");
    assert!(
        curio.calls().iter().any(|call| call.what == "woken"),
        "the poller is woken: {:?}",
        curio.calls()
    );
    let strange: Vec<_> = curio
        .calls()
        .into_iter()
        .filter(|call| call.what != "woken" && !matches!(call.status, Some(200 | 206 | 404)))
        // Before the agent listens, and nothing later.
        .filter(|call| !call.error.as_deref().is_some_and(|error| error.contains("refused")))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert!(agent.has_logged("offered").unwrap());

    let web = CurioWeb::new(&curio.url(), Duration::from_secs(20)).unwrap();
    let told = web.deal(&uuid).await.unwrap().unwrap();
    assert_eq!((told.raw_size, told.sector), (i64::try_from(size).ok(), Some(1)));
    assert_eq!((told.piece_cid.as_deref(), told.indexed), (line["piececid"].as_str(), Some(true)));
    assert_eq!(web.deal("none").await.unwrap(), None);
    assert!(web.pipelines(0).await.unwrap().is_empty(), "its row is gone");
    assert!(web.version().await.unwrap().starts_with("1.28.4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_never_offered() {
    let provider = Provider::new().await;
    let curio = provider.curio(None).await;
    let folder = provider.env.folder().join("here");
    fs::create_dir(&folder).unwrap();
    let (uuid, _line) = provider.deal(&curio, "a.bin", 3_000_000).await;
    let good = fs::read(provider.car("a.bin")).unwrap();
    // The right size and the right root, and one other bit in the middle.
    let mut wrong = good.clone();
    wrong[1_500_000] ^= 1;
    fs::remove_file(provider.car("a.bin")).unwrap();
    fs::write(folder.join("a.bin.car"), &wrong).unwrap();
    let agent = provider.agent(&folder, &curio);
    eventually!(agent.has_logged("is not the deal's piece").unwrap(), "the wrong file is hashed and named");
    let asked = || curio.calls().iter().filter(|call| call.status == Some(404)).count();
    let before = asked();
    eventually!(asked() > before + 2, "Curio asks on");
    let deal = curio.deal(&uuid).unwrap();
    assert_eq!((deal.state, deal.failures), (State::Waiting, 0));
    assert!(curio.calls().iter().all(|call| call.status != Some(200) || call.what == "woken"));

    fs::write(folder.join("a.bin.car"), &good).unwrap();
    eventually_eq!(state(&curio, &uuid), State::Sealed, "the right file is offered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_for_sealing_survives_a_restart_of_the_locator() {
    let provider = Provider::new().await;
    let curio = provider.curio(Some(2 << 20)).await;
    let mut agent = provider.agent(&provider.pack.output, &curio);
    // More than the system's buffers between the two hold.
    let (uuid, _line) = provider.deal(&curio, "a.bin", 48 << 20).await;
    eventually!(curio.is_held(), "Curio reads for sealing");
    agent.kill9().unwrap();
    let mut again = provider.agent(&provider.pack.output, &curio);
    eventually!(again.has_logged("the locator listens").unwrap(), "it is back");
    curio.release();
    eventually_eq!(state(&curio, &uuid), State::Sealed, "the read goes on where it was");
    let deal = curio.deal(&uuid).unwrap();
    assert_eq!((deal.failures, deal.history.len()), (0, 0), "{:?}", deal.history);
    let resumed = curio.calls().into_iter().filter(|call| call.what.starts_with("GET bytes=")).count();
    assert!(resumed >= 2, "{:?}", curio.calls());
    assert!(!again.has_logged("computing the piece CID").unwrap(), "nothing is hashed again");
    again.kill9().unwrap();
}
