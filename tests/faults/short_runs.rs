//! (s) Commands that end at once, very often: none of them may panic while the runtime and the driver end.

use std::process::Command;

use harness::test_env::{TestEnv, client_agent_command, miner_agent_command};
use lotus_sim::{Permission, WalletConfig};
use rustix::process::{Pid, Signal, kill_process};

use crate::iterations::{SeededRng, iterations};

struct ShortRun {
    command: Command,
    /// When SIGINT comes, in milliseconds; never, where there is none.
    interrupted_after_ms: Option<u64>,
}

/// One of the commands that open the database, in turn.
fn short_run(env: &TestEnv, number: usize, seeded: &mut SeededRng) -> ShortRun {
    let of = |command: anyhow::Result<Command>, words: &str, config: &str| {
        let mut command = command.unwrap();
        command.args(words.split_whitespace()).arg("-c").arg(env.folder().join(config));
        command
    };
    let client = |words: &str| of(client_agent_command(), words, "conf.yaml");
    let miner = |words: &str| of(miner_agent_command(), words, "import.yaml");
    let packed = |layout: &str| {
        let mut command = client("makecars --piece-size 1MiB --no-progress");
        command.arg("--input").arg(env.folder().join("in"));
        command.arg("--output").arg(env.folder().join(layout)).arg("--layout").arg(layout);
        command
    };
    let interrupted_after_ms = Some(seeded.rng.u64(1..400));
    let ended = |command| ShortRun { command, interrupted_after_ms: None };
    match number % 12 {
        0 | 1 => ended(client("status")),
        2 => ended(packed("pack")),
        3 => ended(packed("file")),
        4 => ended(client("makedeals --dry-run")),
        5 => ended(client("track --once")),
        6 => ended(client("doctor")),
        // An error after the database was asked.
        7 => ended(client("regenerate bafykbzaceaj5kyurab6bohchm3ivyj27ixhpfg5nvrlrrwzlmvytkbitlbf3w")),
        8 => ended(miner("status")),
        9 => ended(miner("import")),
        10 => ShortRun { command: client("track"), interrupted_after_ms },
        _ => ShortRun { command: miner("run"), interrupted_after_ms },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_short_run_panics() {
    let mut seeded = SeededRng::of("short_runs");
    let env = TestEnv::open().await.unwrap();
    let folder = env.folder();
    std::fs::create_dir(folder.join("in")).unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(folder.join("in").join(name), name.repeat(3000)).unwrap();
    }
    let section = format!("mongodb: {{uri: '{}', database: '{}'}}\n", env.uri, env.db.name());
    let (token, wallet) = (env.sim.token(Permission::Admin), WalletConfig::default().address);
    let client = format!(
        "{section}miners: [{{miner: f01000}}]\nsetting: {{wallet: {wallet}, duration: 366}}\n\
         lotus: {{endpoint: '{}', token: '{token}'}}\n",
        env.sim.full_node_url()
    );
    std::fs::write(folder.join("conf.yaml"), client).unwrap();
    std::fs::copy(env.import_yaml(&["f01000"]).unwrap(), folder.join("import.yaml")).unwrap();

    let count = iterations(60, 2000);
    let mut panics = Vec::new();
    for number in 0..count {
        let ShortRun { mut command, interrupted_after_ms } = short_run(&env, number, &mut seeded);
        let log = folder.join("short-run.log");
        command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = harness::child_guard::spawn(command).unwrap();
        if let Some(milliseconds) = interrupted_after_ms {
            tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            // A background job inherits that SIGINT is ignored: one that comes before the handler is there is
            // lost.
            let mut looks = 0;
            while child.try_wait().unwrap().is_none() {
                if looks % 500 == 0 {
                    // It may have ended.
                    let _gone = kill_process(pid, Signal::INT);
                }
                looks += 1;
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        child.wait().unwrap();
        let said = std::fs::read_to_string(&log).unwrap();
        if said.contains("panicked") {
            panics.push(said);
        }
    }
    seeded.tell(count, &format!("{} panics", panics.len()));
    assert!(panics.is_empty(), "{} of {count}: {}", panics.len(), panics[0]);
}
