//! Publish messages: gathering a batch, sending it, numbers on chain.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::batch::{OnChain, Waiting};
use crate::faults::DealFaultKind;
use crate::inner::Inner;
use crate::record::Record;
use crate::world::{Life, World};

/// Joins the next publish message and waits for its CID.
///
/// # Errors
///
/// Why there is no message.
pub(crate) async fn publish(inner: &Arc<Inner>, life: &Life, deal: &Record) -> Result<String, String> {
    let (answer, result) = oneshot::channel();
    let waiting = Waiting { deal: deal.index, uuid: deal.uuid().to_owned(), answer };
    let batch = inner.config.batch;
    let timer = inner.with(|world| {
        let count = world.batch.push(waiting);
        if count >= batch.deals_max {
            send(world);
            return None;
        }
        (count == 1).then(|| world.batch.number())
    });
    if let Some(number) = timer {
        inner.tasks.spawn(send_later(inner.clone(), life.clone(), number));
    }
    result.await.unwrap_or_else(|_dropped| Err("context canceled".to_owned()))
}

/// Sends a batch when its period is over, unless it is gone.
async fn send_later(inner: Arc<Inner>, life: Life, number: u64) {
    tokio::select! {
        () = tokio::time::sleep(inner.config.batch.period) => {}
        () = life.ended.cancelled() => return,
        () = inner.shutdown.cancelled() => return,
    }
    inner.with(|world| {
        if world.batch.number() == number {
            send(world);
        }
    });
}

/// Sends the gathered batch as one message.
pub(crate) fn send(world: &mut World) {
    let waiting = world.batch.take();
    if waiting.is_empty() {
        return;
    }
    world.counters.publish_messages += 1;
    let publish_cid = lotus_sim::made_up_cid(&format!("publish {}", lotus_sim::uuid()));
    for Waiting { deal, uuid, answer } in waiting {
        let failure = world.take_fault(&uuid, |kind| match kind {
            DealFaultKind::PublishFails(text) => Some(text.clone()),
            _ => None,
        });
        let result = if let Some(text) = failure {
            Err(text)
        } else if let Some(known) = world.chain.get(&deal) {
            // Sent before boostd stopped, and not saved.
            Ok(known.publish_cid.clone())
        } else {
            let deal_id = world.next_deal_id();
            world.chain.insert(deal, OnChain { publish_cid: publish_cid.clone(), deal_id });
            Ok(publish_cid.clone())
        };
        // A thread that is gone needs no answer.
        answer.send(result).ok();
    }
}
