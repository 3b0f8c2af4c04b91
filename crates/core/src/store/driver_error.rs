//! The driver's errors in words for people.
//!
//! The driver prints whole topologies and raw answers, and every mistake with TLS comes out as "no available
//! servers" with the reason deep inside. Logged in full at debug level where they are sorted.

use std::fmt;

use mongodb::error::{Error, ErrorKind, WriteFailure};

/// A driver's error that prints one sentence.
#[derive(Debug)]
pub struct DriverError(Box<ErrorKind>);

/// What a server that cannot be used looks like in the driver's text, what that means, and what helps. The
/// first that fits counts: certificates before sockets, since a set may have several servers.
const UNUSABLE: [(&str, &str, &str); 11] = [
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
        "Connection refused",
        "no server listens at that address",
        "is mongod running, are host and port right, may this machine reach it?",
    ),
];

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

    fn unusable(&self) -> Option<(&'static str, &'static str)> {
        let ErrorKind::ServerSelection { message, .. } = self.kind() else { return None };
        let mut known = UNUSABLE.iter().filter(|(mark, ..)| message.contains(mark));
        known.next().map(|(_, sentence, hint)| (*sentence, *hint))
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
            (Some((sentence, _)), _) => f.write_str(sentence),
            (None, ErrorKind::Command(command)) => {
                write!(f, "{} (code {})", command.message, command.code)
            }
            (None, kind) => kind.fmt(f),
        }
    }
}

impl std::error::Error for DriverError {}
