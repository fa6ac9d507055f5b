#!/bin/sh
# build.sh: rebuilds the prebuilt workloads.
#
#   workloads/build.sh                                    every workload into workloads/prebuilt/, and SOURCES
#   workloads/build.sh --into DIR                         the same into DIR, for comparison
#   workloads/build.sh --crate PATH/Cargo.toml --into DIR one other guest crate, outside this workspace, into DIR
#   workloads/build.sh --hashes                           prints the lines of SOURCES and builds nothing
#
# SOURCES ties each .wasm file to what it was built from. It has one line per workload, in the order of their names:
#
#   <SHA-256, hexadecimal><two spaces><name>
#
# The hash is of a listing of the workload's sources: these files, by path from the repository's root, in byte order of
# the paths, each as its path, a line feed, the SHA-256 of its content in hexadecimal, a line feed:
#
#   workloads/<name>/Cargo.toml, workloads/<name>/src/**,
#   guest/Cargo.toml, guest/src/**, guest/macros/Cargo.toml, guest/macros/src/**, host/wit/**,
#   host/vm/wasi/deps/**, but no tests.rs
#
# Not covered: Cargo.lock, the root's profile and the compiler, which change without a change of meaning.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
names="archive counter courier crunch ledger notes"
target=wasm32-wasip1

usage() {
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

. "$root/workloads/sources.sh"

hashes() {
  cd "$root"
  for name in $names; do
    hash=$(hash_of "workloads/$name/Cargo.toml" "workloads/$name/src" guest/Cargo.toml guest/src guest/macros/Cargo.toml \
      guest/macros/src host/wit host/vm/wasi/deps)
    printf '%s  %s\n' "$hash" "$name"
  done
}

into= crate=
while [ $# -gt 0 ]; do
  case $1 in
  --hashes)
    hashes
    exit
    ;;
  --into) [ $# -ge 2 ] || usage; into=$2; shift 2 ;;
  --crate) [ $# -ge 2 ] || usage; crate=$2; shift 2 ;;
  *) usage ;;
  esac
done
[ -z "$crate" ] || [ -n "$into" ] || usage
into=${into:-$root/workloads/prebuilt}
mkdir -p "$into"
into=$(cd "$into" && pwd)

exports=$("$root/workloads/toolchain.sh")
eval "$exports"

# No path of this machine in the results: panic messages name files from the repository's root, or of a dependency.
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
RUSTFLAGS="--remap-path-prefix=$root=."
for index in "$registry"/*; do
  [ -d "$index" ] && RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$index=registry"
done
RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$(${RUSTC:-rustc} --print sysroot)/lib/rustlib/src/rust=rust"

if [ -n "$crate" ]; then
  crate=$(cd "$(dirname "$crate")" && pwd)/$(basename "$crate")
  RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$(dirname "$crate")=."
  built=$root/target-guest/other/$target/release
  rm -f "$built"/*.wasm
  # The settings of the workspace's profile `guest`, for a crate that does not see it.
  (
    cd "$(dirname "$crate")"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_LTO=true CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
      CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true CARGO_PROFILE_RELEASE_PANIC=abort CARGO_PROFILE_RELEASE_STRIP=true \
      RUSTFLAGS=$RUSTFLAGS cargo rustc --release --target "$target" --target-dir "$root/target-guest/other" \
      --manifest-path "$crate" --lib --crate-type cdylib
  )
  results=
  for file in "$built"/*.wasm; do
    cp "$file" "$into/"
    results="$results $(basename "$file")"
  done
else
  # One by one, as a cdylib alone: beside an rlib, cargo leaves link-time optimisation out.
  for name in $names; do
    (
      cd "$root"
      RUSTFLAGS=$RUSTFLAGS cargo rustc --profile guest --target "$target" --target-dir target-guest --locked \
        -p "$name" --lib --crate-type cdylib
    )
  done
  results=
  for name in $names; do
    cp "$root/target-guest/$target/guest/$name.wasm" "$into/"
    results="$results $name.wasm"
  done
  hashes >"$into/SOURCES"
fi

for result in $results; do
  printf '%8d bytes  %s\n' "$(wc -c <"$into/$result")" "$into/$result"
done
