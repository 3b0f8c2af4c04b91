//! WebSocket connections: frames, pings, channels (§5.4).
//!
//! What lives here: one connection. Calls run concurrently and are answered in any order. Messages above 4
//! KiB are sent in fragments, as gorilla writes them. What does not: the calls (`rpc`).

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastwebsockets::upgrade::UpgradeFut;
use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, Payload, WebSocketWrite};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::WriteHalf;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::calls::NodeName;
use crate::inner::Inner;
use crate::reply::{Caller, ChannelKind, Reply, RpcError};
use crate::rpc::{Handled, Request, answer_text, handle};

/// Size of a fragment: gorilla's write buffer.
const FRAGMENT_BYTES: usize = 4096;
/// Largest message a client may send.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// Frames that are queued for a slow client.
const OUTGOING_CAPACITY: usize = 1024;

/// Time limit for the answer to a close frame.
const CLOSING_MAX: Duration = Duration::from_secs(1);

type Writer = WebSocketWrite<WriteHalf<TokioIo<Upgraded>>>;

/// A frame to send.
enum Outgoing {
    Message(String),
    Control(OpCode, Vec<u8>),
    /// Ends the connection, after these bytes of a message if any.
    End(Option<String>),
}

/// How the client ended a connection.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Gone,
    Closing,
}

/// One connection while it lives.
struct Connection {
    inner: Arc<Inner>,
    caller: Caller,
    out: mpsc::Sender<Outgoing>,
    /// Running and streaming requests by the text of their id; `xrpc.cancel` ends them.
    running: Mutex<HashMap<String, CancellationToken>>,
    channels: Mutex<u64>,
}

/// Serves a connection until either side ends it.
pub(crate) async fn serve(inner: Arc<Inner>, caller: Caller, life: CancellationToken, socket: UpgradeFut) {
    let Ok(socket) = socket.await else { return };
    let (mut reader, writer) = socket.split(tokio::io::split);
    reader.set_auto_pong(false);
    reader.set_auto_close(false);
    reader.set_max_message_size(MESSAGE_BYTES_MAX);
    let mut reader = FragmentCollectorRead::new(reader);
    let (out, outgoing) = mpsc::channel(OUTGOING_CAPACITY);
    // Everything of this connection ends with `gone`, the context of its requests.
    let gone = CancellationToken::new();
    let _gone_when_dropped = gone.clone().drop_guard();
    let pings = inner.config.version.has_newer_jsonrpc();
    let period = inner.config.timings.websocket_ping;
    let connection = Arc::new(Connection {
        inner: inner.clone(),
        caller: Caller { gone: gone.clone(), ..caller },
        out,
        running: Mutex::default(),
        channels: Mutex::default(),
    });
    let read = async {
        let mut calls = JoinSet::new();
        loop {
            let Some((opcode, payload)) = next_frame(&mut reader).await else { return Ended::Gone };
            match opcode {
                OpCode::Text | OpCode::Binary => {
                    while calls.try_join_next().is_some() {}
                    calls.spawn(call(connection.clone(), payload));
                }
                // The newer server ignores pings; the older one answers.
                OpCode::Ping if !pings => {
                    connection.out.send(Outgoing::Control(OpCode::Pong, payload)).await.ok();
                }
                OpCode::Close => {
                    connection.out.send(Outgoing::Control(OpCode::Close, payload)).await.ok();
                    connection.out.send(Outgoing::End(None)).await.ok();
                    return Ended::Closing;
                }
                _ => {}
            }
        }
    };
    let ping = async {
        let mut ticks = tokio::time::interval(period.max(Duration::from_millis(1)));
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if connection.out.send(Outgoing::Control(OpCode::Ping, Vec::new())).await.is_err() {
                return;
            }
        }
    };
    let write = write_all(writer, outgoing);
    tokio::pin!(write);
    tokio::select! {
        biased;
        () = life.cancelled() => {}
        () = inner.shutdown.cancelled() => {}
        ended = read => {
            if ended == Ended::Closing {
                tokio::time::timeout(CLOSING_MAX, &mut write).await.ok();
            }
        }
        () = &mut write => {}
        () = ping, if pings => {}
    }
}

async fn next_frame<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut FragmentCollectorRead<R>,
) -> Option<(OpCode, Vec<u8>)> {
    // Reading sends no frames, because pongs and closes are not automatic.
    let frame = reader.read_frame(&mut |_frame| async { Ok::<_, io::Error>(()) }).await.ok()?;
    Some((frame.opcode, frame.payload.to_vec()))
}

