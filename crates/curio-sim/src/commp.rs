//! The piece check of mk12: one GET of everything, then the piece CID of as many bytes as HEAD told. Source:
//! curio v1.28.4 `tasks/storage-market/task_commp.go:158-238`.

use std::sync::Arc;

use hyper::Method;

use crate::deal::{Deal, State};
use crate::fetch::fetch;
use crate::inner::Inner;
use crate::task::{FAILURES_MAX, piece_cid};
use crate::tree_d;

/// Runs the task of one deal to its end.
pub(crate) async fn run(inner: Arc<Inner>, uuid: String) {
    loop {
        let Some(deal) = inner.with(|world| world.deal(&uuid).cloned()) else { return };
        let checked = check(&inner, &deal).await;
        let goes_on = inner.with(|world| {
            let deal = world.deal_mut(&uuid)?;
            match checked {
                Ok(()) => {
                    (deal.state, deal.failures) = (State::Published, 0);
                    return Some(false);
                }
                Err(problem) => deal.history.push(problem),
            }
            deal.failures += 1;
            if deal.failures < FAILURES_MAX {
                return Some(true);
            }
            // The task is deleted, and `commp_task_id` stays set: no poller looks at the deal again.
            deal.state = State::Hanging;
            None
        });
        match goes_on {
            Some(true) => {}
            Some(false) => return tree_d::run(inner, uuid).await,
            None => return,
        }
    }
}

async fn check(inner: &Inner, deal: &Deal) -> Result<(), String> {
    let (url, raw_size) = (deal.url.clone().unwrap_or_default(), deal.raw_size.unwrap_or_default());
    let fetched = fetch(Method::GET, &url, &deal.headers, None, |_| Ok(())).await;
    inner.note(0, "GET", &url, fetched.as_ref().map(|answer| answer.status).map_err(Clone::clone));
    let mut answer = fetched.map_err(|error| format!("error making GET request: {error}"))?;
    if answer.status != 200 {
        return Err(format!("not ok response from HTTP server: {}", answer.status));
    }
    let mut bytes = Vec::new();
    let length = usize::try_from(raw_size).map_err(|error| error.to_string())?;
    while bytes.len() < length {
        let Some(part) = answer.part().await? else { break };
        bytes.extend_from_slice(&part);
    }
    bytes.truncate(length);
    if bytes.len() < length {
        return Err(format!(
            "number of bytes written to CommP writer {} not equal to the file size {length}",
            bytes.len()
        ));
    }
    let calculated = piece_cid(bytes, deal.piece_size).await?;
    if calculated == deal.piece_cid {
        return Ok(());
    }
    Err(format!("commP mismatch calculated {calculated} and supplied {}", deal.piece_cid))
}
