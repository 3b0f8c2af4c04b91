use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::config::sections::{LogFormat, LogSection, LotusSection};
use crate::config::{MongodbSection, Secret};
use crate::error_chain::{Hint, Report};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Agent {
    #[serde(default)]
    miners: Vec<Miner>,
    setting: Setting,
    #[serde(default)]
    mongodb: MongodbSection,
    #[serde(default)]
    lotus: LotusSection,
    #[serde(default)]
    log: LogSection,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Miner {
    miner: String,
    price: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Setting {
    #[serde(deserialize_with = "human::duration::deserialize")]
    deal_timeout: Duration,
    miner_max_deals: u32,
    #[serde(default)]
    max_deal_nums: Option<u32>,
    #[serde(deserialize_with = "human::text::deserialize")]
    wallet: String,
    #[serde(deserialize_with = "human::text::deserialize")]
    duration: String,
    #[serde(default)]
    verified: bool,
    #[serde(default, deserialize_with = "human::optional_bytes::deserialize")]
    buffer: Option<u64>,
    #[serde(default)]
    groups: Vec<String>,
}

fn keys() -> Vec<Key> {
    let own = [
        Key::new("miners", Kind::FileOnly, "Miners."),
        Key::new("setting.dealTimeout", Kind::Duration, "How often.").or("30s"),
        Key::new("setting.minerMaxDeals", Kind::Integer, "Deals per miner.").or("1"),
        Key::new("setting.maxDealNums", Kind::Integer, "Replicas."),
        Key::new("setting.wallet", Kind::Text, "Wallet."),
        Key::new("setting.duration", Kind::Text, "Days.").or("366"),
        Key::new("setting.verified", Kind::Bool, "Verified."),
        Key::new("setting.buffer", Kind::Bytes, "Buffer."),
        Key::new("setting.groups", Kind::List, "Groups."),
    ];
    [&own, MongodbSection::KEYS, LotusSection::KEYS, LogSection::KEYS].concat()
}

/// The first configuration file of the project, in its own words.
const NOTES: &str = "miners:
    - miner: f0148143
      price: 0
    - miner: f0155467
      price: 0
    - miner: f0392734
      price: 0
setting:
  dealTimeout: 20 ## how often the deals' state is queried
  minerMaxDeals: 2
  maxDealNums: 10
  wallet: f3tgyeflr6s5aubvjilx4kvhqhbba5couxadsgl3xrsyjb2ay2zp3gurtmd3c22nqsztdoqg7qrkbnfh7tttlq
  duration: 366
";

const OTHER: OtherProgram = OtherProgram {
    program: "other-agent",
    file: "other.yaml",
    keys: &["roots"],
    hint: "name the right file",
};

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn load_with(yaml: &str, env: Pairs<'_>, flags: Pairs<'_>) -> Result<Agent, Box<(ConfigError, PathBuf)>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("conf.yaml");
    std::fs::write(&file, yaml).unwrap();
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
    };
    let flags = owned(flags);
    let sources = Sources {
        file: Some(&file),
        env: owned(env),
        reserved: &["CARFERRY_LOG", "CARFERRY_CONFIG"],
        flags: &flags,
        other: Some(&OTHER),
    };
    load(&keys(), &sources).map_err(|error| Box::new((error, file)))
}

/// The message with the file's own name cut to `conf.yaml`, and the hint.
fn refusal(yaml: &str, env: Pairs<'_>, flags: Pairs<'_>) -> String {
    let (error, file) = *load_with(yaml, env, flags).unwrap_err();
    Report::of(&error).to_string().replace(&file.display().to_string(), "conf.yaml")
}

#[test]
fn the_notes_load_as_they_are() {
    let agent = load_with(NOTES, &[("PATH", "/bin"), ("CARFERRY_LOG", "debug")], &[]).unwrap();
    let miner = |miner: &str| Miner { miner: miner.to_owned(), price: 0 };
    assert_eq!(agent.miners, ["f0148143", "f0155467", "f0392734"].map(miner));
    assert_eq!(agent.setting.deal_timeout, Duration::from_secs(20));
    assert_eq!((agent.setting.miner_max_deals, agent.setting.max_deal_nums), (2, Some(10)));
    assert!(agent.setting.wallet.starts_with("f3tgyeflr6s5"));
    assert_eq!(agent.setting.duration, "366");
    assert_eq!(agent.lotus.request_timeout, Duration::from_secs(30));
    assert_eq!(agent.log.format, LogFormat::Auto);
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let yaml = "setting: {wallet: f01, minerMaxDeals: 3}";
    let variable = ("CARFERRY_SETTING__MINER_MAX_DEALS", "4");
    let flag = ("setting.minerMaxDeals", "5");
    let deals =
        |yaml: &str, env: &[_], flags: &[_]| load_with(yaml, env, flags).unwrap().setting.miner_max_deals;
    assert_eq!(deals("setting: {wallet: f01}", &[], &[]), 1);
    assert_eq!(deals(yaml, &[], &[]), 3);
    assert_eq!(deals(yaml, &[variable], &[]), 4);
    assert_eq!(deals(yaml, &[variable], &[flag]), 5);
}

