//! A TCP proxy on 127.0.0.1 that can refuse, swallow and cut.

use std::net::Ipv4Addr;
use std::{io, thread};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Carries bytes.
    Pass,
    /// Cuts open connections and refuses new ones, as a closed port does.
    Refuse,
    /// Accepts, keeps what is connected, carries nothing: a dead link or a stalled peer.
    Blackhole,
    /// Cuts what is connected; what comes is accepted and cut at once.
    Drop,
    /// Carries bytes, each piece of them late.
    Slow,
}

/// How late, with [`Link::Slow`].
const SLOW: std::time::Duration = std::time::Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Orders {
    link: Link,
    /// Connections of an earlier one are cut.
    generation: u64,
}

/// A proxy with a runtime of its own, so that it works while the test's runtime is busy. It ends
/// when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
}

impl Proxy {
    /// Listens on a free port and carries to `target` on 127.0.0.1.
    pub fn start(target: u16) -> anyhow::Result<Self> {
        let (orders, inbox) = watch::channel(Orders { link: Link::Pass, generation: 0 });
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let port = listener.local_addr()?.port();
        thread::Builder::new().name(format!("proxy-{port}")).spawn(move || {
            runtime.block_on(serve(listener, port, target, inbox));
        })?;
        Ok(Self { port, orders })
    }

    /// Where the proxy listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what the proxy does, for connections that are open too.
    pub fn set(&self, link: Link) {
        self.orders.send_modify(|orders| {
            orders.link = link;
            if matches!(link, Link::Refuse | Link::Drop) {
                orders.generation += 1;
            }
        });
    }

    /// Cuts the open connections and goes on.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.generation += 1);
    }
}

/// Serves until the [`Proxy`] is dropped.
async fn serve(listener: TcpListener, port: u16, target: u16, mut inbox: watch::Receiver<Orders>) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let orders = *inbox.borrow_and_update();
        if orders.link == Link::Refuse {
            listener = None;
            if inbox.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open = match listener.take() {
            Some(open) => open,
            None => match listen_again(port).await {
                Ok(open) => open,
                Err(_taken) => return,
            },
        };
        tokio::select! {
            changed = inbox.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(carry(client, target, orders, inbox.clone()));
            },
            Some(_ended) = connections.join_next() => {}
        }
        listener = Some(open);
    }
}

/// The port may need a moment to come free; an outgoing connection may even hold it for a while.
async fn listen_again(port: u16) -> io::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Err(_) if tries < 500 => tries += 1,
            done => return done,
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// One connection, both ways, until either side closes or the orders cut it.
async fn carry(client: TcpStream, target: u16, accepted: Orders, mut inbox: watch::Receiver<Orders>) {
    if accepted.link == Link::Drop {
        return;
    }
    // A black hole accepts the connection and passes nothing on.
    if inbox.wait_for(|orders| orders.link != Link::Blackhole).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        return;
    };
    // Small messages both ways: waiting to fill packets would add 40 ms to each.
    let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut cut = inbox.clone();
    tokio::select! {
        _ = cut.wait_for(|orders| orders.generation != accepted.generation) => {}
        _ended = pump(client_read, server_write, inbox.clone()) => {}
        _ended = pump(server_read, client_write, inbox) => {}
    }
}

/// One direction of a connection.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut inbox: watch::Receiver<Orders>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // What was read before the link went dark is not delivered before it is back.
        if inbox.wait_for(|orders| orders.link != Link::Blackhole).await.is_err() {
            return Ok(());
        }
        if inbox.borrow().link == Link::Slow {
            tokio::time::sleep(SLOW).await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
