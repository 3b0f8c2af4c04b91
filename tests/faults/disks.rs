//! (g) Disks that are full: below makecars, and below the market during imports.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use bson::doc;
use harness::machine::{Need, not_run};
use harness::test_env;
use lotus_sim::{Fault, FaultKind};
use tokio::time::sleep;

use crate::fault_cluster::{FaultCluster, FaultConfig};
use crate::iterations::{SeededRng, iterations};

/// In a mount namespace of its own: CARs go to a small file system, then that is made larger. `$0`: the
/// outputs; what is behind it is makecars and its arguments.
const SCRIPT: &str = r#"
set -u
mkdir -p "$0" && mount -t tmpfs -o size=3m tmpfs "$0" || exit 77
"$@"; echo "first: $?"
find "$0" -type f -printf 'first file: %f %s\n'
mount -o remount,size=64m "$0" || exit 77
"$@"; echo "second: $?"
find "$0" -type f -printf 'second file: %f %s\n'
"#;

#[tokio::test(flavor = "multi_thread")]
async fn makecars_on_a_full_disk_leaves_whole_cars_and_goes_on_when_there_is_room() {
    let seeded = SeededRng::of("disk-full-makecars");
    let cluster =
        FaultCluster::open(FaultConfig { members: harness::Members::One, ..FaultConfig::default() }).await;
    for number in 0_u8..6 {
        let content: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[0] ^ number).collect();
        fs::write(cluster.inputs.join(format!("{number}.bin")), content).unwrap();
    }
    // Only a namespace may mount without being root.
    let mut script = Command::new("unshare");
    script.args(["--map-root-user", "--mount", "sh", "-c", SCRIPT]).arg(&cluster.outputs);
    script.args(test_env::client_agent_words().unwrap());
    script.arg("makecars").arg("-c").arg(cluster.client_yaml("packer"));
    script.arg("--input").arg(&cluster.inputs).arg("--output").arg(&cluster.outputs);
    let ended = script.stdin(Stdio::null()).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if ended.status.code() == Some(77) || log.contains("unshare failed") {
        not_run(Need::Mount, &log);
        return;
    }
    let files = |run: &str| -> Vec<String> {
        let begin = format!("{run} file: ");
        let files = said.lines().filter_map(|line| line.strip_prefix(&begin).map(str::to_owned));
        files.filter(|file| !file.starts_with("manifest.jsonl ")).collect()
    };
    assert!(said.contains("first: 3"), "{said}\n{log}");
    assert!(
        said.contains("o space left on device") || log.contains("o space left on device"),
        "{said}\n{log}"
    );
    let first = files("first");
    assert!(!first.is_empty() && first.len() < 6, "{first:?}");
    assert!(first.iter().all(|file| file.contains(".car ")), "only CARs are left: {first:?}");
    assert!(said.contains("second: 0"), "{said}\n{log}");
    let second = files("second");
    assert_eq!(second.len(), 6, "{second:?}");
    // Each file that was called done the first time is as long as it stayed.
    assert!(first.iter().all(|file| second.contains(file)), "{first:?} {second:?}");
    assert_eq!(cluster.env.cars().count_documents(doc! {}).await.unwrap(), 6);
    seeded.tell(1, &format!("{} of 6 CARs fitted at first", first.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_market_whose_disk_is_full_gets_its_imports_when_there_is_room() {
    let mut seeded = SeededRng::of("disk-full-import");
    let mut cluster =
        FaultCluster::open(FaultConfig { import_setting: &[("maxTries", "3")], ..FaultConfig::default() })
            .await;
    let agents = (cluster.client("client", None), cluster.miner(None));
    let count = iterations(2, 20);
    for _ in 0..count {
        let full = "importing deal data failed: write /staging/fstmp7: no space left on device";
        let full = FaultKind::ApplicationError(full.to_owned());
        cluster.env.sim.inject(Fault::on("Filecoin.MarketImportDealData", full));
        cluster.add_cars(5).await;
        // Longer than the bounded tries of a poison deal would last: a full disk is no deal's fault.
        sleep(Duration::from_millis(seeded.rng.u64(2000..5000))).await;
        cluster.env.sim.clear_faults();
        sleep(Duration::from_millis(seeded.rng.u64(0..1000))).await;
    }
    cluster.settled(Duration::from_secs(120)).await;
    let counts = cluster.check().await;
    seeded.tell(count, &format!("{counts:?}"));
    drop(agents);
}