#[test]
fn text_stays_text_and_other_kinds_are_read_from_variables() {
    let env = [
        ("CARFERRY_SETTING__WALLET", "0123456789"),
        ("CARFERRY_SETTING__VERIFIED", "yes"),
        ("CARFERRY_SETTING__BUFFER", "64MiB"),
        ("CARFERRY_SETTING__GROUPS", "Fedora, Debian"),
        ("CARFERRY_SETTING__DEAL_TIMEOUT", "5m"),
        ("CARFERRY_SETTING__MAX_DEAL_NUMS", ""),
        ("CARFERRY_LOTUS__TOKEN", "12345"),
        ("CARFERRY_MONGODB__DATABASE", "2021"),
        ("CARFERRY_MONGODB__TLS", "false"),
    ];
    let agent = load_with("mongodb: {server: db, password: 777}", &env, &[]).unwrap();
    assert_eq!(agent.setting.wallet, "0123456789");
    assert!(agent.setting.verified);
    assert_eq!(agent.setting.buffer, Some(64 << 20));
    assert_eq!(agent.setting.groups, ["Fedora", "Debian"]);
    assert_eq!(agent.setting.deal_timeout, Duration::from_secs(300));
    assert_eq!(agent.setting.max_deal_nums, None);
    assert_eq!(agent.lotus.token.as_ref().map(Secret::expose), Some("12345"));
    assert_eq!(agent.mongodb.database.as_deref(), Some("2021"));
    assert_eq!(agent.mongodb.password.as_ref().map(Secret::expose), Some("777"));
    assert_eq!(agent.mongodb.tls, Some(false));
}

#[test]
fn keys_with_nothing_after_them_count_as_unset() {
    let agent =
        load_with("miners:\nsetting:\n  wallet: f01\n  dealTimeout:\nmongodb:\nlog:\n", &[], &[]).unwrap();
    assert_eq!(agent.miners, []);
    assert_eq!(agent.setting.deal_timeout, Duration::from_secs(30));
}

#[test]
fn refusals_name_source_and_key() {
    let wallet = "setting: {wallet: f01}\n";
    let cases: [(&str, Pairs<'_>, Pairs<'_>, &str); 16] = [
        (
            "setting:\n  wallet: f01\n  dealTimout: 20\n",
            &[],
            &[],
            "error: conf.yaml:3:3: unknown key `setting.dealTimout`\nhint: did you mean `dealTimeout`?",
        ),
        (
            "miners:\n  - miner: f01\n    prize: 0\nsetting: {wallet: f01}\n",
            &[],
            &[],
            "error: conf.yaml:3:5: unknown key `miners.0.prize`\nhint: did you mean `price`?",
        ),
        (
            "setting: {wallet: f01}\nrequestTimeout: 3\n",
            &[],
            &[],
            "error: conf.yaml:2:1: unknown key `requestTimeout`\nhint: did you mean `lotus.requestTimeout`?",
        ),
        (
            "setting: {wallet: f01}\ncolour:\n",
            &[],
            &[],
            "error: conf.yaml:2:1: unknown key `colour`\nhint: known here: miners, setting, mongodb, lotus, log",
        ),
        (
            "setting:\n  wallet: f01\n  minerMaxDeals: many\n",
            &[],
            &[],
            "error: conf.yaml:3:3: `setting.minerMaxDeals`: invalid type: found string \"many\", expected u32",
        ),
        (
            "setting:\n  wallet: f01\n  dealTimeout: soon\n",
            &[],
            &[],
            "error: conf.yaml:3:3: `setting.dealTimeout`: \"soon\" is not a duration: write seconds (20) or a number with ms, s, m, h or d (30s, 5m, 1h30m)",
        ),
        (
            "setting:\n  wallet: f01\n  wallet: f02\n",
            &[],
            &[],
            "error: conf.yaml:3:3: duplicate mapping key: wallet",
        ),
        (
            "setting: {}\n",
            &[],
            &[],
            "error: `setting.wallet` is not set\nhint: set `setting.wallet` in conf.yaml or CARFERRY_SETTING__WALLET or --wallet",
        ),
        (
            "setting: {wallet: f01}\nroots: [/mnt]\n",
            &[],
            &[],
            "error: conf.yaml:2:1: `roots` is a key of other-agent's file, other.yaml\nhint: name the right file",
        ),
        (
            wallet,
            &[("CARFERRY_SETTING_WALLET", "f02")],
            &[],
            "error: unknown environment variable CARFERRY_SETTING_WALLET\nhint: did you mean CARFERRY_SETTING__WALLET?",
        ),
        (
            "- a\n",
            &[],
            &[],
            "error: conf.yaml: a configuration file is a map of keys, one `key: value` a line",
        ),
        (
            wallet,
            &[("CARFERRY_SETTING__DEAL_TIMOUT", "3")],
            &[],
            "error: unknown environment variable CARFERRY_SETTING__DEAL_TIMOUT\nhint: did you mean CARFERRY_SETTING__DEAL_TIMEOUT?",
        ),
        (
            wallet,
            &[("CARFERRY_SETTING__MINER_MAX_DEALS", "two")],
            &[],
            "error: environment variable CARFERRY_SETTING__MINER_MAX_DEALS: `setting.minerMaxDeals`: \"two\" is not a whole number",
        ),
        (
            wallet,
            &[("CARFERRY_SETTING__MINER_MAX_DEALS", "-2")],
            &[],
            "error: environment variable CARFERRY_SETTING__MINER_MAX_DEALS: `setting.minerMaxDeals`: invalid value signed int `-2`, expected u32",
        ),
        (
            wallet,
            &[],
            &[("setting.buffer", "big")],
            "error: flag --buffer: `setting.buffer`: \"big\" is not a size: write bytes (1048576) or a number with KiB, MiB, GiB, TiB (64MiB) or kB, MB, GB, TB",
        ),
        (
            wallet,
            &[],
            &[("log.format", "xml")],
            "error: flag --log-format: `log.format`: \"xml\" is none of auto, text, json",
        ),
    ];
    for (yaml, env, flags, report) in cases {
        assert_eq!(refusal(yaml, env, flags), report, "{yaml:?} {env:?} {flags:?}");
    }
}

