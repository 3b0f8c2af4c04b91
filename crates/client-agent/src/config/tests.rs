use std::path::{Path, PathBuf};
use std::time::Duration;

use carferry_car::PaddedPieceSize;
use carferry_core::config::Sources;
use carferry_core::error_chain::Report;
use carferry_core::path_mapping::map_longest;

use super::*;

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

fn load_with(
    yaml: &str,
    env: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, Box<(ConfigError, PathBuf)>> {
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
        reserved: &[],
        flags: &flags,
        other: Some(&MINER_AGENT),
    };
    Config::load(&sources).map_err(|error| Box::new((error, file)))
}

fn refusal(yaml: &str, env: &[(&str, &str)]) -> String {
    let (error, file) = *load_with(yaml, env, &[]).unwrap_err();
    Report::of(&error).to_string().replace(&file.display().to_string(), "conf.yaml")
}

#[test]
fn the_notes_load_as_they_are() {
    let config = load_with(NOTES, &[("PATH", "/bin")], &[]).unwrap();
    let miners: Vec<String> = config.miners.iter().map(|terms| terms.miner.to_string()).collect();
    assert_eq!(miners, ["f0148143", "f0155467", "f0392734"]);
    assert!(config.miners.iter().all(|terms| terms.price.is_zero()));
    let setting = &config.setting;
    assert_eq!(setting.deal_timeout, Duration::from_secs(20));
    assert_eq!((setting.miner_max_deals, setting.max_deal_nums), (2, 10));
    let terms = config.deal_terms().unwrap();
    assert_eq!(
        terms.wallet.to_string(),
        "f3tgyeflr6s5aubvjilx4kvhqhbba5couxadsgl3xrsyjb2ay2zp3gurtmd3c22nqsztdoqg7qrkbnfh7tttlq"
    );
    assert_eq!(terms.duration.get(), 366 * 2880);
    assert_eq!(terms.miners, config.miners);
}

#[test]
fn defaults_of_the_keys_and_of_the_types_are_the_same() {
    let (loaded, built) = (load_with("", &[], &[]).unwrap(), Config::default());
    assert_eq!(format!("{loaded:?}"), format!("{built:?}"));
}

#[test]
fn the_documented_file_has_every_key_and_only_defaults_or_invented_values() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/client-agent.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let config = load_with(&text, &[], &[]).unwrap();
    for key in keys() {
        let name = key.path.rsplit('.').next().unwrap();
        assert!(text.lines().any(|line| line.trim_start().starts_with(&format!("{name}:"))), "{}", key.path);
    }
    assert!(!NOTES.lines().any(|line| line.contains("f0") && text.contains(line)), "real miners are shown");
    let shown = "miners: [f01000, f01001, f01002]\nsetting:\n  dealTimeout: 20\n  duration: 366\n  \
                 wallet: f1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaahaui6xa\n";
    let mut expected = load_with(shown, &[], &[]).unwrap();
    expected.mongodb = config.mongodb.clone();
    assert_eq!(format!("{config:?}"), format!("{expected:?}"));
    assert_eq!(config.mongodb.target().unwrap().servers, "localhost");
}

#[test]
fn every_form_of_a_value_is_read() {
    let config = load_with(
        "miners:
  - {miner: f01000, price: 0.00000005}
  - {miner: t01001, price: 5e-8}
  - {miner: f01002, price: 50000000000 attofil}
  - {miner: f01003}
setting:
  duration: 518400 epochs
  startDelay: 100 epochs
  providerCollateral: 0.25 FIL
  publishMethod: stateless
  verified: true
  groups: [Fedora, 2021]
  carPaths: [{from: /data, to: /mnt/prep}]
  maxPiece: 64GiB
  agentName: 17
",
        &[],
        &[],
    )
    .unwrap();
    let prices: Vec<u128> = config.miners.iter().map(|terms| terms.price.get()).collect();
    assert_eq!(prices, [50_000_000_000, 50_000_000_000, 50_000_000_000, 0]);
    let setting = &config.setting;
    assert_eq!(setting.duration.map(DealDuration::get), Some(518_400));
    assert_eq!(setting.start_delay.on_mainnet(), 100);
    assert_eq!(setting.provider_collateral, Collateral::Amount(AttoFil::new(250_000_000_000_000_000)));
    assert_eq!(setting.publish_method, PublishChoice::Stateless);
    assert_eq!((setting.groups.join(" "), config.agent_name()), ("Fedora 2021".to_owned(), "17".to_owned()));
    assert_eq!(setting.max_piece, PaddedPieceSize::GIB_64);
    let paths = &setting.car_paths;
    for (path, seen) in
        [("/data/a.car", "/mnt/prep/a.car"), ("/data", "/mnt/prep/"), ("/database/a", "/database/a")]
    {
        assert_eq!(map_longest(paths, Path::new(path)), Path::new(seen), "{path}");
    }
}

