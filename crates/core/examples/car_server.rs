//! What serving a CAR costs: the processor time of a server while curl reads a file at a given rate.
//!
//! `cargo run --release -p carferry-core --example car_server -- FILE [MEGABYTES_PER_SECOND]`
//!
//! What was measured stands in the head of `src/car_server/mod.rs`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carferry_car::{PayloadSize, PieceCid};
use carferry_core::car_server::{CarServer, CarServerOptions, Catalogue, FileStamp, OfferedCar};
use carferry_core::config::sections::CarServerSection;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Clock ticks a second in `/proc`. Source: Linux `USER_HZ`, 100 on all common architectures.
const TICKS: f64 = 100.0;

/// Processor time of this process so far, in seconds: its own, and the system's for it.
fn processor_seconds() -> Result<(f64, f64), Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let mut ticks = after_name.split(' ').skip(11);
    let mut next = || Ok::<_, Box<dyn Error>>(ticks.next().unwrap_or_default().parse::<f64>()? / TICKS);
    Ok((next()?, next()?))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("name a file")?);
    let rate: u64 = arguments.next().as_deref().unwrap_or("125").parse()?;
    let metadata = path.metadata()?;
    // The server does not hash: which piece the file is was the agent's to find out.
    let piece_cid = PieceCid::from_commitment([0; 32]);
    let (catalogue, _misses) = Catalogue::new();
    let size = PayloadSize::new(metadata.len());
    catalogue.offer(OfferedCar { piece_cid, path, size, stamp: FileStamp::of(&metadata) });
    let section = CarServerSection { listen: Some("127.0.0.1:0".to_owned()), ..CarServerSection::default() };
    let options = CarServerOptions::of(&section, Duration::from_secs(1))?.ok_or("no address")?;
    let server = CarServer::bind(options, Arc::clone(&catalogue)).await?;
    let url = format!("{}?id={piece_cid}", server.url());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let stopped = stop.clone();
    tasks.spawn(async move { server.run(&stopped).await });

    let before = processor_seconds()?;
    let began = tokio::time::Instant::now();
    let mut curl = Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "--limit-rate", &format!("{rate}M"), &url]);
    let status = curl.status().await?;
    let (elapsed, after) = (began.elapsed().as_secs_f64(), processor_seconds()?);
    let (own, system) = (after.0 - before.0, after.1 - before.1);
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    let mut out = carferry_core::printer::Printer::stdout();
    let megabytes = f64::from(u32::try_from(metadata.len() / 1_000_000)?);
    out.line(format_args!(
        "{status}: {megabytes} MB in {elapsed:.1} s ({:.0} MB/s); {own:.2} s of processor for the program and {system:.2} s \
         for the system: {:.1} % of a core",
        megabytes / elapsed,
        (own + system) / elapsed * 100.0
    ))?;
    Ok(())
}
