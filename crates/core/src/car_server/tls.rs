//! TLS of a CAR server: a certificate chain and its key from PEM files, on ring.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::TlsAcceptor;

/// Why certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: no {what} that can be used", path = path.display())]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What it was to hold.
    pub what: &'static str,
    /// What is wrong with it.
    pub source: io::Error,
}

/// An acceptor that shows this certificate.
///
/// # Errors
///
/// [`TlsError`] that names the file.
pub(super) fn acceptor(certificates: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let about = |path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError { path, what, source }
    };
    let chain = read_chain(certificates).map_err(about(certificates, "certificate (PEM)"))?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(of_pem);
    let key_der = key_der.map_err(about(key, "private key (PEM)"))?;
    // Named, because the driver of MongoDB could bring another provider into the process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key_der));
    let mut config = config.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    if let Ok(config) = &mut config {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    let config = config.map_err(about(key, "private key of the certificate"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read_chain(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(of_pem)?.collect();
    let chain = chain.map_err(of_pem)?;
    if chain.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file holds no certificate"));
    }
    Ok(chain)
}

fn of_pem(error: pem::Error) -> io::Error {
    match error {
        pem::Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}
