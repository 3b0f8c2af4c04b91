//! What it costs to make many small files durable, with nothing else to do (`crates/car/benches/README.md`):
//!
//! ```text
//! publish COUNT AT_ONCE FOLDER      files of 1 to 64 KiB, published AT_ONCE at a time
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::{fs, io};

use carferry_core::fsx;
use tokio::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, at_once, folder] = &arguments[..] else {
        return Err("usage: publish COUNT AT_ONCE FOLDER".into());
    };
    let (count, at_once, folder): (usize, usize, _) = (count.parse()?, at_once.parse()?, Path::new(folder));
    fs::create_dir(folder)?;
    let bytes: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
    let mut random = fastrand::Rng::with_seed(5);
    let started = Instant::now();
    let mut numbers = 0..count;
    loop {
        let mut guards = Vec::new();
        for number in numbers.by_ref().take(at_once) {
            let (mut file, guard) = fsx::create_temp_beside(&folder.join(number.to_string()))?;
            file.write_all(&bytes[..random.usize(1024..=bytes.len())])?;
            guards.push(guard);
        }
        if guards.is_empty() {
            break;
        }
        for result in fsx::publish_all(guards) {
            result?;
        }
    }
    writeln!(io::stdout(), "{count} files, {at_once} at a time: {:.3} s", started.elapsed().as_secs_f64())?;
    Ok(())
}
