#!/usr/bin/env bash
# build.sh FFI_CLONE OUT: build OUT/lotus-itest, a test binary that runs Lotus v1.23.3 (see README.md).
# FFI_CLONE is a clone of github.com/filecoin-project/filecoin-ffi. Needs Go, rustup, cc, git, jq, pkg-config,
# libhwloc-dev and ocl-icd-opencl-dev. A second run goes on where the first one ended.
set -euo pipefail
[ $# -eq 2 ] || {
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
}
for tool in go rustup cc git jq pkg-config; do
    command -v "$tool" >/dev/null || {
        echo "$tool is missing" >&2
        exit 1
    }
done
for library in hwloc OpenCL; do
    pkg-config --exists "$library" || {
        echo "the library $library is missing; hint: apt-get install libhwloc-dev ocl-icd-opencl-dev" >&2
        exit 1
    }
done
here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
ffi=$out/lotus/extern/filecoin-ffi
lotus=v1.23.3
ffi_revision=a458f638e3c8603c9b5a9ed9847c3af4597e46d4 # the submodule of Lotus v1.23.3
ffi_rust=1.67.1                                       # its rust-toolchain.toml

if [ ! -e "$out/sources" ]; then
    empty=$(mktemp -d)
    folder=$(cd "$empty" && go mod download -json "github.com/filecoin-project/lotus@$lotus" | jq -r .Dir)
    rmdir "$empty"
    rm -rf "$out/lotus"
    cp -r "$folder" "$out/lotus"
    chmod -R u+w "$out/lotus"
    mkdir -p "$ffi" "$out/lotus/extern/test-vectors"
    git -C "$clone" archive "$ffi_revision" | tar -x -C "$ffi"
    touch "$out/sources"
fi

cd "$ffi/rust"
rustup toolchain install "$ffi_rust" --profile minimal
if [ ! -e .cargo/config.toml ]; then
    mkdir -p .cargo
    # The pinned toolchain reads no sparse index.
    cargo +stable vendor --locked vendor >config.toml
    mv config.toml .cargo/config.toml
fi
features=multicore-sdr,c-headers
cargo build --release --locked --offline --no-default-features --features "$features"
HEADER_DIR=. cargo test --release --locked --offline --no-default-features --features "$features" build_headers
cp filcrypto.h target/release/libfilcrypto.a ..
printf 'Name: filcrypto\nVersion: a458f63\nDescription: proofs\nLibs: %s\n' \
    '-lhwloc -lutil -lrt -lpthread -lm -ldl -lc -lgcc_s' >../filcrypto.pc

cp "$here/carferry_test.go" "$out/lotus/itests/"
cd "$out/lotus"
# Its QUIC builds with Go 1.20 at the latest.
GOTOOLCHAIN=go1.20.14 GOFLAGS="-mod=mod ${GOFLAGS:-}" CGO_LDFLAGS=-lhwloc go test -c -o "$out/lotus-itest" ./itests/
echo "built: CARFERRY_LOTUS_ITEST=$out/lotus-itest"
