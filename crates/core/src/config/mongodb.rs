//! The configuration section `mongodb`: a connection string, or servers, user and password as separate keys.
//!
//! This module makes one connection string and a database name of them. [`crate::store`] connects.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::secret::Secret;
use crate::config::{AuthMechanism, ConfigError, Key, Kind, human, secret};

/// The database used when neither the URI's path nor `mongodb.database` names one.
pub const DEFAULT_DATABASE: &str = "carferry";

/// The server that is used when no key names one.
const DEFAULT_SERVER: &str = "localhost";

/// Where the shared database is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MongodbSection {
    /// A whole connection string; excludes `server` and `port`. Without either: the server of this machine.
    pub uri: Option<Secret>,
    /// `host`, `host:port`, or several with commas.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub server: Option<String>,
    /// The port of servers written without one.
    pub port: Option<u16>,
    /// The database user.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// A file that holds the password.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub password_file: Option<PathBuf>,
    /// The database; a name in the URI's path wins.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub database: Option<String>,
    /// The database in which the user is defined.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub auth_source: Option<String>,
    /// How the user logs in; without it the server and the password decide.
    pub auth_mechanism: Option<AuthMechanism>,
    /// The name of the replica set.
    #[serde(deserialize_with = "human::optional_text::deserialize")]
    pub replica_set: Option<String>,
    /// Whether to speak TLS.
    pub tls: Option<bool>,
    /// A PEM file with the authority that signed the server's certificate.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub tls_ca_file: Option<PathBuf>,
    /// A PEM file with the agent's own certificate and key.
    #[serde(deserialize_with = "human::optional_path::deserialize")]
    pub tls_certificate_key_file: Option<PathBuf>,
}

/// What `store` connects to.
#[derive(Clone, Debug)]
pub struct MongoTarget {
    /// The connection string, password included.
    pub uri: Secret,
    /// The database name.
    pub database: String,
    /// The servers alone, for messages.
    pub servers: String,
}

