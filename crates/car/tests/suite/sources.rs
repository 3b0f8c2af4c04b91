//! Sources that change, vanish or cannot be packed; outputs that fail; cancellation.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use carferry_car::{
    BuildError, BuildOptions, BuiltCar, DagParams, NoProgress, PaddedPieceSize, Progress, SourceChange,
    ThreadBudget, Unsupported, build_car, plan_car, verify_car,
};

use crate::inputs::{pack, splitmix64};

/// Runs an action once, after the first bytes were read.
struct AtFirstByte<F: Fn() + Send + Sync> {
    done: AtomicBool,
    what: F,
}

impl<F: Fn() + Send + Sync> Progress for AtFirstByte<F> {
    fn advance(&self, _source_bytes: u64) {
        if !self.done.swap(true, Ordering::SeqCst) {
            (self.what)();
        }
    }
}

fn build(input: &Path, progress: &dyn Progress) -> Result<BuiltCar, BuildError> {
    build_car(
        &ThreadBudget::alone(),
        input,
        &tempfile::tempfile().unwrap(),
        &BuildOptions::default(),
        progress,
    )
}

/// Packs a file of 20 MiB and runs an action after its first MiB.
fn build_while(what: impl Fn(&Path) + Send + Sync) -> BuildError {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    let mut bytes = Vec::new();
    splitmix64(5, 20 << 20, &mut bytes);
    fs::write(&input, bytes).unwrap();
    let progress = AtFirstByte { done: AtomicBool::new(false), what: || what(&input) };
    let error = build(&input, &progress).unwrap_err();
    assert!(error.to_string().contains("input"), "{error} names the file");
    error
}

#[test]
fn a_file_that_shrinks_is_named() {
    let error =
        build_while(|path| File::options().write(true).open(path).unwrap().set_len(10 << 20).unwrap());
    let wanted = SourceChange::Size { before: 20 << 20, now: 10 << 20 };
    assert!(matches!(error, BuildError::SourceChanged { change, .. } if change == wanted), "{error:?}");
}

#[test]
fn a_file_that_grows_is_named() {
    let error =
        build_while(|path| File::options().write(true).open(path).unwrap().set_len(30 << 20).unwrap());
    let wanted = SourceChange::Size { before: 20 << 20, now: 30 << 20 };
    // Bytes after the expected end are found first; the error names the size.
    assert!(matches!(error, BuildError::SourceChanged { change, .. } if change == wanted), "{error:?}");
}

#[test]
fn a_file_that_is_rewritten_is_named() {
    let error = build_while(|path| {
        let later = SystemTime::now() + Duration::from_secs(10);
        File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
    });
    assert!(matches!(error, BuildError::SourceChanged { change: SourceChange::Modified, .. }), "{error:?}");
}

#[test]
fn a_file_whose_time_is_put_back_is_named() {
    use std::os::unix::fs::FileExt;
    let error = build_while(|input| {
        let before = fs::metadata(input).unwrap().modified().unwrap();
        let file = File::options().write(true).open(input).unwrap();
        file.write_all_at(b"other", 19 << 20).unwrap();
        file.set_modified(before).unwrap();
    });
    assert!(matches!(error, BuildError::SourceChanged { change: SourceChange::Status, .. }), "{error:?}");
}

#[test]
fn a_file_without_a_true_size_is_named() {
    let error = build(Path::new("/proc/self/status"), &NoProgress).unwrap_err();
    assert!(matches!(error, BuildError::SourceChanged { change: SourceChange::EndedLate, .. }), "{error:?}");
}

/// A folder whose first file takes more than one group, so that the second is opened later.
fn two_files(folder: &Path) {
    let mut bytes = Vec::new();
    splitmix64(6, 20 << 20, &mut bytes);
    fs::write(folder.join("first"), bytes).unwrap();
    fs::write(folder.join("second"), "short").unwrap();
}

#[test]
fn a_file_that_vanishes_from_a_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    two_files(folder.path());
    let second = folder.path().join("second");
    let progress = AtFirstByte { done: AtomicBool::new(false), what: || fs::remove_file(&second).unwrap() };
    let error = build(folder.path(), &progress).unwrap_err();
    assert!(matches!(&error, BuildError::SourceVanished { path, .. } if *path == second), "{error:?}");
}

#[test]
fn a_file_that_is_replaced_in_a_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    two_files(folder.path());
    let second = folder.path().join("second");
    let what = || {
        fs::hard_link(&second, folder.path().join("kept")).unwrap();
        fs::remove_file(&second).unwrap();
        fs::write(&second, "other").unwrap();
    };
    let error = build(folder.path(), &AtFirstByte { done: AtomicBool::new(false), what }).unwrap_err();
    let as_expected = matches!(&error,
        BuildError::SourceChanged { path, change: SourceChange::Replaced } if *path == second);
    assert!(as_expected, "{error:?}");
}

#[test]
fn a_folder_that_gains_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    two_files(folder.path());
    let what = || {
        fs::write(folder.path().join("third"), "new").unwrap();
        File::open(folder.path()).unwrap().set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
    };
    let error = build(folder.path(), &AtFirstByte { done: AtomicBool::new(false), what }).unwrap_err();
    assert!(matches!(&error, BuildError::SourceChanged { path, .. } if path == folder.path()), "{error:?}");
}

#[test]
fn what_is_not_there_or_cannot_be_read_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = build(&missing, &NoProgress).unwrap_err();
    assert!(matches!(&error, BuildError::SourceVanished { path, .. } if *path == missing), "{error:?}");
    let circle = folder.path().join("circle");
    symlink(&circle, &circle).unwrap();
    let error = build(&circle, &NoProgress).unwrap_err();
    assert!(matches!(&error, BuildError::SourceUnreadable { path, .. } if *path == circle), "{error:?}");
}

