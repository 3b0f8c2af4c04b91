//! A replica set of one member that demands a login and TLS of every client.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bson::{Document, doc};
use mongodb::options::{ClientOptions, Credential};
use tokio::task::spawn_blocking;

use super::binary::binary;
use super::member::{Launch, Member};
use crate::eventually;

const REPLICA_SET: &str = "secured";
const ADMIN: &str = "admin";

/// The server's side of TLS, as PEM files.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The authority that clients' certificates must be of.
    pub ca_file: PathBuf,
    /// The server's certificate and key.
    pub certificate_key_file: PathBuf,
}

/// A running mongod with `keyFile` authorization and TLS; its process and files end with it.
#[derive(Debug)]
pub struct SecuredMongod {
    member: Member,
    ca_file: PathBuf,
    admin_password: String,
    // Last: the process must be gone before its files are.
    _folder: tempfile::TempDir,
}

impl SecuredMongod {
    /// Starts it and makes its administrator.
    pub async fn start(tls: &ServerTls) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("carferry-secured-").tempdir()?;
        let key_file = folder.path().join("cluster.key");
        // Any 6 to 1024 base64 characters that only mongod may read.
        write_private(&key_file, &random_text(64))?;
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no UTF-8");
        let extra_args = vec![
            "--keyFile".to_owned(),
            path(&key_file)?,
            "--tlsMode".to_owned(),
            "requireTLS".to_owned(),
            "--tlsCAFile".to_owned(),
            path(&tls.ca_file)?,
            "--tlsCertificateKeyFile".to_owned(),
            path(&tls.certificate_key_file)?,
            // Who logs in with a password needs no certificate.
            "--tlsAllowConnectionsWithoutCertificates".to_owned(),
        ];
        let member_folder = folder.path().join("member");
        let member = spawn_blocking(move || {
            let replica_set = REPLICA_SET.to_owned();
            let launch = Launch { mongod: binary()?, replica_set, oplog_mb: 16, extra_args };
            let mut member = Member::spawn(&launch, &member_folder)?;
            member.wait_until_listening(true)?;
            anyhow::Ok(member)
        });
        let started = Self {
            member: member.await??,
            ca_file: tls.ca_file.clone(),
            admin_password: random_text(24),
            _folder: folder,
        };
        started.initiate().await?;
        Ok(started)
    }

    /// `host:port` of the server.
    pub fn server(&self) -> String {
        format!("127.0.0.1:{}", self.member.port())
    }

    /// The name of its replica set.
    pub fn replica_set(&self) -> &'static str {
        REPLICA_SET
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> anyhow::Result<mongodb::Client> {
        let credential = Credential::builder()
            .username(ADMIN.to_owned())
            .password(self.admin_password.clone())
            .source("admin".to_owned())
            .build();
        self.client(Some(credential)).await
    }

    /// A client that logs in like this, or not at all.
    pub async fn client(&self, credential: Option<Credential>) -> anyhow::Result<mongodb::Client> {
        let mut options = ClientOptions::parse(format!("mongodb://{}/", self.server())).await?;
        options.direct_connection = Some(true);
        options.server_selection_timeout = Some(Duration::from_secs(5));
        options.credential = credential;
        let tls = mongodb::options::TlsOptions::builder().ca_file_path(self.ca_file.clone()).build();
        options.tls = Some(tls.into());
        Ok(mongodb::Client::with_options(options)?)
    }

    /// Uses mongod's localhost exception: before there is a user, a client on this machine may create one.
    async fn initiate(&self) -> anyhow::Result<()> {
        let nobody = self.client(None).await?.database("admin");
        let config = doc! { "_id": REPLICA_SET, "members": [{ "_id": 0, "host": self.server() }] };
        nobody.run_command(doc! { "replSetInitiate": config }).await?;
        let is_primary = |hello: Document| hello.get_bool("isWritablePrimary").unwrap_or(false);
        eventually!(
            nobody.run_command(doc! { "hello": 1 }).await.is_ok_and(is_primary),
            "the secured mongod takes writes"
        );
        let admin = doc! {
            "createUser": ADMIN,
            "pwd": &self.admin_password,
            "roles": ["root"],
        };
        nobody.run_command(admin).await?;
        Ok(())
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

fn random_text(length: usize) -> String {
    (0..length).map(|_| fastrand::alphanumeric()).collect()
}