impl MongodbSection {
    /// The keys of this section.
    pub const KEYS: &'static [Key] = &[
        Key::new("mongodb.uri", Kind::Text, "MongoDB connection string; keep passwords out of flags"),
        Key::new("mongodb.server", Kind::Text, "MongoDB host[:port], several with commas, instead of a URI"),
        Key::new("mongodb.port", Kind::Integer, "Port of servers written without one (27017)"),
        Key::new("mongodb.username", Kind::Text, "MongoDB user"),
        Key::new("mongodb.password", Kind::Secret, "MongoDB password"),
        Key::new("mongodb.passwordFile", Kind::Text, "File with the MongoDB password"),
        Key::new("mongodb.database", Kind::Text, "Database where the URI's path names none (carferry)"),
        Key::new("mongodb.authSource", Kind::Text, "Database that knows the user (admin)"),
        Key::new(
            "mongodb.authMechanism",
            Kind::Text,
            "How the user logs in: SCRAM-SHA-256, SCRAM-SHA-1 (by password) or MONGODB-X509 (by certificate)",
        ),
        Key::new("mongodb.replicaSet", Kind::Text, "Name of the replica set"),
        Key::new("mongodb.tls", Kind::Bool, "Speak TLS to MongoDB"),
        Key::new("mongodb.tlsCaFile", Kind::Text, "PEM file of the authority behind MongoDB's certificate"),
        Key::new(
            "mongodb.tlsCertificateKeyFile",
            Kind::Text,
            "PEM file with the agent's certificate and key",
        ),
    ];

    /// Whether a URI or a server is set. Without either, the server is on this machine.
    pub fn names_server(&self) -> bool {
        self.uri.is_some() || self.server.is_some()
    }

    /// Reads the PEM files, so that an error names the wrong file before anything connects.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unreadable`], or [`ConfigError::Conflict`] for a file without a certificate or a key.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        let files = [
            ("mongodb.tlsCaFile", &self.tls_ca_file, &["CERTIFICATE"][..]),
            (
                "mongodb.tlsCertificateKeyFile",
                &self.tls_certificate_key_file,
                &["CERTIFICATE", "PRIVATE KEY"],
            ),
        ];
        for (key, file, parts) in files {
            let Some(file) = file else { continue };
            let text = std::fs::read(file).map_err(|source| ConfigError::KeyFile {
                key: key.to_owned(),
                file: file.clone(),
                source,
            })?;
            let text = String::from_utf8_lossy(&text);
            for part in parts {
                let has = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(part));
                if !has {
                    let problem = format!("{} holds no {}", file.display(), part.to_lowercase());
                    return Err(conflict(key, &problem, "name a PEM file; its parts begin with -----BEGIN"));
                }
            }
        }
        Ok(())
    }

    /// One connection string and one database name from the keys that are set.
    ///
    /// # Errors
    ///
    /// When keys contradict each other, or the password file cannot be read.
    pub fn target(&self) -> Result<MongoTarget, ConfigError> {
        let password =
            secret::resolve("mongodb.password", self.password.as_ref(), self.password_file.as_deref())?;
        // The first configuration files put whole connection strings into `server` now and then.
        let server_is_uri = self.server.as_deref().is_some_and(|server| server.contains("://"));
        let uri = match (&self.uri, &self.server) {
            (Some(_), Some(_)) => {
                return Err(conflict("mongodb.server", "`mongodb.uri` is set too", "keep one of the two"));
            }
            (Some(uri), None) => uri.expose().trim().to_owned(),
            (None, Some(server)) if server_is_uri => server.trim().to_owned(),
            (None, Some(server)) => format!("mongodb://{}/", with_port(server, self.port)?),
            (None, None) => format!("mongodb://{}/", with_port(DEFAULT_SERVER, self.port)?),
        };
        let mut parts = Parts::split(&uri)?;
        if let Some(username) = &self.username {
            if parts.credentials.is_some() {
                return Err(conflict("mongodb.username", "the URI names a user too", "keep one of the two"));
            }
            let password = password.as_ref().map(|password| format!(":{}", encoded(password.expose())));
            parts.credentials = Some(format!("{}{}", encoded(username), password.unwrap_or_default()));
        } else if let Some(password) = &password {
            match parts.credentials.as_mut() {
                Some(user) if !user.contains(':') => {
                    user.push(':');
                    user.push_str(&encoded(password.expose()));
                }
                Some(_) => {
                    return Err(conflict("mongodb.password", "the URI holds one too", "keep one of the two"));
                }
                None => {
                    return Err(conflict(
                        "mongodb.password",
                        "no user goes with it",
                        "set `mongodb.username`",
                    ));
                }
            }
        }
        parts.add_option("authSource", self.auth_source.as_deref());
        parts.add_option("authMechanism", self.auth_mechanism.map(AuthMechanism::name));
        parts.add_option("replicaSet", self.replica_set.as_deref());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let (ca, certificate) = (path(&self.tls_ca_file), path(&self.tls_certificate_key_file));
        // A certificate without TLS would be ignored in silence.
        let tls = self.tls.or((ca.is_some() || certificate.is_some()).then_some(true));
        parts.add_option("tls", tls.map(|on| if on { "true" } else { "false" }));
        parts.add_option("tlsCAFile", ca.as_deref());
        parts.add_option("tlsCertificateKeyFile", certificate.as_deref());
        parts.check_certificate_login()?;

        let database = match decoded(&parts.database)? {
            in_path if !in_path.is_empty() => in_path,
            _ => self.database.clone().unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
        };
        if database.is_empty()
            || database.len() > 63
            || database.contains(['/', '\\', '.', ' ', '"', '$', '\0'])
        {
            return Err(conflict(
                "mongodb.database",
                &format!("\"{database}\" is no database name"),
                "at most 63 bytes, none of them / \\ . \" $ or a blank",
            ));
        }
        Ok(MongoTarget { uri: Secret::new(parts.join()), database, servers: parts.servers.clone() })
    }
}

/// A connection string, cut apart: `scheme://[credentials@]servers[/database][?options]`.
struct Parts {
    scheme: String,
    credentials: Option<String>,
    servers: String,
    database: String,
    options: Vec<String>,
}

