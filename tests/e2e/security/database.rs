//! A secured database with the roles of `configs/mongodb-roles.js`, and users that have them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bson::{Bson, Document, doc};
use harness::SecuredMongod;
use harness::mongod::secured::write_private;
use harness::test_env::TestEnv;
use lotus_sim::SimConfig;
use mongodb::options::Credential;

use super::certificates::Authority;

/// The database that the agents share.
pub(super) const DATABASE: &str = "carferry";
pub(super) const CLIENT: &str = "carferryClient";
pub(super) const MINER: &str = "carferryMiner";

/// A secured mongod, its authority, its roles.
pub(super) struct Secured {
    pub(super) mongod: SecuredMongod,
    pub(super) authority: Authority,
    admin: mongodb::Client,
    folder: tempfile::TempDir,
}

/// A user that logs in with a password.
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
    /// The part of the password that no encoding changes: where it is not, the password is not.
    pub(super) secret: String,
    pub(super) password_file: PathBuf,
}

impl Secured {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("carferry-certificates-").tempdir()?;
        let authority = Authority::new(folder.path())?;
        let mongod = SecuredMongod::start(&authority.server()?).await?;
        let admin = mongod.admin().await?;
        let secured = Self { mongod, authority, admin, folder };
        for (role, grants) in shipped_roles()? {
            let grants: Vec<Grant> = serde_json::from_value(grants)?;
            secured.create_role(&role, &grants).await?;
        }
        Ok(secured)
    }

    /// An environment whose own access is the administrator's; the agents get their own.
    pub(super) async fn env(&self) -> anyhow::Result<TestEnv> {
        TestEnv::open_on(SimConfig::default(), self.admin.database(DATABASE), String::new()).await
    }

    pub(super) fn database(&self) -> mongodb::Database {
        self.admin.database(DATABASE)
    }

    /// As the script does: the grants are the file's, the database is the one it runs on.
    pub(super) async fn create_role(&self, role: &str, grants: &[Grant]) -> anyhow::Result<()> {
        let privileges: Vec<Document> = grants
            .iter()
            .map(|Grant { collection, actions }| {
                doc! { "resource": { "db": DATABASE, "collection": collection }, "actions": actions }
            })
            .collect();
        let create = doc! { "createRole": role, "privileges": privileges, "roles": Bson::Array(Vec::new()) };
        self.admin.database(DATABASE).run_command(create).await?;
        Ok(())
    }

    /// A user with a password full of what URIs, YAML and shells care about.
    pub(super) async fn user(&self, name: &str, role: &str) -> anyhow::Result<User> {
        let secret = format!("{:016x}", fastrand::u64(..));
        let password = format!("p@ss:w/ord%{secret}'\"#");
        let password_file = self.folder.path().join(format!("{name}.password"));
        write_private(&password_file, &format!("{password}\n"))?;
        let create = doc! {
            "createUser": name, "pwd": &password, "roles": [{ "role": role, "db": DATABASE }],
        };
        self.admin.database("admin").run_command(create).await?;
        Ok(User { name: name.to_owned(), password, secret, password_file })
    }

    /// A user who is known by a certificate, whose file is the answer.
    pub(super) async fn certified_user(&self, name: &str, role: &str) -> anyhow::Result<PathBuf> {
        let (subject, file) = self.authority.agent(name)?;
        let create = doc! { "createUser": subject, "roles": [{ "role": role, "db": DATABASE }] };
        self.admin.database("$external").run_command(create).await?;
        Ok(file)
    }

    /// The section `mongodb` up to the login.
    pub(super) fn section(&self, tls: &str, login: &str) -> String {
        format!(
            "{{server: '{}', replicaSet: {}, database: {DATABASE}, {tls}, {login}}}",
            self.mongod.server(),
            self.mongod.replica_set(),
        )
    }

    pub(super) fn tls(&self) -> String {
        format!("tls: true, tlsCaFile: '{}'", self.authority.ca_file().display())
    }

    pub(super) fn by_password(&self, user: &User) -> String {
        self.section(&self.tls(), &login_by_password(user))
    }

    pub(super) fn by_certificate(&self, file: &Path) -> String {
        let login = format!("authMechanism: MONGODB-X509, tlsCertificateKeyFile: '{}'", file.display());
        self.section(&self.tls(), &login)
    }

    /// The database as this user sees it.
    pub(super) async fn as_user(&self, user: &User) -> anyhow::Result<mongodb::Database> {
        let credential = Credential::builder()
            .username(user.name.clone())
            .password(user.password.clone())
            .source("admin".to_owned())
            .build();
        Ok(self.mongod.client(Some(credential)).await?.database(DATABASE))
    }
}

/// The keys of a login by password.
pub(super) fn login_by_password(user: &User) -> String {
    format!("username: {}, passwordFile: '{}'", user.name, user.password_file.display())
}

/// What a role may do with a collection.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Grant {
    pub(super) collection: String,
    pub(super) actions: Vec<String>,
}

/// The roles, read out of the very file that operators run.
pub(super) fn shipped_roles() -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/mongodb-roles.js");
    let script = fs::read_to_string(file)?;
    let (_, from) = script.split_once("const ROLES =").context("the script holds no ROLES")?;
    let (roles, _) = from.split_once("\n;").context("ROLES have no end")?;
    serde_json::from_str(roles).context("ROLES are no JSON")
}
