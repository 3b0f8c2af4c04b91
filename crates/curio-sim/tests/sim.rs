//! The simulator keeps Curio's rules: against a locator of these tests' own, on raw sockets.

#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use curio_sim::{Call, CurioConfig, CurioSim, Locator, Proposal, Release, State, start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What a locator of the tests does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    /// Serves the bytes, ranges included.
    Good,
    /// Says 200 to HEAD, and serves other bytes of the same number.
    WrongBytes,
    /// Answers with this status.
    Status(u16),
    /// Cuts every answer after so many bytes.
    Cuts(usize),
    /// Serves fewer bytes than HEAD told.
    Short,
}

struct FakeLocator {
    url: String,
    conduct: Arc<Mutex<Conduct>>,
    _task: JoinSet<()>,
}

impl FakeLocator {
    async fn new(conduct: Conduct, bytes: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/piece", listener.local_addr().unwrap());
        let conduct = Arc::new(Mutex::new(conduct));
        let shared = Arc::clone(&conduct);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (mut stream, _peer) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..count]).to_lowercase();
                let conduct = *shared.lock().unwrap();
                let answer = answer(conduct, &request, &bytes);
                // The simulator may have gone away.
                let _gone = stream.write_all(&answer).await;
            }
        });
        Self { url, conduct, _task: task }
    }

    fn becomes(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap() = conduct;
    }
}

fn answer(conduct: Conduct, request: &str, bytes: &[u8]) -> Vec<u8> {
    if let Conduct::Status(status) = conduct {
        return format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes();
    }
    let range = request.lines().find_map(|line| line.strip_prefix("range: bytes="));
    let first: usize = range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0);
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let mut body = bytes[first..].to_vec();
    match conduct {
        Conduct::WrongBytes => body.iter_mut().for_each(|byte| *byte ^= 1),
        Conduct::Short if !request.starts_with("head") => body.truncate(bytes.len() / 2),
        _ => {}
    }
    let mut answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
            .into_bytes();
    if let Conduct::Cuts(after) = conduct
        && range.is_some()
    {
        body.truncate(after);
    }
    if !request.starts_with("head") {
        answer.extend(body);
    }
    answer
}

fn content() -> Vec<u8> {
    (0..3000_usize).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn proposal() -> Proposal {
    let piece = carferry_car::piece_of(&content()[..], &carferry_car::NoProgress).unwrap();
    Proposal {
        miner: "f01000".to_owned(),
        piece_cid: piece.piece_cid.to_string(),
        piece_size: piece.padded_piece_size.get(),
        start_epoch: 1_000_000,
    }
}

fn config(locators: &[&FakeLocator]) -> CurioConfig {
    CurioConfig {
        locators: locators.iter().map(|one| Locator { url: one.url.clone(), headers: Vec::new() }).collect(),
        allowed_hosts: vec!["127.0.0.1".to_owned()],
        poll_interval: Duration::from_millis(50),
        read_pause: Duration::from_millis(10),
        ..CurioConfig::default()
    }
}

async fn reaches(sim: &CurioSim, uuid: &str, state: State) {
    let until = async {
        while sim.deal(uuid).unwrap().state != state {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(60), until).await;
    assert!(reached.is_ok(), "{:?}, {:?}", sim.deal(uuid), sim.calls());
}

fn count(sim: &CurioSim, is_counted: impl Fn(&Call) -> bool) -> usize {
    sim.calls().iter().filter(|call| is_counted(call)).count()
}

#[tokio::test]
async fn a_good_locator_brings_a_deal_to_its_sector() {
    let good = FakeLocator::new(Conduct::Good, content()).await;
    let elsewhere = FakeLocator::new(Conduct::Status(404), Vec::new()).await;
    let sim = start(config(&[&good, &elsewhere])).await.unwrap();
    let uuid = sim.propose(proposal());
    reaches(&sim, &uuid, State::Sealed).await;
    let deal = sim.deal(&uuid).unwrap();
    assert_eq!((deal.raw_size, deal.sector), (Some(3000), Some(1)));
    assert!(!deal.is_in_pipeline());
    let range = count(&sim, |call| call.what == "GET bytes=0-2999" && call.status == Some(206));
    assert_eq!(range, 1, "a range also from 0: {:?}", sim.calls());
}

#[tokio::test]
async fn another_status_than_404_ends_the_search_for_the_pass() {
    let broken = FakeLocator::new(Conduct::Status(503), Vec::new()).await;
    let sim = start(config(&[&broken])).await.unwrap();
    let uuid = sim.propose(proposal());
    while count(&sim, |call| call.status == Some(503)) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sim.deal(&uuid).unwrap().state, State::Waiting, "a waiting deal waits for ever");
    broken.becomes(Conduct::Status(404));
    while count(&sim, |call| call.status == Some(404)) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sim.deal(&uuid).unwrap().state, State::Waiting);
}

