//! A certificate authority of the operator's own, for nodes behind TLS (`lotus.tlsCaFile`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::error_chain::Hint;

/// Why the certificates of an authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: no certificate authority in {path}", path = path.display())]
pub struct AuthorityError {
    /// The configuration key.
    pub key: String,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub source: io::Error,
}

impl Hint for AuthorityError {
    fn hint(&self) -> Option<String> {
        Some("name a PEM file that holds the certificate (`BEGIN CERTIFICATE`) of the authority that signed the node's".to_owned())
    }
}

/// TLS that trusts the authorities in this PEM file, and none of the system's.
///
/// # Errors
///
/// What keeps the file from being read, or that it holds no certificate.
pub(crate) fn trusting(path: &Path) -> io::Result<ClientConfig> {
    let invalid = |error: rustls::pki_types::pem::Error| match error {
        rustls::pki_types::pem::Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(invalid)? {
        let added = roots.add(certificate.map_err(invalid)?);
        added.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file holds no certificate"));
    }
    // Named, because the driver of MongoDB could bring another provider into the process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        assert_eq!(trusting(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        for text in ["", "a token", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(trusting(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "{text:?}");
        }
    }
}
