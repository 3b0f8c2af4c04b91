//! Certificates as an operator makes them: an authority, a server's, one for each agent.
//!
//! Made by rcgen and not by the `openssl` command, which a machine that runs the tests need not have; it
//! signs with ring, which the driver's TLS brings along anyway.

use std::path::{Path, PathBuf};

use harness::ServerTls;
use harness::mongod::secured::write_private;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// The organization of the agents' certificates; servers have another, or mongod takes agents for members
/// of its cluster.
const AGENTS: &str = "carferry-agents";
const SERVERS: &str = "carferry-servers";

/// A private authority and the files it wrote.
pub(super) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("authority", "carferry-authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write_private(&folder.join("ca.pem"), &issuer.pem())?;
        Ok(Self { folder: folder.to_owned(), issuer })
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// For a server on this machine.
    pub(super) fn server(&self) -> anyhow::Result<ServerTls> {
        // Clients look at the address here and nowhere else.
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
        params.distinguished_name = subject("mongod", SERVERS);
        // Members of a replica set are each other's clients.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(ServerTls { ca_file: self.ca_file(), certificate_key_file: self.sign(&params, "server.pem")? })
    }

    /// For an agent: the name of its database user, and its certificate with the key.
    pub(super) fn agent(&self, name: &str) -> anyhow::Result<(String, PathBuf)> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, AGENTS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok((format!("CN={name},O={AGENTS}"), self.sign(&params, &format!("{name}.pem"))?))
    }

    fn sign(&self, params: &CertificateParams, file: &str) -> anyhow::Result<PathBuf> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let path = self.folder.join(file);
        write_private(&path, &format!("{}{}", certificate.pem(), key.serialize_pem()))?;
        Ok(path)
    }
}

/// Written out from the last part to the first (RFC 2253), as MongoDB names its users: `CN=…,O=…`.
fn subject(name: &str, organization: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, organization);
    subject.push(DnType::CommonName, name);
    subject
}