#[tokio::test]
async fn wrong_and_short_bodies_hang_a_deal_after_three_reads_for_ever() {
    for (conduct, words) in
        [(Conduct::WrongBytes, "commP mismatch calculated"), (Conduct::Short, "number of bytes written")]
    {
        let wrong = FakeLocator::new(conduct, content()).await;
        let sim = start(config(&[&wrong])).await.unwrap();
        let uuid = sim.propose(proposal());
        reaches(&sim, &uuid, State::Hanging).await;
        wrong.becomes(Conduct::Good);
        let asked = sim.calls().len();
        // Two passes of the poller over another deal, and none over this one.
        let other = sim.propose(proposal());
        reaches(&sim, &other, State::Sealed).await;
        let deal = sim.deal(&uuid).unwrap();
        assert_eq!((deal.state, deal.failures), (State::Hanging, 3));
        assert!(deal.history.iter().all(|problem| problem.starts_with(words)), "{:?}", deal.history);
        assert!(sim.calls().len() > asked);
    }
}

#[tokio::test]
async fn a_read_that_is_cut_goes_on_and_gives_up_after_its_tries() {
    let cuts = FakeLocator::new(Conduct::Cuts(500), content()).await;
    let sim = start(config(&[&cuts])).await.unwrap();
    let uuid = sim.propose(proposal());
    reaches(&sim, &uuid, State::Sealed).await;
    assert!(count(&sim, |call| call.what.starts_with("GET bytes=")) >= 6, "{:?}", sim.calls());

    cuts.becomes(Conduct::Cuts(0));
    let uuid = sim.propose(proposal());
    reaches(&sim, &uuid, State::SectorFailed).await;
    let deal = sim.deal(&uuid).unwrap();
    assert_eq!(count(&sim, |call| call.what == "GET bytes=0-2999"), 1 + 3 * 15, "three tasks of 15 tries");
    assert!(deal.history.iter().all(|problem| problem.contains("failed to read")), "{:?}", deal.history);
}

#[tokio::test]
async fn the_wall_stands_by_release() {
    for (release, is_allowed, state) in [
        (Release(1, 27, 3), false, State::Sealed),
        (Release(1, 27, 4), true, State::SectorFailed),
        (Release(1, 28, 0), false, State::SectorFailed),
        (Release(1, 28, 0), true, State::Sealed),
    ] {
        let good = FakeLocator::new(Conduct::Good, content()).await;
        let allowed_hosts = if is_allowed { vec!["127.0.0.1".to_owned()] } else { Vec::new() };
        let config = CurioConfig { release, allowed_hosts, ..config(&[&good]) };
        let sim = start(config).await.unwrap();
        let uuid = sim.propose(proposal());
        reaches(&sim, &uuid, state).await;
        if state == State::SectorFailed {
            let history = sim.deal(&uuid).unwrap().history;
            assert!(history[0].contains("non-public ip 127.0.0.1 is not allowed"), "{history:?}");
        }
    }
}

#[tokio::test]
async fn a_woken_poller_looks_at_once_where_the_release_has_that() {
    for (release, expected) in [(Release(1, 28, 2), "404"), (Release(1, 28, 3), "200")] {
        let good = FakeLocator::new(Conduct::Good, content()).await;
        // No second pass by itself within this test.
        let poll_interval = Duration::from_secs(3600);
        let sim = start(CurioConfig { release, poll_interval, ..config(&[&good]) }).await.unwrap();
        let first = sim.propose(proposal());
        let mut stream =
            tokio::net::TcpStream::connect(sim.url().trim_start_matches("http://")).await.unwrap();
        let request = "POST /market/wake-poller HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{answer}");
        if expected == "200" {
            reaches(&sim, &first, State::Sealed).await;
        }
    }
}
