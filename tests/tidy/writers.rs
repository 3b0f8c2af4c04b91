//! Every stored field has one writer: the methods of `Store` that write are called by the agent whose fields
//! they write.

use crate::sources::{none, rust_files};

const CLIENT: &[&str] = &["client-agent"];
const MINER: &[&str] = &["miner-agent"];

/// Methods of `Store` that write, and who calls them.
const WRITERS: &[(&str, &[&str])] = &[
    ("record_car", CLIENT),
    ("record_verified", CLIENT),
    ("record_status", CLIENT),
    ("record_ends_seen", CLIENT),
    ("clear_ends_seen", CLIENT),
    ("restore_page", CLIENT),
    ("forget_failures", CLIENT),
    ("insert_intent", CLIENT),
    ("postpone_intent", CLIENT),
    ("end_intent", CLIENT),
    ("touch_intent", CLIENT),
    ("begin_plan", CLIENT),
    ("add_pack_piece", CLIENT),
    ("reopen_plan", CLIENT),
    ("end_plan", CLIENT),
    ("claim_piece", CLIENT),
    ("release_pieces_of", CLIENT),
    ("fail_piece", CLIENT),
    ("claim", MINER),
    ("renew", MINER),
    ("renew_many", MINER),
    ("record_import_call", MINER),
    ("finish", MINER),
    ("settle_handed", MINER),
    ("settle_handed_deal", MINER),
    ("adopt", MINER),
    ("release_impossible", MINER),
    ("retry_imports", MINER),
    ("make_due_awaiting", MINER),
    ("record_miner_state", MINER),
    ("record_provider_views", MINER),
    ("make_due_final", MINER),
    ("make_due_accepted", MINER),
    // A closed deal is opened again by its miner's agent, and by client-agent where that agent may be away.
    ("reopen", &["client-agent", "miner-agent"]),
    // Tried by both; it changes nothing.
    ("check_may_record", &["client-agent", "miner-agent"]),
    // Called by the store itself.
    ("record_deal", &[]),
];

/// What the driver writes with.
const WRITES: [&str; 9] = [
    ".update_deals(",
    ".update_one(",
    ".update_many(",
    ".insert_one(",
    ".insert_many(",
    ".delete_one(",
    ".delete_many(",
    ".find_one_and_update(",
    ".replace_one(",
];

/// Functions of the store that write, public or shared inside of it.
fn writing_functions() -> Vec<String> {
    let mut found = Vec::new();
    for source in rust_files("crates/core/src/store") {
        let mut name = None;
        for (_, line) in source.lines_before_tests() {
            if let Some(rest) = line.strip_prefix("    pub") {
                let after = rest.split("fn ").nth(1).unwrap_or_default();
                let end = after.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
                name = end.filter(|end| *end > 0).map(|end| after[..end].to_owned()).or(name);
            }
            if WRITES.iter().any(|write| line.contains(write)) {
                found.extend(name.clone().filter(|name| !found.contains(name)));
            }
        }
    }
    found
}

#[test]
fn every_function_that_writes_has_its_writer() {
    let writing = writing_functions();
    assert!(writing.len() > 20, "the store writes: {writing:?}");
    let is_listed = |name: &String| WRITERS.iter().any(|(listed, _)| listed == name);
    let unlisted: Vec<String> = writing.iter().filter(|name| !is_listed(name)).cloned().collect();
    none(&unlisted, "functions of the store that write, and that the table of writers lacks");
    let is_there = |name: &str| writing.iter().any(|writing| writing == name);
    let gone: Vec<String> =
        WRITERS.iter().filter(|(name, _)| !is_there(name)).map(|(name, _)| (*name).to_owned()).collect();
    none(&gone, "functions in the table of writers that do not write");
}

#[test]
fn only_its_writer_calls_what_writes_a_field() {
    let mut findings = Vec::new();
    for agent in ["client-agent", "miner-agent"] {
        for source in rust_files(&format!("crates/{agent}/src")) {
            let code: String = source.text.split_whitespace().collect();
            for (name, writers) in WRITERS {
                if code.contains(&format!("store.{name}(")) && !writers.contains(&agent) {
                    findings.push(format!("{}: store.{name}", source.path));
                }
            }
        }
    }
    none(&findings, "fields that another agent writes");
}
