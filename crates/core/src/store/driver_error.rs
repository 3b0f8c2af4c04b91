//! Errors of the MongoDB driver in one sentence each.
//!
//! The driver prints whole topologies and raw answers, and every TLS mistake becomes "no available servers"
//! with the reason inside. The full error is logged at debug level when it is classified.

use std::fmt;

use mongodb::error::{Error, ErrorKind, WriteFailure};

/// A driver's error that is shown as one sentence.
#[derive(Debug)]
pub struct DriverError(Box<ErrorKind>);

/// Parts of the driver's text about an unusable server, each with its meaning and a hint. The first match
/// counts: certificates come before sockets, since a set may have several servers.
const UNUSABLE: [(&str, &str, &str); 12] = [
    (
        "UnknownIssuer",
        "the server's certificate is of an authority that is not trusted here",
        "set mongodb.tlsCaFile to a PEM file of the authority that signed the server's certificate",
    ),
    (
        "not valid for name",
        "the server's certificate is for another host name",
        "use the name it was issued for, or have it issued for this one (subjectAltName)",
    ),
    ("certificate expired", "the server's certificate has expired", "renew it, or set this machine's clock"),
    (
        "CertificateRequired",
        "the server demands a certificate",
        "set mongodb.tlsCertificateKeyFile to a PEM file with certificate and key",
    ),
    (
        "received fatal alert",
        "the server ended the TLS handshake",
        "does it trust the authority of mongodb.tlsCertificateKeyFile? its log says more",
    ),
    (
        "InvalidContentType",
        "the server does not speak TLS",
        "is that port mongod's? if so, start it with --tlsMode requireTLS",
    ),
    (
        "close_notify",
        "the server closed the TLS connection, as one that demands a certificate does",
        "set mongodb.tlsCertificateKeyFile to a PEM file with certificate and key; the server's log says more",
    ),
    (
        "unexpected end of file",
        "the server closed the connection at once, as one that wants TLS does",
        "set mongodb.tls: true and mongodb.tlsCaFile",
    ),
    (
        "tls handshake eof",
        "the server closed the connection in the TLS handshake, as one without TLS does",
        "remove the mongodb.tls… keys, or start mongod with --tlsMode requireTLS",
    ),
    (
        "failed to lookup address",
        "the server's name is not known here",
        "is the host name right, does this machine's DNS know it?",
    ),
    (
        "Type: RsGhost",
        "the server waits for rs.initiate(): its replica set was never made",
        "`doctor` prints the command that makes it",
    ),
    (
        "Connection refused",
        "no server listens at that address",
        "is mongod running, are host and port right, may this machine reach it?",
    ),
];

const NO_PRIMARY: &str = "ReplicaSetNoPrimary";

/// The servers that the driver's message names.
fn addresses(message: &str) -> Vec<&str> {
    let mut found: Vec<&str> = message
        .split("Address: ")
        .skip(1)
        .filter_map(|after| after.split([',', ' ', '}']).next())
        .filter(|address| !address.is_empty())
        .collect();
    found.dedup();
    found
}

/// The server's message to a user without rights, without the command's documents.
fn refusal(message: &str) -> String {
    match message.split_once(" to execute command { ") {
        Some((who, command)) => {
            let mut parts = command.splitn(3, '"');
            let verb = parts.next().unwrap_or_default().trim_end_matches([' ', ':']);
            format!("{who} to {verb} in {}", parts.next().unwrap_or_default())
        }
        None => message.to_owned(),
    }
}

impl DriverError {
    pub(super) fn kind(&self) -> &ErrorKind {
        &self.0
    }

    /// The server's code, where the server answered.
    pub(super) fn code(&self) -> Option<i32> {
        match self.kind() {
            ErrorKind::Command(command) => Some(command.code),
            ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
            _ => None,
        }
    }

    pub(super) fn hint(&self) -> Option<&'static str> {
        self.unusable().map(|(_, hint)| hint)
    }

    /// Whether the server demands a login and got none.
    pub(super) fn wants_login(&self) -> bool {
        matches!(self.kind(), ErrorKind::Command(command) if command.message.contains("requires authentication"))
    }

    fn unusable(&self) -> Option<(&'static str, &'static str)> {
        let ErrorKind::ServerSelection { message, .. } = self.kind() else { return None };
        let mut known = UNUSABLE.iter().filter(|(mark, ..)| message.contains(mark));
        if let Some((_, sentence, hint)) = known.next() {
            return Some((sentence, hint));
        }
        // The driver drops servers that are not of the set that the connection string names.
        (message.contains(NO_PRIMARY) && addresses(message).is_empty()).then_some((
            "no server there is a member of the replica set that the connection string names",
            "is replicaSet= the name of the set, and was mongod started with --replSet? `doctor` says which it is",
        ))
    }
}

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        Self(error.kind)
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.unusable(), self.kind()) {
            (Some((sentence, _)), ErrorKind::ServerSelection { message, .. }) => {
                f.write_str(sentence)?;
                match addresses(message).as_slice() {
                    [] => Ok(()),
                    servers => write!(f, " ({})", servers.join(", ")),
                }
            }
            (_, ErrorKind::Command(command)) => {
                write!(f, "{} (code {})", refusal(&command.message), command.code)
            }
            (_, kind) => kind.fmt(f),
        }
    }
}

impl std::error::Error for DriverError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_and_commands_cut() {
        let message = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: \
                       db1:27017, Type: Unknown, Error: x }, { Address: db2:1, Type: Unknown } ] }";
        assert_eq!(addresses(message), ["db1:27017", "db2:1"]);
        for (words, shown) in [
            (
                "not authorized on carferry to execute command { update: \"cars\", ordered: true }",
                "not authorized on carferry to update in cars",
            ),
            ("command find requires authentication", "command find requires authentication"),
        ] {
            assert_eq!(refusal(words), shown);
        }
    }
}
