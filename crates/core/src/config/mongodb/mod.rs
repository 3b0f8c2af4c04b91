//! The configuration section `mongodb`: a connection string, or servers, user and password as separate keys.
//!
//! This module makes the driver's options and a database name of them. [`crate::store`] connects.

use std::path::PathBuf;

use mongodb::error::ErrorKind;
use mongodb::options::{AuthMechanism as Mechanism, ConnectionString, Tls, TlsOptions};
use serde::Deserialize;

use crate::config::secret::Secret;
use crate::config::{AuthMechanism, ConfigError, Key, Kind, human, secret};

/// The database used when neither the URI's path nor `mongodb.database` names one.
pub const DEFAULT_DATABASE: &str = "carferry";

/// The server that is used when no key names one.
const DEFAULT_SERVER: &str = "localhost";

const NOT_ENCODED: &str = "user and password must be percent-encoded in a connection string";

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
    /// The options of the connection. Their `Debug` shows no password (driver 3.9.1
    /// `src/client/auth.rs:608`).
    pub connection: ConnectionString,
    /// The database name.
    pub database: String,
    /// The servers alone, for messages.
    pub servers: String,
}

impl MongoTarget {
    /// Reads a connection string. A database that its path names wins over `database`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Conflict`] for a connection string that the driver does not take, or a database name
    /// that no server takes.
    pub fn parse(uri: &str, database: &str) -> Result<Self, ConfigError> {
        let (_, _, rest) = cut(uri)?;
        // Behind a `?` that is not percent-encoded, the driver's words may repeat a part of the password.
        let wrong = |error| if rest.contains('@') { bad_uri(NOT_ENCODED) } else { bad_uri(&words(error)) };
        let mut connection = ConnectionString::parse(uri).map_err(wrong)?;
        // In a connection string it would also name the database that knows the user. The option authSource
        // names that one, and it is `admin` without the option.
        let database = connection.default_database.take().unwrap_or_else(|| database.to_owned());
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
        let servers = rest.split(['/', '?']).next().unwrap_or_default().to_owned();
        Ok(Self { connection, database, servers })
    }
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

    /// The options of the connection and the database name, from the keys that are set.
    ///
    /// # Errors
    ///
    /// When keys contradict each other, or the password file cannot be read.
    pub fn target(&self) -> Result<MongoTarget, ConfigError> {
        let database = self.database.as_deref().unwrap_or(DEFAULT_DATABASE);
        let mut target = MongoTarget::parse(&self.uri_with_user()?, database)?;
        let connection = &mut target.connection;
        // What is written in the connection string wins.
        if let Some(mechanism) = self.auth_mechanism {
            let credential = connection.credential.get_or_insert_default();
            credential.mechanism.get_or_insert(mechanism.into());
        }
        if let (Some(credential), Some(source)) = (&mut connection.credential, &self.auth_source) {
            credential.source.get_or_insert_with(|| source.clone());
        }
        if let Some(name) = &self.replica_set {
            connection.replica_set.get_or_insert_with(|| name.clone());
        }
        self.set_tls(connection)?;
        check_login(connection)?;
        Ok(target)
    }

    /// The connection string with the user and the password of the keys in it: the driver refuses one that
    /// names a mechanism and no user.
    fn uri_with_user(&self) -> Result<String, ConfigError> {
        let password =
            secret::resolve("mongodb.password", self.password.as_ref(), self.password_file.as_deref())?;
        let uri = match (&self.uri, self.server.as_deref()) {
            (Some(_), Some(_)) => {
                return Err(conflict("mongodb.server", "`mongodb.uri` is set too", "keep one of the two"));
            }
            (Some(uri), None) => uri.expose().trim().to_owned(),
            // The first configuration files put whole connection strings into `server` now and then.
            (None, Some(server)) if server.contains("://") => server.trim().to_owned(),
            (None, server) => {
                format!("mongodb://{}/", with_port(server.unwrap_or(DEFAULT_SERVER), self.port)?)
            }
        };
        let (scheme, user_in_uri, rest) = cut(&uri)?;
        let user = match (user_in_uri, &self.username) {
            (Some(_), Some(_)) => {
                return Err(conflict("mongodb.username", "the URI names a user too", "keep one of the two"));
            }
            (Some(user), None) => user.to_owned(),
            (None, Some(user)) => encoded(user),
            (None, None) if password.is_none() => return Ok(uri),
            (None, None) => {
                return Err(conflict("mongodb.password", "no user goes with it", "set `mongodb.username`"));
            }
        };
        Ok(match password {
            None => format!("{scheme}://{user}@{rest}"),
            Some(_) if user.contains(':') => {
                return Err(conflict("mongodb.password", "the URI holds one too", "keep one of the two"));
            }
            Some(password) => format!("{scheme}://{user}:{}@{rest}", encoded(password.expose())),
        })
    }

