//! What the demo does whichever market it has: CARs, the database, and what a simulator prints first.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use carferry_core::config::MongoTarget;
use carferry_core::model::CarDoc;
use carferry_core::store::{Store, StoreOptions};
use indicatif::BinaryBytes;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use crate::processes::{Errors, Process};
use crate::programs::Programs;
use crate::step_log::StepLog;
use crate::watching;

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The JSON that a simulator prints when it is ready.
pub(crate) async fn first_line<T: DeserializeOwned>(
    name: &str,
    sim: &mut Process,
    folder: &Path,
) -> anyhow::Result<T> {
    let printed = folder.join(format!("{name}.out"));
    let line = async {
        loop {
            sim.check_runs()?;
            let text = fs::read_to_string(&printed)?;
            if text.ends_with('\n') {
                return anyhow::Ok(text);
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let line = timeout(START_TIMEOUT, line).await.with_context(|| format!("{name} does not start"))??;
    serde_json::from_str(&line).with_context(|| format!("{name}'s --json cannot be read"))
}

/// Runs `client-agent makecars`.
pub(crate) async fn cars(
    programs: &Programs,
    folder: &Path,
    config: &str,
    input: &Path,
    output: &Path,
) -> anyhow::Result<()> {
    let (input, output) = (input.to_string_lossy(), output.to_string_lossy());
    let arguments = ["makecars", "-c", config, "--input", &input, "--output", &output];
    let mut makecars = Process::start("makecars", &programs.client_agent, &arguments, folder, Errors::Shown)?;
    let ended = makecars.wait().await?;
    if !ended.success() {
        let said = fs::read_to_string(folder.join("makecars.out")).unwrap_or_default();
        let failed: Vec<&str> = said.lines().filter(|line| line.starts_with("failed")).take(5).collect();
        bail!("client-agent makecars: {ended}\n{}", failed.join("\n"));
    }
    Ok(())
}

/// The CARs that were recorded; ends the step that made them of so many bytes.
pub(crate) async fn told_cars(store: &Store, bytes: u64, log: &mut StepLog) -> anyhow::Result<Vec<CarDoc>> {
    let cars = watching::cars(store).await?;
    ensure!(!cars.is_empty(), "client-agent makecars recorded no CAR");
    let rate = rate(bytes, log.step_time());
    log.end("CARs", &format!("{} CARs recorded, {}/s", cars.len(), BinaryBytes(rate)));
    Ok(cars)
}

/// The database of the demo.
pub(crate) async fn store(uri: &str) -> anyhow::Result<Store> {
    let options = StoreOptions {
        target: MongoTarget::parse(uri, "carferry")?,
        app_name: "demo".to_owned(),
        call_timeout: Duration::from_secs(15),
    };
    Ok(Store::open(&options).await?)
}

fn rate(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}
