//! Agents on a database that asks who they are: TLS, and roles that allow what they need and no more.

mod certificates;
mod database;
mod node;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context as _;
use bson::{Document, doc};
use database::{CLIENT, Grant, MINER, Secured, login_by_password};
use futures::future::join_all;
use harness::mongod::secured::write_private;
use harness::test_env::{Process, TestEnv, client_agent_command, miner_agent_command};
use harness::{eventually, test_env};
use lotus_sim::{Permission, WalletConfig};
use mongodb::{Database, IndexModel};

const UNAUTHORIZED: i32 = 13;

/// The configuration of a client-agent for this environment.
fn client_yaml(env: &TestEnv, mongodb: &str) -> anyhow::Result<PathBuf> {
    let text = format!(
        "miners: [{{miner: {miner}, price: 0}}]\nmongodb: {mongodb}\nlotus: {{endpoint: '{url}', token: \
         '{token}'}}\nsetting: {{wallet: {wallet}, duration: 200, dealTimeout: 300ms, planInterval: 300ms, \
         gracePeriod: 3s}}\n",
        miner = test_env::MINER,
        url = env.sim.full_node_url(),
        token = env.sim.token(Permission::Admin),
        wallet = WalletConfig::default().address,
    );
    let file = env.new_path("client.yaml");
    fs::write(&file, text)?;
    Ok(file)
}

/// Runs a command of an agent to its end, logging all there is to log.
async fn run(mut command: Command, arguments: &[&str], config: &Path) -> anyhow::Result<Output> {
    command.args(arguments).arg("-c").arg(config).env("CARFERRY_LOG__FILTER", "trace");
    let mut command = tokio::process::Command::from(command);
    let output = tokio::time::timeout(eventually::DEADLINE, command.kill_on_drop(true).output());
    output.await.with_context(|| format!("{arguments:?} does not end"))?.map_err(Into::into)
}

/// Everything that a command said.
fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn log(agent: &Process) -> anyhow::Result<String> {
    Ok(fs::read_to_string(&agent.log)?)
}

/// Warnings about the database: what an agent with its own role has no reason for.
fn complaints(agent: &Process) -> anyhow::Result<Vec<String>> {
    let log = log(agent)?;
    let is_complaint = |line: &&str| line.contains("MongoDB refused") || line.contains("index could not");
    Ok(log.lines().filter(is_complaint).map(str::to_owned).collect())
}

async fn imports_a_deal(env: &TestEnv, mongodb: &str) -> anyhow::Result<Process> {
    let (_car, first) = env.recorded("recorded before the agent comes ").await?;
    let agent = env.miner_agent_process_of(&env.import_yaml_on(mongodb, &[test_env::MINER])?)?;
    eventually!(env.is_imported(&first).await.unwrap(), "the deal that waits is imported");
    // Longer than a test waits passes between two scans: only the change stream brings this one.
    let (_car, second) = env.recorded("recorded while the agent watches ").await?;
    eventually!(
        within std::time::Duration::from_secs(15),
        env.is_imported(&second).await.unwrap(),
        "the change stream wakes the agent"
    );
    eventually!(
        env.deal(&second).await.unwrap().is_some_and(|deal| deal.get_document("provider").is_ok()),
        "the provider's view is recorded"
    );
    Ok(agent)
}

