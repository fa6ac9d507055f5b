#!/bin/sh
# toolchain.sh: makes `cargo build --target wasm32-wasip1` work where rustup lacks that target.
#
#   eval "$(workloads/toolchain.sh)"      # then build guests, in a target directory of their own
#
# Where rustup has the target it prints nothing and changes nothing. Elsewhere, as root on a Debian that packages
# rustc-web, it builds std once from Debian's own packages (about 90 s) into that compiler's sysroot and prints the two
# exports that select it. Where neither serves, it stops with one sentence. It never asks rustup to fetch anything.
#
# Export RUSTC for guest builds alone: for the host's workspace it would rebuild everything with another compiler.
set -eu
target=wasm32-wasip1
rustup_sysroot=$(env -u RUSTC rustc --print sysroot)
if ls "$rustup_sysroot/lib/rustlib/$target/lib/"libstd-*.rlib >/dev/null 2>&1; then exit 0; fi

stop() {
  echo "error: no Rust standard library for $target: run \`rustup target add $target\`" >&2
  exit 1
}

debian_ready() { [ -x /usr/bin/rustc ] && [ -d /usr/lib/wasm32-wasi ] && [ -e /usr/lib/rustlib/src/rust ]; }
if ! debian_ready; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || stop
  {
    apt-get update -q &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends rustc-web rust-web-src wasi-libc
  } >&2 || stop
  debian_ready || stop
fi

# Debian's compiler comes without a linker for Wasm; rustup's toolchain has one.
host=$(env -u RUSTC rustc -vV | sed -n 's/^host: //p')
linker_dir=$rustup_sysroot/lib/rustlib/$host/bin
[ -x "$linker_dir/rust-lld" ] || stop

RUSTC=/usr/bin/rustc
export RUSTC
lib=$($RUSTC --print sysroot)/lib/rustlib/$target/lib
version=$($RUSTC -vV)
if [ "$(cat "$lib/.built-by" 2>/dev/null)" != "$version" ]; then
  [ -w "$(dirname "$(dirname "$(dirname "$lib")")")" ] || stop
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/src"
  echo '#![no_std]' >"$work/src/lib.rs"
  printf '[package]\nname = "stdonly"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' >"$work/Cargo.toml"
  # With bitcode embedded, guests can link this std with LTO.
  (cd "$work" && RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes CARGO_TARGET_DIR="$work/t" \
    cargo build -q --release -Zbuild-std=std,panic_abort --target "$target" >&2)
  rm -rf "$lib"
  mkdir -p "$lib/self-contained"
  cp "$work/t/$target/release/deps/"*.rlib "$lib/"
  rm -f "$lib"/libstdonly-*
  cp /usr/lib/wasm32-wasi/crt1-command.o /usr/lib/wasm32-wasi/crt1-reactor.o /usr/lib/wasm32-wasi/libc.a \
    "$lib/self-contained/"
  printf '%s\n' "$version" >"$lib/.built-by"
fi
echo "export RUSTC=/usr/bin/rustc PATH=\"\$PATH:$linker_dir\""
