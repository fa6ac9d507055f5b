# sources.sh: what build.sh and build-programs.sh share. They read it with `.`, from any folder.

sha256() { sha256sum "$@" 2>/dev/null || shasum -a 256 "$@"; }

# hash_of PATH...: prints the SHA-256, in hexadecimal, of a listing of the files at and below these paths, but no tests.rs:
# by path in byte order, each as its path, a line feed, the SHA-256 of its content in hexadecimal, a line feed.
hash_of() {
  find "$@" -type f ! -name tests.rs | LC_ALL=C sort | while read -r path; do
    printf '%s\n' "$path"
    sha256 "$path" | cut -d ' ' -f 1
  done | sha256 | cut -d ' ' -f 1
}
