//! A file system that hangs: the first folder of `roots` never answers, as a network file system without its
//! server.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bson::doc;
use harness::machine::{Need, not_run};
use harness::test_env::move_file;
use harness::{eventually, test_env};

use crate::fault_cluster::{FaultCluster, FaultConfig};
use crate::iterations::SeededRng;

/// In a mount namespace of its own: a file system in user space whose server never reads a request
/// holds every process that touches it. `$0` is the folder, the rest the program to run.
const SCRIPT: &str = r#"
exec 3<>/dev/fuse || exit 77
mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung "$0" || exit 77
exec "$@"
"#;

fn beside_hung<'a>(folder: &Path, program: &OsStr, args: impl IntoIterator<Item = &'a OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "bash", "-c", SCRIPT]).arg(folder).arg(program).args(args);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_hangs_is_named_and_keeps_no_other_folder_waiting() {
    let seeded = SeededRng::of("hung-folder");
    let stage = FaultConfig { import_setting: &[("fileTimeout", "500ms")], ..FaultConfig::default() };
    let mut cluster = FaultCluster::open(stage).await;
    let hung = cluster.env.new_path("hung");
    std::fs::create_dir(&hung).unwrap();
    let tried = beside_hung(&hung, OsStr::new("true"), []).output();
    if !tried.as_ref().is_ok_and(|ended| ended.status.success()) {
        not_run(Need::Fuse, &format!("{tried:?}"));
        return;
    }
    let yaml = cluster.import_yaml();
    let text = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(&yaml, text.replace("roots: [", &format!("roots: ['{}', ", hung.display()))).unwrap();
    let miner_agent = |words: &[&str]| {
        let mut inner = test_env::miner_agent_command().unwrap();
        inner.args(words).arg("-c").arg(&yaml);
        let mut command = beside_hung(&hung, inner.get_program(), inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    };

    let client = cluster.client("client", None);
    let mut miner = test_env::spawn(miner_agent(&["run"]), &cluster.env.new_path("miner-agent.log")).unwrap();
    let absent = cluster.add_cars(1).await.remove(0);
    let away = absent.path.with_extension("away");
    move_file(&absent.path, &away).unwrap();
    cluster.add_cars(4).await;

    // Those whose CARs lie in the other folder are imported; the one that may lie in there waits, and says
    // for what.
    eventually!(
        within Duration::from_secs(60),
        cluster.env.imported_count().await.unwrap() == 8,
        "the others are imported"
    );
    let waits = doc! {
        "filecid": &absent.payload_cid,
        "isdeal": 0,
        "import.reason": { "$regex": format!("hangs.*{}", hung.display()) },
    };
    eventually!(
        within Duration::from_secs(30),
        cluster.env.deals().count_documents(waits.clone()).await.unwrap() == 2,
        "the folder is named"
    );
    assert!(miner.is_running());
    let doctor = miner_agent(&["doctor"]).output().unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(!doctor.status.success() && said.contains("no answer within"), "{said}");

    // The other folder is watched all the same.
    move_file(&away, &absent.path).unwrap();
    cluster.settled(Duration::from_secs(30)).await;
    let counts = cluster.check().await;
    seeded.tell(1, &format!("{counts:?}"));
    drop((client, miner));
}
