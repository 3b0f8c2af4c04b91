//! Fuzzes the extraction of CARs with any bytes. The root is inlined in its CID, so that the fuzzer's bytes are
//! decoded.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use carferry_car::{ThreadBudget, Existing, ExtractOptions, NoProgress, extract};
use libfuzzer_sys::fuzz_target;

/// A folder for this process, in `/dev/shm` if it exists.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = PathBuf::from("/dev/shm");
    let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
    let folder = parent.join(format!("carferry-fuzz-extract-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder can be made");
    folder
});

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (is_node, mut root, sections) = input;
    root.truncate(100);
    let length = u8::try_from(root.len()).expect("at most 100");
    let codec = if is_node { 0x70 } else { 0x55 };
    let header = [
        &b"\xa2\x65roots\x81\xd8\x2a\x58"[..],
        &[length + 5, 0, 1, codec, 0, length],
        &root,
        b"\x67version\x01",
    ]
    .concat();
    let length = u8::try_from(header.len()).expect("at most 127");
    let (car, output) = (FOLDER.join("car"), FOLDER.join("output"));
    fs::write(&car, [&[length], &header[..], &sections].concat()).expect("the folder takes a file");
    let options = ExtractOptions {
        existing: Existing::Replace,
        bytes_max: 1 << 20,
        entries_max: 1000,
        ..ExtractOptions::new(&output)
    };
    drop(extract(&ThreadBudget::alone(), &[car], options, &|_| {}, &NoProgress));
    let names = fs::read_dir(&*FOLDER).expect("the folder can be read");
    for entry in names {
        let name = entry.expect("the folder can be read").file_name();
        assert!(name == "car" || name == "output", "{name:?} is outside of the output");
    }
    drop(fs::remove_dir_all(output));
});
