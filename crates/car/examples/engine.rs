//! Runs the engine in a process of its own, to measure CPU time and memory (`benches/README.md`):
//!
//! ```text
//! engine commp THREADS FILE
//! engine pack THREADS FILE CAR        /dev/null as CAR writes nothing
//! engine verify THREADS CAR
//! engine floor commp FILE             lower bounds of `commp` and `pack` with SHA extensions and AVX2:
//! engine floor pack FILE [CAR]        reads the file, runs the instructions without dependencies, and
//!                                     writes the same number of bytes past the page cache
//! ```

use std::error::Error;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use carferry_car::{
    BuildOptions, NoProgress, ThreadBudget, bench, build_car, check_kernel_choice, piece_of_file, verify_car,
};
use rustix::fs::{FallocateFlags, OFlags, fallocate};

fn main() -> Result<(), Box<dyn Error>> {
    let kernel = check_kernel_choice()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (piece_cid, bytes) = match arguments[..] {
        ["commp", threads, file] => {
            let piece = piece_of_file(&budget(threads)?, &File::open(file)?, &NoProgress)?;
            (piece.piece_cid, piece.payload_size)
        }
        ["pack", threads, file, car] => {
            let output = if car == "/dev/null" {
                File::options().write(true).open(car)?
            } else {
                File::create_new(car)?
            };
            let options = BuildOptions::default();
            let built = build_car(&budget(threads)?, Path::new(file), &output, &options, &NoProgress)?;
            output.sync_data().or_else(|error| if car == "/dev/null" { Ok(()) } else { Err(error) })?;
            (built.piece_cid, built.payload_size)
        }
        ["verify", threads, car] => {
            let verified = verify_car(&budget(threads)?, Path::new(car), &NoProgress)?;
            (verified.piece_cid, verified.payload_size)
        }
        ["floor", what @ ("commp" | "pack"), file] => {
            return instruction_floor(what == "pack", &File::open(file)?, None);
        }
        ["floor", "pack", file, car] => return instruction_floor(true, &File::open(file)?, Some(car)),
        _ => {
            let usage = "usage: engine commp|verify THREADS FILE | pack THREADS FILE CAR | floor commp FILE | floor pack FILE [CAR]";
            return Err(usage.into());
        }
    };
    writeln!(io::stdout(), "{piece_cid} {bytes} bytes, kernel {kernel}")?;
    Ok(())
}

fn budget(threads: &str) -> Result<ThreadBudget, Box<dyn Error>> {
    Ok(ThreadBudget::new(threads.parse()?))
}

/// Takes the least time that commP of a file, or a CAR of it, can take.
fn instruction_floor(with_blake2b: bool, file: &File, car: Option<&str>) -> Result<(), Box<dyn Error>> {
    const STEP: usize = 1 << 20;
    let mut storage = Vec::new();
    let buffer = aligned(&mut storage, STEP);
    let mut output = car.map(|car| DirectWrites::new(car, file)).transpose()?;
    let mut at = 0;
    loop {
        let count = file.read_at(buffer, at)?;
        if count == 0 {
            return output.map_or(Ok(()), |output| Ok(output.file.sync_data()?));
        }
        let bytes = u64::try_from(count)?;
        at += bytes;
        // 127 bytes become 128, with one node for every 32 bytes; four blocks share a compression.
        let nodes = bytes * 128 / 127 / 32;
        let blake2b = if with_blake2b { bytes / 512 } else { 0 };
        if !bench::instruction_floor(nodes, blake2b) {
            return Err("this processor has no SHA extensions, or no AVX2".into());
        }
        if let Some(output) = &mut output {
            output.write_up_to(at)?;
        }
    }
}

/// A file that is written past the page cache, in parts of the same size as the engine's.
struct DirectWrites {
    file: File,
    storage: Vec<u8>,
    written: u64,
}

impl DirectWrites {
    const PART: usize = 4 << 20;

    fn new(path: &str, like: &File) -> Result<Self, Box<dyn Error>> {
        let flags = i32::try_from(OFlags::DIRECT.bits())?;
        let file = File::options().write(true).create_new(true).custom_flags(flags).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, like.metadata()?.len())?;
        Ok(Self { file, storage: Vec::new(), written: 0 })
    }

    fn write_up_to(&mut self, end: u64) -> io::Result<()> {
        let part = aligned(&mut self.storage, Self::PART);
        while end - self.written >= Self::PART as u64 {
            self.file.write_all_at(part, self.written)?;
            self.written += Self::PART as u64;
        }
        Ok(())
    }
}

/// A page-aligned buffer: copies out of the page cache are fastest, and direct writes need the alignment.
fn aligned(storage: &mut Vec<u8>, length: usize) -> &mut [u8] {
    const PAGE: usize = 4096;
    storage.resize(length + PAGE, 1);
    let start = storage.as_ptr().align_offset(PAGE);
    &mut storage[start..start + length]
}
