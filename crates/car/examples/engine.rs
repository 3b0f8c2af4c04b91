//! The engine alone in a process, for measuring whole processes (`benches/README.md`):
//!
//! ```text
//! engine commp THREADS FILE
//! engine pack THREADS FILE CAR        /dev/null as CAR writes nothing
//! engine verify THREADS CAR
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

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
        _ => return Err("usage: engine commp|verify THREADS FILE, or engine pack THREADS FILE CAR".into()),
    };
    writeln!(io::stdout(), "{piece_cid} {bytes} bytes, kernel {kernel}")?;
    Ok(())
}

fn crew(threads: &str) -> Result<Crew, Box<dyn Error>> {
    Ok(Crew::new(threads.parse()?))
}
