//! Files that must not be given to Boost: it kills a deal for a file that it cannot read, and another piece
//! costs it a commitment.

use std::fs;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use boost_sim::{BoostConfig, BoostVersion, Checkpoint, DealFault, DealFaultKind};
use harness::test_env::{Boost, BoostDeal, move_file};
use harness::{eventually, eventually_eq};

use crate::boost::{checkpoint, is_closed_by_one_call, looked_at_again};

/// Takes the CAR of a deal away; returns where it is now.
fn taken_away(env: &Boost, deal: &BoostDeal) -> PathBuf {
    let aside = tempfile_beside(env);
    move_file(&deal.car.path, &aside).unwrap();
    aside
}

/// A path that no search for a CAR comes to.
fn tempfile_beside(env: &Boost) -> PathBuf {
    env.new_path("kept-aside")
}

/// Puts bytes in place of a file, as a copy that is renamed at its end.
fn put(env: &Boost, bytes: &[u8], path: &Path) {
    let part = tempfile_beside(env);
    fs::write(&part, bytes).unwrap();
    move_file(&part, path).unwrap();
}

async fn reason(env: &Boost, deal: &BoostDeal) -> String {
    env.import_field(&deal.cid, "reason").await.unwrap()
}

/// Makes the CAR another piece of the same length and root. Returns the right bytes.
fn damaged(deal: &BoostDeal) -> Vec<u8> {
    let right = fs::read(&deal.car.path).unwrap();
    let file = OpenOptions::new().write(true).open(&deal.car.path).unwrap();
    file.write_all_at(b"?", u64::try_from(right.len()).unwrap() - 1).unwrap();
    right
}

#[tokio::test(flavor = "multi_thread")]
async fn other_piece_is_given_once_and_the_right_file_when_it_arrives() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("right").await.unwrap();
    let right = damaged(&deal);
    let agent = env.agent(&[]).unwrap();
    eventually!(reason(&env, &deal).await.contains("commp mismatch"), "Boost's words are told");
    let told = reason(&env, &deal).await;
    assert!(told.contains(&deal.car.piece_cid) && told.contains("is not the deal's piece"), "{told}");
    looked_at_again(&env, &deal).await;
    let seen = env.boost.deal(&deal.uuid).unwrap();
    assert_eq!((seen.imports, seen.checkpoint), (1, Checkpoint::Accepted), "not the same file twice");
    // Now this agent computes the piece CID itself, and hands no second wrong file over.
    let mut other = right.clone();
    *other.last_mut().unwrap() = b'!';
    put(&env, &other, &deal.car.path);
    let own_words = "its piece CID is";
    eventually!(reason(&env, &deal).await.contains(own_words), "the next wrong file is found out here");
    assert_eq!(env.boost.deal(&deal.uuid).unwrap().imports, 1);

    put(&env, &right, &deal.car.path);
    eventually!(env.is_imported(&deal.cid).await.unwrap(), "the right file is imported");
    assert_eq!(env.boost.deal(&deal.uuid).unwrap().imports, 2);
    assert!(checkpoint(&env, &deal) > Checkpoint::Accepted);
    assert!(!agent.has_logged("imports failed in a row").unwrap(), "the node is not blamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_piece_that_kills_a_deal_at_an_old_release_is_kept_back_by_verify_piece() {
    let config = BoostConfig { version: BoostVersion::V1_5_0, ..BoostConfig::instant() };
    let env = Boost::open_with(config).await.unwrap();
    let deal = env.deal_recorded("kept back").await.unwrap();
    let right = damaged(&deal);
    let _agent = env.agent(&["--verify-piece"]).unwrap();
    eventually!(reason(&env, &deal).await.contains("its piece CID is"), "found out here");
    assert!(env.import_calls().is_empty());
    put(&env, &right, &deal.car.path);
    eventually!(env.is_imported(&deal.cid).await.unwrap(), "the right file is imported");
    assert_eq!(env.tagged(&deal), 1);
}

