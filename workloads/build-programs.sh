#!/bin/sh
# build-programs.sh: rebuilds the prebuilt programs, which are plain C.
#
#   workloads/build-programs.sh                every program into workloads/prebuilt/, and PROGRAMS
#   workloads/build-programs.sh --into DIR     the same into DIR, for comparison
#   workloads/build-programs.sh --hashes       prints the lines of PROGRAMS and builds nothing
#
# It needs a clang that compiles for wasm32-wasip1: the one of a WASI SDK, whose folder WASI_SDK_PATH names, or, as root on
# Debian, packages of Debian that it installs. The sources of SQLite come from the crate `libsqlite3-sys`, by its lock
# file in workloads/sql/sqlite.
#
# PROGRAMS ties each .wasm file to what it was built from, as SOURCES does (see build.sh): the files of workloads/<name>,
# and this script.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
names="sql wordcount"

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

. "$root/workloads/sources.sh"

hashes() {
  cd "$root"
  for name in $names; do
    hash=$(hash_of "workloads/$name" workloads/build-programs.sh)
    printf '%s  %s\n' "$hash" "$name"
  done
}

into=
while [ $# -gt 0 ]; do
  case $1 in
  --hashes)
    hashes
    exit
    ;;
  --into) [ $# -ge 2 ] || usage; into=$2; shift 2 ;;
  *) usage ;;
  esac
done
into=${into:-$root/workloads/prebuilt}
mkdir -p "$into"
into=$(cd "$into" && pwd)

stop() {
  echo "error: no clang for wasm32-wasip1: set WASI_SDK_PATH to the folder of a WASI SDK" >&2
  exit 1
}

if [ -n "${WASI_SDK_PATH:-}" ]; then
  clang=$WASI_SDK_PATH/bin/clang target=wasm32-wasip1
  [ -x "$clang" ] || stop
else
  # Debian has its libraries in folders of the target's former name.
  clang=clang-22 target=wasm32-wasi
  if ! { command -v $clang && [ -d /usr/lib/wasm32-wasi ] && [ -d /usr/lib/llvm-22/lib/clang/22/lib/wasi ]; } >/dev/null; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || stop
    {
      apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        clang-22 lld-22 libclang-rt-22-dev-wasm32 wasi-libc
    } >&2 || stop
  fi
fi

# The path of the crate that the lock file names.
manifest=$root/workloads/sql/sqlite/Cargo.toml
sqlite=$(
  cargo metadata --quiet --locked --format-version 1 --manifest-path "$manifest" |
    grep -o '"manifest_path":"[^"]*/libsqlite3-sys-[^"/]*/Cargo.toml"' | head -n 1 |
    sed 's/^"manifest_path":"//; s/\/Cargo.toml"$//'
)/sqlite3
[ -e "$sqlite/sqlite3.c" ] || { echo "error: the sources of SQLite are not in $sqlite" >&2; exit 1; }

compile() { "$clang" --target=$target -Wno-deprecated -Os -s -Werror=implicit-function-declaration "$@"; }

# Without a journal of its own and without threads; `sql.c` says why. Numbers in LONGDOUBLE_TYPE would need printf for
# long doubles, which is a megabyte more.
compile \
  '-DSQLITE_DEFAULT_UNIX_VFS="unix-none"' -DSQLITE_OMIT_WAL -DSQLITE_TEMP_STORE=3 -DSQLITE_DEFAULT_MEMSTATUS=0 \
  -DSQLITE_DQS=0 -DSQLITE_LIKE_DOESNT_MATCH_BLOBS -DLONGDOUBLE_TYPE=double -DSQLITE_THREADSAFE=0 \
  -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_OMIT_SHARED_CACHE -DSQLITE_OMIT_DEPRECATED \
  -D_WASI_EMULATED_MMAN -D_WASI_EMULATED_GETPID -D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_PROCESS_CLOCKS \
  -I "$sqlite" "$root/workloads/sql/sql.c" "$sqlite/sqlite3.c" -o "$into/sql.wasm" \
  -lwasi-emulated-mman -lwasi-emulated-getpid -lwasi-emulated-signal -lwasi-emulated-process-clocks
compile "$root/workloads/wordcount/wordcount.c" -o "$into/wordcount.wasm"
hashes >"$into/PROGRAMS"

for name in $names; do
  printf '%8d bytes  %s\n' "$(wc -c <"$into/$name.wasm")" "$into/$name.wasm"
done
