//! Results do not depend on the number of threads, or on holes in the source.

use std::fs;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;

use carferry_car::{
    NoProgress, PaddedPieceSize, PieceError, Profile, Progress, ThreadBudget, VerifyError, piece_of,
    piece_of_file, verify_car,
};

use crate::inputs::{pack, sha256_of, splitmix64};

fn budget(threads: usize) -> ThreadBudget {
    ThreadBudget::new(NonZeroUsize::new(threads).unwrap())
}

/// Two files with the same bytes: one with holes, one with written zeros.
///
/// Data before, between and after holes; holes that begin and end inside blocks; a hole at the end of the
/// file.
fn sparse_and_dense(folder: &Path) -> [std::path::PathBuf; 2] {
    const MIB: u64 = 1 << 20;
    let paths = ["sparse", "dense"].map(|name| folder.join(name));
    let sparse = File::create(&paths[0]).unwrap();
    sparse.set_len(75 * MIB + 4321).unwrap();
    for (seed, offset, length) in [
        (1, 0, MIB + 5000),
        (2, 20 * MIB + 100_000, 3 * MIB),
        (3, 59 * MIB + 1, 10_000),
        (1, 61 * MIB, 5 * MIB),
    ] {
        let mut bytes = Vec::new();
        splitmix64(seed, length, &mut bytes);
        sparse.write_all_at(&bytes, offset).unwrap();
    }
    let bytes = fs::read(&paths[0]).unwrap();
    fs::write(&paths[1], bytes).unwrap();
    paths
}

#[test]
fn holes_are_zeros() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [sparse, dense] = sparse_and_dense(folder.path());
    let car = folder.path().join("car");
    for profile in Profile::ALL {
        let wanted = pack(&dense, &car, profile.params(), 1);
        let wanted_sha256 = sha256_of(&car);
        let once = wanted.payload_size.get() < 20 << 20;
        assert_eq!(once, profile != Profile::Singularity, "blocks of zeros are written once with {profile}");
        for threads in [1, 2, 7] {
            let built = pack(&sparse, &car, profile.params(), threads);
            assert_eq!((built.payload_cid, built.piece_cid), (wanted.payload_cid.clone(), wanted.piece_cid));
            assert_eq!(sha256_of(&car), wanted_sha256, "{profile}, {threads} threads");
        }
    }
    for threads in [1, 3] {
        let [sparse, dense] = [&sparse, &dense]
            .map(|path| piece_of_file(&budget(threads), &File::open(path).unwrap(), &NoProgress).unwrap());
        assert_eq!(sparse, dense);
    }
}

/// Bytes that one thread processes at a time.
const SPAN: usize = 32 * 32_512;

#[test]
fn a_file_has_the_piece_of_its_stream() {
    let mut noise = Vec::new();
    splitmix64(9, 5 << 20, &mut noise);
    for length in [0, 1, 127, 128, 32_511, 32_512, 32_513, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN, 5 << 20] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&noise[..length]).unwrap();
        let wanted = piece_of(&noise[..length], &NoProgress).unwrap();
        for threads in [1, 2, 7] {
            let piece = piece_of_file(&budget(threads), &file, &NoProgress).unwrap();
            assert_eq!(piece, wanted, "{length} bytes, {threads} threads");
        }
        // The same bytes in larger pieces: as with zeros written after them.
        for factor in [1, 2, 16] {
            let padded = PaddedPieceSize::new(wanted.padded_piece_size.get() * factor).unwrap();
            let zeros = std::io::repeat(0).take(padded.unpadded().get() - u64::try_from(length).unwrap());
            let extended = piece_of(noise[..length].chain(zeros), &NoProgress).unwrap();
            assert_eq!(wanted.piece_cid_in(padded), extended.piece_cid, "{length} bytes in {padded}");
        }
    }
}

/// Changes the file once, after its first bytes were read.
struct Truncate<'a>(&'a File);

impl Progress for Truncate<'_> {
    fn advance(&self, _source_bytes: u64) {
        self.0.set_len(3 << 20).unwrap();
    }
}

#[test]
fn a_file_that_changes_has_no_piece() {
    for threads in [1, 2] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[1], 50 << 20).unwrap();
        let outcome = piece_of_file(&budget(threads), &file, &Truncate(&file));
        assert!(matches!(outcome, Err(PieceError::Changed)), "{outcome:?}");
    }
}

#[test]
fn any_number_of_threads_checks_a_car() {
    let folder = tempfile::tempdir().unwrap();
    let (input, car) = (folder.path().join("input"), folder.path().join("car"));
    let mut bytes = Vec::new();
    splitmix64(4, (70 << 20) + 3, &mut bytes);
    fs::write(&input, &bytes).unwrap();
    let built = pack(&input, &car, Profile::Lotus.params(), 2);
    let wanted = verify_car(&budget(1), &car, &NoProgress).unwrap();
    assert_eq!((wanted.piece_cid, wanted.block_count), (built.piece_cid, built.block_count));
    for threads in [2, 7] {
        assert_eq!(verify_car(&budget(threads), &car, &NoProgress).unwrap(), wanted);
    }
    // Two damaged blocks: the first one is named, regardless of the thread that finds it.
    let file = File::options().write(true).open(&car).unwrap();
    for mib in [33, 66] {
        file.write_all_at(b"damage", mib << 20).unwrap();
    }
    let named = |threads| match verify_car(&budget(threads), &car, &NoProgress) {
        Err(VerifyError::WrongHash { offset, cid }) => (offset, cid.to_string()),
        other => panic!("{other:?}"),
    };
    let wanted = named(1);
    assert!((32 << 20..33 << 20).contains(&wanted.0), "{wanted:?}");
    for threads in [2, 7] {
        assert_eq!(named(threads), wanted);
    }
}
