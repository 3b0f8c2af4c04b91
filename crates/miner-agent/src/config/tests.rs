use carferry_core::error_chain::Report;

use super::*;

fn documented() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/miner-agent.yaml")
}

fn loaded(yaml: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("import.yaml");
    std::fs::write(&file, yaml).unwrap();
    Config::load(Some(&file), Vec::new(), &[])
        .map_err(|error| Report::of(&error).to_string().replace(&file.display().to_string(), "import.yaml"))
}

#[test]
fn the_documented_file_loads_and_shows_the_defaults() {
    let text = std::fs::read_to_string(documented()).unwrap();
    let config = Config::load(Some(&documented()), Vec::new(), &[]).unwrap();
    let defaults = loaded("miners: [{miner: f01000}]").unwrap();
    assert_eq!(format!("{:?}", config.setting), format!("{:?}", defaults.setting));
    assert_eq!(config.log.filter, defaults.log.filter);
    let name_of = |key: &Key| key.path.rsplit('.').next().unwrap();
    for key in keys() {
        let name = name_of(&key);
        let shown = text
            .lines()
            .filter(|line| line.trim_start_matches(['#', ' ', '-']).starts_with(&format!("{name}:")))
            .count();
        let wanted = keys().iter().filter(|other| name_of(other) == name).count();
        assert!(shown >= wanted, "{}: {shown} of {wanted} keys of this name are documented", key.path);
        if let Some(default) = key.default {
            assert!(text.contains(&format!("  {name}: {default}\n")), "{}: {default} is not shown", key.path);
        }
    }
}

#[test]
fn one_line_of_miners_is_enough_beside_the_environment() {
    let config = loaded("miners: [f01000]").unwrap();
    assert_eq!(config.miners[0].miner, "f01000");
    assert_eq!((config.setting.imports_per_miner, config.setting.start_epoch_margin), (1, 480));
    assert_eq!(config.setting.import_timeout, Duration::from_secs(12 * 3600));
    assert_eq!(config.setting.head_source, HeadSource::Auto);
}

#[test]
fn a_miner_is_known_by_one_text() {
    let config = loaded("miners: [{miner: t001000}, {miner: f01001}]").unwrap();
    let miners: Vec<_> = config.miners.iter().map(|entry| entry.miner.as_str()).collect();
    assert_eq!(miners, ["f01000", "f01001"]);
}

#[test]
fn mistakes_are_named_with_the_way_out() {
    for (yaml, expected) in [
        ("setting: {lease: 60s}", "`miners`: no miner is named"),
        ("miners: [{miner: f1abc}]", "`miners.miner`: "),
        ("miners: [{miner: f01000}, {miner: f01000}]", "f01000 stands there twice"),
        ("miners: [{miner: f01000}, {miner: t001000}]", "t001000 stands there twice"),
        (
            "miners: [{miner: f01000, price: 0}]",
            "`miners.0.price` is a key of client-agent's file, conf.yaml",
        ),
        ("miners: [f01000]\nsetting: {wallet: f0100}", "miner-agent has a file of its own"),
        ("miners: [[f01000]]", "expected a map such as {miner: f01000}, or f01000 alone"),
        ("miners: [{miner: f01000}]\nsetting: {importPerMiner: 2}", "did you mean `importsPerMiner`?"),
        ("miners: [{miner: f01000}]\nsetting: {importsPerMiner: 0}", "0 would import nothing"),
        ("miners: [{miner: f01000}]\nsetting: {retryMin: 1h}", "longer than setting.retryMax"),
        ("miners: [{miner: f01000}]\nsetting: {scanInterval: 0}", "shorter than 100 ms"),
        ("miners: [{miner: f01000}]\nroots: [cars]", "`roots`: cars is not an absolute path"),
        ("miners: [{miner: f01000}]\npaths: [{from: out, to: /mnt}]", "`paths`: out is not an absolute path"),
    ] {
        let refusal = loaded(yaml).unwrap_err();
        assert!(refusal.contains(expected), "{yaml}\n{refusal}");
    }
}

#[test]
fn an_entry_has_its_own_node_or_the_common_one_with_its_own_token() {
    let config = loaded(
        "lotus: {endpoint: 'http://h:1', token: common}
miners:
  - {miner: f01000}
  - {miner: f01001, endpoint: 'http://own:2'}
  - {miner: f01002, token: other}",
    )
    .unwrap();
    let seen: Vec<_> = config
        .miners
        .iter()
        .map(|entry| {
            let section = config.market_section(entry);
            (section.endpoint.unwrap(), section.token.map(|token| token.expose().to_owned()))
        })
        .collect();
    let expected = [("http://h:1", Some("common")), ("http://own:2", None), ("http://h:1", Some("other"))];
    let expected: Vec<_> =
        expected.map(|(address, token)| (address.to_owned(), token.map(str::to_owned))).into_iter().collect();
    assert_eq!(seen, expected);
}
