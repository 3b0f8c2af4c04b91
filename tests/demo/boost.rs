//! The road of the demo where the market is Boost: another client, which uses no database of Carferry,
//! proposes deals for the pieces that client-agent packed, and miner-agent adopts and imports them.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;
use std::{fmt, io};

use anyhow::{Context as _, ensure};
use carferry_core::model::{CarDoc, ImportState, OfflineDealDoc};
use carferry_core::store::Store;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::configs::{quoted, write_private};
use crate::processes::{Errors, Process};
use crate::programs::Programs;
use crate::step_log::StepLog;
use crate::summary::{Goal, Summary};
use crate::{making, watching};

const SIMULATOR: &str = "boost-sim";
const BOOST_VERSION: &str = "2.5.2";
/// Of each step of a deal: publish, confirm, add the piece, index. At a real provider an hour passes.
const STEP_MS: &str = "1000";

/// What `boost-sim --json` prints.
#[derive(Debug, Deserialize)]
struct Endpoints {
    rpc: String,
    graphql: String,
    control: String,
    miner: String,
    tokens: BTreeMap<String, String>,
}

/// What the road begins with.
#[derive(Debug)]
pub(crate) struct Road<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) folder: &'a Path,
    pub(crate) uri: &'a str,
    pub(crate) input: &'a Path,
    pub(crate) bytes: u64,
}

/// All deals by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    adopted: u64,
    handed: u64,
    checked: u64,
    in_sector: u64,
}

impl Progress {
    fn of(deals: &[OfflineDealDoc]) -> Self {
        let mut progress = Self::default();
        for deal in deals {
            let is_handed = deal.import.as_ref().is_some_and(|import| import.state == ImportState::Handed);
            *(if watching::is_in_sector(deal) {
                &mut progress.in_sector
            } else if deal.isdeal == Some(1) {
                &mut progress.checked
            } else if is_handed {
                &mut progress.handed
            } else {
                &mut progress.adopted
            }) += 1;
        }
        progress
    }

    fn is_checked(&self) -> u64 {
        self.checked + self.in_sector
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { adopted, handed, checked, in_sector } = self;
        write!(formatter, "{adopted}/{handed}/{checked}/{in_sector}")
    }
}

impl Road<'_> {
    /// Goes all of it.
    pub(crate) async fn travel(
        &self,
        log: &mut StepLog,
        sim: &mut Option<Process>,
        agents: &mut Vec<Process>,
        patience: Duration,
    ) -> anyhow::Result<Summary> {
        let Self { programs, folder, uri, .. } = self;
        log.begin("Starting boost-sim, which plays the Boost of one miner");
        let flags = ["--json", "--boost-version", BOOST_VERSION, "--epoch-ms", "0", "--step-ms", STEP_MS];
        let sim = sim.insert(Process::start(SIMULATOR, &programs.sim, &flags, folder, Errors::ToLog)?);
        let endpoints: Endpoints = making::first_line(SIMULATOR, sim, folder).await?;
        log.end(SIMULATOR, &format!("Boost {BOOST_VERSION}, {}", endpoints.miner));

        log.begin("Making CARs: client-agent makecars -c client-agent.yaml --input … --output cars");
        let (client, cars_folder) = (folder.join("client-agent.yaml"), folder.join("cars"));
        write_private(
            &client,
            &format!("mongodb:\n  uri: {uri}\n  database: carferry\n\nlog:\n  format: text\n"),
        )?;
        making::cars(programs, folder, &client.to_string_lossy(), self.input, &cars_folder).await?;
        let store = making::store(uri).await?;
        let cars = making::told_cars(&store, self.bytes, log).await?;

        log.begin("Another client proposes deals, and miner-agent run -c … --adopt imports them");
        let wanted = propose(&endpoints, &cars).await?;
        say!("      {wanted} deals wait at Boost for their data, and none is recorded");
        say!("      adopted/handed over/checked by Boost/in a sector");
        let config = folder.join("miner-agent.yaml");
        write_private(&config, &self.miner_agent(&endpoints, &cars_folder)?)?;
        let run = ["run", "-c", &config.to_string_lossy(), "--adopt"];
        agents.push(Process::start("miner-agent", &programs.miner_agent, &run, folder, Errors::ToLog)?);
        let (checked, in_sector) = until_in_sector(&store, wanted, agents, patience).await?;
        let deals = watching::deals(&store).await?;
        log.end("deals", &format!("{} deals are in sectors", deals.len()));
        log.divide_last(&[
            ("importing", checked),
            ("publishing and adding", in_sector.saturating_sub(checked)),
        ]);
        let (stages, total) = log.so_far();
        Ok(Summary::new(self.input, &cars, &deals, Goal::InSector, stages, total))
    }

    fn miner_agent(&self, endpoints: &Endpoints, cars: &Path) -> anyhow::Result<String> {
        let token = self.folder.join("admin.token");
        let admin = endpoints.tokens.get("admin").context("boost-sim gave no admin token")?;
        write_private(&token, admin)?;
        let Endpoints { rpc, graphql, miner, .. } = endpoints;
        Ok(format!(
            "miners:
  - miner: {miner}
    endpoint: {rpc}
    tokenFile: {token}
    # Where Boost lists the deals that wait for their data.
    graphql: {graphql}

mongodb:
  uri: {uri}
  database: carferry

roots:
  - {cars}

setting:
  # Real providers are slower; these are the pauses of a demonstration.
  scanInterval: 5s
  waitInterval: 1s
  providerPollInterval: 1s

log:
  format: text
",
            token = quoted(&token),
            uri = self.uri,
            cars = quoted(cars),
        ))
    }
}