impl Parts {
    fn split(uri: &str) -> Result<Self, ConfigError> {
        let bad = |problem: &str| {
            conflict(
                "mongodb.uri",
                problem,
                "mongodb://user:password@host1:27017,host2:27017/database?replicaSet=rs0",
            )
        };
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| bad("not a MongoDB connection string"))?;
        if !matches!(scheme, "mongodb" | "mongodb+srv") {
            return Err(bad("a MongoDB connection string begins with mongodb:// or mongodb+srv://"));
        }
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        // The last @ ends the credentials: an unescaped one in a password is then reported below.
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials.to_owned()), rest),
            None => (None, rest),
        };
        if credentials
            .as_deref()
            .is_some_and(|text| text.contains(['@', '/']) || text.matches(':').count() > 1)
        {
            return Err(bad("user and password must be percent-encoded in a connection string"));
        }
        let (servers, database) = rest.split_once('/').unwrap_or((rest, ""));
        if servers.is_empty() {
            return Err(bad("the connection string names no server"));
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            credentials,
            servers: servers.to_owned(),
            database: database.to_owned(),
            options: options.split('&').filter(|option| !option.is_empty()).map(str::to_owned).collect(),
        })
    }

    /// Adds an option unless the connection string has it: what is written there wins.
    fn add_option(&mut self, name: &str, value: Option<&str>) {
        let has =
            |option: &String| option.split('=').next().is_some_and(|have| have.eq_ignore_ascii_case(name));
        if let Some(value) = value
            && !self.options.iter().any(has)
        {
            self.options.push(format!("{name}={}", encoded(value)));
        }
    }

    /// Refuses a certificate login that cannot succeed. The driver's own message would not name the key.
    fn check_certificate_login(&self) -> Result<(), ConfigError> {
        const KEY: &str = "mongodb.authMechanism";
        let value_of = |name: &str| {
            let mut options = self.options.iter().filter_map(|option| option.split_once('='));
            options.find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        if value_of("authMechanism") != Some(AuthMechanism::MongodbX509.name()) {
            return Ok(());
        }
        if value_of("tlsCertificateKeyFile").is_none() {
            let hint = "set `mongodb.tlsCertificateKeyFile` to a PEM file with certificate and key";
            return Err(conflict(KEY, "MONGODB-X509 needs a certificate", hint));
        }
        if self.credentials.as_deref().is_some_and(|user| user.contains(':')) {
            let hint = "remove `mongodb.password` and `mongodb.passwordFile`; the certificate names the user";
            return Err(conflict(KEY, "MONGODB-X509 takes no password", hint));
        }
        Ok(())
    }

    fn join(&self) -> String {
        let credentials = self.credentials.as_ref().map(|text| format!("{text}@")).unwrap_or_default();
        // The database is left out: in a connection string it would also name the database that knows the
        // user. The option authSource names that one, and it is `admin` without the option.
        let mut uri = format!("{}://{credentials}{}/", self.scheme, self.servers);
        if !self.options.is_empty() {
            uri.push('?');
            uri.push_str(&self.options.join("&"));
        }
        uri
    }
}

fn with_port(servers: &str, port: Option<u16>) -> Result<String, ConfigError> {
    const HINT: &str = "host or host:port; user and password have keys of their own";
    let servers: Vec<String> = servers
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(|server| match port {
            Some(port) if !has_port(server) => format!("{server}:{port}"),
            _ => server.to_owned(),
        })
        .collect();
    let joined = servers.join(",");
    // The text before the @ may be a password, so no message repeats it.
    if joined.contains('@') {
        return Err(conflict("mongodb.server", "a user or a password stands before the server", HINT));
    }
    if joined.is_empty() || joined.contains(['/', '?', ' ']) {
        return Err(conflict("mongodb.server", &format!("\"{joined}\" is not a list of servers"), HINT));
    }
    Ok(joined)
}

fn has_port(server: &str) -> bool {
    // An IPv6 address stands in brackets: only a colon behind them begins a port.
    server.rsplit(']').next().is_some_and(|behind| behind.contains(':'))
}

