//! Shuts down the driver's clients of a command before the runtime ends.
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

/// How long the shutdown of a session may take. The server ends abandoned sessions by itself after half an
/// hour.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Registers a client for [`shut_down_after`]. Without it, the client ends with the process.
pub(super) fn note(client: &Client) {
    let _outside = OPENED.try_with(|opened| opened.borrow_mut().push(client.clone()));
}

/// Runs a command, and shuts down every client that it opened, regardless of its result. Tasks that the
/// command left running are not waited for, nor are their driver handles.
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
