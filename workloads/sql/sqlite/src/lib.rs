//! Names the sources of SQLite; see `Cargo.toml`.
