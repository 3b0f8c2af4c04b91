//! The driver's clients of a command are shut down before the runtime ends.
//!
//! The last handle of a client starts a task that ends its sessions at the server. A runtime that ends
//! meanwhile drops the connection pool under that task, and the driver panics (mongodb 3.9.1
//! `src/cmap/connection_requester.rs:42`).

use std::cell::RefCell;
use std::future::{Future, IntoFuture as _};
use std::time::Duration;

use futures::future::join_all;
use mongodb::Client;
use tracing::debug;

tokio::task_local! {
    /// The clients that were opened by the command that runs here.
    static OPENED: RefCell<Vec<Client>>;
}

/// How long the server may take to hear of the end. It forgets sessions by itself, after half an hour.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Notes a client for [`shut_down_after`]; outside of one, the client ends with the process.
pub(super) fn note(client: &Client) {
    let _outside = OPENED.try_with(|opened| opened.borrow_mut().push(client.clone()));
}

/// Runs a command, and shuts down every client that it opened, however it ends. What the command started and
/// left running (the driver's handles in it included) is not waited for.
pub async fn shut_down_after<F: Future>(command: F) -> F::Output {
    OPENED
        .scope(RefCell::default(), async {
            let answer = command.await;
            let opened = OPENED.with(RefCell::take);
            let goodbyes =
                join_all(opened.into_iter().map(|client| client.shutdown().immediate(true).into_future()));
            if tokio::time::timeout(GOODBYE_TIMEOUT, goodbyes).await.is_err() {
                debug!("database connections were not closed in time");
            }
            answer
        })
        .await
}
