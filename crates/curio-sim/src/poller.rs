//! The poller: looks for the data of waiting deals. Source: curio v1.28.4
//! `tasks/storage-market/storage_market.go:468-522,672-786`.

use std::sync::Arc;

use hyper::Method;
use tokio::time::timeout;

use crate::commp;
use crate::deal::State;
use crate::fetch::fetch;
use crate::inner::Inner;

/// Passes until the end, every interval or when woken.
pub(crate) async fn poll(inner: Arc<Inner>, node: usize) {
    loop {
        pass(&inner, node).await;
        // Cancel safety: neither branch keeps state; a wake that comes meanwhile is kept.
        tokio::select! {
            () = tokio::time::sleep(inner.config.poll_interval) => {}
            () = inner.wakes[node].notified() => {}
        }
    }
}

/// Deals one after the other: a slow answer holds up all that follow.
async fn pass(inner: &Arc<Inner>, node: usize) {
    for uuid in inner.uuids(|deal| deal.state == State::Waiting) {
        let Some(piece_cid) = inner.with(|world| world.deal(&uuid).map(|deal| deal.piece_cid.clone())) else {
            continue;
        };
        // Go's maps are walked in a random order.
        let mut locators = inner.config.locators.clone();
        fastrand::shuffle(&mut locators);
        for locator in locators {
            let url = format!("{}?id={piece_cid}", locator.url);
            let asked = fetch(Method::HEAD, &url, &locator.headers, None, |_| Ok(()));
            let answer = match timeout(inner.config.head_limit, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    inner.note(node, "HEAD", &url, Err(error));
                    break;
                }
                Err(_elapsed) => {
                    inner.note(node, "HEAD", &url, Err("context deadline exceeded".to_owned()));
                    break;
                }
            };
            inner.note(node, "HEAD", &url, Ok(answer.status));
            match (answer.status, answer.length) {
                (404, _) | (200, None) => {}
                (200, Some(length)) => {
                    let started = inner.with(|world| {
                        let deal = world.deal_mut(&uuid).filter(|deal| deal.state == State::Waiting)?;
                        deal.state = State::Started;
                        (deal.url, deal.raw_size) = (Some(url.clone()), Some(length));
                        deal.headers.clone_from(&locator.headers);
                        Some(())
                    });
                    if started.is_some() {
                        inner.tasks.spawn(commp::run(Arc::clone(inner), uuid.clone()));
                    }
                    break;
                }
                _ => break,
            }
        }
    }
}