/// A deal for each piece that the miner takes; returns how many.
async fn propose(endpoints: &Endpoints, cars: &[CarDoc]) -> anyhow::Result<u64> {
    let pieces: BTreeMap<&str, &CarDoc> = cars
        .iter()
        .filter(|car| watching::is_large_enough(car))
        .filter_map(|car| Some((car.piececid.as_deref()?, car)))
        .collect();
    for (piece_cid, car) in &pieces {
        let proposal = json!({
            "piece_cid": piece_cid, "piece_size": car.piecesizebytes, "payload_cid": car.filecid,
            "car_size": car.carsizebytes,
        });
        post(&Url::parse(&endpoints.control)?.join("propose")?, &proposal).await?;
    }
    Ok(u64::try_from(pieces.len())?)
}

/// One call of the simulator's control.
async fn post(url: &Url, body: &Value) -> anyhow::Result<()> {
    let (host, port) = (url.host_str().context("no host")?, url.port().context("no port")?);
    let (path, body) = (url.path(), body.to_string());
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}",
        length = body.len(),
    );
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "boost-sim does not take a proposal: {answer}");
    Ok(())
}

/// Shows how far the deals are until all are in sectors. Returns when all were checked by Boost, and when
/// all were there.
async fn until_in_sector(
    store: &Store,
    wanted: u64,
    agents: &mut [Process],
    patience: Duration,
) -> anyhow::Result<(Duration, Duration)> {
    let started = Instant::now();
    let mut checked = None;
    let (mut seen, mut changed, mut shown) = (Progress::default(), started, started);
    let bar = watching::bar(wanted, "in a sector");
    loop {
        for agent in &mut *agents {
            agent.check_runs()?;
        }
        let deals = watching::deals(store).await?;
        let (progress, now) = (Progress::of(&deals), Instant::now());
        if progress.is_checked() >= wanted {
            checked.get_or_insert(now - started);
        }
        let is_done = progress.in_sector >= wanted;
        bar.set_position(progress.in_sector);
        bar.set_message(progress.to_string());
        if !io::stderr().is_terminal() && (is_done || now - shown >= watching::LINE_EVERY) {
            shown = now;
            say!("      {}/{wanted} in a sector  {progress}", progress.in_sector);
        }
        if is_done {
            bar.finish_and_clear();
            let in_sector = now - started;
            return Ok((checked.unwrap_or(in_sector), in_sector));
        }
        watching::check_deals(&deals)?;
        if progress != seen {
            (seen, changed) = (progress, now);
        }
        let why = || watching::reasons(&deals);
        let seconds = patience.as_secs();
        ensure!(now - changed < patience, "nothing has changed for {seconds} s: {seen}{}", why());
        sleep(watching::LOOK_EVERY).await;
    }
}
