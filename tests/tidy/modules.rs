//! Modules of one folder never use each other in a circle, and crates use only those below them.
//!
//! A circle is looked for in each folder between the modules that stand side by side there; what a module
//! takes from one of its parents, and a parent from what is inside it, is no arrow between neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::sources::{CRATES, Source, none, root, rust_files};

/// Which crates of this workspace a crate may use.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("car", &[]),
    ("core", &["carferry-car"]),
    ("client-agent", &["carferry-car", "carferry-core"]),
    ("miner-agent", &["carferry-car", "carferry-core"]),
    ("lotus-sim", &["carferry-car"]),
    ("boost-sim", &["carferry-car", "lotus-sim"]),
    ("curio-sim", &["carferry-car"]),
];

type Path = Vec<String>;

/// `crate::` paths of one file, with lists in braces taken apart.
fn used_paths(source: &Source) -> Vec<Path> {
    let mut code = String::new();
    for (_, line) in source.lines_before_tests() {
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push(' ');
        }
    }
    let mut paths = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let is_word = |before: char| before.is_alphanumeric() || before == '_' || before == '$';
        if !code[..at].chars().next_back().is_some_and(is_word) {
            read_path(&code[at + found.len()..], &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Reads `a::b::{c, d::e}`.
fn read_path(text: &str, prefix: &mut Path, paths: &mut Vec<Path>) {
    let text = text.trim_start();
    if let Some(list) = text.strip_prefix('{') {
        let mut depth = 1;
        let mut start = 0;
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && letter == ',') {
                read_path(&list[start..at], &mut prefix.clone(), paths);
                start = at + 1;
            }
            if depth == 0 {
                return;
            }
        }
        return;
    }
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    if end == 0 {
        if !prefix.is_empty() {
            paths.push(prefix.clone());
        }
        return;
    }
    prefix.push(text[..end].to_owned());
    match text[end..].strip_prefix("::") {
        Some(rest) => read_path(rest, prefix, paths),
        None => paths.push(prefix.clone()),
    }
}

/// The module of a file: `src/a/mod.rs` and `src/a.rs` are both `a`.
fn module_of(path: &str, source_folder: &str) -> Path {
    let inside = path.strip_prefix(source_folder).unwrap().trim_end_matches(".rs");
    let mut parts: Path = inside.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Arrows between neighbours, by folder.
fn arrows(name: &str) -> BTreeMap<Path, BTreeMap<String, BTreeSet<String>>> {
    let source_folder = format!("crates/{name}/src/");
    let sources: Vec<Source> = rust_files(source_folder.trim_end_matches('/'))
        .into_iter()
        .filter(|source| !source.path.ends_with("/tests.rs"))
        .collect();
    let modules: BTreeSet<Path> =
        sources.iter().map(|source| module_of(&source.path, &source_folder)).collect();
    let mut arrows: BTreeMap<Path, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for source in &sources {
        let from = module_of(&source.path, &source_folder);
        for mut to in used_paths(source) {
            while !to.is_empty() && !modules.contains(&to) {
                to.pop();
            }
            let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
            if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                let folder = arrows.entry(from[..common].to_vec()).or_default();
                folder.entry(one.clone()).or_default().insert(other.clone());
            }
        }
    }
    arrows
}

/// The modules that are reached from one and lead back to it.
fn circle_of(start: &str, arrows: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let reached = |start: &str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![start.to_owned()];
        while let Some(module) = open.pop() {
            for next in arrows.get(&module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    reached(start).into_iter().filter(|module| reached(module).contains(start)).collect()
}

#[test]
fn no_modules_of_one_folder_use_each_other_in_a_circle() {
    let mut findings = BTreeSet::new();
    for name in CRATES {
        for (folder, arrows) in arrows(name) {
            for start in arrows.keys() {
                let circle: Vec<String> = circle_of(start, &arrows).into_iter().collect();
                if !circle.is_empty() {
                    findings.insert(format!("{name}: {}/{{{}}}", folder.join("/"), circle.join(", ")));
                }
            }
        }
    }
    none(&findings.into_iter().collect::<Vec<_>>(), "circles of modules");
}

#[test]
fn crates_use_only_those_below_them() {
    let mut findings = Vec::new();
    for (name, allowed) in MAY_USE {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        let needed = manifest.split("[dev-dependencies]").next().unwrap();
        for other in [
            "carferry-car",
            "carferry-core",
            "client-agent",
            "miner-agent",
            "lotus-sim",
            "boost-sim",
            "curio-sim",
        ] {
            let is_used = needed.lines().any(|line| line.starts_with(other));
            if is_used && !allowed.contains(&other) {
                findings.push(format!("{name} uses {other}"));
            }
        }
    }
    none(&findings, "crates that a crate may not use");
}

#[test]
fn paths_in_braces_are_taken_apart() {
    let mut paths = Vec::new();
    read_path("a::{b::C, d::{E, self}}; rest", &mut Vec::new(), &mut paths);
    let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["a::b::C", "a::d::E", "a::d::self"]);
}

#[test]
fn a_circle_is_found() {
    let arrow = |one: &str, other: &str| (one.to_owned(), BTreeSet::from([other.to_owned()]));
    let arrows = BTreeMap::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "b"), arrow("d", "a")]);
    assert_eq!(circle_of("b", &arrows).into_iter().collect::<Vec<_>>(), ["b", "c"]);
    assert!(circle_of("a", &arrows).is_empty());
}
