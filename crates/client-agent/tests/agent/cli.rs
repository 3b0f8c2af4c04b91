//! The command line as people meet it: help, usage errors, configuration errors, exit statuses.

use std::fs;

use crate::common::{agent, run};

#[test]
fn help_reads_well() {
    for command in ["makecars", "generate-car", "commp", "verify-car", "doctor"] {
        let ended = run(&[command, "--help"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        insta::assert_snapshot!(format!("help-{command}"), ended.stdout);
    }
}

#[test]
fn bad_usage_is_the_users_to_fix() {
    let cases: [&[&str]; 5] = [
        &["makecars", "--input", "/data"],
        &["makecars", "--input", "/data", "--output", "/out", "--profile", "lotos"],
        &["makecars", "--input", "/data", "--output", "/out", "--jobs", "0"],
        &["generate-car", "/data", "/out", "--max-piece", "33GiB"],
        &["make-cars"],
    ];
    let mut answers = Vec::new();
    for args in cases {
        let ended = run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{args:?}");
        answers.push(format!("$ client-agent {}\n{}", args.join(" "), ended.stderr));
    }
    insta::assert_snapshot!("bad-usage", answers.join("\n"));
}

#[test]
fn start_up_errors_name_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (input, output) = (path("in"), path("out"));
    fs::create_dir(&input).unwrap();
    fs::write(path("bad.yaml"), "setting:\n  dealTimout: 20\n").unwrap();
    let makecars = ["makecars", "--input", &input, "--output", &output];
    let mut answers = Vec::new();
    for args in [
        [&makecars[..], &["--mongodb-uri", "postgres://db"]].concat(),
        [&makecars[..], &["-c", &path("missing.yaml")]].concat(),
        [&makecars[..], &["-c", &path("bad.yaml")]].concat(),
        [&makecars[..], &["--no-database", "--log-filter", "client_agent=loud"]].concat(),
        ["makecars", "--input", &path("nothing"), "--output", &output, "--no-database"].to_vec(),
    ] {
        let ended = run(&args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{args:?}");
        answers.push(ended.stderr.replace(folder.path().to_str().unwrap(), ""));
    }
    insta::assert_snapshot!("start-up-errors", answers.join("\n"));
}

#[test]
fn a_good_configuration_is_summed_up_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("conf.yaml");
    fs::write(
        &file,
        "miners: [{miner: f01000, price: 0.0000001}]
setting: {wallet: f0100, duration: 366}
mongodb: {server: db, username: me, password: hush, database: offline}
lotus: {endpoint: 'http://127.0.0.1:1234', token: hush}
",
    )
    .unwrap();
    let ended = run(&["check-config", "-c", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stdout.contains("hush"), "{}", ended.stdout);
    insta::assert_snapshot!("check-config", ended.stdout);
    let overridden = agent(&["check-config", "-c", file.to_str().unwrap(), "--miner-max-deals", "7"])
        .env("CARFERRY_MONGODB__DATABASE", "other")
        .output()
        .unwrap();
    let overridden = String::from_utf8(overridden.stdout).unwrap();
    assert!(overridden.contains("7 per CAR and miner") && overridden.contains("other on db"), "{overridden}");
}

#[test]
fn doctor_says_what_is_out_of_reach_and_how_to_mend_it() {
    // No server listens on port 1.
    let args = ["doctor", "--json", "--mongodb-uri", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300"];
    let ended = crate::common::Ended::of(
        agent(&[&args[..], &["--lotus-endpoint", "http://127.0.0.1:1"]].concat()).output().unwrap(),
    );
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let checks = ended.json();
    for (name, state) in [("config", "warn"), ("mongodb", "fail"), ("lotus", "fail")] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{checks:?}"));
        assert_eq!(check["state"], state, "{check}");
        assert!(check["hint"].is_string(), "{check}");
    }
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

#[test]
fn the_notes_file_alone_is_a_configuration_and_its_indentation_is_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("conf.yaml");
    let check = |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        let mut command = agent(&[&["check-config", "-c", file.to_str().unwrap()][..], more].concat());
        // No node of this machine.
        command.env("HOME", folder.path()).env_remove("LOTUS_PATH");
        crate::common::Ended::of(command.output().unwrap())
    };
    let good = check(NOTES, &[]);
    assert_eq!(good.code, Some(0), "{good:?}");
    for said in ["carferry on localhost", "no Lotus full node is configured: set lotus.endpoint", "f0392734"]
    {
        assert!(good.stdout.contains(said), "{said}: {good:?}");
    }
    let json = check(NOTES, &["--json"]).json();
    assert_eq!((json[0]["servers"].as_str(), json[0]["maxdealnums"].as_u64()), (Some("localhost"), Some(10)));
    let as_noted = check(&NOTES.replace("      price: 0", "        price: 0"), &[]);
    assert_eq!(as_noted.code, Some(1), "{as_noted:?}");
    assert!(
        as_noted.stderr.contains("conf.yaml:3:9: `price` stands 2 columns further in than `miner`")
            && as_noted.stderr.contains("\n            price: 0\n"),
        "{as_noted:?}"
    );
}

#[test]
fn files_that_a_configuration_names_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("empty"), "\n").unwrap();
    for (section, said) in [
        (format!("lotus: {{endpoint: 'http://h:1', tokenFile: {}}}", path("none")), "cannot read "),
        (format!("lotus: {{endpoint: 'http://h:1', tokenFile: {}}}", path("empty")), "is empty"),
        ("lotus: {endpoint: 'h:1'}".to_owned(), "is not an API address"),
        (format!("mongodb: {{tlsCaFile: {}}}", path("none")), "`mongodb.tlsCaFile`"),
        (format!("mongodb: {{tlsCaFile: {}}}", path("empty")), "holds no certificate"),
    ] {
        let file = path("conf.yaml");
        fs::write(&file, format!("miners: [f01000]\nsetting: {{wallet: f0100, duration: 366}}\n{section}\n"))
            .unwrap();
        let ended = run(&["-c", &file, "check-config"]);
        assert_eq!(ended.code, Some(1), "{section}: {ended:?}");
        assert!(ended.stderr.contains(said), "{section}: {ended:?}");
    }
}

#[test]
fn links_by_the_first_programs_names_are_their_commands() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["makecars", "makedeals"] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_client-agent"), &link).unwrap();
        let ended = crate::common::Ended::of(crate::common::agent_at(&link, &["--help"]).output().unwrap());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains(&format!("Usage: client-agent {name}")), "{ended:?}");
    }
}

#[test]
fn json_of_a_command_that_goes_on_is_refused() {
    for args in [&["run", "--json"][..], &["track", "--json"], &["--json", "run"]] {
        let ended = run(args);
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains("would print nothing"), "{args:?}: {ended:?}");
    }
}
