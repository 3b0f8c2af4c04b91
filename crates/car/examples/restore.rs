//! Measures extraction from a CAR against a plain copy of the same files (`benches/README.md`):
//!
//! ```text
//! restore MIB MIB_A_FILE THREADS ITERATIONS DIR
//! ```
//!
//! An iteration copies the files with one thread and a buffer of 1 MiB, and restores them from their CAR. The
//! order of the two changes with each iteration. Both end with one `syncfs`. Their sources were just written,
//! so they are read from the page cache if they fit in there. CPU seconds are user and system time of this
//! process, without write-back by kernel threads.

#![expect(clippy::disallowed_methods, reason = "a measurement")]

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, Instant};
use std::{fs, io};

use carferry_car::{
    BuildOptions, ExtractOptions, NoProgress, ThreadBudget, build_car, check_kernel_choice, extract,
};
use rustix::fs::syncfs;
use rustix::time::{ClockId, clock_gettime};

type Outcome<T> = Result<T, Box<dyn Error>>;

const MIB: u64 = 1 << 20;

fn main() -> Outcome<()> {
    let kernel = check_kernel_choice()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [mib, mib_a_file, threads, iterations, folder] = arguments[..] else {
        return Err("usage: restore MIB MIB_A_FILE THREADS ITERATIONS DIR".into());
    };
    let (mib, mib_a_file): (u64, u64) = (mib.parse()?, mib_a_file.parse()?);
    let (budget, iterations): (ThreadBudget, u32) =
        (ThreadBudget::new(threads.parse()?), iterations.parse()?);
    let folder = Path::new(folder);
    let [input, car, copied, restored] =
        ["restore-input", "restore.car", "restore-copied", "restore-restored"].map(|name| folder.join(name));
    fs::create_dir(&input)?;
    let files = mib.div_ceil(mib_a_file.max(1));
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for number in 0..files {
        let mut file = File::create_new(input.join(format!("{number:06}")))?;
        for _ in 0..mib_a_file.min(mib - number * mib_a_file) {
            file.write_all(&noise(&mut state))?;
        }
    }
    let output = File::create_new(&car)?;
    build_car(&budget, &input, &output, &BuildOptions::default(), &NoProgress)?;
    output.sync_data()?;

    let copy = || copy(&input, &copied);
    let restore = || -> Outcome<()> {
        extract(&budget, from_ref(&car), ExtractOptions::new(&restored), &|_| {}, &NoProgress)?;
        Ok(())
    };
    let mut out = io::stdout();
    writeln!(out, "{mib} MiB in {files} files, {threads} threads, kernel {kernel}")?;
    for iteration in 0..iterations {
        let mut both: [(&str, &dyn Fn() -> Outcome<()>); 2] = [("copy", &copy), ("restore", &restore)];
        if iteration % 2 == 1 {
            both.reverse();
        }
        for (name, work) in both {
            // Writes back what other programs have written before.
            syncfs(File::open(folder)?)?;
            let (cpu_before, started) = (cpu_seconds(), Instant::now());
            work()?;
            let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
            // Far below 2^52.
            let gigabytes = f64::from(u32::try_from(mib)?) * 1.048_576e-3;
            let (speed, cost) = (gigabytes / wall, cpu / gigabytes);
            writeln!(
                out,
                "{name:<8} {wall:7.2} s  {speed:6.3} GB/s  {cpu:7.2} CPU-s  {cost:6.3} CPU-s a GB"
            )?;
        }
        for number in 0..files {
            let name = format!("{number:06}");
            if !is_same(&copied.join(&name), &restored.join(&name))? {
                return Err(format!("{name} is not what it was").into());
            }
        }
        fs::remove_dir_all(&copied)?;
        fs::remove_dir_all(&restored)?;
    }
    fs::remove_dir_all(&input)?;
    fs::remove_file(&car)?;
    Ok(())
}

/// A MiB of pseudo-random bytes.
fn noise(state: &mut u64) -> Vec<u8> {
    let words = (0..MIB / 8).flat_map(|_| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// Copies the files of a folder, and syncs once at the end, as `extract` does.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir(to)?;
    let mut buffer = vec![0; 1 << 20];
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let mut source = File::open(entry.path())?;
        let mut target = File::create_new(to.join(entry.file_name()))?;
        loop {
            let count = source.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            target.write_all(&buffer[..count])?;
        }
    }
    syncfs(File::open(to)?)?;
    Ok(())
}

fn is_same(one: &Path, other: &Path) -> Outcome<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (mut of_one, mut of_other) = (Vec::new(), Vec::new());
    loop {
        of_one.clear();
        of_other.clear();
        (&one).take(MIB).read_to_end(&mut of_one)?;
        (&other).take(MIB).read_to_end(&mut of_other)?;
        if of_one.is_empty() || of_one != of_other {
            return Ok(of_one == of_other);
        }
    }
}

/// CPU time of all threads of this process, including ended ones.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let duration = Duration::try_from(time).unwrap_or_default();
    duration.as_secs_f64()
}
