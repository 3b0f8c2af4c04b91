#!/usr/bin/env bash
# build.sh CLONES OUT: build OUT/boost-itest, a test binary that runs boostd v2.5.2 over Lotus v1.36.0 (see README.md).
# CLONES holds clones of github.com/filecoin-project/{boost,filecoin-ffi,boost-graphsync}, github.com/ipni/{go-libipni,ipni-cli}
# and github.com/ipld/frisbii, each by its name. Needs Go 1.26, rustup, cc, git, pkg-config, libhwloc-dev and
# ocl-icd-opencl-dev.
set -euo pipefail
[ $# -eq 2 ] || {
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
}
for tool in go rustup cc git pkg-config; do
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
clones=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)

# take CLONE REVISION FOLDER
take() {
    mkdir -p "$out/$3"
    git -C "$clones/$1" archive "$2" | tar -x -C "$out/$3"
}
take boost v2.5.2 boost
take filecoin-ffi fbe802089480458d730cbce8a3ca83dcd84a4cd1 boost/extern/filecoin-ffi # the submodule of boost v2.5.2
take boost-graphsync 1ecd0b8a91ea9be20d1f0b12da26f9212ada8660 boost-graphsync
take go-libipni v0.7.7 go-libipni
take ipni-cli v0.5.2 ipni-cli
take frisbii HEAD frisbii
# A module that go.mod names, and that no package of this binary uses.
mkdir -p "$out/specs"
printf 'module github.com/ipld/ipld/specs\n\ngo 1.20\n' >"$out/specs/go.mod"
echo 'package specs' >"$out/specs/specs.go"
sed -i 's#github.com/ipfs/go-ipfs-blockstore#github.com/ipfs/boxo/blockstore#' "$out"/boost-graphsync/storeutil/*.go

cd "$out/boost/extern/filecoin-ffi/rust"
export RUSTUP_TOOLCHAIN=1.95.0
features=multicore-sdr,fvm,c-headers
cargo build --release --locked --no-default-features --features "$features"
HEADER_DIR=. cargo test --release --locked --no-default-features --features "$features" build_headers
cp filcrypto.h target/release/libfilcrypto.a ..
printf 'Name: filcrypto\nVersion: fbe8020\nDescription: proofs\nLibs: %s\n' \
    '-lhwloc -lutil -lrt -lpthread -lm -ldl -lc -lgcc_s' >../filcrypto.pc

cd "$out/boost"
# Parts that need modules which are not published, and that a market does not need.
rm -rf api/docgen-openrpc cmd/migrate-curio itests/graphsync_*_test.go itests/multiminer_retrieval_graphsync_test.go
export GOWORK=off GOFLAGS=-mod=mod CGO_LDFLAGS=-lhwloc
go mod edit \
    -droprequire github.com/curiostorage/go-openrpc-reflect -droprequire github.com/filecoin-project/curio \
    -droprequire github.com/curiostorage/harmonyquery \
    -replace github.com/filecoin-project/boost-graphsync=../boost-graphsync \
    -replace github.com/ipni/go-libipni=../go-libipni -replace github.com/ipni/ipni-cli=../ipni-cli \
    -replace github.com/ipld/frisbii=../frisbii -replace github.com/ipld/ipld/specs=../specs
cp "$here/carferry_test.go" itests/
go test -c -o "$out/boost-itest" ./itests
echo "built: CARFERRY_BOOST_ITEST=$out/boost-itest"
