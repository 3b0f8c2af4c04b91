//! What both doctors see in a world that works, and in one with the wrong name of a database.

use std::fs;
use std::path::Path;

use harness::test_env::{TestEnv, client_agent_command, miner_agent_command};
use lotus_sim::{Permission, WalletConfig};
use serde_json::Value;

/// The checks of a doctor, and its exit status.
fn doctor(program: &str, config: &Path) -> (Vec<Value>, Option<i32>) {
    let mut command = match program {
        "client" => client_agent_command().unwrap(),
        _ => miner_agent_command().unwrap(),
    };
    let ended = command.args(["--json", "doctor", "-c"]).arg(config).output().unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), ended.status.code())
}

fn client_yaml(env: &TestEnv, database: &str, miners: &str) -> std::path::PathBuf {
    let text = format!(
        "miners: {miners}\nmongodb: {{uri: '{}', database: '{database}'}}\n\
         lotus: {{endpoint: '{}', token: '{}'}}\nsetting: {{wallet: {}, duration: 366}}\n",
        env.uri,
        env.sim.full_node_url(),
        env.sim.token(Permission::Admin),
        WalletConfig::default().address,
    );
    let file = env.new_path("conf.yaml");
    fs::write(&file, text).unwrap();
    file
}

/// The first check of this name whose detail holds all of these words.
fn has(checks: &[Value], name: &str, state: &str, words: &[&str]) {
    let fits = |check: &&Value| {
        let detail = check["detail"].as_str().unwrap_or_default();
        check["name"] == name && check["state"] == state && words.iter().all(|word| detail.contains(word))
    };
    assert!(checks.iter().any(|check| fits(&check)), "{name} {state} {words:?}: {checks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_that_works_is_told_with_its_numbers() {
    let env = TestEnv::open().await.unwrap();
    env.recorded("one").await.unwrap();
    let (checks, code) = doctor("client", &client_yaml(&env, env.db.name(), "[f01000]"));
    assert_eq!(code, Some(0), "{checks:#?}");
    has(&checks, "mongodb", "ok", &[env.db.name(), "1 CAR and 1 deal"]);
    has(&checks, "db roles", "ok", &["nothing was changed"]);
    has(&checks, "indexes", "ok", &["will be made at the first start"]);
    has(&checks, "money", "ok", &["wallet ", "market escrow ", " datacap"]);
    has(&checks, "miner", "ok", &["f01000: sectors of ", "takes pieces of ", "asks "]);
    for check in &checks {
        assert!(check["detail"].as_str().unwrap().len() < 300, "{check}");
    }
    // Trying changes nothing.
    for collection in ["cars", "offlinedeals"] {
        let count =
            env.db.collection::<bson::Document>(collection).count_documents(bson::doc! {}).await.unwrap();
        assert_eq!(count, 1, "{collection}");
    }
    let (checks, code) = doctor("miner", &env.import_yaml(&["f01000"]).unwrap());
    assert_eq!(code, Some(0), "{checks:#?}");
    has(&checks, "market f01000", "ok", &["lists 1 deals", "1 to import"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_markets_deals_and_a_miner_without_actor_are_pointed_out() {
    let env = TestEnv::open().await.unwrap();
    env.recorded("one").await.unwrap();
    let wrong = format!("{{uri: '{}', database: carfery}}", env.uri);
    let (checks, _) = doctor("miner", &env.import_yaml_on(&wrong, &["f01000"]).unwrap());
    has(&checks, "market f01000", "warn", &["lists 1 deal of f01000, and the database carfery none"]);
    let (checks, code) = doctor("client", &client_yaml(&env, env.db.name(), "[f0999999]"));
    assert_eq!(code, Some(1), "{checks:#?}");
    has(&checks, "miner", "fail", &["f0999999 is no miner of this node's chain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_indexes_of_data_sets_are_looked_at_where_data_sets_are_packed() {
    let env = TestEnv::open().await.unwrap();
    let config = client_yaml(&env, env.db.name(), "[f01000]");
    let doctor = |more: &[&str]| {
        let mut command = client_agent_command().unwrap();
        let ended = command.args(["doctor", "--json"]).args(more).arg("-c").arg(&config).output().unwrap();
        let text = String::from_utf8(ended.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    has(&doctor(&["--create-indexes"]), "indexes", "ok", &["all there"]);
    has(&doctor(&["--layout", "pack"]), "indexes", "ok", &["3 will be made"]);
    has(&doctor(&["--layout", "pack", "--create-indexes"]), "indexes", "ok", &["all there, 3 made now"]);
    for (collection, index) in
        [("packplans", "carferry_key"), ("packpieces", "carferry_open"), ("packfiles", "carferry_piece")]
    {
        let names = env.db.collection::<bson::Document>(collection).list_index_names().await.unwrap();
        assert!(names.iter().any(|name| name == index), "{collection}: {names:?}");
    }
}
