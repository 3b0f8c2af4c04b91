//! What agents cost: commands of the database, lists of the market, memory. Counted, not timed.

use std::collections::BTreeMap;
use std::fs;

use bson::{Document, doc};
use futures::TryStreamExt as _;
use harness::eventually;
use harness::test_env::Process;

use crate::fault_cluster::FaultCluster;

/// Room for what a server notes of every command.
const PROFILE_BYTES: i64 = 64 << 20;

/// The most memory the process ever had, in MiB.
pub(crate) fn peak_mib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

pub(crate) async fn make_indexes(cluster: &FaultCluster) {
    // As client-agent does at its start; a miner's user may not.
    let mut client = cluster.client("indexes", None);
    let deals = cluster.env.deals();
    eventually!(deals.list_index_names().await.is_ok_and(|names| names.len() > 6), "indexes are made");
    client.kill9().unwrap();
}

/// From now on the server notes every command of miner-agent, but for the waits of its change stream.
pub(crate) async fn note_commands(cluster: &FaultCluster) {
    let db = &cluster.env.db;
    let create = doc! { "create": "system.profile", "capped": true, "size": PROFILE_BYTES };
    db.run_command(create).await.unwrap();
    let filter = doc! { "appName": "carferry-miner-agent", "op": { "$ne": "getmore" } };
    db.run_command(doc! { "profile": 1, "filter": filter }).await.unwrap();
}

/// How many of each were noted.
pub(crate) async fn commands(cluster: &FaultCluster) -> BTreeMap<String, u64> {
    let name = doc! { "$first": { "$map": { "input": { "$objectToArray": "$command" }, "in": "$$this.k" } } };
    let group = doc! { "$group": { "_id": { "$concat": ["$op", " ", name] }, "count": { "$sum": 1_i64 } } };
    let noted = cluster.env.db.collection::<Document>("system.profile").aggregate([group]).await.unwrap();
    let noted: Vec<Document> = noted.try_collect().await.unwrap();
    noted
        .iter()
        .map(|entry| {
            (entry.get_str("_id").unwrap().to_owned(), entry.get_i64("count").unwrap().cast_unsigned())
        })
        .collect()
}
