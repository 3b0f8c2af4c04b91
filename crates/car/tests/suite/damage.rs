//! Cut, changed and random CARs: verification returns an error with an offset, and never panics.

use std::fs;
use std::path::Path;

use carferry_car::{
    BlockHash, CarOrder, DagParams, FolderRoot, NoProgress, PayloadCid, PieceCid, PieceCidV2, ShardRule,
    ThreadBudget, VerifiedCar, VerifyError, read_car_root, verify_car,
};
use proptest::prelude::*;

use crate::blocks::{Blocks, DAG_PB, RAW, cid, identity};
use crate::inputs::{pack, splitmix64};

/// Deep trees from a few thousand bytes.
const MINI: DagParams = DagParams {
    chunk_size: 256,
    links_per_node: 4,
    block_hash: BlockHash::Blake2b256,
    inline_limit: Some(126),
    shard_rule: ShardRule::LinksBytes,
    folder_root: FolderRoot::MayBeInlined,
    order: CarOrder::DepthFirst,
};

/// A CAR with inlined and hashed leaves, nodes on three levels, folders, an empty file and a link.
fn sample(folder: &Path, params: DagParams) -> (Vec<u8>, VerifiedCar) {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    fs::create_dir_all(input.join("a/b")).unwrap();
    let mut bytes = Vec::new();
    splitmix64(7, 4222, &mut bytes);
    fs::write(input.join("a/b/deep"), &bytes).unwrap();
    fs::write(input.join("a/short"), &bytes[..100]).unwrap();
    fs::write(input.join("leaf"), &bytes[1000..1200]).unwrap();
    fs::write(input.join("empty"), []).unwrap();
    std::os::unix::fs::symlink("a/short", input.join("link")).unwrap();
    pack(&input, &car, params, 1);
    (fs::read(&car).unwrap(), verify_car(&ThreadBudget::alone(), &car, &NoProgress).unwrap())
}

fn verdict(path: &Path, bytes: &[u8]) -> Result<VerifiedCar, VerifyError> {
    fs::write(path, bytes).unwrap();
    verify_car(&ThreadBudget::alone(), path, &NoProgress)
}

/// Whether damage is found: by an error with an offset, or by a count that is not zero if a block is inlined
/// in its CID and only its section is missing or changed.
fn is_found(verdict: &Result<VerifiedCar, VerifyError>) -> bool {
    match verdict {
        Err(error) => error.offset().is_some(),
        Ok(verified) => verified.unreachable_blocks > 0 || verified.inlined_without_section > 0,
    }
}

#[test]
fn every_cut_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    let mut only_counted = 0;
    for params in [MINI, DagParams { inline_limit: None, block_hash: BlockHash::Sha2_256, ..MINI }] {
        let (car, _) = sample(folder.path(), params);
        for length in 0..car.len() {
            let verdict = verdict(&path, &car[..length]);
            assert!(is_found(&verdict), "{} bytes cut to {length}: {verdict:?}", car.len());
            match verdict {
                Err(error) => {
                    let offset = error.offset().unwrap();
                    assert!(offset <= u64::try_from(length).unwrap(), "{length}: {error}");
                }
                Ok(_) => only_counted += 1,
            }
        }
    }
    assert_eq!(only_counted, 1, "the sample ends with one inlined block");
}

#[test]
fn every_flipped_bit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped");
    for params in [MINI, DagParams { inline_limit: None, block_hash: BlockHash::Sha2_256, ..MINI }] {
        let (car, _) = sample(folder.path(), params);
        for at in 0..car.len() {
            let mut damaged = car.clone();
            damaged[at] ^= 1 << (at % 8);
            let verdict = verdict(&path, &damaged);
            assert!(is_found(&verdict), "bit {} of byte {at} of {}: {verdict:?}", at % 8, car.len());
            if params.inline_limit.is_none() {
                assert!(verdict.is_err(), "bit {} of byte {at} of {}: {verdict:?}", at % 8, car.len());
            }
        }
    }
}

#[test]
fn a_root_inside_its_cid_cannot_be_swapped_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    fs::write(&input, "hello").unwrap();
    let built = pack(&input, &car, DagParams::default(), 1);
    let mut bytes = fs::read(&car).unwrap();
    let at = bytes.windows(5).position(|window| window == b"hello").unwrap();
    bytes[at] ^= 1;
    // The header names another complete root, from which the former root cannot be reached.
    let verified = verdict(&car, &bytes).unwrap();
    assert_ne!(verified.payload_cid, built.payload_cid);
    assert_eq!(verified.unreachable_blocks, 1);
}

