//! Tests of the section `mongodb`.

use mongodb::options::Credential;

use super::*;

fn target(section: &MongodbSection) -> (ConnectionString, String, String) {
    let MongoTarget { connection, database, servers } = section.target().unwrap();
    (connection, database, servers)
}

fn login(connection: &ConnectionString) -> (Option<&str>, Option<&str>) {
    let credential = connection.credential.as_ref();
    let part = |part: fn(&Credential) -> &Option<String>| credential.and_then(|all| part(all).as_deref());
    (part(|all| &all.username), part(|all| &all.password))
}

#[expect(clippy::unnecessary_wraps, reason = "keeps the tables below readable")]
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn the_prototypes_form_keeps_every_character_of_user_and_password() {
    let section = MongodbSection {
        server: text("10.0.0.5:27017"),
        username: text("offline@deals"),
        password: Some(Secret::new("p:a/s@s%w?rd")),
        database: text("filecoin"),
        ..MongodbSection::default()
    };
    let (connection, database, servers) = target(&section);
    assert_eq!(login(&connection), (Some("offline@deals"), Some("p:a/s@s%w?rd")));
    assert_eq!((database.as_str(), servers.as_str()), ("filecoin", "10.0.0.5:27017"));
}

#[test]
fn options_do_not_print_the_password() {
    let shown = format!("{:?}", MongoTarget::parse("mongodb://agent:s3cret@db1/", "deals").unwrap());
    assert!(!shown.contains("s3cret") && shown.contains("db1"), "{shown}");
}

#[test]
fn servers_options_and_tls_reach_the_driver() {
    let section = MongodbSection {
        server: text("db1, db2:27018,[::1]"),
        port: Some(27030),
        replica_set: text("rs 0"),
        tls_ca_file: Some("/etc/ca.pem".into()),
        ..MongodbSection::default()
    };
    let (connection, database, servers) = target(&section);
    assert_eq!((database.as_str(), servers.as_str()), (DEFAULT_DATABASE, "db1:27030,db2:27018,[::1]:27030"));
    assert_eq!(connection.replica_set.as_deref(), Some("rs 0"));
    let tls = TlsOptions::builder().ca_file_path(PathBuf::from("/etc/ca.pem")).build();
    assert_eq!(connection.tls, Some(Tls::Enabled(tls)));
}

#[test]
fn a_certificate_is_a_login_without_user_and_password() {
    let section = MongodbSection {
        server: text("h"),
        auth_mechanism: Some(AuthMechanism::MongodbX509),
        tls_certificate_key_file: Some("/etc/agent.pem".into()),
        ..MongodbSection::default()
    };
    let (connection, ..) = target(&section);
    assert_eq!(login(&connection), (None, None));
    let mechanism = connection.credential.and_then(|credential| credential.mechanism);
    assert_eq!(mechanism, Some(Mechanism::MongoDbX509));
    let tls = TlsOptions::builder().cert_key_file_path(PathBuf::from("/etc/agent.pem")).build();
    assert_eq!(connection.tls, Some(Tls::Enabled(tls)));
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
    let (connection, database, servers) = target(&section);
    assert_eq!((database.as_str(), servers.as_str()), ("main", "h1,h2"));
    assert_eq!(login(&connection), (Some("u"), Some("p")));
    assert_eq!((connection.tls, connection.default_database), (Some(Tls::Disabled), None));
    assert!(connection.write_concern.is_some());
}

#[test]
fn options_of_a_login_may_stand_in_the_uri_and_its_user_in_a_key() {
    let section = MongodbSection {
        uri: Some(Secret::new("mongodb://h/?authMechanism=SCRAM-SHA-1&authSource=users")),
        username: text("u"),
        auth_source: text("other"),
        auth_mechanism: Some(AuthMechanism::ScramSha256),
        ..MongodbSection::default()
    };
    let (connection, ..) = target(&section);
    assert_eq!(login(&connection), (Some("u"), None));
    let credential = connection.credential.unwrap();
    assert_eq!(credential.mechanism, Some(Mechanism::ScramSha1));
    assert_eq!(credential.source.as_deref(), Some("users"));
}

#[test]
fn without_a_server_it_is_the_one_of_this_machine() {
    let nothing = MongodbSection::default();
    let (connection, database, servers) = target(&nothing);
    assert_eq!((database.as_str(), servers.as_str()), (DEFAULT_DATABASE, "localhost"));
    assert!(connection.credential.is_none() && connection.tls.is_none(), "{connection:?}");
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
            MongodbSection { uri: Some(Secret::new("mongodb://u:p?ss@h")), ..MongodbSection::default() },
            "`mongodb.uri`: user and password must be percent-encoded in a connection string",
        ),
        (
            MongodbSection { uri: Some(Secret::new("mongodb://h/?w")), ..MongodbSection::default() },
            "`mongodb.uri`: connection string option is not a 'key=value' pair: w",
        ),
        (
            MongodbSection {
                server: text("h"),
                auth_mechanism: Some(AuthMechanism::ScramSha1),
                ..MongodbSection::default()
            },
            "`mongodb.authMechanism`: No username provided for SCRAM authentication",
        ),
        (
            MongodbSection {
                server: text("h"),
                tls: Some(false),
                tls_ca_file: Some("/etc/ca.pem".into()),
                ..MongodbSection::default()
            },
            "`mongodb.tls`: TLS is off, and a PEM file is named",
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
