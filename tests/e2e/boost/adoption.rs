//! Deals that Boost waits for and no client has recorded: listed over GraphQL, found by their piece CIDs.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use boost_sim::{BoostConfig, BoostVersion, Checkpoint, Endpoint};
use bson::doc;
use harness::test_env::{Boost, BoostDeal, move_file};
use harness::{eventually, eventually_eq};
use serde_json::Value;

use crate::boost::{checkpoint, is_closed_by_one_call, looked_at_again};

/// A deal without a record whose CAR lies in a root under its piece CID. Returns the file.
fn beside(env: &Boost, content: &str) -> (BoostDeal, PathBuf) {
    let deal = env.unrecorded(content).unwrap();
    let named = env.folder().join(format!("{}.car", deal.car.piece_cid));
    move_file(&deal.car.path, &named).unwrap();
    (deal, named)
}

/// Lets a file look as if it had been copied a minute ago: no size is recorded that would tell whether it is
/// whole.
fn settle(path: &std::path::Path) {
    let minute_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    fs::File::options().write(true).open(path).unwrap().set_modified(minute_ago).unwrap();
}

fn settled_beside(env: &Boost, content: &str) -> (BoostDeal, PathBuf) {
    let (deal, path) = beside(env, content);
    settle(&path);
    (deal, path)
}

