//! The engine alone in a process, for measuring whole processes (`benches/README.md`):
//!
//! ```text
//! engine commp THREADS FILE
//! engine pack THREADS FILE CAR        /dev/null as CAR writes nothing
//! engine verify THREADS CAR
//! engine floor commp FILE                 what the first two cannot do without with SHA extensions and AVX2, and
//! engine floor pack FILE                  nothing else: reads the file, and runs instructions that wait for nothing
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use carferry_car::bench;
use carferry_car::{
    BuildOptions, Crew, NoProgress, build_car, check_kernel_choice, piece_of_file, verify_car,
};

fn main() -> Result<(), Box<dyn Error>> {
    let kernel = check_kernel_choice()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (piece_cid, bytes) = match arguments[..] {
        ["commp", threads, file] => {
            let piece = piece_of_file(&crew(threads)?, &File::open(file)?, &NoProgress)?;
            (piece.piece_cid, piece.payload_size)
        }
        ["pack", threads, file, car] => {
            let output = if car == "/dev/null" {
                File::options().write(true).open(car)?
            } else {
                File::create_new(car)?
            };
            let options = BuildOptions::default();
            let built = build_car(&crew(threads)?, Path::new(file), &output, &options, &NoProgress)?;
            output.sync_data().or_else(|error| if car == "/dev/null" { Ok(()) } else { Err(error) })?;
            (built.piece_cid, built.payload_size)
        }
        ["verify", threads, car] => {
            let verified = verify_car(&crew(threads)?, Path::new(car), &NoProgress)?;
            (verified.piece_cid, verified.payload_size)
        }
        ["floor", what @ ("commp" | "pack"), file] => return floor(what == "pack", &File::open(file)?),
        _ => {
            let usage =
                "usage: engine commp|verify THREADS FILE | pack THREADS FILE CAR | floor commp|pack FILE";
            return Err(usage.into());
        }
    };
    writeln!(io::stdout(), "{piece_cid} {bytes} bytes, kernel {kernel}")?;
    Ok(())
}

fn crew(threads: &str) -> Result<Crew, Box<dyn Error>> {
    Ok(Crew::new(threads.parse()?))
}

/// Takes as long as commP of a file or a CAR of it would take at best.
fn floor(with_blake2b: bool, file: &File) -> Result<(), Box<dyn Error>> {
    const STEP: usize = 1 << 20;
    const PAGE: usize = 4096;
    let mut room = vec![0; STEP + PAGE];
    // Where the system copies fastest to.
    let start = room.as_ptr().align_offset(PAGE);
    let buffer = &mut room[start..start + STEP];
    let mut at = 0;
    loop {
        let count = file.read_at(buffer, at)?;
        if count == 0 {
            return Ok(());
        }
        let bytes = u64::try_from(count)?;
        at += bytes;
        // 127 bytes become 128, which have a node for every 32 in their tree; four blocks share a compression.
        let nodes = bytes * 128 / 127 / 32;
        let blake2b = if with_blake2b { bytes / 512 } else { 0 };
        if !bench::floor(nodes, blake2b) {
            return Err("this processor has no SHA extensions, or no AVX2".into());
        }
    }
}
