use std::collections::HashMap;

use super::*;
use crate::error_chain::Report;

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJBbGxvdyI6WyJyZWFkIl19.abc-DEF_123";

fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let map: HashMap<String, String> =
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    move |name| map.get(name).cloned()
}

fn repo(folder: &Path, name: &str, port: u16) -> String {
    let repo = folder.join(name);
    std::fs::create_dir(&repo).unwrap();
    std::fs::write(repo.join("api"), format!("/ip4/127.0.0.1/tcp/{port}/http\n")).unwrap();
    std::fs::write(repo.join("token"), format!("{TOKEN}\n")).unwrap();
    repo.display().to_string()
}

fn url(endpoint: Result<Endpoint, EndpointError>) -> String {
    endpoint.unwrap().url.to_string()
}

#[test]
fn addresses_become_http_urls() {
    let cases = [
        ("/ip4/127.0.0.1/tcp/1234/http", "http://127.0.0.1:1234/rpc/v0"),
        ("/ip4/10.0.0.1/tcp/2345", "http://10.0.0.1:2345/rpc/v0"),
        ("/ip6/::1/tcp/1234/http", "http://[::1]:1234/rpc/v0"),
        ("/dns/node.example/tcp/1234/wss", "https://node.example:1234/rpc/v0"),
        ("/dns4/node.example/tcp/80/https", "https://node.example:80/rpc/v0"),
        ("/dns4/node.example/tcp/443/https", "https://node.example/rpc/v0"),
        ("/dns4/node.example/tcp/443/wss", "https://node.example/rpc/v0"),
        ("/ip4/10.0.0.7/tcp/1234/tls/http", "https://10.0.0.7:1234/rpc/v0"),
        ("/ip4/10.0.0.7/tcp/1234/ws", "http://10.0.0.7:1234/rpc/v0"),
        ("/dns6/node.example/tcp/1234", "http://node.example:1234/rpc/v0"),
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234/rpc/v0"),
        ("ws://127.0.0.1:1234/", "http://127.0.0.1:1234/rpc/v0"),
        ("wss://api.example", "https://api.example/rpc/v0"),
        ("https://api.example/lotus", "https://api.example/lotus/rpc/v0"),
        ("http://127.0.0.1:1234/rpc/v0", "http://127.0.0.1:1234/rpc/v0"),
        ("HTTP://127.0.0.1:1234/rpc/v1/", "http://127.0.0.1:1234/rpc/v0"),
    ];
    for (address, expected) in cases {
        assert_eq!(api_url(address).map(String::from).as_deref(), Ok(expected), "{address}");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let cases = [
        "",
        "127.0.0.1:1234",
        "localhost:1234",
        "ftp://host",
        "http://",
        "http:///rpc/v0",
        "http://host?token=x",
        "http://user:password@host:1234",
        "/",
        "/ip4",
        "/ip4/127.0.0.1",
        "/ip4/300.0.0.1/tcp/1",
        "/ip4/127.0.0.1/udp/1234",
        "/ip4/127.0.0.1/tcp/",
        "/ip4/127.0.0.1/tcp/70000",
        "/ip6/127.0.0.1/tcp/1",
        "/ip6zone/eth0/ip6/fe80::1/tcp/1234",
        "/dnsaddr/host/tcp/1",
        "/unix/tmp/socket",
    ];
    for address in cases {
        assert!(api_url(address).is_err(), "{address}");
    }
}

#[test]
fn tokens_are_told_from_addresses() {
    let cases = [
        (format!("{TOKEN}:/ip4/127.0.0.1/tcp/1234/http"), Some(TOKEN), "/ip4/127.0.0.1/tcp/1234/http"),
        (format!("{TOKEN}:http://h:1234"), Some(TOKEN), "http://h:1234"),
        ("a.b.:/ip4/1.2.3.4/tcp/1".to_owned(), Some("a.b."), "/ip4/1.2.3.4/tcp/1"),
        ("http://h:1234".to_owned(), None, "http://h:1234"),
        ("/ip4/1.2.3.4/tcp/1".to_owned(), None, "/ip4/1.2.3.4/tcp/1"),
        ("10.0.0:1234".to_owned(), Some("10.0.0"), "1234"),
        ("a.b:c".to_owned(), None, "a.b:c"),
        (format!("{TOKEN}:"), None, &format!("{TOKEN}:")),
        (format!(" {TOKEN}:http://a:1 , b.c.d:http://b:2"), Some(TOKEN), "http://a:1"),
    ];
    for (written, token, address) in &cases {
        let info = ApiInfo::parse(written);
        assert_eq!(info.token.as_ref().map(Secret::expose), *token, "{written}");
        assert_eq!(&info.address, address, "{written}");
    }
}

#[test]
fn full_node_is_looked_for_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().display().to_string();
    let default = LotusSection::default();
    let nothing = resolve_full_node(&default, &env(&[("HOME", &home)])).unwrap_err();
    assert_eq!(nothing.to_string(), "no Lotus full node is configured");

    repo(folder.path(), ".lotus", 1111);
    assert_eq!(url(resolve_full_node(&default, &env(&[("HOME", &home)]))), "http://127.0.0.1:1111/rpc/v0");
    let named = repo(folder.path(), "named", 2222);
    let pairs = [("HOME", home.as_str()), ("LOTUS_PATH", &named)];
    let endpoint = resolve_full_node(&default, &env(&pairs)).unwrap();
    assert_eq!(endpoint.to_string(), format!("http://127.0.0.1:2222/rpc/v0 (from {named})"));
    assert_eq!(endpoint.token.as_ref().map(Secret::expose), Some(TOKEN));

    let info = format!("{TOKEN}:/ip4/127.0.0.1/tcp/3333/http");
    let pairs = [("HOME", home.as_str()), ("LOTUS_PATH", &named), ("FULLNODE_API_INFO", &info)];
    assert_eq!(url(resolve_full_node(&default, &env(&pairs))), "http://127.0.0.1:3333/rpc/v0");

    let config = LotusSection { endpoint: Some("ws://h:4444".to_owned()), ..LotusSection::default() };
    let endpoint = resolve_full_node(&config, &env(&pairs)).unwrap();
    assert_eq!((endpoint.url.as_str(), endpoint.token), ("http://h:4444/rpc/v0", None));
}

