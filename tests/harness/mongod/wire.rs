//! One command to one mongod over a plain socket, blocking, without a driver.
//!
//! The driver discovers, pools and retries in the background of a runtime. Code that
//! starts, kills and inspects members needs just this member's answer, at once, also from `Drop`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bson::Document;

/// `OP_MSG` of the MongoDB wire protocol, the only message there is since MongoDB 5.1.
const OP_MSG: i32 = 2013;
const HEADER_LENGTH: usize = 16;
/// Flag bits (4) and the kind of the only section (1) stand between header and document.
const PREFIX_LENGTH: usize = 5;
/// What mongod itself allows (`maxMessageSizeBytes`).
const MESSAGE_LENGTH_MAX: usize = 48_000_000;

/// Runs `command` on the `admin` database of the mongod at `port`; an answer that is not ok is an
/// error.
pub fn admin(port: u16, command: Document) -> anyhow::Result<Document> {
    let name = command.keys().next().cloned().unwrap_or_default();
    let answer =
        exchange(port, command).with_context(|| format!("mongod at port {port} did not answer {name}"))?;
    let is_ok = match answer.get("ok") {
        Some(bson::Bson::Double(ok)) => *ok > 0.5,
        Some(bson::Bson::Int32(ok)) => *ok == 1,
        _ => false,
    };
    ensure!(
        is_ok,
        "mongod at port {port} refused {name}: {} (code {})",
        answer.get_str("errmsg").unwrap_or("no reason given"),
        answer.get_i32("code").unwrap_or(0)
    );
    Ok(answer)
}

fn exchange(port: u16, mut command: Document) -> anyhow::Result<Document> {
    command.insert("$db", "admin");
    let body = command.to_vec()?;
    let length = i32::try_from(HEADER_LENGTH + PREFIX_LENGTH + body.len())?;
    let mut message = Vec::new();
    for word in [length, 1, 0, OP_MSG, 0] {
        message.extend_from_slice(&word.to_le_bytes());
    }
    message.push(0);
    message.extend_from_slice(&body);

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(&message)?;

    let mut word = [0; 4];
    socket.read_exact(&mut word)?;
    let length = usize::try_from(i32::from_le_bytes(word))?;
    ensure!(
        (HEADER_LENGTH + PREFIX_LENGTH..=MESSAGE_LENGTH_MAX).contains(&length),
        "an answer of {length} bytes makes no sense"
    );
    let mut rest = vec![0; length - word.len()];
    socket.read_exact(&mut rest)?;
    Ok(Document::from_reader(&rest[HEADER_LENGTH - word.len() + PREFIX_LENGTH..])?)
}