#[test]
fn a_named_file_must_exist() {
    let file = Path::new("/nonexistent/conf.yaml");
    let error = load::<Agent>(&keys(), &Sources { file: Some(file), ..Sources::default() }).unwrap_err();
    assert_eq!(error.to_string(), "cannot read configuration file /nonexistent/conf.yaml");
    assert!(error.hint().is_some());
}

#[test]
fn broken_yaml_is_placed() {
    let report = refusal("setting:\n  wallet: [f01\n", &[], &[]);
    assert!(report.starts_with("error: conf.yaml:"), "{report}");
}

#[test]
fn the_notes_own_indentation_is_answered_with_the_lines_as_they_should_be() {
    let yaml = NOTES.replace("      price: 0", "        price: 0");
    let expected =
        "error: conf.yaml:3:9: `price` stands 2 columns further in than `miner` above it, so YAML takes it \
                    for a part of that value
hint: write both at one column:
          - miner: f0148143
            price: 0
      and lines 5, 7 likewise";
    assert_eq!(refusal(&yaml, &[], &[]), expected);
}

#[test]
fn variables_of_others_stop_nobody() {
    let env = [
        ("CARFERRY_MONGODB_SERVICE_HOST", "10.0.0.1"),
        ("CARFERRY_MONGODB_SERVICE_PORT", "27017"),
        ("CARFERRY_MONGODB_PORT", "tcp://10.0.0.1:27017"),
        ("CARFERRY_MONGODB_PORT_27017_TCP_ADDR", "10.0.0.1"),
        ("CARFERRY_VERSION", "7"),
    ];
    let agent = load_with("setting: {wallet: f01}\nmongodb: {server: db}", &env, &[]).unwrap();
    assert_eq!((agent.mongodb.server.as_deref(), agent.mongodb.port), (Some("db"), None));
}

#[test]
fn passwords_are_taken_as_they_are_written() {
    for written in ["0123", "yes", "1e5", "no", "0x1F", "12.50", "true"] {
        let agent =
            load_with(&format!("setting: {{wallet: f01}}\nmongodb:\n  password: {written}\n"), &[], &[])
                .unwrap();
        assert_eq!(agent.mongodb.password.as_ref().map(Secret::expose), Some(written));
    }
}

#[test]
fn empty_quotes_are_nothing() {
    let yaml = "setting: {wallet: f01, dealTimeout: \"\"}\nmongodb: {server: db, port: 1, username: \"\", password: '', uri: ''}";
    let agent = load_with(yaml, &[], &[]).unwrap();
    assert_eq!(agent.setting.deal_timeout, Duration::from_secs(30));
    assert_eq!(agent.mongodb.target().unwrap().servers, "db:1");
}