#[test]
fn damage_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (car, _) = sample(folder.path(), DagParams { inline_limit: None, ..MINI });
    let path = folder.path().join("damaged");
    let mut flipped = car.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let header_len = usize::from(car[0]) + 1;
    let swapped_root =
        [&car[..header_len - 10], &[car[header_len - 10] ^ 1], &car[header_len - 9..]].concat();
    let first_section = usize::from(car[header_len + 1]) * 128 + usize::from(car[header_len] & 127) + 2;
    let without_first = [&car[..header_len], &car[header_len + first_section..]].concat();
    let zeros_behind = [&car[..], &[0; 100]].concat();
    let half_a_length_behind = [&car[..], &[0x80]].concat();
    for (bytes, wanted) in [
        (&flipped[..], "its bytes have another hash"),
        (&swapped_root, "its root"),
        (&without_first, "its root"),
        (&zeros_behind, "empty section at byte"),
        (&half_a_length_behind, "the CAR is cut"),
        (b"not a CAR at all", "the CAR is cut"),
        (b"", "the CAR is cut"),
    ] {
        let error = verdict(&path, bytes).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error:?} says {wanted:?}");
    }
    match verdict(&path, &zeros_behind) {
        Err(VerifyError::EmptySection { offset }) => assert_eq!(offset, u64::try_from(car.len()).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_that_nothing_links_to_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (car, whole) = sample(folder.path(), MINI);
    let (other, second) = (folder.path().join("other"), folder.path().join("second.car"));
    fs::write(&other, [9; 300]).unwrap();
    pack(&other, &second, DagParams { chunk_size: 1024, ..MINI }, 1);
    let second = fs::read(&second).unwrap();
    let stranger = &second[usize::from(second[0]) + 1..];
    let verified = verdict(&folder.path().join("joined"), &[&car[..], stranger].concat()).unwrap();
    assert_eq!(verified.unreachable_blocks, 1);
    assert_eq!(verified.block_count, whole.block_count + 1);
}

#[test]
fn children_may_come_before_their_parents() {
    let folder = tempfile::tempdir().unwrap();
    let (car, whole) = sample(folder.path(), MINI);
    let header_len = usize::from(car[0]) + 1;
    let mut sections = Vec::new();
    let mut rest = &car[header_len..];
    while !rest.is_empty() {
        let (length, prefix) = match rest {
            [low, high, ..] if low & 0x80 != 0 => (usize::from(*high) * 128 + usize::from(low & 127), 2),
            [low, ..] => (usize::from(*low), 1),
            [] => unreachable!(),
        };
        let (section, others) = rest.split_at(prefix + length);
        sections.push(section);
        rest = others;
    }
    sections.reverse();
    let reversed = [&car[..header_len], &sections.concat()].concat();
    let verified = verdict(&folder.path().join("reversed"), &reversed).unwrap();
    assert_eq!(verified.unreachable_blocks, 0);
    assert_eq!(verified.block_count, whole.block_count);
}

#[test]
fn the_root_is_read_without_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (car, whole) = sample(folder.path(), MINI);
    let path = folder.path().join("header");
    fs::write(&path, &car[..=usize::from(car[0])]).unwrap();
    assert_eq!(read_car_root(&path).unwrap(), whole.payload_cid);
    assert!(matches!(
        verify_car(&ThreadBudget::alone(), &path, &NoProgress),
        Err(VerifyError::MissingRoot { .. })
    ));
    assert!(matches!(read_car_root(&folder.path().join("none")), Err(VerifyError::Unreadable { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        prop_assert!(verdict(file.path(), &bytes).is_err());
    }

    #[test]
    fn junk_behind_a_true_header_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        length in 0u8..80,
        codec in prop_oneof![Just(0x55u8), Just(0x70), Just(0x71)],
    ) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let header = b"\x11\xa2\x65roots\x80\x67version\x01";
        prop_assert!(verdict(file.path(), &[&header[..], &bytes].concat()).is_err());
        // An inlined root of junk: as a node it must decode or be refused.
        let digest = &bytes[..usize::from(length).min(bytes.len())];
        let mut root = vec![1, codec, 0, u8::try_from(digest.len()).unwrap()];
        root.extend_from_slice(digest);
        let cbor = [
            &b"\xa2\x65roots\x81\xd8\x2a\x58"[..],
            &[u8::try_from(root.len() + 1).unwrap(), 0],
            &root,
            b"\x67version\x01",
        ]
        .concat();
        let header = [&[u8::try_from(cbor.len()).unwrap()], &cbor[..]].concat();
        drop(verdict(file.path(), &[&header[..], &bytes].concat()));
        prop_assert_eq!(read_car_root(file.path()).unwrap().to_bytes(), root);
    }

    #[test]
    fn junk_is_no_cid_or_survives_a_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(cid) = PayloadCid::from_bytes(&bytes) {
            prop_assert_eq!(cid.to_string().parse::<PayloadCid>().unwrap(), cid);
        }
        drop((PieceCid::from_bytes(&bytes), PieceCidV2::from_bytes(&bytes)));
        drop(String::from_utf8_lossy(&bytes).parse::<PayloadCid>());
    }

    #[test]
    fn text_never_panics(text in "\\PC{0,60}|[bBzfFkuQm][a-zA-Z2-7]{0,60}") {
        if let Ok(cid) = text.parse::<PayloadCid>() {
            prop_assert_eq!(cid.to_string().parse::<PayloadCid>().unwrap(), cid);
        }
    }
}