fn line<'a>(lines: &'a [Value], deal: &BoostDeal) -> &'a Value {
    lines.iter().find(|line| line["deal"] == deal.cid.as_str()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_tells_what_would_be_adopted_and_imported_and_writes_nothing() {
    let env = Boost::open().await.unwrap();
    let (here, path) = settled_beside(&env, "here");
    let missing = env.unrecorded("missing").unwrap();
    fs::remove_file(&missing.car.path).unwrap();
    let yaml = env.yaml("").unwrap();
    let plain = env.run(&yaml, &["import", "--dry-run", "--json"]).unwrap();
    assert_eq!((plain.code, plain.lines.len()), (Some(0), 0), "not asked for: {plain:?}");
    let ended = env.run(&yaml, &["import", "--adopt", "--dry-run", "--json"]).unwrap();
    assert_eq!((ended.code, ended.lines.len()), (Some(0), 2), "{ended:?}");
    let seen = line(&ended.lines, &here);
    assert_eq!(
        (&seen["outcome"], &seen["path"]),
        (&"import".into(), &path.to_str().unwrap().into()),
        "{seen}"
    );
    let seen = line(&ended.lines, &missing);
    assert_eq!(seen["outcome"], "waiting", "{seen}");
    assert!(seen["reason"].as_str().unwrap().contains(&missing.car.piece_cid), "{seen}");
    assert_eq!(env.deals().count_documents(doc! {}).await.unwrap(), 0, "nothing is recorded");
    assert!(env.import_calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pass_adopts_and_imports_each_deal_once() {
    let env = Boost::open().await.unwrap();
    let deals: Vec<_> = (0..5).map(|number| settled_beside(&env, &format!("piece {number}")).0).collect();
    // A deal that is recorded already stays its client's.
    let own = env.deal_recorded("recorded").await.unwrap();
    let yaml = env.yaml("").unwrap();
    let ended = env.run(&yaml, &["import", "--adopt", "--json"]).unwrap();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for deal in deals.iter().chain([&own]) {
        assert_eq!(line(&ended.lines, deal)["outcome"], "done", "{ended:?}");
        is_closed_by_one_call(&env, deal).await;
        let document = env.deal(&deal.cid).await.unwrap().unwrap();
        let is_adopted = document.get_bool("adopted").unwrap_or(false);
        assert_eq!(is_adopted, deal.cid != own.cid, "{document}");
        assert_eq!(document.get_str("piececid").ok(), Some(deal.car.piece_cid.as_str()));
        let size = i64::try_from(deal.car.deal_size_bytes).unwrap();
        assert_eq!(document.get_i64("dealsizebytes").ok(), Some(size), "UNPADDED: {document}");
        assert_eq!(document.get_i64("startepoch").ok(), Some(deal.start_epoch));
    }
    let again = env.run(&yaml, &["import", "--adopt", "--json"]).unwrap();
    assert_eq!((again.code, again.lines.len(), env.import_calls().len()), (Some(0), 0, 6), "{again:?}");
    assert_eq!(env.deals().count_documents(doc! {}).await.unwrap(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_adopt_record_and_import_deals_as_they_come() {
    let env = Boost::open().await.unwrap();
    let _agents = [env.agent(&["--adopt"]).unwrap(), env.agent(&["--adopt"]).unwrap()];
    for number in 0..4 {
        let (deal, _) = settled_beside(&env, &format!("coming {number}"));
        is_closed_by_one_call(&env, &deal).await;
    }
    assert_eq!(env.deals().count_documents(doc! {}).await.unwrap(), 4, "each is recorded once");
    // Without its CAR it waits, and is imported when the file arrives.
    let late = env.unrecorded("late").unwrap();
    let aside = env.new_path("kept-aside");
    move_file(&late.car.path, &aside).unwrap();
    eventually_eq!(env.import_field(&late.cid, "state").await.unwrap(), "waiting", "it is adopted and waits");
    settle(&aside);
    move_file(&aside, &env.folder().join(format!("{}.car", late.car.piece_cid))).unwrap();
    is_closed_by_one_call(&env, &late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_file_under_the_right_name_is_never_handed_over() {
    let env = Boost::open().await.unwrap();
    let (deal, path) = beside(&env, "wrong");
    let right = fs::read(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"?", u64::try_from(right.len()).unwrap() - 1).unwrap();
    settle(&path);
    let yaml = env.yaml("").unwrap();
    let ended = env.run(&yaml, &["import", "--adopt", "--json"]).unwrap();
    assert_eq!(ended.code, Some(1), "a person must look: {ended:?}");
    let told = line(&ended.lines, &deal)["reason"].as_str().unwrap();
    assert!(told.contains("is not the deal's piece") && told.contains(&deal.car.piece_cid), "{told}");
    let _agent = env.agent(&["--adopt"]).unwrap();
    looked_at_again(&env, &deal).await;
    assert_eq!((env.import_calls().len(), checkpoint(&env, &deal)), (0, Checkpoint::Accepted));
    let part = env.new_path("part");
    fs::write(&part, &right).unwrap();
    settle(&part);
    move_file(&part, &path).unwrap();
    is_closed_by_one_call(&env, &deal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn graphql_that_is_away_is_named_with_a_hint_and_keeps_no_recorded_deal_waiting() {
    let env = Boost::open().await.unwrap();
    let (unrecorded, _) = settled_beside(&env, "not seen");
    env.boost.take_down(Endpoint::Graphql).await;
    let yaml = env.yaml("").unwrap();
    for command in [&["import", "--adopt", "--dry-run"][..], &["import", "--adopt"]] {
        let ended = env.run(&yaml, command).unwrap();
        // The table of exit statuses: a server is away.
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let told = &ended.stderr;
        assert!(told.contains("does not list the deals that wait for data"), "{told}");
        assert!(told.contains("set miners[].graphql to its URL"), "{told}");
        assert!(told.contains(&env.boost.graphql_url()), "which URL was asked: {told}");
    }
    let agent = env.agent(&["--adopt"]).unwrap();
    eventually!(agent.has_logged("set miners[].graphql to its URL").unwrap(), "the agent says so");
    let recorded = env.deal_recorded("recorded").await.unwrap();
    is_closed_by_one_call(&env, &recorded).await;
    env.boost.bring_up(Endpoint::Graphql).unwrap();
    is_closed_by_one_call(&env, &unrecorded).await;
}

/// v1.5.0 has no filter of deals in its GraphQL, and lists those that are over as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_release_waits_for_is_adopted() {
    for version in BoostVersion::ALL {
        let env = Boost::open_with(BoostConfig { version, ..BoostConfig::instant() }).await.unwrap();
        let over = env.unrecorded("over").unwrap();
        env.import_past_agents(&over, over.car.path.to_str().unwrap()).await.unwrap();
        eventually!(checkpoint(&env, &over) >= Checkpoint::AddedPiece, "Boost has its data");
        let (deal, _) = settled_beside(&env, "adopted");
        let ended = env.run(&env.yaml("").unwrap(), &["import", "--adopt", "--json"]).unwrap();
        assert_eq!(ended.code, Some(0), "{version}: {ended:?}");
        is_closed_by_one_call(&env, &deal).await;
        assert_eq!(env.deals().count_documents(doc! {}).await.unwrap(), 1, "{version}: that one alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_deals_are_adopted_over_several_pages() {
    const COUNT: u64 = 1100;
    let env = Boost::open().await.unwrap();
    let car = env.car("one piece for all").unwrap();
    for number in 0..COUNT {
        let mut proposal = Boost::proposal(&car);
        proposal.label = format!("deal {number}");
        env.propose_as(&car, &proposal).unwrap();
    }
    fs::remove_file(&car.path).unwrap();
    let ended = env.run(&env.yaml("").unwrap(), &["import", "--adopt", "--dry-run", "--json"]).unwrap();
    let mut deals: Vec<_> = ended.lines.iter().map(|line| line["deal"].as_str().unwrap()).collect();
    deals.sort_unstable();
    deals.dedup();
    assert_eq!(u64::try_from(deals.len()).unwrap(), COUNT, "each once");
}
