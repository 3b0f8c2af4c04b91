//! `DealsImportData` and `MarketImportDealData`: the steps of §3.1, and the success without effect of §3.2.
//!
//! What lives here: one import from the open file to the event. What does not: the states after it
//! (`provider`).

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tokio_util::sync::CancellationToken;

use crate::config::LotusVersion;
use crate::ids::{Cid, random_u64};
use crate::inner::Inner;
use crate::payload::{Piece, commp_of, go_error, go_open_error, pad_commitment};
use crate::reply::{Caller, Reply, RpcError};
use crate::states::DealState;
use crate::world::{Event, Imported, World};

/// The inputs of one import.
struct Job {
    inner: Arc<Inner>,
    miner: String,
    cid: String,
    piece_cid: Cid,
    padded_piece_size: u64,
    staging: PathBuf,
    /// Cancelled when the miner's process ends.
    life: CancellationToken,
    /// Cancelled when the caller goes away.
    gone: CancellationToken,
    delays: [Duration; 2],
}

/// Imports a file for a deal. The work continues if the caller goes away, as in Lotus.
pub(crate) async fn import_data(
    inner: &Arc<Inner>,
    caller: &Caller,
    miner: &str,
    method: &str,
    cid: &str,
    path: &str,
) -> Result<Reply, RpcError> {
    inner.with(|world| world.log.imports_mut(cid).started += 1);
    let what = if method == "DealsImportData" { "given file" } else { "file" };
    let source = PathBuf::from(path);
    let opened = {
        let source = source.clone();
        tokio::task::spawn_blocking(move || File::open(&source)).await.map_err(|error| failed(&error))?
    };
    let file = opened.map_err(|error| {
        RpcError::application(format!("failed to open {what}: {}", go_open_error(&source, &error)))
    })?;
    let (job, number) = inner.with(|world| {
        let found = world
            .deals
            .get(cid)
            .filter(|deal| deal.provider.is_some() && deal.proposal.provider.as_str() == miner);
        let deal = found.ok_or_else(|| {
            RpcError::application(format!(
                "failed getting deal {cid}: No state for /{cid}: datastore: key not found"
            ))
        })?;
        let (piece_cid, padded_piece_size) = (deal.proposal.piece_cid, deal.proposal.padded_piece_size);
        let timings = world.timings(miner);
        let state = world.miners.get_mut(miner).ok_or_else(|| RpcError::nil_pointer(method))?;
        if state.importing.iter().any(|other| other == cid) {
            world.log.imports_mut(cid).beside += 1;
        }
        state.importing.push(cid.to_owned());
        state.imports_running_max = state.imports_running_max.max(state.importing.len());
        let run = world.log.import_begins(miner, cid, padded_piece_size);
        let crowd = u32::try_from(state.importing.len()).unwrap_or(u32::MAX);
        let job = Job {
            inner: inner.clone(),
            miner: miner.to_owned(),
            cid: cid.to_owned(),
            piece_cid,
            padded_piece_size,
            staging: state.staging.clone(),
            life: state.node.life.clone(),
            gone: caller.gone.clone(),
            delays: [timings.import_copy * crowd, timings.import_commp * crowd],
        };
        // bidbot#39: too many at once and the process is out of memory.
        if state.config.crash_at_imports.is_some_and(|limit| state.importing.len() >= limit) {
            world.restart_miner(miner);
        }
        Ok::<_, RpcError>((job, run))
    })?;
    let life = job.life.clone();
    let work = inner.tasks.spawn(async move {
        let (miner, cid) = (job.miner.clone(), job.cid.clone());
        let (inner, life) = (job.inner.clone(), job.life.clone());
        let result = run(job, file, source).await;
        inner.with(|world| {
            world.log.import_ends(number);
            // A restart has forgotten it already.
            if let Some(state) = world.miners.get_mut(&miner).filter(|_miner| !life.is_cancelled())
                && let Some(index) = state.importing.iter().position(|other| *other == cid)
            {
                state.importing.swap_remove(index);
            }
        });
        result
    });
    let result = work.await;
    if life.is_cancelled() {
        // The connection closes with the process. No answer may be sent before that.
        return std::future::pending().await;
    }
    match result {
        Ok(result) => result.map(|()| Reply::Void).map_err(RpcError::application),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &tokio::task::JoinError) -> RpcError {
    RpcError::protocol(0, format!("fatal error: {error}"))
}

async fn run(job: Job, file: File, source: PathBuf) -> Result<(), String> {
    let temp = job.staging.join(format!("fstmp{}", random_u64() % 1_000_000_000));
    let [copy_delay, commp_delay] = job.delays;
    let copied = {
        let (temp, life, inner) = (temp.clone(), job.life.clone(), job.inner.clone());
        tokio::task::spawn_blocking(move || {
            let copied = copy(file, &source, &temp, &life);
            drop(inner);
            copied
        })
        .await
    };
    copied.unwrap_or_else(|error| Err(error.to_string())).inspect_err(|_error| {
        fs::remove_file(&temp).ok();
    })?;
    tokio::select! {
        () = tokio::time::sleep(copy_delay) => {}
        () = job.life.cancelled() => {}
    }
    if job.life.is_cancelled() {
        return lose(&job, temp);
    }
    // `GetProofType` is the one step that looks at the context of the request (§3.3).
    if job.gone.is_cancelled() {
        fs::remove_file(&temp).ok();
        return Err("failed to determine proof type: context canceled".to_owned());
    }
    let committed = {
        let temp = temp.clone();
        tokio::task::spawn_blocking(move || commp_of(&temp)).await
    };
    tokio::select! {
        () = tokio::time::sleep(commp_delay) => {}
        () = job.life.cancelled() => {}
    }
    if job.life.is_cancelled() {
        return lose(&job, temp);
    }
    let committed = committed
        .map_err(|error| error.to_string())
        .and_then(|piece| piece.map_err(|error| error.to_string()));
    let piece = committed.map_err(|error| {
        fs::remove_file(&temp).ok();
        format!("failed to generate commP: {error}")
    })?;
    let version = job.inner.config.version;
    let got = commitment(version, &piece, job.padded_piece_size);
    if got != job.piece_cid {
        fs::remove_file(&temp).ok();
        return Err(mismatch(version, &got, &job.piece_cid));
    }
    finish(&job, temp, &piece)
}

/// Copies the whole file; stops half-way when the process goes away.
fn copy(mut file: File, source: &Path, temp: &Path, life: &CancellationToken) -> Result<(), String> {
    let no_temp =
        |error: io::Error| format!("failed to create temp file for data import: {}", go_error(&error));
    if let Some(folder) = temp.parent() {
        fs::create_dir_all(folder).map_err(no_temp)?;
    }
    let mut out = File::create_new(temp).map_err(no_temp)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        if life.is_cancelled() {
            return Ok(());
        }
        let failed = |error: io::Error| {
            format!("importing deal data failed: read {}: {}", source.display(), go_error(&error))
        };
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..read]).map_err(|error| {
            format!("importing deal data failed: write {}: {}", temp.display(), go_error(&error))
        })?;
    }
}

