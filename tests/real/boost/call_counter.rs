//! A port before Boost's API that counts the calls which hand data over.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

/// What the calls are known by.
const IMPORT: &[u8] = b"Filecoin.BoostOfflineDealWithData";

/// Carries every byte, and ends when dropped.
#[derive(Debug)]
pub(crate) struct CallCounter {
    port: u16,
    calls: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl CallCounter {
    /// Listens on a free port before this URL.
    pub(crate) async fn before(url: &str) -> Self {
        let target = url.parse::<Url>().unwrap().port().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&calls);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((agent, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                connections.spawn(async move {
                    if let Ok(boost) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await {
                        carry(agent, boost, &counter).await;
                    }
                });
            }
        });
        Self { port, calls, _serving: serving }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Counts a call before Boost can have answered it. An agent that is killed cuts the connection, which is no
/// failure here.
async fn carry(agent: TcpStream, boost: TcpStream, calls: &AtomicUsize) {
    let ((mut from_agent, mut to_agent), (mut from_boost, mut to_boost)) =
        (agent.into_split(), boost.into_split());
    let asks = async {
        let mut seen = Vec::new();
        let mut block = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_agent.read(&mut block).await {
            seen.extend_from_slice(&block[..count]);
            let found = seen.windows(IMPORT.len()).filter(|window| *window == IMPORT).count();
            calls.fetch_add(found, Ordering::SeqCst);
            // A name may go on in the next block, and is counted once.
            let keep = if found > 0 { 0 } else { seen.len().min(IMPORT.len() - 1) };
            seen.drain(..seen.len() - keep);
            if to_boost.write_all(&block[..count]).await.is_err() {
                break;
            }
        }
        // What the agent sent before it was killed is Boost's to handle.
        let _closed = to_boost.shutdown().await;
    };
    let answers = async {
        let _cut = tokio::io::copy(&mut from_boost, &mut to_agent).await;
    };
    tokio::join!(asks, answers);
}
