//! Every command of both agents ends with the status that the README's table names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ExitStatus::{Failure, Partly, Success, UserError};
use bson::doc;
use carferry_core::exit_status::ExitStatus;
use clap::CommandFactory as _;
use harness::test_env::{TestEnv, client_agent_command, miner_agent_command};
use lotus_sim::{Permission, WalletConfig};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Program {
    Client,
    Miner,
}

/// What is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Nothing,
    DatabaseAway,
    NodeAway,
    /// The node does not know the token.
    TokenRefused,
    BadConfiguration,
}

/// A port that nothing listens on.
const NOWHERE: &str = "127.0.0.1:1";

struct Setup {
    env: TestEnv,
    folder: PathBuf,
}

impl Setup {
    async fn new() -> Self {
        let env = TestEnv::open().await.unwrap();
        let folder = env.folder().to_owned();
        fs::create_dir(folder.join("in")).unwrap();
        fs::write(folder.join("in/a.tar"), [7; 5000]).unwrap();
        // Something to follow: without it the node is not asked.
        let deal = doc! {
            "dealcid": "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta", "filecid": UNKNOWN_CID,
            "miner": "f01999", "wallet": WalletConfig::default().address, "isdeal": 0, "status": 18, "method": "start",
        };
        env.deals().insert_one(deal).await.unwrap();
        Self { env, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn config(&self, program: Program, trouble: Trouble) -> PathBuf {
        let uri = match trouble {
            Trouble::DatabaseAway => format!("mongodb://{NOWHERE}/?serverSelectionTimeoutMS=300"),
            _ => self.env.uri.clone(),
        };
        let sim = &self.env.sim;
        let token = match trouble {
            Trouble::TokenRefused => "not.a.token".to_owned(),
            _ => sim.token(Permission::Admin),
        };
        let node = match (trouble, program) {
            (Trouble::NodeAway, _) => format!("http://{NOWHERE}"),
            (_, Program::Client) => sim.full_node_url(),
            (_, Program::Miner) => sim.miner_url("f01000"),
        };
        let mut text = format!(
            "miners: [{{miner: f01000}}]\nmongodb: {{uri: '{uri}', database: '{}'}}\n\
             lotus: {{endpoint: '{node}', token: '{token}'}}\n",
            self.env.db.name()
        );
        let of_program = match program {
            Program::Client => {
                format!("setting: {{wallet: {}, duration: 366}}\n", WalletConfig::default().address)
            }
            Program::Miner => format!("fullNode: {{endpoint: '{}'}}\n", sim.full_node_url()),
        };
        text.push_str(&of_program);
        if trouble == Trouble::BadConfiguration {
            text.push_str("unknownSection: 1\n");
        }
        let file = self.folder.join(format!("{program:?}-{trouble:?}.yaml"));
        fs::write(&file, text).unwrap();
        file
    }

    fn run(&self, program: Program, words: &str, config: Option<&Path>) -> Output {
        let mut command = command(program);
        for word in words.split_whitespace() {
            command.arg(
                word.replace("{in}", &self.path("in"))
                    .replace("{out}", &self.path("out"))
                    .replace("{folder}", &self.folder.display().to_string()),
            );
        }
        if let Some(config) = config {
            command.arg("-c").arg(config);
        }
        command.output().unwrap()
    }
}

fn command(program: Program) -> Command {
    match program {
        Program::Client => client_agent_command().unwrap(),
        Program::Miner => miner_agent_command().unwrap(),
    }
}

const UNKNOWN_CID: &str = "bafykbzaceaj5kyurab6bohchm3ivyj27ixhpfg5nvrlrrwzlmvytkbitlbf3w";

type Row = (Program, String, Vec<(Trouble, ExitStatus)>);

/// What a command ends with under each trouble that can meet it. Commands that go on until a signal are met
/// by `--dry-run` or `--once`.
fn table() -> Vec<Row> {
    use Program::{Client, Miner};
    use Trouble::{BadConfiguration, DatabaseAway, NodeAway, Nothing, TokenRefused};
    let all =
        vec![(BadConfiguration, UserError), (DatabaseAway, Failure), (NodeAway, Failure), (Nothing, Success)];
    let market: Vec<_> = all.iter().copied().chain([(TokenRefused, UserError)]).collect();
    let database = vec![(BadConfiguration, UserError), (DatabaseAway, Failure), (Nothing, Success)];
    let alone = |status| vec![(Nothing, status)];
    let row =
        |program, words: &str, ends: &[(Trouble, ExitStatus)]| (program, words.to_owned(), ends.to_vec());
    vec![
        row(Client, "makecars --input {in} --output {out}", &database),
        row(Client, "makecars --input {folder}/none --output {out} --no-database", &alone(UserError)),
        row(Client, "makedeals --dry-run", &all),
        row(Client, "track --once", &all),
        row(Client, "run --dry-run", &all),
        // Goes on until a signal.
        row(Client, "serve", &[(BadConfiguration, UserError)]),
        row(Client, "retry --all", &database),
        row(Client, "status", &database),
        row(Client, "doctor", &all),
        row(Client, "check-config", &[(BadConfiguration, UserError), (Nothing, Success)]),
        row(Client, "verify --all", &database),
        row(
            Client,
            &format!("regenerate {UNKNOWN_CID}"),
            &[(BadConfiguration, UserError), (DatabaseAway, Failure), (Nothing, UserError)],
        ),
        row(Client, "generate-car {in}/a.tar {folder}/made.car", &alone(Success)),
        row(Client, "generate-car {folder}/none {folder}/other.car", &alone(UserError)),
        row(Client, "commp {folder}/made.car", &alone(Success)),
        row(Client, "commp {folder}/none", &alone(UserError)),
        row(Client, "verify-car {folder}/made.car", &alone(Success)),
        row(Client, "verify-car {in}/a.tar", &alone(UserError)),
        row(Client, "extract {folder}/made.car --output {folder}/back", &alone(Success)),
        row(Client, "extract {in}/a.tar --output {folder}/back", &alone(UserError)),
        row(Miner, "import --dry-run", &market),
        row(Miner, "import", &market),
        row(Miner, "run --dry-run", &market),
        row(Miner, "status", &database),
        row(Miner, "retry --all", &database),
        row(
            Miner,
            "retry bafyrei-unknown",
            &[(BadConfiguration, UserError), (DatabaseAway, Failure), (Nothing, UserError)],
        ),
        row(Miner, "doctor", &market),
        row(Miner, "check-config", &[(BadConfiguration, UserError), (Nothing, Success)]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_ends_with_the_status_of_the_table() {
    let setup = Setup::new().await;
    let (mut wrong, mut met) = (Vec::new(), BTreeSet::new());
    for (program, words, ends) in table() {
        met.insert((program, words.split_whitespace().next().unwrap().to_owned()));
        for (trouble, status) in ends {
            let is_configured = match program {
                Program::Miner => true,
                Program::Client => !["generate-car", "commp", "verify-car", "extract"]
                    .iter()
                    .any(|tool| words.starts_with(tool)),
            };
            let config = is_configured.then(|| setup.config(program, trouble));
            let ended = setup.run(program, &words, config.as_deref());
            if ended.status.code() != Some(i32::from(status.code())) {
                let said = String::from_utf8_lossy(&ended.stderr).into_owned();
                let told = String::from_utf8_lossy(&ended.stdout).into_owned();
                wrong.push(format!(
                    "{program:?} {words}, {trouble:?}: {}, not {status:?}\n{told}{said}",
                    ended.status
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    for (program, command) in
        [(Program::Client, client_agent::cli::command()), (Program::Miner, miner_agent::cli::Cli::command())]
    {
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name().to_owned();
            for (words, status) in [("--help", Success), ("--no-such-flag", UserError)] {
                let ended = setup.run(program, &format!("{name} {words}"), None);
                assert_eq!(ended.status.code(), Some(i32::from(status.code())), "{program:?} {name} {words}");
            }
            assert!(met.contains(&(program, name.clone())), "{program:?} {name} stands in no row");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_in_part_says_so() {
    let setup = Setup::new().await;
    let input = setup.folder.join("in");
    // A name that no record can hold.
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(&b"odd-\xff"[..]);
    fs::write(input.join::<&std::ffi::OsStr>(odd), "odd").unwrap();
    let ended = setup.run(Program::Client, "makecars --input {in} --output {out} --no-database", None);
    assert_eq!(ended.status.code(), Some(i32::from(Partly.code())), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_the_token_does_not_allow_is_for_the_user_to_fix() {
    let setup = Setup::new().await;
    setup.env.recorded("a deal that could be imported").await.unwrap();
    let config = setup.config(Program::Miner, Trouble::Nothing);
    // It may read whom the node works for and what it lists.
    let text = fs::read_to_string(&config).unwrap();
    let sim = &setup.env.sim;
    fs::write(&config, text.replace(&sim.token(Permission::Admin), &sim.token(Permission::Read))).unwrap();
    let ended = setup.run(Program::Miner, "import", Some(&config));
    assert_eq!(ended.status.code(), Some(i32::from(UserError.code())), "{ended:?}");
}
