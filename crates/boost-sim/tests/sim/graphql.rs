//! GraphQL: lists, pages, filters, errors.

use boost_sim::{BoostSim, BoostVersion, Checkpoint, Proposal, Retry};
use serde_json::{Value, json};

use crate::support::{
    Car, ROOT, car, data, deal_when, graphql, http, instant, must_import, proposal, propose, rested,
};

fn uuids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|deal| deal["ID"].as_str().unwrap().to_owned()).collect()
}

fn waiting(sim: &BoostSim, car: &Car, count: i64) -> Vec<String> {
    let propose = |number| sim.propose(&proposal(car).starting(1_010_000 + number)).unwrap().uuid;
    (0..count).map(propose).collect()
}

#[tokio::test]
async fn waiting_deals_are_listed_with_all_that_an_importer_needs() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "list");
    let sim = instant(BoostVersion::V2_5_2).await;
    let names = propose(&sim, &car);
    let query = "{ deals(filter: {Checkpoint: Accepted, IsOffline: true}, limit: 100) { totalCount more deals { ID \
                 Checkpoint Retry Err Message PieceCid PieceSize InboundFilePath StartEpoch SignedProposalCid \
                 ChainDealID PublishCid IsOffline Transfer { Type Size } Sector { ID } } } }";
    let deals = data(&sim, query).await["deals"].clone();
    let big = |number: &str| json!({ "__typename": "BigInt", "n": number });
    assert_eq!(
        deals,
        json!({ "totalCount": 1, "more": false, "deals": [{
            "ID": names.uuid, "Checkpoint": "Accepted", "Retry": "auto", "Err": "",
            "Message": "Awaiting Offline Data Import", "PieceCid": proposal(&car).piece_cid,
            "PieceSize": big("2048"), "InboundFilePath": "", "StartEpoch": big("1010000"),
            "SignedProposalCid": names.signed_proposal_cid, "ChainDealID": big("0"), "PublishCid": "",
            "IsOffline": true, "Transfer": { "Type": "manual", "Size": big("0") }, "Sector": { "ID": big("0") },
        }] })
    );
    must_import(&sim, &names.uuid, &car.path).await;
    rested(&sim, &names.uuid).await;
    let deals = data(&sim, query).await["deals"].clone();
    assert_eq!(deals, json!({ "totalCount": 0, "more": false, "deals": [] }));
}

#[tokio::test]
async fn pages_go_from_the_newest_deal_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "pages");
    let sim = instant(BoostVersion::V2_5_2).await;
    let mut expected = waiting(&sim, &car, 130);
    expected.reverse();
    let mut found = Vec::new();
    loop {
        let offset = found.len();
        let query = format!("{{ deals(offset: {offset}, limit: 50) {{ totalCount more deals {{ ID }} }} }}");
        let page = data(&sim, &query).await["deals"].clone();
        assert_eq!(page["totalCount"], 130);
        found.extend(uuids(&page["deals"]));
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(found, expected);
    let page = data(&sim, "{ deals { deals { ID } } }").await["deals"].clone();
    assert_eq!(uuids(&page["deals"]), expected[..10], "ten without a limit");
    let query =
        format!("{{ deals(cursor: \"{}\", limit: 2) {{ totalCount deals {{ ID }} }} }}", expected[100]);
    let page = data(&sim, &query).await["deals"].clone();
    assert_eq!(uuids(&page["deals"]), expected[100..102]);
    assert_eq!(page["totalCount"], 130);
    let unknown = "d771faf5-d74e-4035-8341-e2537d270e25";
    let query = format!("{{ deals(cursor: \"{unknown}\") {{ totalCount more deals {{ ID }} }} }}");
    let page = data(&sim, &query).await["deals"].clone();
    assert_eq!(page, json!({ "totalCount": 130, "more": false, "deals": [] }));
}

#[tokio::test]
async fn filters_and_texts_select_deals() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (car(folder.path(), "one"), car(folder.path(), "two"));
    let sim = instant(BoostVersion::V2_5_2).await;
    let first = propose(&sim, &one);
    let second = sim.propose(&Proposal { verified: true, ..proposal(&two) }).unwrap();
    let online = sim.propose(&Proposal { is_offline: false, ..proposal(&two) }).unwrap();
    must_import(&sim, &first.uuid, &two.path).await;
    deal_when(&sim, &first.uuid, |deal| deal.retry == Retry::Manual).await;
    must_import(&sim, &second.uuid, &two.path).await;
    let done = rested(&sim, &second.uuid).await;
    assert_eq!(done.checkpoint, Checkpoint::IndexedAndAnnounced);
    let piece = proposal(&two).piece_cid;
    for (arguments, expected) in [
        (format!("query: \"{}\"", first.uuid), vec![&first]),
        (format!("query: \" {}\\n\"", first.signed_proposal_cid), vec![&first]),
        // The error of the first deal names the second one's piece.
        (format!("query: \"{piece}\""), vec![&online, &second, &first]),
        ("query: \"commp mismatch\"".to_owned(), vec![&first]),
        (format!("query: \"{}\"", done.publish_cid.unwrap()), vec![&second]),
        ("query: \"f01000\"".to_owned(), vec![&online, &second, &first]),
        (format!("query: \"{ROOT}\", filter: {{IsOffline: true}}"), vec![&second, &first]),
        ("query: \"nothing\"".to_owned(), vec![]),
        ("filter: {Checkpoint: IndexedAndAnnounced}".to_owned(), vec![&second]),
        ("filter: {IsOffline: false}".to_owned(), vec![&online]),
        ("filter: {IsVerified: false}".to_owned(), vec![&online, &first]),
        ("filter: {TransferType: \"http\"}".to_owned(), vec![]),
    ] {
        let query = format!("{{ deals({arguments}) {{ totalCount deals {{ ID }} }} }}");
        let page = data(&sim, &query).await["deals"].clone();
        let expected: Vec<String> = expected.into_iter().map(|names| names.uuid.clone()).collect();
        assert_eq!(uuids(&page["deals"]), expected, "{arguments}");
        assert_eq!(page["totalCount"], expected.len(), "{arguments}");
    }
    let query = format!("{{ deals(query: \"{}\") {{ deals {{ Err Message }} }} }}", first.uuid);
    let deal = data(&sim, &query).await["deals"]["deals"][0].clone();
    let error = deal["Err"].as_str().unwrap();
    assert_eq!(deal["Message"], format!("Paused at 'Verifying Commp': {error}"));
}