/// The commitment that is compared: padded up to the deal's piece since v1.11.1.
fn commitment(version: LotusVersion, piece: &Piece, deal_padded: u64) -> Cid {
    if version.pads_imports_up() && piece.padded_size < deal_padded {
        pad_commitment(&piece.cid, piece.padded_size, deal_padded)
    } else {
        piece.cid
    }
}

fn mismatch(version: LotusVersion, got: &Cid, expected: &Cid) -> String {
    if version == LotusVersion::V1_5 {
        // `%x` of a CID is the hex of its text.
        let hex = |cid: &Cid| data_encoding::HEXLOWER.encode(cid.to_string().as_bytes());
        format!("given data does not match expected commP (got: {}, expected {})", hex(got), hex(expected))
    } else {
        format!("given data does not match expected commP (got: {got}, expected {expected})")
    }
}

/// `deals.Send(ProviderEventVerifiedData)`: only enqueues, so a wrong state is no error.
fn finish(job: &Job, temp: PathBuf, piece: &Piece) -> Result<(), String> {
    job.inner.with(|world| {
        let Some(side) = world.provider_mut(&job.cid) else {
            return Err("normal shutdown of state machine".to_owned());
        };
        if !side.state.is_final() {
            world.log.imports_mut(&job.cid).succeeded += 1;
            let Some(miner) = world.miners.get(&job.miner) else { return Ok(()) };
            let imported = Imported {
                cid: job.cid.clone(),
                copy: temp,
                oversize: Some(piece.unpadded_size())
                    .filter(|_size| piece.padded_size > job.padded_piece_size),
                session: miner.node.session.clone(),
            };
            let lag = world.timings(&job.miner).event_lag;
            if lag.is_zero() {
                world.import_arrives(imported);
            } else {
                world.schedule(lag, Event::Imported(imported));
            }
            return Ok(());
        }
        let ended = side.machine_ended;
        // A machine that ended before this process is loaded once more, and ends again.
        side.machine_ended = side.state.is_final();
        if let Some(miner) = world.miners.get_mut(&job.miner) {
            miner.temps_leaked.push(temp);
        }
        if ended {
            return Err("normal shutdown of state machine".to_owned());
        }
        world.log.imports_mut(&job.cid).succeeded += 1;
        Ok(())
    })
}

impl World {
    /// Handles the event of an import. It changes only a deal that waits for its data, in the process that
    /// sent the event. Otherwise the event is dropped, and its copy of the file leaks.
    pub(crate) fn import_arrives(&mut self, imported: Imported) {
        let Imported { cid, copy, oversize, session } = imported;
        let Some(deal) = self.deals.get_mut(&cid) else { return };
        let miner = self.miners.get_mut(deal.proposal.provider.as_str());
        let Some((side, miner)) = deal.provider.as_mut().zip(miner) else { return };
        if side.state != DealState::WaitingForData || miner.node.session != session {
            miner.temps_leaked.push(copy);
            return;
        }
        side.piece_path = Some(copy);
        side.oversize = oversize;
        self.log.imports_mut(&cid).effective += 1;
        self.log.imported(&cid);
        self.provider_enter(&cid, DealState::ReserveProviderFunds);
    }
}

/// Ends an import whose process has stopped: no answer, and the copy of the file leaks.
fn lose(job: &Job, temp: PathBuf) -> Result<(), String> {
    job.inner.with(|world| {
        if let Some(miner) = world.miners.get_mut(&job.miner) {
            miner.temps_leaked.push(temp);
        }
    });
    Err("the miner has restarted".to_owned())
}