#[test]
fn markets_are_looked_for_as_the_import_command_does() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().display().to_string();
    let markets = repo(folder.path(), "markets", 1001);
    let miner = repo(folder.path(), "miner", 1002);
    let mut pairs = vec![("HOME", home.as_str()), ("STORAGE_API_INFO", "http://127.0.0.1:1005")];
    let look = |pairs: &[(&str, &str)]| url(resolve_miner(&LotusSection::default(), &env(pairs)));
    assert_eq!(look(&pairs), "http://127.0.0.1:1005/rpc/v0");
    pairs.push(("MINER_API_INFO", "http://127.0.0.1:1004"));
    assert_eq!(look(&pairs), "http://127.0.0.1:1004/rpc/v0");
    repo(folder.path(), ".lotusminer", 1003);
    assert_eq!(look(&pairs), "http://127.0.0.1:1003/rpc/v0");
    pairs.push(("LOTUS_STORAGE_PATH", &miner));
    assert_eq!(look(&pairs), "http://127.0.0.1:1002/rpc/v0");
    pairs.push(("LOTUS_MARKETS_PATH", &markets));
    assert_eq!(look(&pairs), "http://127.0.0.1:1001/rpc/v0");
    pairs.push(("MARKETS_API_INFO", "http://127.0.0.1:1000"));
    assert_eq!(look(&pairs), "http://127.0.0.1:1000/rpc/v0");
}

#[test]
fn configuration_takes_one_address_and_one_token() {
    let none = env(&[]);
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token.txt");
    std::fs::write(&token_file, "from.the.file\n").unwrap();
    let config = LotusSection {
        endpoint: Some("http://h:1".to_owned()),
        token_file: Some(token_file.clone()),
        ..LotusSection::default()
    };
    let endpoint = resolve_full_node(&config, &none).unwrap();
    assert_eq!(endpoint.token.as_ref().map(Secret::expose), Some("from.the.file"));
    assert!(!format!("{endpoint:?}").contains("from.the.file"));
    let config = LotusSection { endpoint: None, ..config };
    let endpoint = resolve_full_node(&config, &env(&[("FULLNODE_API_INFO", "http://h:2")])).unwrap();
    assert_eq!(endpoint.url.as_str(), "http://h:2/rpc/v0");
    assert_eq!(endpoint.token.as_ref().map(Secret::expose), Some("from.the.file"));

    let config = LotusSection {
        endpoint: Some("http://h:1".to_owned()),
        api_info: Some(Secret::new("http://h:2")),
        ..LotusSection::default()
    };
    let error = resolve_full_node(&config, &none).unwrap_err();
    assert_eq!(error.to_string(), "lotus.endpoint and lotus.apiInfo are both set");
    let error = resolve_full_node(&config.named("fullNode"), &none).unwrap_err();
    assert_eq!(error.to_string(), "fullNode.endpoint and fullNode.apiInfo are both set");

    let config = LotusSection {
        api_info: Some(Secret::new(format!("{TOKEN}:http://h:2"))),
        token_file: Some(token_file),
        ..LotusSection::default()
    };
    let error = resolve_full_node(&config, &none).unwrap_err();
    assert_eq!(error.to_string(), "lotus.token and a token in the address are both set");
}

#[test]
fn a_repository_of_a_stopped_node_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = LotusSection { repo: Some(folder.path().to_owned()), ..LotusSection::default() };
    let error = resolve_miner(&config, &env(&[])).unwrap_err();
    let report = Report::of(&error).to_string();
    assert!(report.contains("no API address in Lotus repository"), "{report}");
    assert!(report.contains("/api: No such file"), "{report}");
    assert!(report.contains("\nhint: the file `api` is there only while the node runs"), "{report}");
}

#[test]
fn messages_never_show_a_token() {
    let info = format!("{TOKEN}:nonsense");
    let error =
        resolve_full_node(&LotusSection::default(), &env(&[("FULLNODE_API_INFO", &info)])).unwrap_err();
    let report = Report::of(&error).to_string();
    assert!(report.contains("FULLNODE_API_INFO: \"nonsense\" is not an API address"), "{report}");
    assert!(!report.contains(TOKEN) && !format!("{error:?}").contains(TOKEN), "{report}");
    for address in ["not+quite+secret:/ip4/1.2.3.4/tcp/x", "http://secret@h", "http://h?token=secret"] {
        let error = ApiInfo::parse(address).endpoint("FULLNODE_API_INFO").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_token_in_clear_is_noticed_where_it_leaves_the_machine() {
    for (address, in_clear) in [
        ("/ip4/127.0.0.1/tcp/1234/http", false),
        ("/ip6/::1/tcp/1234/http", false),
        ("http://localhost:1234", false),
        ("http://10.0.0.7:1234", true),
        ("/dns4/node.example/tcp/1234/http", true),
        ("https://node.example", false),
    ] {
        let with_token = ApiInfo::parse(&format!("{TOKEN}:{address}")).endpoint("here").unwrap();
        assert_eq!(with_token.sends_token_in_clear(), in_clear, "{address}");
        assert!(!Endpoint { token: None, ..with_token }.sends_token_in_clear());
    }
}