#[test]
fn zeros_up_to_the_size_of_a_piece_belong_to_the_piece() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("padded");
    let (car, plain) = sample(folder.path(), MINI);
    let natural = plain.padded_piece_size.unpadded().get();
    // Also beyond one batch of the reader.
    for piece in [natural, 2 * natural, natural << 13] {
        let mut padded = car.clone();
        padded.resize(usize::try_from(piece).unwrap(), 0);
        let verified = verdict(&path, &padded).unwrap();
        assert_eq!(verified.payload_size, plain.payload_size);
        assert_eq!(verified.padding_bytes, piece - plain.payload_size.get());
        assert_eq!(verified.padded_piece_size.unpadded().get(), piece);
        assert_eq!(verified.piece_cid == plain.piece_cid, piece == natural, "{piece}");
        assert_eq!(verified.block_count, plain.block_count);
        for (change, what) in [(1, "another length"), (0, "a byte that is not zero")] {
            let mut other = padded.clone();
            other.truncate(padded.len() - change);
            if change == 0 {
                *other.last_mut().unwrap() = 1;
            }
            let error = verdict(&path, &other).unwrap_err();
            assert!(matches!(error, VerifyError::EmptySection { .. }), "{what}: {error:?}");
            assert_eq!(error.offset(), Some(plain.payload_size.get()), "{what}");
        }
    }
}

#[test]
fn links_of_dag_cbor_are_followed_and_those_of_other_codecs_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("car");
    let mut blocks = Blocks::default();
    let leaf = blocks.raw(b"leaf");
    // {"l": <leaf>}
    let block = [&b"\xa1\x61l\xd8\x2a\x58\x25\0"[..], &leaf].concat();
    let root = blocks.add(0x71, &block);
    let verified = verdict(&path, &blocks.car(&root)).unwrap();
    assert_eq!((verified.unreachable_blocks, verified.unfollowed_blocks), (0, 0));
    blocks.0.remove(0);
    let error = verdict(&path, &blocks.car(&root)).unwrap_err();
    assert!(matches!(error, VerifyError::MissingBlock { .. }), "{error:?}");
    let mut blocks = Blocks::default();
    let root = blocks.add(0x71, b"\xa1");
    let error = verdict(&path, &blocks.car(&root)).unwrap_err().to_string();
    assert!(error.contains("not dag-cbor"), "{error}");
    // dag-json would be 0x0129, which takes two bytes; git objects have links as well.
    let root = blocks.add(0x78, b"blob 0\0");
    blocks.0.remove(0);
    let verified = verdict(&path, &blocks.car(&root)).unwrap();
    assert_eq!(verified.unfollowed_blocks, 1);
}

#[test]
fn placeholders_are_no_roots() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("car");
    let mut blocks = Blocks::default();
    blocks.raw(b"leaf");
    for root in [identity(RAW, b""), cid(DAG_PB, b""), cid(RAW, b"")] {
        let error = verdict(&path, &blocks.car(&root)).unwrap_err();
        assert!(matches!(error, VerifyError::PlaceholderRoot { .. }), "{error:?}");
    }
    // An empty file's CAR has the same root, and the block of it.
    let mut blocks = Blocks::default();
    let root = blocks.raw(b"");
    blocks.raw(b"leaf");
    assert_eq!(verdict(&path, &blocks.car(&root)).unwrap().unreachable_blocks, 1);
}