#[tokio::test]
async fn variables_aliases_and_names_of_operations_work() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "variables");
    let sim = instant(BoostVersion::V2_5_2).await;
    waiting(&sim, &car, 3);
    let body = json!({
        "query": "query A { dealsCount } query B($limit: Int = 1, $filter: DealFilter) { list: deals(limit: $limit, \
                  filter: $filter) { __typename deals { uuid: ID } } }",
        "operationName": "B",
        "variables": { "filter": { "Checkpoint": "Accepted" } },
    });
    let answer = http(sim.graphql_addr(), "POST", "/graphql/query", None, &body.to_string()).await.unwrap();
    let list = &answer.json()["data"]["list"];
    assert_eq!(list["__typename"], "DealList");
    assert_eq!(list["deals"].as_array().unwrap().len(), 1);
    assert_eq!(list["deals"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["uuid"]);
}

#[tokio::test]
async fn storage_funds_and_the_chain_are_shown() {
    let sim = instant(BoostVersion::V2_5_2).await;
    let answer = data(
        &sim,
        "{ storage { Staged Transferred Pending Free MountPoint } epoch { Epoch SecondsPerEpoch } minerAddress { MinerID \
         IsCurio } storageAsk { Price MinPieceSize } }",
    )
    .await;
    let zero = json!({ "__typename": "BigInt", "n": "0" });
    assert_eq!(answer["storage"]["Staged"], zero);
    assert_eq!(
        answer["epoch"],
        json!({ "Epoch": { "__typename": "BigInt", "n": "1000000" }, "SecondsPerEpoch": 30 })
    );
    assert_eq!(answer["minerAddress"], json!({ "MinerID": "f01000", "IsCurio": false }));
    let old = instant(BoostVersion::V2_1_2).await;
    assert_eq!(data(&old, "{ minerAddress }").await["minerAddress"], "f01000");
}

#[tokio::test]
async fn mistakes_are_told_as_errors_with_status_200() {
    let sim = instant(BoostVersion::V2_5_2).await;
    let unknown = "d771faf5-d74e-4035-8341-e2537d270e25";
    for (query, message) in [
        ("{ deals { deals { Nonsense } } }".to_owned(), "Cannot query field \"Nonsense\" on type \"Deal\".".to_owned()),
        (
            "{ funds { Escrow { Available { n } } } }".to_owned(),
            "Field \"Available\" must not have a selection since type \"BigInt!\" has no subfields.".to_owned(),
        ),
        (
            "{ deals }".to_owned(),
            "Field \"deals\" of type \"DealList!\" must have a selection of subfields. Did you mean \"deals { ... }\"?"
                .to_owned(),
        ),
        (
            "{ deals(checkpoint: 1) { more } }".to_owned(),
            "Unknown argument \"checkpoint\" on field \"deals\" of type \"RootQuery\".".to_owned(),
        ),
        (
            "{ deals(limit: \"x\") { more } }".to_owned(),
            "Argument \"limit\" has invalid value \"x\".\nExpected type \"Int\", found \"x\".".to_owned(),
        ),
        (
            "{ deals(filter: {Checkpoint: Sealed}) { more } }".to_owned(),
            "Argument \"filter\" has invalid value {Checkpoint: Sealed}.\nIn field \"Checkpoint\": Expected type \
             \"Checkpoint\", found Sealed."
                .to_owned(),
        ),
        (
            format!("{{ deal(id: \"{unknown}\") {{ ID }} }}"),
            "scanning deal row: sql: no rows in result set".to_owned(),
        ),
        (
            "mutation { dealRetryPaused(id: \"x\") }".to_owned(),
            "parsing graphql ID 'x' as UUID: invalid UUID length: 1".to_owned(),
        ),
    ] {
        let answer = graphql(&sim, &query).await;
        assert_eq!(answer["errors"][0]["message"], message, "{query}");
    }
    let answer = http(sim.graphql_addr(), "POST", "/graphql/query", None, "nonsense").await.unwrap();
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn v1_5_0_has_no_filter() {
    let sim = instant(BoostVersion::V1_5_0).await;
    let answer = graphql(&sim, "{ deals(filter: {IsOffline: true}) { more } }").await;
    assert_eq!(
        answer["errors"][0]["message"],
        "Unknown argument \"filter\" on field \"deals\" of type \"RootQuery\"."
    );
}

#[tokio::test]
async fn a_waiting_deal_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let car = car(folder.path(), "cancel");
    let sim = instant(BoostVersion::V2_5_2).await;
    let uuid = propose(&sim, &car).uuid;
    assert_eq!(
        data(&sim, &format!("mutation {{ dealCancel(id: \"{uuid}\") }}")).await["dealCancel"],
        uuid.as_str()
    );
    let deal = data(&sim, &format!("{{ deal(id: \"{uuid}\") {{ Checkpoint Message }} }}")).await;
    assert_eq!(
        deal["deal"],
        json!({ "Checkpoint": "Complete", "Message": "Error: user manually terminated the deal" })
    );
}