#[test]
fn a_start_delay_in_time_follows_the_networks_epochs() {
    let delay =
        |text: &str| load_with(&format!("setting: {{startDelay: {text}}}"), &[], &[]).unwrap().setting;
    for (text, epoch_seconds, epochs) in
        [("7d", 30, 20_160), ("7d", 4, 151_200), ("100s", 30, 4), ("100 epochs", 4, 100)]
    {
        assert_eq!(delay(text).start_delay.epochs(epoch_seconds), epochs, "{text} at {epoch_seconds} s");
    }
}

#[test]
fn variables_beat_the_file_and_flags_beat_variables() {
    let variables = [
        ("CARFERRY_SETTING__MINER_MAX_DEALS", "3"),
        ("CARFERRY_SETTING__GROUPS", "a,b"),
        ("CARFERRY_SETTING__START_DELAY", "36h"),
        ("CARFERRY_SETTING__VERIFIED", "true"),
    ];
    let config = load_with(NOTES, &variables, &[("setting.minerMaxDeals", "4")]).unwrap();
    let setting = &config.setting;
    assert_eq!(
        (setting.miner_max_deals, setting.start_delay.on_mainnet(), setting.verified),
        (4, 4320, true)
    );
    assert_eq!(setting.groups, ["a", "b"]);
}

#[test]
fn deals_need_wallet_duration_and_miners() {
    let terms = |yaml: &str| load_with(yaml, &[], &[]).unwrap().deal_terms();
    let reports: Vec<String> =
        ["setting: {duration: 366}", "setting: {wallet: f01000}", "setting: {wallet: f01000, duration: 366}"]
            .map(|yaml| Report::of(&terms(yaml).unwrap_err()).to_string())
            .to_vec();
    insta::assert_snapshot!("missing", reports.join("\n\n"));
}

#[test]
fn wrong_values_name_file_and_key() {
    let mut refusals = Vec::new();
    for (name, yaml) in [
        ("unknown key", "setting:\n  dealTimout: 20\n"),
        ("unknown section", "settings:\n  dealTimeout: 20\n"),
        ("unknown miner key", "miners:\n  - miner: f01000\n    prize: 0\n"),
        ("price", "miners:\n  - miner: f01000\n    price: cheap\n"),
        ("not a miner", "miners:\n  - miner: f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za\n    price: 0\n"),
        ("the other agent's file", "miners: [f01000]\nroots: [/mnt/cars]\n"),
        ("no miner", "miners: [[f01000]]\n"),
        ("twice", "miners:\n  - {miner: f01000}\n  - {miner: t01000}\n"),
        ("wallet", "setting:\n  wallet: f3tgyefl\n"),
        ("duration", "setting:\n  duration: 60\n"),
        ("price in attoFIL", "miners: [{miner: f01000, price: 50000000000}]\nsetting: {duration: 366}\n"),
        ("price above the bound", "miners: [{miner: f01000, price: 0.2}]\nsetting: {maxPrice: 0.1 FIL}\n"),
        ("duration and delay", "setting:\n  duration: 530\n  startDelay: 14d\n"),
        ("delay without unit", "setting:\n  startDelay: 7\n"),
        ("collateral without unit", "setting:\n  providerCollateral: 5\n"),
        ("method", "setting:\n  publishMethod: magic\n"),
        ("no deals", "setting:\n  minerMaxDeals: 0\n"),
        ("negative", "setting:\n  maxDealNums: -1\n"),
        ("no pause", "setting:\n  dealTimeout: 0\n"),
        ("piece", "setting:\n  maxPiece: 33GiB\n"),
    ] {
        refusals.push(format!("# {name}\n{}", refusal(yaml, &[])));
    }
    let variable = refusal(NOTES, &[("CARFERRY_SETTING__WALLET", "nobody")]);
    refusals.push(format!("# a variable\n{variable}"));
    insta::assert_snapshot!("refusals", refusals.join("\n\n"));
}