/// What stands in the place of a CAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InPlace {
    CutShort,
    Empty,
    Folder,
    Nothing,
    NoCar,
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_would_kill_a_deal_are_never_handed_over() {
    let env = Boost::open().await.unwrap();
    let mut deals = Vec::new();
    for in_place in [InPlace::CutShort, InPlace::Empty, InPlace::Folder, InPlace::Nothing, InPlace::NoCar] {
        let deal = env.deal_recorded(&format!("{in_place:?}")).await.unwrap();
        let aside = taken_away(&env, &deal);
        let bytes = fs::read(&aside).unwrap();
        match in_place {
            InPlace::CutShort => fs::write(&deal.car.path, &bytes[..bytes.len() - 1]).unwrap(),
            InPlace::Empty => fs::write(&deal.car.path, b"").unwrap(),
            InPlace::Folder => fs::create_dir(&deal.car.path).unwrap(),
            InPlace::Nothing => {}
            InPlace::NoCar => fs::write(&deal.car.path, vec![b'?'; bytes.len()]).unwrap(),
        }
        deals.push((in_place, deal, aside));
    }
    let _agent = env.agent(&[]).unwrap();
    for (in_place, deal, _) in &deals {
        let words = match in_place {
            InPlace::CutShort | InPlace::Empty => "cut short",
            InPlace::Folder => "is not a regular file",
            InPlace::Nothing => "not here yet",
            InPlace::NoCar => "is no CAR",
        };
        eventually!(reason(&env, deal).await.contains(words), "{in_place:?} is named");
        looked_at_again(&env, deal).await;
    }
    assert!(env.import_calls().is_empty(), "nothing of that is handed over");
    for (in_place, deal, aside) in &deals {
        if *in_place == InPlace::Folder {
            fs::remove_dir(&deal.car.path).unwrap();
        }
        move_file(aside, &deal.car.path).unwrap();
        is_closed_by_one_call(&env, deal).await;
    }
}

/// A file without a recorded size is left alone until nothing has written to it for a while.
#[tokio::test(flavor = "multi_thread")]
async fn file_that_is_still_written_to_is_not_handed_over() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("growing").await.unwrap();
    env.cars().update_many(bson::doc! {}, bson::doc! { "$unset": { "carsizebytes": "" } }).await.unwrap();
    let right = fs::read(&deal.car.path).unwrap();
    let (first, last) = right.split_at(right.len() / 2);
    fs::write(&deal.car.path, first).unwrap();
    let _agent = env.agent(&[]).unwrap();
    eventually!(reason(&env, &deal).await.contains("was written to within the last"), "it may be growing");
    let mut file = OpenOptions::new().append(true).open(&deal.car.path).unwrap();
    file.write_all(last).unwrap();
    is_closed_by_one_call(&env, &deal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relative_node_path_is_refused_before_anything_is_handed_over() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("relative").await.unwrap();
    let folder = env.folder().display();
    let yaml = env.yaml(&format!("nodePaths: [{{from: '{folder}', to: 'cars'}}]\n")).unwrap();
    for command in ["import", "run"] {
        let ended = env.run(&yaml, &[command]).unwrap();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(
            ended.stderr.contains("nodePaths") && ended.stderr.contains("begin the path with /"),
            "{ended:?}"
        );
    }
    assert_eq!((env.import_calls().len(), checkpoint(&env, &deal)), (0, Checkpoint::Accepted));
}

