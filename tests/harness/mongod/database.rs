//! A database of one's own for a test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::{process, thread};

use tokio::task::spawn_blocking;

use super::shared::shared;

/// How much of a test's name goes into its database's (MongoDB takes 63 bytes in all).
const TEST_NAME_LENGTH_MAX: usize = 36;

/// A database of one test, on the run's common mongod.
///
/// It is not dropped with the test: that takes 100 ms each, while the daemon deletes the whole
/// mongod after the run. 300 databases of four collections stood at 0.7 GB of memory together.
#[derive(Debug, Clone)]
pub struct TestDb {
    /// The connection string, without the database's name.
    pub uri: String,
    /// A client of this test's runtime.
    pub client: mongodb::Client,
    /// The database.
    pub db: mongodb::Database,
    /// The database's name: test, process, count.
    pub name: String,
}

/// Gives the caller a new, empty database.
pub async fn database() -> anyhow::Result<TestDb> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // The test runner names a test's thread after the test.
    let test = thread::current().name().map(short_name).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{test}-{}-{count}", process::id());
    let uri = spawn_blocking(shared).await??.uri;
    let client = mongodb::Client::with_uri_str(&uri).await?;
    let db = client.database(&name);
    Ok(TestDb { uri, client, db, name })
}

fn short_name(test: &str) -> String {
    let last = test.rsplit("::").next().unwrap_or_default();
    last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(TEST_NAME_LENGTH_MAX).collect()
}
