//! A Lotus node behind TLS whose certificate an authority of the operator's own has signed.

use std::path::Path;
use std::sync::Arc;

use carferry_core::config::Secret;
use carferry_core::config::sections::LotusSection;
use carferry_core::error_chain::ErrorChain;
use carferry_core::lotus::FullNode;
use carferry_core::rpc::endpoint::resolve_full_node;
use carferry_core::rpc::{CallTimeouts, Client};
use lotus_sim::{Permission, SimConfig};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certificates::Authority;

/// Passes on what comes through TLS to this address, in clear; the port it listens at.
async fn behind_tls(address: String, certificate_key_file: &Path, tasks: &mut JoinSet<()>) -> u16 {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate_key_file).unwrap().collect();
    let key = PrivateKeyDer::from_pem_file(certificate_key_file).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.unwrap(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, address) = (acceptor.clone(), address.clone());
            connections.spawn(async move {
                // A client that does not trust the certificate ends the handshake.
                let Ok(mut inside) = acceptor.accept(stream).await else { return };
                let mut node = TcpStream::connect(address).await.unwrap();
                let _ended = copy_bidirectional(&mut inside, &mut node).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn node_whose_authority_is_named_is_called_and_any_other_is_refused() {
    let sim = lotus_sim::start(SimConfig::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path()).unwrap();
    let certificate = authority.server().unwrap().certificate_key_file;
    let url = sim.full_node_url();
    let address = url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let mut tasks = JoinSet::new();
    let port = behind_tls(address, &certificate, &mut tasks).await;

    let section = |ca_file: Option<&Path>| LotusSection {
        endpoint: Some(format!("https://127.0.0.1:{port}")),
        token: Some(Secret::new(sim.token(Permission::Read))),
        tls_ca_file: ca_file.map(Path::to_owned),
        ..LotusSection::default()
    };
    let version = async |ca_file: Option<&Path>| {
        let endpoint = resolve_full_node(&section(ca_file), &|_| None).unwrap();
        let client = Client::of(&endpoint, CallTimeouts::default()).unwrap();
        FullNode::new(client).version().await
    };
    let ca_file = authority.ca_file();
    assert!(!version(Some(&ca_file)).await.unwrap().version.is_empty());

    let refused = version(None).await.unwrap_err();
    assert!(ErrorChain(&refused).to_string().contains("certificate"), "{}", ErrorChain(&refused));
    let other = tempfile::tempdir().unwrap();
    let stranger = Authority::new(other.path()).unwrap().ca_file();
    let refused = version(Some(&stranger)).await.unwrap_err();
    assert!(ErrorChain(&refused).to_string().contains("certificate"), "{}", ErrorChain(&refused));

    // Found out before anything is called.
    let missing = folder.path().join("none.pem");
    let error = resolve_full_node(&section(Some(&missing)), &|_| None).unwrap_err();
    let text = ErrorChain(&error).to_string();
    assert!(text.contains("lotus.tlsCaFile") && text.contains("none.pem"), "{text}");
}