#[test]
fn sockets_and_strange_names_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let error = build(folder.path(), &NoProgress).unwrap_err();
    let as_expected = matches!(&error,
        BuildError::NotSupported { path, reason: Unsupported::SpecialFile } if *path == socket);
    assert!(as_expected, "{error:?}");
    drop(listener);
    fs::remove_file(socket).unwrap();
    let strange = folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::write(&strange, "latin-1").unwrap();
    let error = build(folder.path(), &NoProgress).unwrap_err();
    let as_expected = matches!(&error,
        BuildError::NotSupported { path, reason: Unsupported::NameNotUtf8 } if *path == strange);
    assert!(as_expected, "{error:?}");
}

#[test]
fn a_link_to_the_input_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (input, link) = (folder.path().join("input"), folder.path().join("link"));
    fs::write(&input, "hello").unwrap();
    symlink(&input, &link).unwrap();
    assert_eq!(
        build(&link, &NoProgress).unwrap().payload_cid,
        build(&input, &NoProgress).unwrap().payload_cid
    );
}

#[test]
fn a_car_for_no_piece_is_refused_before_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    File::create(&input).unwrap().set_len(40 << 30).unwrap();
    let output = tempfile::tempfile().unwrap();
    let options = BuildOptions { max_piece: PaddedPieceSize::GIB_32, ..BuildOptions::default() };
    let error = build_car(&ThreadBudget::alone(), &input, &output, &options, &NoProgress).unwrap_err();
    let plan = plan_car(&input, &DagParams::default()).unwrap();
    match error {
        BuildError::TooLarge { path, payload_size, max_piece } => {
            assert_eq!(path, input);
            assert_eq!(payload_size, plan.payload_size_max);
            assert_eq!(max_piece, PaddedPieceSize::GIB_32);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(output.metadata().unwrap().len(), 0);
    assert_eq!(plan.padded_piece_size_max, PaddedPieceSize::GIB_64);
    assert_eq!((plan.source_bytes, plan.files), (40 << 30, 1));
}

#[test]
fn plans_of_files_without_repetition_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    two_files(folder.path());
    let plan = plan_car(folder.path(), &DagParams::default()).unwrap();
    let built = pack(folder.path(), &folder.path().with_extension("car"), DagParams::default(), 2);
    fs::remove_file(folder.path().with_extension("car")).unwrap();
    assert_eq!(plan.payload_size_max, built.payload_size);
    assert_eq!(plan.source, built.source);
    assert_eq!(plan.files, 2);
}

#[test]
fn a_full_disk_is_an_error_of_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::write(&input, vec![1; 100_000]).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error =
        build_car(&ThreadBudget::alone(), &input, &full, &BuildOptions::default(), &NoProgress).unwrap_err();
    let as_expected =
        matches!(&error, BuildError::Output { source } if source.kind() == std::io::ErrorKind::StorageFull);
    assert!(as_expected, "{error:?}");
}

#[test]
fn an_output_with_something_in_it_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("input"), folder.path().join("output"));
    fs::write(&input, "hello").unwrap();
    fs::write(&output, "precious").unwrap();
    let file = File::options().write(true).open(&output).unwrap();
    let error =
        build_car(&ThreadBudget::alone(), &input, &file, &BuildOptions::default(), &NoProgress).unwrap_err();
    assert!(matches!(error, BuildError::Output { .. }), "{error:?}");
    assert_eq!(fs::read(output).unwrap(), b"precious");
}

#[test]
fn a_folder_of_many_files_needs_few_descriptors() {
    let limit = "ulimit -n 64 && exec \"$0\" public::small_inputs --test-threads 1";
    let child =
        Command::new("sh").args(["-c", limit]).arg(std::env::current_exe().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    two_files(folder.path());
    let second = folder.path().join("second");
    let what = || {
        fs::remove_file(&second).unwrap();
        assert!(Command::new("mkfifo").arg(&second).status().unwrap().success());
    };
    let error = build(folder.path(), &AtFirstByte { done: AtomicBool::new(false), what }).unwrap_err();
    assert!(matches!(&error, BuildError::SourceChanged { path, .. } if *path == second), "{error:?}");
}

/// Counts bytes, and cancels after a number of them.
struct StopAfter {
    seen: AtomicU64,
    limit: u64,
}

impl Progress for StopAfter {
    fn advance(&self, source_bytes: u64) {
        self.seen.fetch_add(source_bytes, Ordering::SeqCst);
    }

    fn is_cancelled(&self) -> bool {
        self.seen.load(Ordering::SeqCst) >= self.limit
    }
}

#[test]
fn a_caller_can_stop_and_hears_of_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    two_files(folder.path());
    let stop = StopAfter { seen: AtomicU64::new(0), limit: 3 << 20 };
    assert!(matches!(build(folder.path(), &stop), Err(BuildError::Cancelled)));
    assert_eq!(stop.seen.load(Ordering::SeqCst), 3 << 20);

    let watch = StopAfter { seen: AtomicU64::new(0), limit: u64::MAX };
    build(folder.path(), &watch).unwrap();
    assert_eq!(watch.seen.load(Ordering::SeqCst), (20 << 20) + 5);

    let car = folder.path().join("car");
    let built = pack(&folder.path().join("first"), &car, DagParams::default(), 1);
    let watch = StopAfter { seen: AtomicU64::new(0), limit: u64::MAX };
    verify_car(&ThreadBudget::alone(), &car, &watch).unwrap();
    assert_eq!(watch.seen.load(Ordering::SeqCst), built.payload_size.get());
}
