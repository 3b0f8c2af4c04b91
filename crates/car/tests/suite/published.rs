//! `published.json`: vectors from specifications and from other projects' test data.

use std::fs;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use carferry_car::{
    BuildOptions, CidError, Commitment, DagParams, HeaderError, NoProgress, PaddedPieceSize, PayloadCid,
    PayloadSize, PieceCid, PieceCidV2, PieceInfo, Profile, ThreadBudget, VerifyError, build_car, piece_of,
    read_car_root, verify_car,
};
use cid::multibase::Base;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::inputs::{hex, list, number, pack, text, vectors};

fn published(group: &str) -> Value {
    vectors(include_str!("../vectors/published.json"))[group].take()
}

fn piece(bytes: &[u8]) -> PieceInfo {
    let mut commitment = Commitment::new();
    commitment.update(bytes);
    commitment.finish().unwrap()
}

fn check_v2(vector: &Value, piece: &PieceInfo) {
    let v2 = piece.piece_cid.v2(piece.payload_size).unwrap();
    let wanted = text(vector, "piece_cid_v2");
    assert_eq!(v2.to_string(), wanted, "{vector}");
    assert_eq!(wanted.parse::<PieceCidV2>(), Ok(v2), "{vector}");
}

#[test]
fn pieces_of_frc_0069() {
    let group = published("frc_0069");
    let fours: Vec<u8> = (0..4).flat_map(|byte| [byte; 127]).collect();
    let mut checked = 0;
    for vector in list(&group, "vectors") {
        let mut bytes =
            if text(vector, "input").contains("00,01,02,03") { fours.clone() } else { Vec::new() };
        bytes.resize(usize::try_from(number(vector, "size")).unwrap(), 0);
        let piece = piece(&bytes);
        if let Some(piece_cid) = vector["piece_cid"].as_str() {
            assert_eq!(piece.piece_cid.to_string(), piece_cid, "{vector}");
        }
        check_v2(vector, &piece);
        checked += 1;
    }
    for vector in list(&group, "conversions") {
        let piece_cid: PieceCid = text(vector, "piece_cid").parse().unwrap();
        let v2 = piece_cid.v2(PayloadSize::new(number(vector, "raw_size"))).unwrap();
        assert_eq!(v2.to_string(), text(vector, "piece_cid_v2"), "{vector}");
        assert_eq!(v2.padded_piece_size().get(), number(vector, "padded"), "{vector}");
        let back: PieceCidV2 = text(vector, "piece_cid_v2").parse().unwrap();
        assert_eq!(back, v2);
        assert_eq!(back.piece_cid(), piece_cid);
        checked += 1;
    }
    assert_eq!(checked, 9);
}

#[test]
fn pieces_of_go_fil_commp_hashhash() {
    let group = published("go_fil_commp_hashhash");
    for vector in list(&group, "vectors") {
        let byte = u8::try_from(number(vector, "byte")).unwrap();
        let piece = piece(&vec![byte; usize::try_from(number(vector, "size")).unwrap()]);
        assert_eq!(piece.piece_cid.to_string(), text(vector, "piece_cid"), "{vector}");
        assert_eq!(piece.padded_piece_size.get(), number(vector, "padded"), "{vector}");
        check_v2(vector, &piece);
    }
    assert_eq!(list(&group, "vectors").len(), 36);
}

#[test]
fn pieces_of_zeros() {
    let group = published("zero_pieces");
    let zeros = vec![0; 1 << 20];
    let mut streamed = 0;
    for vector in list(&group, "vectors") {
        let padded = PaddedPieceSize::new(number(vector, "padded")).unwrap();
        let unpadded = padded.unpadded().get();
        assert_eq!(unpadded, number(vector, "unpadded"), "{vector}");
        let piece_cid: PieceCid = text(vector, "piece_cid").parse().unwrap();
        assert_eq!(hex(piece_cid.commitment()), text(vector, "commitment"), "{vector}");
        assert_eq!(
            piece_cid.v2(PayloadSize::new(unpadded)).unwrap().to_string(),
            text(vector, "piece_cid_v2")
        );
        // Larger pieces are checked against the table of zero digests.
        if padded.get() <= 64 << 20 {
            let mut commitment = Commitment::new();
            let mut left = usize::try_from(unpadded).unwrap();
            while left > 0 {
                let count = left.min(zeros.len());
                commitment.update(&zeros[..count]);
                left -= count;
            }
            assert_eq!(commitment.finish().unwrap().piece_cid, piece_cid, "{vector}");
            streamed += 1;
        }
    }
    assert_eq!((list(&group, "vectors").len(), streamed), (35, 20));
}

#[test]
fn piece_sizes_of_go_padreader() {
    let group = published("padded_size");
    for vector in list(&group, "vectors") {
        let payload_size = PayloadSize::new(number(vector, "raw"));
        assert_eq!(payload_size.unpadded_piece_size().unwrap().get(), number(vector, "unpadded"), "{vector}");
        assert_eq!(payload_size.padded_piece_size().unwrap().get(), number(vector, "padded"), "{vector}");
    }
    assert_eq!(list(&group, "vectors").len(), 11);
}

