//! ARCHITECTURE.md names every module of the crates that ship.

use std::fs;

use crate::sources::{none, root, rust_files};

#[test]
fn every_module_is_named_in_architecture() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut findings = Vec::new();
    for name in ["car", "core", "client-agent", "miner-agent"] {
        for source in rust_files(&format!("crates/{name}/src")) {
            let module = source.path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
            let module = module.rsplit('/').next().unwrap();
            if !["lib", "main", "tests"].contains(&module) && !is_named(&text, module) {
                findings.push(source.path.clone());
            }
        }
    }
    none(&findings, "modules that ARCHITECTURE.md does not name");
}

/// Whether the text has this as a whole word.
fn is_named(text: &str, word: &str) -> bool {
    let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_letter) && !after.is_some_and(is_letter)
    })
}

#[test]
fn a_part_of_a_word_names_nothing() {
    assert!(is_named("`store/cars`", "cars") && !is_named("scars, cars_of", "cars"));
}