async fn create_indexes_as_client(secured: &Secured, env: &TestEnv) -> anyhow::Result<()> {
    let user = secured.user("client-index", CLIENT).await?;
    let config = client_yaml(env, &secured.by_password(&user))?;
    let output = run(client_agent_command()?, &["doctor", "--create-indexes"], &config).await?;
    anyhow::ensure!(output.status.success(), "{}", words(&output));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_agent_with_its_role_and_a_password_imports() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let env = secured.env().await?;
    create_indexes_as_client(&secured, &env).await?;
    let user = secured.user("miner-f01000", MINER).await?;
    let mongodb = secured.by_password(&user);
    let config = env.import_yaml_on(&mongodb, &[test_env::MINER])?;
    let doctor = run(miner_agent_command()?, &["doctor"], &config).await?;
    assert!(words(&doctor).contains("all there"), "the role lets doctor see the indexes: {}", words(&doctor));
    let agent = imports_a_deal(&env, &mongodb).await?;
    assert_eq!(complaints(&agent)?, Vec::<String>::new());
    for text in [words(&doctor), log(&agent)?] {
        assert!(!text.contains(&user.secret), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_agent_with_its_role_and_a_certificate_imports() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let env = secured.env().await?;
    create_indexes_as_client(&secured, &env).await?;
    let certificate = secured.certified_user("miner-f01000", MINER).await?;
    let agent = imports_a_deal(&env, &secured.by_certificate(&certificate)).await?;
    assert_eq!(complaints(&agent)?, Vec::<String>::new());
    Ok(())
}

/// Packs, makes indexes, publishes and follows deals until they are active; two at a time.
async fn carries_deals(secured: &Secured, env: &TestEnv, mongodb: &str) -> anyhow::Result<Process> {
    let (input, output) = (env.new_path("input"), env.new_path("output"));
    fs::create_dir_all(&input)?;
    for name in ["one", "two"] {
        fs::write(input.join(name), name.repeat(200))?;
    }
    let config = client_yaml(env, mongodb)?;
    let paths = [input.display().to_string(), output.display().to_string()];
    let arguments = ["makecars", "--input", &paths[0], "--output", &paths[1], "--no-progress"];
    let packed = run(client_agent_command()?, &arguments, &config).await?;
    anyhow::ensure!(packed.status.success(), "{}", words(&packed));
    assert_eq!(env.cars().count_documents(doc! {}).await?, 2);

    let mut command = client_agent_command()?;
    command.arg("run").arg("-c").arg(&config);
    let client = test_env::spawn(command, &env.new_path("client-agent.log"))?;
    eventually!(env.deals().count_documents(doc! {}).await.unwrap() == 2, "both deals are published");
    let user = secured.user("miner-f01000", MINER).await?;
    let config = env.import_yaml_on(&secured.by_password(&user), &[test_env::MINER])?;
    let _miner = env.miner_agent_process_of(&config)?;
    let active = doc! { "isdeal": 1, "status": 7 };
    eventually!(env.deals().count_documents(active.clone()).await.unwrap() == 2, "both deals are active");
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_agent_with_its_role_indexes_publishes_and_tracks() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let env = secured.env().await?;
    let user = secured.user("client-box1", CLIENT).await?;
    let agent = carries_deals(&secured, &env, &secured.by_password(&user)).await?;
    assert_eq!(complaints(&agent)?, Vec::<String>::new());
    for (collection, ours) in [("cars", 5), ("offlinedeals", 13), ("dealintents", 5)] {
        let names = secured.database().collection::<Document>(collection).list_index_names().await?;
        // Beside the one on `_id`.
        assert_eq!(names.len(), 1 + ours, "{collection}: {names:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_whose_users_may_not_see_or_make_indexes_work_with_a_warning() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let grant = |collection: &str, actions: &[&str]| Grant {
        collection: collection.to_owned(),
        actions: actions.iter().map(|action| (*action).to_owned()).collect(),
    };
    let writes = ["find", "insert", "update"];
    let bare_client = [grant("cars", &writes), grant("offlinedeals", &writes), grant("dealintents", &writes)];
    secured.create_role("bareClient", &bare_client).await?;
    let bare_miner = [grant("cars", &["find"]), grant("offlinedeals", &["find", "update", "changeStream"])];
    secured.create_role("bareMiner", &bare_miner).await?;

    let env = secured.env().await?;
    let user = secured.user("bare-client", "bareClient").await?;
    let client = carries_deals(&secured, &env, &secured.by_password(&user)).await?;
    assert_eq!(complaints(&client)?.len(), 3, "one warning a collection: {:?}", complaints(&client)?);
    // It would make deals for the CARs to come.
    drop(client);

    let user = secured.user("bare-miner", "bareMiner").await?;
    let mongodb = secured.by_password(&user);
    let miner = imports_a_deal(&env, &mongodb).await?;
    let told = complaints(&miner)?;
    assert_eq!(told.len(), 3, "one warning a collection that it may not write or index: {told:?}");
    let doctor =
        run(miner_agent_command()?, &["doctor"], &env.import_yaml_on(&mongodb, &[test_env::MINER])?).await?;
    assert!(doctor.status.success(), "a warning is no failure: {}", words(&doctor));
    assert!(words(&doctor).contains("MongoDB refused `listIndexes`"), "{}", words(&doctor));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_told_so_once_and_nothing_is_tried_for_ever() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let env = secured.env().await?;
    let find =
        |collection: &str| Grant { collection: collection.to_owned(), actions: vec!["find".to_owned()] };
    let grants: Vec<_> =
        ["cars", "offlinedeals", "dealintents", "packplans", "packpieces", "packfiles"].map(find).into();
    secured.create_role("reader", &grants).await?;
    let user = secured.user("reader", "reader").await?;
    let mongodb = secured.by_password(&user);
    let (client, miner) = (client_yaml(&env, &mongodb)?, env.import_yaml_on(&mongodb, &[test_env::MINER])?);
    let (input, output) = (env.new_path("in"), env.new_path("out"));
    fs::create_dir(&input)?;
    fs::write(input.join("a.tar"), [7; 5000])?;
    let folders = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
    for (program, arguments) in [
        ("client", [&["makecars"][..], &folders].concat()),
        ("client", [&["makecars", "--layout", "pack"][..], &folders].concat()),
        ("client", vec!["makedeals"]),
        ("client", vec!["run"]),
        ("client", vec!["doctor"]),
        ("miner", vec!["doctor"]),
    ] {
        let (command, config) = match program {
            "client" => (client_agent_command()?, &client),
            _ => (miner_agent_command()?, &miner),
        };
        let ended = run(command, &arguments, config).await?;
        let said = words(&ended);
        assert_eq!(ended.status.code(), Some(1), "{program} {arguments:?}: {said}");
        assert!(said.contains("not authorized on carferry to update in"), "{program} {arguments:?}: {said}");
        assert!(said.contains("configs/mongodb-roles.js"), "{program} {arguments:?}: {said}");
        assert!(!said.contains("trying again"), "{program} {arguments:?}: {said}");
    }
    assert!(!output.join("a.tar.car").exists(), "nothing is packed that cannot be recorded");
    Ok(())
}

/// Holds that a call was refused for want of a privilege, and for nothing else.
fn assert_refused<T: std::fmt::Debug>(what: &str, outcome: mongodb::error::Result<T>) {
    use mongodb::error::{ErrorKind, WriteFailure};
    let error = outcome.expect_err(what);
    let code = match error.kind.as_ref() {
        ErrorKind::Command(command) => command.code,
        ErrorKind::Write(WriteFailure::WriteError(write)) => write.code,
        other => panic!("{what}: {other:?}"),
    };
    assert_eq!(code, UNAUTHORIZED, "{what}: {error}");
}

/// What no agent does and no agent's user may do.
async fn assert_nothing_is_destroyed(db: &Database) {
    for name in ["cars", "offlinedeals", "dealintents"] {
        let collection = db.collection::<Document>(name);
        assert_refused("delete", collection.delete_many(doc! {}).await);
        assert_refused("find and delete", collection.find_one_and_delete(doc! {}).await);
        assert_refused("drop", collection.drop().await);
        assert_refused("drop indexes", collection.drop_indexes().await);
        let rename = doc! {
            "renameCollection": format!("{}.{name}", db.name()), "to": format!("{}.other", db.name()),
        };
        assert_refused("rename", db.client().database("admin").run_command(rename).await);
    }
    assert_refused("drop of the database", db.drop().await);
    assert_refused("another collection", db.collection("other").insert_one(doc! {}).await);
    assert_refused("database-level watch", db.watch().await);
    let grant = doc! { "grantRolesToUser": "client-box1", "roles": ["root"] };
    assert_refused("more rights", db.client().database("admin").run_command(grant).await);
    let system = db.client().database("admin").collection::<Document>("system.users");
    assert_refused("other users", system.find_one(doc! {}).await);
    let other = db.client().database("another").collection::<Document>("offlinedeals");
    assert_refused("another database", other.find_one(doc! {}).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miners_user_may_do_nothing_but_import() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let user = secured.user("miner-f01000", MINER).await?;
    secured.database().collection("offlinedeals").insert_one(doc! { "miner": "f01000", "isdeal": 0 }).await?;
    let db = secured.as_user(&user).await?;
    assert_nothing_is_destroyed(&db).await;

    let (cars, deals) = (db.collection::<Document>("cars"), db.collection::<Document>("offlinedeals"));
    let set = doc! { "$set": { "filecid": "another" } };
    assert_refused("insert of a deal", deals.insert_one(doc! { "miner": "f01000" }).await);
    assert_refused(
        "insert by update",
        deals.update_one(doc! { "dealcid": "none" }, set.clone()).upsert(true).await,
    );
    assert_refused(
        "an index",
        deals.create_index(IndexModel::builder().keys(doc! { "miner": -1 }).build()).await,
    );
    assert_refused("insert of a CAR", cars.insert_one(doc! {}).await);
    assert_refused("change of a CAR", cars.update_one(doc! {}, set.clone()).await);
    assert_refused(
        "replacement of a CAR",
        cars.find_one_and_replace(doc! {}, doc! { "filecid": "another" }).await,
    );
    let intents = db.collection::<Document>("dealintents");
    assert_refused("intents", intents.find_one(doc! {}).await);
    assert_refused("change of intents", intents.update_one(doc! {}, set).await);

    // Roles end at the collection: what they cannot keep from it, README says.
    let updated = deals.update_one(doc! { "isdeal": 0 }, doc! { "$set": { "isdeal": 1 } }).await?;
    assert_eq!(updated.modified_count, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_user_may_destroy_nothing() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let user = secured.user("client-box1", CLIENT).await?;
    secured.database().collection("offlinedeals").insert_one(doc! { "isdeal": 0 }).await?;
    let db = secured.as_user(&user).await?;
    assert_nothing_is_destroyed(&db).await;
    let deals = db.collection::<Document>("offlinedeals");
    // client-agent opens no change stream.
    assert_refused("watch", deals.watch().await);
    assert_eq!(deals.count_documents(doc! {}).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_in_a_sentence_why_the_database_is_closed() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let env = secured.env().await?;
    let mut user = secured.user("miner-f01000", MINER).await?;
    let (_subject, stranger) = secured.authority.agent("stranger")?;
    let right = secured.by_password(&user);
    let right_login = login_by_password(&user);

    let wrong_file = env.new_path("wrong.password");
    write_private(&wrong_file, &format!("{}x", user.password))?;
    user.password_file = wrong_file;

    let cases = [
        (
            "a wrong password",
            secured.by_password(&user),
            "MongoDB did not let us in for `hello`: SCRAM failure: Authentication failed",
            "check mongodb.username, the password and authSource",
        ),
        (
            "a certificate that is no user's",
            secured.by_certificate(&stranger),
            "MongoDB did not let us in for `hello`: MONGODB-X509 failure",
            "a database user of the certificate's subject",
        ),
        (
            "no authority",
            secured.section("tls: true", &right_login),
            "MongoDB cannot be reached for `hello`: the server's certificate is of an authority that is not \
             trusted here",
            "set mongodb.tlsCaFile",
        ),
        (
            "plain TCP",
            secured.section("tls: false", &right_login),
            "MongoDB cannot be reached for `hello`: the server closed the connection at once, as one that \
             wants TLS does",
            "set mongodb.tls: true and mongodb.tlsCaFile",
        ),
        (
            "another host name",
            right.replace("127.0.0.1", "localhost"),
            "MongoDB cannot be reached for `hello`: the server's certificate is for another host name",
            "use the name it was issued for",
        ),
        (
            "TLS to a server without",
            format!("{{uri: '{}', {}}}", harness::database().await?.uri, secured.tls()),
            "MongoDB cannot be reached for `hello`: the server closed the connection in the TLS handshake, as one \
             without TLS does",
            "remove the mongodb.tls",
        ),
        (
            "a port where nobody listens",
            right.replace(&secured.mongod.server(), "127.0.0.1:1"),
            "MongoDB cannot be reached for `hello`: no server listens at that address",
            "is mongod running",
        ),
    ];
    let mut doctors = Vec::new();
    for (case, mongodb, sentence, hint) in cases {
        for (command, config) in [
            (miner_agent_command()?, env.import_yaml_on(&mongodb, &[test_env::MINER])?),
            (client_agent_command()?, client_yaml(&env, &mongodb)?),
        ] {
            doctors.push(async move {
                let output = run(command, &["doctor", "--json"], &config).await;
                (case, sentence, hint, output)
            });
        }
    }
    // All at once, since most wait for seconds until they give up.
    for (case, sentence, hint, output) in join_all(doctors).await {
        let output = output?;
        let said = words(&output);
        // Whom the server does not let in must change something; a server that is not there, mostly not.
        let status = if sentence.contains("cannot be reached") { 2 } else { 1 };
        assert_eq!(output.status.code(), Some(status), "{case}: {said}");
        let json = String::from_utf8_lossy(&output.stdout);
        let line = json.lines().find(|line| line.contains(sentence));
        let line = line.unwrap_or_else(|| panic!("{case}: {sentence}\n{json}"));

        assert!(line.contains(hint), "{case}: {line}");
        assert!(said.contains("TRACE") || said.contains("DEBUG"), "{case}: nothing was logged: {said}");
        assert!(!said.contains(&user.secret), "{case}: the password is shown: {said}");
    }
    Ok(())
}

/// What an agent is given is a file's name: every user of a machine can read a command line.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_wrong_password_stays_and_says_so_without_showing_it() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let env = secured.env().await?;
    let mut user = secured.user("miner-f01000", MINER).await?;
    let wrong = format!("{}x", user.password);
    user.password_file = env.new_path("wrong.password");
    write_private(&user.password_file, &wrong)?;
    let config = env.import_yaml_on(&secured.by_password(&user), &[test_env::MINER])?;
    let mut command = miner_agent_command()?;
    command.arg("run").arg("-c").arg(&config).env("CARFERRY_LOG__FILTER", "trace");
    let mut agent = test_env::spawn(command, &env.new_path("miner-agent.log"))?;
    eventually!(agent.has_logged("SCRAM failure: Authentication failed").unwrap(), "the reason is logged");
    assert!(agent.is_running(), "the password may be mended at the server");
    let log = log(&agent)?;
    assert!(log.contains("DEBUG"), "everything is logged: {log}");
    assert!(!log.contains(&user.secret), "{log}");
    let arguments = fs::read(format!("/proc/{}/cmdline", agent.pid()))?;
    assert!(!String::from_utf8_lossy(&arguments).contains(&user.secret));
    Ok(())
}