    fn set_tls(&self, connection: &mut ConnectionString) -> Result<(), ConfigError> {
        let names_file = self.tls_ca_file.is_some() || self.tls_certificate_key_file.is_some();
        // A certificate without TLS would be ignored in silence.
        if let Some(on) = self.tls.or(names_file.then_some(true)) {
            let tls = if on { Tls::Enabled(TlsOptions::default()) } else { Tls::Disabled };
            connection.tls.get_or_insert(tls);
        }
        match &mut connection.tls {
            Some(Tls::Enabled(options)) => {
                options.ca_file_path = options.ca_file_path.take().or_else(|| self.tls_ca_file.clone());
                options.cert_key_file_path =
                    options.cert_key_file_path.take().or_else(|| self.tls_certificate_key_file.clone());
            }
            Some(Tls::Disabled) if names_file => {
                let hint = "remove `tls: false`, or `mongodb.tlsCaFile` and `mongodb.tlsCertificateKeyFile`";
                return Err(conflict("mongodb.tls", "TLS is off, and a PEM file is named", hint));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Refuses a login that cannot succeed. The driver's own message would not name the key.
fn check_login(connection: &ConnectionString) -> Result<(), ConfigError> {
    const KEY: &str = "mongodb.authMechanism";
    let Some(credential) = &connection.credential else { return Ok(()) };
    let Some(mechanism) = &credential.mechanism else { return Ok(()) };
    if *mechanism == Mechanism::MongoDbX509 {
        let has_certificate = matches!(&connection.tls, Some(Tls::Enabled(options))
            if options.cert_key_file_path.is_some());
        if !has_certificate {
            let hint = "set `mongodb.tlsCertificateKeyFile` to a PEM file with certificate and key";
            return Err(conflict(KEY, "MONGODB-X509 needs a certificate", hint));
        }
        if credential.password.is_some() {
            let hint = "remove `mongodb.password` and `mongodb.passwordFile`; the certificate names the user";
            return Err(conflict(KEY, "MONGODB-X509 takes no password", hint));
        }
    }
    mechanism.validate_credential(credential).map_err(|error| {
        conflict(
            KEY,
            &words(error),
            "set `mongodb.username` and `mongodb.authSource` as the mechanism wants them",
        )
    })
}

/// Cuts a connection string into scheme, user with password, and all else.
fn cut(uri: &str) -> Result<(&str, Option<&str>, &str), ConfigError> {
    let (scheme, after) = uri.split_once("://").ok_or_else(|| bad_uri("not a MongoDB connection string"))?;
    if !matches!(scheme, "mongodb" | "mongodb+srv") {
        return Err(bad_uri("a MongoDB connection string begins with mongodb:// or mongodb+srv://"));
    }
    let before_options = after.split('?').next().unwrap_or_default();
    // The last @ ends the user: an unescaped one in a password is then reported.
    let Some((user, _)) = before_options.rsplit_once('@') else { return Ok((scheme, None, after)) };
    if user.contains(['@', '/']) || user.matches(':').count() > 1 {
        return Err(bad_uri(NOT_ENCODED));
    }
    Ok((scheme, Some(user), after.get(user.len() + 1..).unwrap_or_default()))
}

/// The driver's words about a connection string.
fn words(error: mongodb::error::Error) -> String {
    match *error.kind {
        ErrorKind::InvalidArgument { message, .. } => message,
        kind => kind.to_string(),
    }
}

fn bad_uri(problem: &str) -> ConfigError {
    let hint = "mongodb://user:password@host1:27017,host2:27017/database?replicaSet=rs0";
    conflict("mongodb.uri", problem, hint)
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

#[cfg(test)]
mod tests;
