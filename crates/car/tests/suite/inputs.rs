//! Generates the inputs of the vectors from their rules; helpers of all tests.

use std::fs;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use carferry_car::{BuildOptions, BuiltCar, DagParams, NoProgress, ThreadBudget, build_car};
use cid::multibase::Base;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A file of vectors.
pub(crate) fn vectors(text: &str) -> Value {
    serde_json::from_str(text).expect("the vectors are JSON")
}

/// The list behind a key.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is a list"))
}

/// The text behind a key.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is a text in {value}"))
}

/// The number behind a key.
pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} is a number in {value}"))
}

/// The first bytes of the splitmix64 stream of a seed.
pub(crate) fn splitmix64(seed: u64, size: u64, output: &mut impl Write) {
    const WORDS: usize = 8192;
    let mut block = Vec::with_capacity(WORDS * 8);
    let mut state = seed;
    let mut left = usize::try_from(size).unwrap();
    while left > 0 {
        block.clear();
        for _ in 0..WORDS.min(left.div_ceil(8)) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            block.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        block.truncate(left);
        output.write_all(&block).unwrap();
        left -= block.len();
    }
}

/// Writes the bytes of a rule.
fn write_rule(rule: &Value, output: &mut impl Write) {
    match text(rule, "kind") {
        "splitmix64" => splitmix64(number(rule, "seed"), number(rule, "size"), output),
        kind @ ("zero" | "byte") => {
            let value = if kind == "zero" { 0 } else { number(rule, "value") };
            let block = vec![u8::try_from(value).unwrap(); 1 << 20];
            let mut left = usize::try_from(number(rule, "size")).unwrap();
            while left > 0 {
                let count = left.min(block.len());
                output.write_all(&block[..count]).unwrap();
                left -= count;
            }
        }
        "repeat" => (0..number(rule, "times")).for_each(|_| write_rule(&rule["of"], output)),
        "concat" => list(rule, "parts").iter().for_each(|part| write_rule(part, output)),
        "text" => output.write_all(text(rule, "text").as_bytes()).unwrap(),
        kind => panic!("unknown rule {kind}"),
    }
}

fn write_file(path: &Path, rule: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    write_rule(rule, &mut file);
    file.flush().unwrap();
}

/// Creates an input of the vectors at a path.
pub(crate) fn make(input: &Value, path: &Path) {
    if input.get("file").is_some() {
        write_file(path, &input["file"]);
        return;
    }
    fs::create_dir_all(path).unwrap();
    for entry in list(input, "tree") {
        if let Some(many) = entry.get("many") {
            let (before, after) = text(many, "name").split_once("%0").unwrap();
            let (width, after) = after.split_once('d').unwrap();
            let folder = path.join(text(many, "dir"));
            fs::create_dir_all(&folder).unwrap();
            for index in 0..number(many, "count") {
                let name = format!("{before}{index:0width$}{after}", width = width.parse::<usize>().unwrap());
                let mut file = BufWriter::new(File::create(folder.join(name)).unwrap());
                splitmix64(number(many, "seed_base") + index, index % number(many, "size_mod"), &mut file);
                file.flush().unwrap();
            }
            continue;
        }
        let place = path.join(text(entry, "path"));
        if entry.get("file").is_some() {
            write_file(&place, &entry["file"]);
        } else if entry.get("dir").is_some() {
            fs::create_dir_all(place).unwrap();
        } else {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(text(entry, "symlink"), place).unwrap();
        }
    }
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> String {
    let mut hash = Sha256::new();
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).unwrap();
        if count == 0 {
            return hex(&hash.finalize());
        }
        hash.update(&buffer[..count]);
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Base::Base16Lower.encode(bytes)
}

/// Packs a path into a file, with this number of threads.
pub(crate) fn pack(input: &Path, output: &Path, params: DagParams, threads: usize) -> BuiltCar {
    let budget = ThreadBudget::new(NonZeroUsize::new(threads).unwrap());
    let options = BuildOptions { params, ..BuildOptions::default() };
    let output = File::create(output).unwrap();
    build_car(&budget, input, &output, &options, &NoProgress)
        .unwrap_or_else(|error| panic!("{}: {error}", input.display()))
}