fn conflict(key: &str, problem: &str, hint: &str) -> ConfigError {
    ConfigError::Conflict { key: key.to_owned(), problem: problem.to_owned(), hint: hint.to_owned() }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn decoded(text: &str) -> Result<String, ConfigError> {
    let bad = || conflict("mongodb.uri", "broken percent-encoding in the database's name", "write % as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        let hex = after.get(..2).ok_or_else(bad)?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(|_| bad())?);
        rest = after.get(2..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(section: &MongodbSection) -> (String, String) {
        let target = section.target().unwrap();
        (target.uri.expose().to_owned(), target.database)
    }

    #[expect(clippy::unnecessary_wraps, reason = "keeps the tables below readable")]
    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_prototypes_form_becomes_an_encoded_uri() {
        let section = MongodbSection {
            server: text("10.0.0.5:27017"),
            username: text("offline@deals"),
            password: Some(Secret::new("p:a/s@s%w?rd")),
            database: text("filecoin"),
            ..MongodbSection::default()
        };
        let uri = "mongodb://offline%40deals:p%3Aa%2Fs%40s%25w%3Frd@10.0.0.5:27017/";
        assert_eq!(target(&section), (uri.to_owned(), "filecoin".to_owned()));
    }

    #[test]
    fn servers_options_and_tls_reach_the_uri() {
        let section = MongodbSection {
            server: text("db1, db2:27018,[::1]"),
            port: Some(27030),
            replica_set: text("rs 0"),
            tls_ca_file: Some("/etc/ca.pem".into()),
            ..MongodbSection::default()
        };
        let uri =
            "mongodb://db1:27030,db2:27018,[::1]:27030/?replicaSet=rs%200&tls=true&tlsCAFile=%2Fetc%2Fca.pem";
        assert_eq!(target(&section), (uri.to_owned(), DEFAULT_DATABASE.to_owned()));
    }

    #[test]
    fn a_certificate_is_a_login_without_user_and_password() {
        let section = MongodbSection {
            server: text("h"),
            auth_mechanism: Some(AuthMechanism::MongodbX509),
            tls_certificate_key_file: Some("/etc/agent.pem".into()),
            ..MongodbSection::default()
        };
        let uri = "mongodb://h/?authMechanism=MONGODB-X509&tls=true&tlsCertificateKeyFile=%2Fetc%2Fagent.pem";
        assert_eq!(target(&section), (uri.to_owned(), DEFAULT_DATABASE.to_owned()));
    }

    #[test]
    fn a_database_in_the_uri_wins_and_written_options_stay() {
        let section = MongodbSection {
            uri: Some(Secret::new("mongodb://u@h1,h2/from%20path?tls=false&w=majority")),
            ..MongodbSection::default()
        };
        assert!(matches!(section.target(), Err(ConfigError::Conflict { .. })), "a blank is no database name");
        let section = MongodbSection {
            uri: Some(Secret::new("mongodb://u@h1,h2/main?tls=false&w=majority")),
            database: text("other"),
            tls: Some(true),
            password: Some(Secret::new("p")),
            ..MongodbSection::default()
        };
        assert_eq!(
            target(&section),
            ("mongodb://u:p@h1,h2/?tls=false&w=majority".to_owned(), "main".to_owned())
        );
    }

    #[test]
    fn without_a_server_it_is_the_one_of_this_machine() {
        let nothing = MongodbSection::default();
        assert_eq!(target(&nothing), ("mongodb://localhost/".to_owned(), DEFAULT_DATABASE.to_owned()));
        assert!(!nothing.names_server());
    }

    #[test]
    fn pem_files_are_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let check = || {
            let section = MongodbSection { tls_ca_file: Some(file.clone()), ..MongodbSection::default() };
            section.check_files().map_err(|error| error.to_string())
        };
        assert!(check().unwrap_err().starts_with("cannot read "));
        std::fs::write(&file, "hello").unwrap();
        assert!(check().unwrap_err().ends_with("holds no certificate"));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn contradictions_name_their_key() {
        let cases = [
            (
                MongodbSection {
                    uri: Some(Secret::new("mongodb://h")),
                    server: text("h"),
                    ..MongodbSection::default()
                },
                "`mongodb.server`: `mongodb.uri` is set too",
            ),
            (
                MongodbSection { uri: Some(Secret::new("postgres://h")), ..MongodbSection::default() },
                "`mongodb.uri`: a MongoDB connection string begins with mongodb:// or mongodb+srv://",
            ),
            (
                MongodbSection { uri: Some(Secret::new("mongodb://u:p@ss@h")), ..MongodbSection::default() },
                "`mongodb.uri`: user and password must be percent-encoded in a connection string",
            ),
            (
                MongodbSection {
                    server: text("h"),
                    password: Some(Secret::new("p")),
                    ..MongodbSection::default()
                },
                "`mongodb.password`: no user goes with it",
            ),
            (
                MongodbSection {
                    uri: Some(Secret::new("mongodb://h/?authMechanism=MONGODB-X509")),
                    ..MongodbSection::default()
                },
                "`mongodb.authMechanism`: MONGODB-X509 needs a certificate",
            ),
            (
                MongodbSection {
                    server: text("h"),
                    username: text("u"),
                    password: Some(Secret::new("p")),
                    auth_mechanism: Some(AuthMechanism::MongodbX509),
                    tls_certificate_key_file: Some("/etc/agent.pem".into()),
                    ..MongodbSection::default()
                },
                "`mongodb.authMechanism`: MONGODB-X509 takes no password",
            ),
        ];
        for (section, message) in cases {
            assert_eq!(section.target().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_password_in_the_wrong_key_is_not_repeated() {
        let section = MongodbSection { server: text("agent:s3cret@db1:27017"), ..MongodbSection::default() };
        let error = section.target().unwrap_err();
        assert_eq!(error.to_string(), "`mongodb.server`: a user or a password stands before the server");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
