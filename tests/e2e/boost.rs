//! A miner whose market is Boost: a CAR is handed over once, and the deal is closed when Boost has checked
//! it.

mod adoption;
mod calls;
mod files;

use std::fs;
use std::time::Duration;

use boost_sim::{BoostConfig, BoostVersion, Checkpoint, DealFault, DealFaultKind, Hold};
use harness::test_env::{Boost, BoostDeal};
use harness::{eventually, eventually_eq};
use lotus_sim::{ATTO_PER_FIL, Permission};
use serde_json::{Value, json};

/// Looks at a deal after which a mistaken agent would have acted.
const SOME_LOOKS: usize = 4;

fn checkpoint(env: &Boost, deal: &BoostDeal) -> Checkpoint {
    env.boost.deal(&deal.uuid).unwrap().checkpoint
}

/// Whether Boost has been given a file and has not checked it yet.
fn is_being_read(env: &Boost, deal: &BoostDeal) -> bool {
    let seen = env.boost.deal(&deal.uuid).unwrap();
    seen.checkpoint == Checkpoint::Accepted && !seen.inbound_file_path.is_empty()
}

/// Waits until the deal was looked at some more times.
async fn looked_at_again(env: &Boost, deal: &BoostDeal) {
    let before = env.looks_at(deal);
    eventually!(env.looks_at(deal) >= before + SOME_LOOKS, "the deal is looked at again and again");
}

