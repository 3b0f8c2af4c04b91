//! Watches the change stream of `offlinedeals` and wakes the worker; no event is read for its content.
//!
//! After every wake the worker reads the collection, so no event decides anything and no resume token is
//! kept: tokens break when a deal is closed or the list of miners changes, and the driver's own resume loses
//! events (mongo.md §0). Every failure has the same remedy: open a new stream at a new operation time, and
//! wake once, so that everything is read.
//!
//! ```text
//!  ┌─► hello: operation time t ─► open stream at t ─► wake(Opened) ─► events: wake(Changed)
//!  │                                                                      │ error, end, silence
//!  └───────────────── pause (growing, with jitter) ◄──────────────────────┘
//! ```

use std::fmt;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error_chain::{ErrorChain, Hint as _};
use crate::runtime::{Backoff, BackoffPolicy};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::miners::any_of;

/// Why the watch wakes the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The stream was opened: read everything, deals may have come while it was closed.
    Opened,
    /// A deal was inserted or put back to `isdeal` 0.
    Changed,
}

/// The server sends an empty batch after this time, which shows that it is alive.
const MAX_AWAIT: Duration = Duration::from_secs(1);
/// How long after the await time a silent stream is ended.
const SILENCE_MARGIN: Duration = Duration::from_secs(5);
/// The longest pause before a new stream is opened.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A stream that was open for this time was healthy: the next pause starts small again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Why a change stream ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    /// The server sent nothing for longer than it may.
    Silent,
    /// The collection was dropped or renamed.
    Dropped,
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "silent",
            Self::Dropped => "collection dropped or renamed",
        })
    }
}

impl Store {
    /// Watches for pending deals of these miners until `stop`; never gives up. `wake` is called from this
    /// task and must not block.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the stream; nothing is lost, the next watch wakes with [`Wake::Opened`].
    pub async fn watch_pending(&self, miners: &[String], stop: &CancellationToken, wake: impl Fn(Wake)) {
        let mut backoff = Backoff::new(BackoffPolicy { max: PAUSE_MAX, ..BackoffPolicy::default() });
        loop {
            let opened = tokio::time::Instant::now();
            let end = tokio::select! {
                () = stop.cancelled() => return,
                end = self.one_stream(miners, &wake) => end,
            };
            if opened.elapsed() >= HEALTHY_AFTER {
                backoff.reset();
            }
            let pause = backoff.next_delay();
            match end {
                Ok(ended) => {
                    info!(reason = %ended, pause_ms = pause.as_millis(), "change stream ended, opening anew");
                }
                Err(error) if error.is_permanent() => warn!(
                    reason = %ErrorChain(&error),
                    hint = error.hint().unwrap_or_default(),
                    "change stream cannot be opened"
                ),
                Err(error) => {
                    warn!(reason = %ErrorChain(&error), pause_ms = pause.as_millis(), "change stream broke, opening anew");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn one_stream(&self, miners: &[String], wake: &impl Fn(Wake)) -> Result<StreamEnd, StoreError> {
        let hello = self.bounded("hello", self.database.run_command(doc! { "hello": 1 })).await?;
        let time = hello.get_timestamp("operationTime").map_err(|_| StoreError::NotReplicaSet)?;
        let collection = self.watch_database.collection::<Document>("offlinedeals");
        let open = collection
            .watch()
            .pipeline(pipeline(miners))
            .start_at_operation_time(time)
            .max_await_time(MAX_AWAIT);
        let mut stream = self.bounded("watch", open).await?;
        debug!(?time, "change stream opened");
        wake(Wake::Opened);
        follow(&mut stream, wake).await
    }
}

/// Reads events until the stream ends or fails. The stream must not be polled afterwards; the caller drops
/// it.
async fn follow(
    stream: &mut ChangeStream<ChangeStreamEvent<Document>>,
    wake: &impl Fn(Wake),
) -> Result<StreamEnd, StoreError> {
    loop {
        match tokio::time::timeout(MAX_AWAIT + SILENCE_MARGIN, stream.next_if_any()).await {
            Err(_silence) => return Ok(StreamEnd::Silent),
            Ok(Err(source)) => return Err(StoreError::classify("change stream", source)),
            Ok(Ok(Some(_event))) => wake(Wake::Changed),
            Ok(Ok(None)) if stream.is_alive() => {}
            Ok(Ok(None)) => return Ok(StreamEnd::Dropped),
        }
    }
}

/// Matches inserts of pending deals of these miners, and reopened deals. The filter reads only the event
/// itself: a claim writes the document while `isdeal` is still 0 and must cause no event, and an event of the
/// past must match in the same way when it is read again.
fn pipeline(miners: &[String]) -> [Document; 2] {
    [
        doc! { "$match": { "$or": [
            {
                "operationType": { "$in": ["insert", "replace"] },
                "fullDocument.miner": any_of(miners),
                "fullDocument.isdeal": 0,
            },
            { "operationType": "update", "updateDescription.updatedFields.isdeal": 0 },
        ] } },
        doc! { "$project": { "documentKey": 1, "clusterTime": 1, "operationType": 1 } },
    ]
}