#[test]
fn pieces_of_lotus() {
    let group = published("lotus_piece");
    for vector in list(&group, "vectors") {
        let mut bytes = vec![b'a'; usize::try_from(number(vector, "size")).unwrap()];
        bytes.resize(usize::try_from(number(vector, "unpadded")).unwrap(), 0);
        assert_eq!(piece(&bytes).piece_cid.to_string(), text(vector, "piece_cid"), "{vector}");
        assert_eq!(piece(&bytes).padded_piece_size.get(), number(vector, "padded"), "{vector}");
    }
    assert_eq!(list(&group, "vectors").len(), 3);
}

#[test]
fn cids_are_those_of_go_cid() {
    let group = published("cids");
    let mut valid = 0;
    for vector in list(&group, "vectors") {
        let input = text(vector, "in");
        let parsed = input.parse::<PayloadCid>();
        if !vector["valid"].as_bool().unwrap() {
            assert!(parsed.is_err(), "{input:?} is no CID, but was read as {parsed:?}");
            continue;
        }
        let cid = parsed.unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(hex(&cid.to_bytes()), text(vector, "bytes"), "{input}");
        assert_eq!(cid.to_string(), text(vector, "canonical"), "{input}");
        assert_eq!(cid.codec(), number(vector, "codec"), "{input}");
        assert_eq!(PayloadCid::from_bytes(&cid.to_bytes()).as_ref(), Ok(&cid), "{input}");
        let is_piece = number(vector, "codec") == 0xf101 && number(vector, "mh_code") == 0x1012;
        assert_eq!(input.parse::<PieceCid>().is_ok(), is_piece, "{input}");
        let is_piece_v2 = number(vector, "mh_code") == 0x1011;
        assert_eq!(input.parse::<PieceCidV2>().is_ok(), is_piece_v2, "{input}");
        valid += 1;
    }
    assert_eq!((list(&group, "vectors").len(), valid), (30, 15));
}

#[test]
fn bytes_that_are_no_piece_cid_are_refused_without_a_panic() {
    // fil-commitment-unsealed with a digest of 20 bytes.
    let short = [&[0x01, 0x81, 0xe2, 0x03, 0x92, 0x20, 20][..], &[7; 20]].concat();
    assert!(matches!(PieceCid::from_bytes(&short), Err(CidError::NotAPiece { digest_bytes: 20, .. })));
    for length in 0..short.len() {
        assert!(PieceCid::from_bytes(&short[..length]).is_err(), "{length} bytes");
    }
    // Version 2: heights below 2 and above 58, padding larger than the piece.
    for (padding, height) in [(0, 0), (0, 1), (0, 59), (0, 255), (127, 1)] {
        let v2 = [&[0x01, 0x55, 0x91, 0x20, 34, padding, height][..], &[7; 32]].concat();
        assert!(
            matches!(PieceCidV2::from_bytes(&v2), Err(CidError::NoSuchPiece { .. })),
            "{padding} {height}"
        );
    }
    let v2 = [&[0x01, 0x55, 0x91, 0x20, 35, 0x80, 0x01, 2][..], &[7; 32]].concat();
    assert_eq!(PieceCidV2::from_bytes(&v2), Err(CidError::NoSuchPiece { height: 2, padding: 128 }));
}

#[test]
fn car_files_of_other_projects() {
    let group = published("car_files");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.car");
    let mut checked = 0;
    for vector in list(&group, "vectors") {
        let Some(base64) = vector["base64"].as_str() else { continue };
        let bytes = Base::Base64Pad.decode(base64).unwrap();
        assert_eq!(hex(&Sha256::digest(&bytes)), text(vector, "sha256"), "the file itself");
        fs::write(&path, &bytes).unwrap();
        let source = text(vector, "source");
        assert_eq!(piece(&bytes).piece_cid.to_string(), text(vector, "piece_cid"), "{source}");
        let verified = verify_car(&ThreadBudget::alone(), &path, &NoProgress);
        match source.split(',').next().unwrap().rsplit('/').next().unwrap() {
            name @ ("adl_test.car" | "simple-unixfs.car") => {
                let verified = verified.unwrap_or_else(|error| panic!("{name}: {error}"));
                let root = vector["root"].as_str().or(vector["roots"][0].as_str()).unwrap();
                assert_eq!(verified.payload_cid.to_string(), root, "{name}");
                assert_eq!(verified.piece_cid.to_string(), text(vector, "piece_cid"), "{name}");
                assert_eq!(verified.unreachable_blocks, 0, "{name}");
                assert_eq!(read_car_root(&path).unwrap(), verified.payload_cid, "{name}");
            }
            name => {
                let error = verified.expect_err(name);
                let as_expected = match name {
                    "carv1-basic.car" => matches!(error, VerifyError::Header(HeaderError::RootCount(2))),
                    "carv2-basic.car" => matches!(error, VerifyError::Header(HeaderError::Version(2))),
                    "simple-unixfs-missing-blocks.car" => {
                        matches!(&error, VerifyError::MissingBlock { cid, .. }
                        if vector["verify_car_problems"][0].as_str().unwrap().contains(&cid.to_string()))
                    }
                    "badheaderlength.car" => matches!(error, VerifyError::SectionLength { offset: 0, .. }),
                    "badsectionlength.car" => matches!(error, VerifyError::Header(HeaderError::RootCount(0))),
                    "sample-corrupt-pragma.car" => matches!(error, VerifyError::Truncated { offset: 0 }),
                    "sample-rootless-v42.car" => {
                        matches!(error, VerifyError::Header(HeaderError::Version(42)))
                    }
                    _ => panic!("no expectation for {name}"),
                };
                assert!(as_expected, "{name}: {error:?}");
            }
        }
        checked += 1;
    }
    assert_eq!(checked, 9);
}