/// Whether the deal is closed, after exactly one hand-over that had an effect.
async fn is_closed_by_one_call(env: &Boost, deal: &BoostDeal) {
    eventually!(env.is_imported(&deal.cid).await.unwrap(), "the deal is closed");
    let seen = env.boost.deal(&deal.uuid).unwrap();
    assert_eq!((seen.imports, env.tagged(deal), seen.threads), (1, 1, 1), "{seen:?}");
    assert!(seen.checkpoint > Checkpoint::Accepted && seen.checkpoint < Checkpoint::Complete, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deal_is_handed_over_once_and_closed_when_boost_has_checked_its_car() {
    let env = Boost::open().await.unwrap();
    env.boost.hold(Hold::Commp);
    env.boost.hold(Hold::Publish);
    let deal = env.deal_recorded("checked").await.unwrap();
    let agent = env.agent(&[]).unwrap();
    eventually_eq!(env.import_field(&deal.cid, "state").await.unwrap(), "handed", "the deal is handed over");
    let document = env.deal(&deal.cid).await.unwrap().unwrap();
    assert!(!document.contains_key("claim"), "no lease is kept meanwhile: {document}");
    assert_eq!(env.import_field(&deal.cid, "path").await.unwrap(), deal.car.path.to_str().unwrap());
    looked_at_again(&env, &deal).await;
    assert!(!env.is_imported(&deal.cid).await.unwrap(), "Boost has checked nothing");
    let shown = env.run(&env.yaml("").unwrap(), &["status", "--json"]).unwrap();
    assert_eq!(shown.lines[0]["deals"][0]["state"], "handed over", "{shown:?}");

    env.boost.release(Hold::Commp);
    is_closed_by_one_call(&env, &deal).await;
    assert_eq!(checkpoint(&env, &deal), Checkpoint::Transferred, "that is enough");
    env.boost.release(Hold::Publish);
    let seen = async || {
        let document = env.deal(&deal.cid).await.unwrap().unwrap();
        let view = document.get_document("provider").cloned().unwrap_or_default();
        (view.get_i64("status").unwrap_or(0), view.get_i64("dealid").unwrap_or(0))
    };
    let number = || i64::try_from(env.boost.deal(&deal.uuid).unwrap().chain_deal_id).unwrap();
    eventually!(number() > 0 && seen().await == (5, number()), "its number on chain is recorded");
    assert_eq!(env.import_calls().len(), 1);
    assert!(agent.has_logged("handed").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_boost_by_itself_and_tries_the_token() {
    let env = Boost::open().await.unwrap();
    let of = |permission| format!("token: '{}'", env.boost.token(permission));
    for (token, code, words) in [
        (of(Permission::Admin), Some(0), None),
        (of(Permission::Write), Some(1), Some(["admin", "boostd auth create-token"])),
        (String::new(), Some(1), Some(["no token", "boostd auth create-token --perm admin"])),
    ] {
        let yaml = env.yaml_of_token(&token, "").unwrap();
        let ended = env.run(&yaml, &["doctor", "--json"]).unwrap();
        let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let is_boost = |check: &&Value| check["state"] == "ok" && text(check, "detail").contains("(Boost)");
        assert!(ended.lines.iter().any(|check| is_boost(&check)), "{ended:?}");
        let failed: Vec<_> = ended.lines.iter().filter(|check| check["state"] == "fail").collect();
        match words {
            None => {
                assert!(failed.is_empty(), "{failed:?}");
                let may = |check: &Value| text(check, "detail") == "the token may hand data over";
                assert!(ended.lines.iter().any(may), "{ended:?}");
            }
            Some(words) => {
                let [only] = failed.as_slice() else { panic!("one check fails: {ended:?}") };
                let told = format!("{} {}", text(only, "detail"), text(only, "hint"));
                assert!(words.iter().all(|word| told.contains(word)), "{told}");
            }
        }
        assert_eq!(ended.code, code, "{ended:?}");
    }
    assert!(env.import_calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_release_is_given_files_by_as_many_parameters_as_it_takes() {
    for version in BoostVersion::ALL {
        let env = Boost::open_with(BoostConfig { version, ..BoostConfig::instant() }).await.unwrap();
        let deals = [env.deal_recorded("first").await.unwrap(), env.deal_recorded("second").await.unwrap()];
        let _agent = env.agent(&[]).unwrap();
        for deal in &deals {
            is_closed_by_one_call(&env, deal).await;
        }
        let mut counts: Vec<_> =
            env.import_calls().iter().map(|call| call.params.as_array().unwrap().len()).collect();
        counts.dedup();
        let takes_two = [BoostVersion::V1_5_0, BoostVersion::V1_6_4].contains(&version);
        // Releases of before `deleteAfterImport` refuse the first call for its count alone.
        assert_eq!(counts, if takes_two { vec![3, 2] } else { vec![3] }, "{version}");
        // Files are the operator's.
        let deletes = env.import_calls().iter().any(|call| call.params.get(2) == Some(&json!(true)));
        assert!(!deletes && deals.iter().all(|deal| fs::exists(&deal.car.path).unwrap()), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deals_that_boost_has_in_hand_count_for_the_limit_over_a_restart() {
    let env = Boost::open().await.unwrap();
    env.boost.hold(Hold::Commp);
    let deals = env.deals_recorded(6).await.unwrap();
    let mut agent = env.agent(&["--imports-per-miner", "1"]).unwrap();
    let in_hand = || env.boost.counters().imports;
    eventually!(in_hand().now == 1, "one deal is handed over");
    let taken = deals.iter().find(|deal| is_being_read(&env, deal)).unwrap();
    looked_at_again(&env, taken).await;
    assert_eq!((in_hand().now, env.import_calls().len()), (1, 1));
    agent.kill9().unwrap();
    let _next = env.agent(&["--imports-per-miner", "1"]).unwrap();
    looked_at_again(&env, taken).await;
    assert_eq!((in_hand().now, env.import_calls().len()), (1, 1));
    env.boost.release(Hold::Commp);
    for deal in &deals {
        is_closed_by_one_call(&env, deal).await;
    }
    assert_eq!((in_hand().most, in_hand().ever), (1, deals.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn deal_waits_where_boost_lacks_funds_and_goes_on_when_it_has_them() {
    let env = Boost::open().await.unwrap();
    env.boost.set_funds(0, 0);
    let deals = env.deals_recorded(3).await.unwrap();
    let _agent = env.agent(&[]).unwrap();
    let reason = async || {
        let mut reasons = String::new();
        for deal in &deals {
            reasons += &env.import_field(&deal.cid, "reason").await.unwrap();
        }
        reasons
    };
    eventually!(reason().await.contains("insufficient funds"), "Boost's words are told");
    assert!(reason().await.contains("the wallets of the provider lack money"), "{}", reason().await);
    let yaml = env.yaml("").unwrap();
    let paused = || {
        let shown = env.run(&yaml, &["status", "--json"]).unwrap();
        shown.lines[0]["miners"][0]["agent"]["state"] == "paused"
    };
    eventually!(paused(), "status says that the miner is paused");
    for deal in &deals {
        let failed = env.import_of(&deal.cid).await.unwrap().get_i64("attempts").unwrap_or(0);
        assert_eq!(failed, 0, "no deal is blamed");
    }
    env.boost.set_funds(ATTO_PER_FIL, ATTO_PER_FIL);
    for deal in &deals {
        is_closed_by_one_call(&env, deal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deal_whose_publishing_fails_has_its_data_and_says_why_it_stands() {
    let env = Boost::open().await.unwrap();
    let deal = env.deal_recorded("unpublished").await.unwrap();
    let fault = DealFaultKind::PublishFails("no gas".to_owned());
    env.boost.inject_deal(DealFault::of(&deal.uuid, fault));
    let _agent = env.agent(&[]).unwrap();
    is_closed_by_one_call(&env, &deal).await;
    let words = async || {
        let document = env.deal(&deal.cid).await.unwrap().unwrap();
        let view = document.get_document("provider").cloned().unwrap_or_default();
        view.get_str("message").unwrap_or_default().to_owned()
    };
    eventually!(words().await.contains("no gas"), "the provider's words are recorded");
    let boosts = env.boost.deal(&deal.uuid).unwrap();
    assert_eq!((boosts.checkpoint, words().await), (Checkpoint::Transferred, boosts.err));
    let shown = env.run(&env.yaml("").unwrap(), &["status", &deal.cid, "--json"]).unwrap();
    let told = shown.lines[0]["record"]["provider"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("no gas"), "{shown:?}");
    assert_eq!(env.import_calls().len(), 1, "another import could not mend it");
}

/// The time in which Boost answers no call.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_boost_goes_on_with_its_deal_and_is_given_it_once() {
    let env = Boost::open().await.unwrap();
    env.boost.hold(Hold::Commp);
    let taken = env.deal_recorded("taken").await.unwrap();
    let _agent = env.agent(&["--imports-per-miner", "1"]).unwrap();
    eventually!(is_being_read(&env, &taken), "Boost has the file");
    let waits = env.deal_recorded("waits").await.unwrap();
    env.boost.kill_boost().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    env.boost.start_boost().await.unwrap();
    looked_at_again(&env, &taken).await;
    assert_eq!(env.import_calls().len(), 1);
    env.boost.release(Hold::Commp);
    eventually!(env.is_imported(&taken.cid).await.unwrap(), "the deal goes on by itself");
    is_closed_by_one_call(&env, &waits).await;
    let seen = env.boost.deal(&taken.uuid).unwrap();
    assert_eq!((seen.imports, env.tagged(&taken), seen.threads_most), (1, 1, 1), "{seen:?}");
}