/// The agent sees its files, and the market process does not: nothing but Boost's own word can tell, and that
/// costs a deal.
#[tokio::test(flavor = "multi_thread")]
async fn node_path_that_boost_does_not_see_costs_one_deal_and_no_other() {
    let env = Boost::open().await.unwrap();
    let deals = env.deals_recorded(5).await.unwrap();
    let folder = env.folder().display();
    let elsewhere =
        env.yaml(&format!("nodePaths: [{{from: '{folder}', to: '/not/mounted/there'}}]\n")).unwrap();
    let dead = || deals.iter().filter(|deal| checkpoint(&env, deal) == Checkpoint::Complete).count();
    let mut agent = env.agent_of(&elsewhere, &[], None).unwrap();
    let told = "the market process did not find the last file";
    eventually!(agent.has_logged(told).unwrap(), "the agent stops and says why");
    let paused = || {
        let shown = env.run(&elsewhere, &["status", "--json"]).unwrap();
        let agent = shown.lines[0]["miners"][0]["agent"].clone();
        agent["state"] == "paused" && agent["reason"].to_string().contains("nodePaths")
    };
    eventually!(paused(), "status says so, too");
    let times = || fs::read_to_string(&agent.log).unwrap().matches(told).count();
    eventually!(times() >= 3, "it comes to the next deal again and again");
    assert_eq!((dead(), env.import_calls().len()), (1, 1));
    agent.kill9().unwrap();
    let pass = env.run(&elsewhere, &["import", "--json"]).unwrap();
    assert_eq!((pass.code, dead(), env.import_calls().len()), (Some(1), 2, 2), "a pass tries once: {pass:?}");
    let _next = env.agent(&[]).unwrap();
    for deal in deals.iter().filter(|deal| checkpoint(&env, deal) != Checkpoint::Complete) {
        is_closed_by_one_call(&env, deal).await;
    }
    assert_eq!(dead(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn right_file_that_boost_sees_as_another_one_counts_as_a_failure_and_names_the_paths() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("seen otherwise").await.unwrap();
    let (here, there) = (deal.car.path.parent().unwrap(), env.new_path("there"));
    fs::create_dir(&there).unwrap();
    let mut other = fs::read(&deal.car.path).unwrap();
    *other.last_mut().unwrap() ^= 1;
    fs::write(there.join(deal.car.path.file_name().unwrap()), other).unwrap();
    let mapping = format!("nodePaths: [{{from: '{}', to: '{}'}}]\n", here.display(), there.display());
    let _agent = env.agent_of(&env.yaml(&mapping).unwrap(), &["--max-tries", "2"], None).unwrap();
    eventually_eq!(env.import_field(&deal.cid, "state").await.unwrap(), "setaside", "it is no endless loop");
    let told = reason(&env, &deal).await;
    assert!(told.contains("commp mismatch") && told.contains("nodePaths"), "{told}");
    // The first on trust, and one for each of the tries after this agent had computed the piece CID.
    assert_eq!(env.boost.deal(&deal.uuid).unwrap().imports, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn start_that_cannot_be_met_is_missed_without_a_call() {
    let env = Boost::open().await.unwrap();
    let near = env.deal_recorded("near").await.unwrap();
    env.advance_epochs(5000);
    let car = env.car("passed").unwrap();
    let passed = env.propose_as(&car, &Boost::proposal(&car).starting(1_006_000)).unwrap();
    env.record_boost(&passed).await.unwrap();
    let car = env.car("in time").unwrap();
    let in_time = env.propose_as(&car, &Boost::proposal(&car).starting(1_020_000)).unwrap();
    env.record_boost(&in_time).await.unwrap();
    // 400 epochs before the start of the first, 3600 after that of the second.
    env.advance_epochs(4600);
    let _agent = env.agent(&[]).unwrap();
    is_closed_by_one_call(&env, &in_time).await;
    for (deal, words) in [(&near, "480 needed"), (&passed, "has passed (head")] {
        eventually_eq!(env.import_field(&deal.cid, "state").await.unwrap(), "missed", "the deal is marked");
        assert!(reason(&env, deal).await.contains(words), "{}", reason(&env, deal).await);
        assert_eq!((env.tagged(deal), checkpoint(&env, deal)), (0, Checkpoint::Accepted));
    }
}

/// The sealer that computes commitments fails, which is not the file's fault.
#[tokio::test(flavor = "multi_thread")]
async fn remote_commitment_that_fails_is_tried_again_with_the_same_file() {
    let env = Boost::open_with(BoostConfig { remote_commp: true, ..BoostConfig::instant() }).await.unwrap();
    let deal = env.deal_recorded("remote").await.unwrap();
    let fault = DealFaultKind::RemoteCommpFails("worker is gone".to_owned());
    env.boost.inject_deal(DealFault::of(&deal.uuid, fault).times(2));
    let _agent = env.agent(&[]).unwrap();
    eventually!(reason(&env, &deal).await.contains("worker is gone"), "Boost's words are told");
    let import = env.import_of(&deal.cid).await.unwrap();
    let told = reason(&env, &deal).await;
    assert!(!told.contains("is not the deal's piece"), "{told}");
    assert_ne!(import.get_bool("piecemismatch").ok(), Some(true), "{import}");
    eventually!(env.is_imported(&deal.cid).await.unwrap(), "the third try succeeds");
    assert_eq!(env.boost.deal(&deal.uuid).unwrap().imports, 3);
    let paths = env.import_calls().into_iter().map(|call| call.params[1].clone()).collect::<Vec<_>>();
    assert_eq!(paths, vec![deal.car.path.to_str().unwrap(); 3]);
}