#[test]
fn singularitys_padded_car_is_its_piece() {
    let group = published("singularity");
    let vector = &list(&group, "vectors")[2];
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    fs::write(&input, "test").unwrap();
    let built = pack(&input, &car, Profile::UnixfsV1_2025.params(), 1);
    assert_eq!(built.payload_cid.to_string(), text(vector, "root"));
    assert_eq!(built.payload_size.get(), number(vector, "car_size_before_padding"));
    File::options().write(true).open(&car).unwrap().set_len(number(vector, "car_size")).unwrap();
    let piece = piece_of(File::open(&car).unwrap(), &NoProgress).unwrap();
    assert_eq!(piece.piece_cid.to_string(), text(vector, "piece_cid"));
    let verified = verify_car(&ThreadBudget::alone(), &car, &NoProgress).unwrap();
    assert_eq!(verified.piece_cid, piece.piece_cid);
    assert_eq!(verified.payload_size, built.payload_size);
    assert_eq!(verified.padding_bytes, number(vector, "car_size") - built.payload_size.get());
}

#[test]
fn files_that_singularity_puts_together() {
    let group = published("singularity");
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    // Its links to leaves of five bytes are those of files in chunks of five bytes.
    let params = DagParams { chunk_size: 5, ..Profile::Singularity.params() };
    for (vector, content) in
        list(&group, "vectors").iter().zip(["helloworld".to_owned(), "hello".repeat(2000)])
    {
        fs::write(&input, content).unwrap();
        let built = pack(&input, &car, params, 2);
        assert_eq!(built.file_cids[0].to_string(), text(vector, "file_cid"), "{vector}");
    }
}

#[test]
fn roots_of_kubo() {
    let group = published("kubo_unixfs_v1_2025");
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    let mut made = String::new();
    // The largest first: inputs of one seed are prefixes of each other.
    for vector in list(&group, "vectors").iter().rev() {
        match vector["seed"].as_str() {
            None => fs::write(&input, "hello world").unwrap(),
            Some(seed) if seed == made => {
                File::options().write(true).open(&input).unwrap().set_len(number(vector, "size")).unwrap();
            }
            Some(seed) => {
                write_chacha20(seed, number(vector, "size"), &input);
                seed.clone_into(&mut made);
            }
        }
        assert_eq!(root_of(&input), text(vector, "root"), "{vector}");
    }
    assert_eq!(list(&group, "vectors").len(), 5);
}

/// The root only: the CAR is written to `/dev/null`.
fn root_of(input: &Path) -> String {
    let nowhere = File::options().write(true).open("/dev/null").unwrap();
    let options = BuildOptions { params: Profile::UnixfsV1_2025.params(), ..BuildOptions::default() };
    build_car(&ThreadBudget::of_processors(), input, &nowhere, &options, &NoProgress)
        .unwrap()
        .payload_cid
        .to_string()
}

/// The key stream of RFC 8439 with a zero nonce, counter from 0, and the SHA-256 of the seed as key.
fn write_chacha20(seed: &str, size: u64, path: &Path) {
    let key: [u8; 32] = Sha256::digest(seed).into();
    let mut start = [0u32; 16];
    start[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    for (word, bytes) in start[4..12].iter_mut().zip(key.chunks(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap());
    }
    let mut output = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut left = usize::try_from(size).unwrap();
    while left > 0 {
        let mut state = start;
        for _ in 0..10 {
            for [a, b, c, d] in [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]] {
                quarter_round(&mut state, a, b, c, d);
            }
            for [a, b, c, d] in [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]] {
                quarter_round(&mut state, a, b, c, d);
            }
        }
        let mut block = [0; 64];
        for (bytes, (word, start)) in block.chunks_mut(4).zip(state.iter().zip(start)) {
            bytes.copy_from_slice(&word.wrapping_add(start).to_le_bytes());
        }
        let count = left.min(64);
        output.write_all(&block[..count]).unwrap();
        left -= count;
        start[12] += 1;
    }
    output.flush().unwrap();
}

fn quarter_round(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (x, y, z, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        state[x] = state[x].wrapping_add(state[y]);
        state[z] = (state[z] ^ state[x]).rotate_left(turn);
    }
}