async fn write_all(mut writer: Writer, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some(item) = outgoing.recv().await {
        let sent = match item {
            Outgoing::Message(text) => write_message(&mut writer, text.into_bytes(), true).await,
            Outgoing::Control(opcode, payload) => {
                writer.write_frame(Frame::new(true, opcode, None, payload.into())).await
            }
            Outgoing::End(text) => {
                if let Some(text) = text {
                    write_message(&mut writer, text.into_bytes(), false).await.ok();
                    writer.flush().await.ok();
                }
                return;
            }
        };
        if sent.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// Sends one message, in fragments above the buffer's size. `ends` is `false` for a message that is cut.
async fn write_message(
    writer: &mut Writer,
    bytes: Vec<u8>,
    ends: bool,
) -> Result<(), fastwebsockets::WebSocketError> {
    let mut opcode = OpCode::Text;
    let mut rest = bytes.as_slice();
    loop {
        let (fragment, after) = rest.split_at(rest.len().min(FRAGMENT_BYTES));
        let last = after.is_empty();
        writer.write_frame(Frame::new(last && ends, opcode, None, Payload::Borrowed(fragment))).await?;
        if last {
            return Ok(());
        }
        opcode = OpCode::Continuation;
        rest = after;
    }
}

async fn call(connection: Arc<Connection>, payload: Vec<u8>) {
    let newer = connection.inner.config.version.has_newer_jsonrpc();
    // Lotus drops frames that do not parse, batches included, with a line in its log.
    let Ok(value) = serde_json::from_slice::<Value>(&payload) else { return };
    let Ok(request) = Request::read(&value, newer) else { return };
    if request.method == "xrpc.cancel" {
        connection.cancel(&request.params);
        return;
    }
    let key = request.id.as_ref().map(Value::to_string);
    let gone = connection.caller.gone.child_token();
    if let Some(key) = &key {
        connection.running().insert(key.clone(), gone.clone());
    }
    let caller = Caller { gone: gone.clone(), ..connection.caller.clone() };
    let handled = Box::pin(handle(&connection.inner, &caller, &request)).await;
    let id = request.id.as_ref();
    let mut streaming = false;
    let outgoing = match handled {
        Handled::Answer(Ok(Reply::Channel(kind))) => {
            streaming = true;
            connection.open(kind, id, gone).await;
            None
        }
        Handled::Answer(result) => Some(Outgoing::Message(answer_text(&connection.inner, id, &result))),
        Handled::CutAnswer(result) => {
            let text = answer_text(&connection.inner, id, &result);
            Some(Outgoing::End(Some(text[..text.len() / 2].to_owned())))
        }
        Handled::NullId => Some(Outgoing::Message(answer_text(
            &connection.inner,
            Some(&Value::Null),
            &Err(RpcError::protocol(-32700, "Parse error")),
        ))),
        Handled::Unauthorized | Handled::Close => Some(Outgoing::End(None)),
        Handled::Never => None,
    };
    if let (Some(key), false) = (&key, streaming) {
        connection.running().remove(key);
    }
    match outgoing {
        Some(Outgoing::Message(text)) if text.is_empty() => {}
        Some(outgoing) => {
            connection.out.send(outgoing).await.ok();
        }
        None => {}
    }
}

impl Connection {
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `xrpc.cancel`: takes the id of the request, not the number of the channel. It is never answered.
    fn cancel(&self, params: &Value) {
        let id = params.as_array().and_then(|params| params.first()).map(Value::to_string);
        if let Some(gone) = id.and_then(|id| self.running().remove(&id)) {
            gone.cancel();
        }
    }

    /// Answers with the channel's number, then sends its values until cancelled.
    async fn open(&self, kind: ChannelKind, id: Option<&Value>, gone: CancellationToken) {
        let mut values = self.inner.with(|world| match (kind, &self.caller.node) {
            (ChannelKind::Head, _) => Some(world.head_updates.subscribe()),
            (ChannelKind::ClientDeals, _) => Some(world.client_updates.subscribe()),
            (ChannelKind::ProviderDeals, NodeName::Miner(miner)) => {
                world.miners.get(miner).map(|miner| miner.updates.subscribe())
            }
            (ChannelKind::ProviderDeals, NodeName::Full) => None,
        });
        let channel = {
            let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            *channels += 1;
            *channels
        };
        let answer = answer_text(&self.inner, id, &Ok(Reply::Value(channel.into())));
        self.send(answer).await;
        if kind == ChannelKind::Head {
            let current =
                self.inner.with(|world| serde_json::json!([{ "Type": "current", "Val": world.tipset() }]));
            self.send(value_text(channel, &current.to_string())).await;
        }
        loop {
            let Some(receiver) = values.as_mut() else { return };
            let value = tokio::select! {
                value = receiver.recv() => value,
                () = gone.cancelled() => break,
            };
            match value {
                Ok(value) => self.send(value_text(channel, &value)).await,
                Err(broadcast::error::RecvError::Lagged(_lost)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
        // After a cancel the miner's channel closes, the client's does not.
        if kind != ChannelKind::ClientDeals {
            self.send(format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"xrpc.ch.close\",\"params\":[{channel}]}}\n"
            ))
            .await;
        }
    }

    async fn send(&self, text: String) {
        self.out.send(Outgoing::Message(text)).await.ok();
    }
}

fn value_text(channel: u64, value: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"xrpc.ch.val\",\"params\":[{channel},{value}]}}\n")
}
