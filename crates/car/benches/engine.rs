//! Benches of the engine: each kernel, the piece commitment, and the whole pipeline. See `README.md`.

use std::fs;
use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carferry_car::bench::{WINDOW_RAW, engines, expand_fr32};
use carferry_car::{
    BlockHash, BuildOptions, Commitment, NoProgress, Profile, ThreadBudget, build_car, verify_car,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Pseudo-random bytes.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn throughput(bytes: usize) -> Throughput {
    Throughput::Bytes(bytes.try_into().unwrap_or(u64::MAX))
}

fn parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nodes");
    let input = noise(64 << 10);
    let mut output = vec![0; input.len() / 2];
    group.throughput(throughput(input.len()));
    for engine in engines() {
        group.bench_function(engine.name(), |bencher| {
            bencher.iter(|| engine.hash_nodes(black_box(&mut output), black_box(&input)));
        });
    }
    group.finish();

    let windows = noise(32 * WINDOW_RAW);
    let mut expanded = vec![0; 32 << 15];
    let mut group = criterion.benchmark_group("fr32");
    group.throughput(throughput(windows.len()));
    group.bench_function("words", |bencher| {
        bencher.iter(|| expand_fr32(black_box(&mut expanded), black_box(&windows)));
    });
    group.finish();

    let mut group = criterion.benchmark_group("windows");
    let mut digests = [0; 32 * 32];
    group.throughput(throughput(windows.len()));
    for engine in engines() {
        group.bench_function(engine.name(), |bencher| {
            bencher.iter(|| engine.hash_windows(black_box(&mut digests), black_box(&windows)));
        });
    }
    group.finish();

    let bytes = noise(16 << 16);
    let blocks: Vec<&[u8]> = bytes.chunks(1 << 16).collect();
    for (name, hash) in [("blake2b-256", BlockHash::Blake2b256), ("sha2-256", BlockHash::Sha2_256)] {
        let mut group = criterion.benchmark_group(name);
        let mut digests = [[0; 32]; 16];
        group.throughput(throughput(bytes.len()));
        for engine in engines() {
            group.bench_function(engine.name(), |bencher| {
                bencher.iter(|| engine.hash_blocks(hash, black_box(&mut digests), black_box(&blocks)));
            });
        }
        group.finish();
    }

    let mut group = criterion.benchmark_group("commitment");
    for length in [127, 1016, 32_512, 1 << 20, 64 << 20] {
        let bytes = noise(length);
        group.throughput(throughput(length));
        group.bench_with_input(BenchmarkId::from_parameter(length), &bytes, |bencher, bytes| {
            bencher.iter(|| {
                let mut commitment = Commitment::new();
                commitment.update(bytes);
                black_box(commitment.finish())
            });
        });
    }
    group.finish();
}

/// Outputs of the pipeline.
fn outputs(disk: &Path) -> Vec<(&'static str, PathBuf)> {
    let tmpfs = Path::new("/dev/shm");
    let mut outputs = vec![("nowhere", PathBuf::from("/dev/null"))];
    if tmpfs.is_dir() {
        outputs.push(("tmpfs", tmpfs.join(format!("carferry-bench-{}.car", std::process::id()))));
    }
    outputs.push(("disk", disk.join("out.car")));
    outputs
}

fn pipeline(criterion: &mut Criterion) {
    const SOURCE: usize = 256 << 20;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let input = folder.path().join("input");
    fs::write(&input, noise(SOURCE)).expect("room for the source");
    let mut group = criterion.benchmark_group("pipeline");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).throughput(throughput(SOURCE));
    for profile in [Profile::Lotus, Profile::UnixfsV1_2025] {
        for (name, output) in outputs(folder.path()) {
            for threads in [1, 2] {
                let budget = ThreadBudget::new(threads.try_into().expect("not zero"));
                let options = BuildOptions { params: profile.params(), ..BuildOptions::default() };
                group.bench_function(format!("{profile}/{name}/{threads}"), |bencher| {
                    bencher.iter(|| {
                        let file = if name == "nowhere" {
                            File::options().write(true).open(&output)
                        } else {
                            File::create(&output)
                        };
                        let file = file.expect("the output can be made");
                        let car = build_car(&budget, &input, &file, &options, &NoProgress)
                            .expect("the source is at rest");
                        if name != "nowhere" {
                            file.sync_data().expect("the output can be synced");
                        }
                        car
                    });
                });
            }
            if name == "disk" && output.exists() {
                group.bench_function(format!("{profile}/verify"), |bencher| {
                    bencher.iter(|| {
                        verify_car(&ThreadBudget::alone(), &output, &NoProgress).expect("the CAR is whole")
                    });
                });
            }
            if name != "nowhere" {
                // Does not exist if a filter skipped these benches.
                drop(fs::remove_file(&output));
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = parts, pipeline
}
criterion_main!(benches);
