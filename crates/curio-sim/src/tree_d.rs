//! The read for sealing: ranges on new connections, behind the wall. Source: curio v1.28.4
//! `lib/dealdata/dealdata.go:224`, `lib/robusthttp`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Method;
use tokio::time::timeout;

use crate::deal::{Deal, State};
use crate::fetch::fetch;
use crate::inner::Inner;
use crate::ssrf::{check_address, check_url};
use crate::task::{FAILURES_MAX, piece_cid};

/// Tries of one read.
const TRIES_MAX: u32 = 15;
/// How long a part may take.
const READ_LIMIT: Duration = Duration::from_secs(8);

/// Runs the task of one deal to its end.
pub(crate) async fn run(inner: Arc<Inner>, uuid: String) {
    loop {
        let Some(deal) = inner.with(|world| world.deal(&uuid).cloned()) else { return };
        let built = build(&inner, &deal).await;
        let is_over = inner.with(|world| {
            let sector = world.next_sector();
            let Some(deal) = world.deal_mut(&uuid) else { return true };
            match built {
                Ok(()) => (deal.state, deal.sector) = (State::Sealed, Some(sector)),
                Err(problem) => {
                    deal.history.push(problem);
                    deal.failures += 1;
                    if deal.failures >= FAILURES_MAX {
                        deal.state = State::SectorFailed;
                    }
                }
            }
            deal.state != State::Published
        });
        if is_over {
            return;
        }
    }
}

async fn build(inner: &Inner, deal: &Deal) -> Result<(), String> {
    let (url, raw_size) = (deal.url.clone().unwrap_or_default(), deal.raw_size.unwrap_or_default());
    let length = usize::try_from(raw_size).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let mut tries = 0;
    while bytes.len() < length {
        tries += 1;
        match read(inner, deal, &url, length, &mut bytes).await {
            Ok(()) => {}
            Err(problem) if tries >= TRIES_MAX => return Err(format!("failed to read: {problem}")),
            Err(problem) => {
                tracing::debug!(problem, tries, "the read goes on");
                tokio::time::sleep(inner.config.read_pause).await;
            }
        }
    }
    let built = piece_cid(bytes, deal.piece_size).await?;
    if built == deal.piece_cid { Ok(()) } else { Err(format!("the sector holds another piece: {built}")) }
}

/// One try: from where the last one ended.
async fn read(
    inner: &Inner,
    deal: &Deal,
    url: &str,
    length: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), String> {
    let config = &inner.config;
    let range = format!("bytes={}-{}", bytes.len(), length - 1);
    let what = format!("GET {range}");
    let fetched = match check_url(config, url) {
        Ok(()) => {
            let admit = |address| check_address(config, url, address);
            fetch(Method::GET, url, &deal.headers, Some(range), admit).await
        }
        Err(problem) => Err(problem),
    };
    inner.note(0, &what, url, fetched.as_ref().map(|answer| answer.status).map_err(Clone::clone));
    let mut answer = fetched?;
    if answer.status != 206 && !(answer.status == 200 && bytes.is_empty()) {
        return Err(format!("unexpected status {}", answer.status));
    }
    while bytes.len() < length {
        let held =
            config.hold_after.is_some_and(|after| u64::try_from(bytes.len()).is_ok_and(|len| len >= after));
        if held && !inner.released.load(Ordering::Acquire) {
            inner.is_held.store(true, Ordering::Release);
            inner.release.notified().await;
        }
        let part =
            timeout(READ_LIMIT, answer.part()).await.map_err(|_elapsed| "i/o timeout".to_owned())??;
        let Some(part) = part else { return Err("unexpected EOF".to_owned()) };
        bytes.extend_from_slice(&part);
    }
    bytes.truncate(length);
    Ok(())
}
