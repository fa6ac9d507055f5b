//! The virtual disk of a VM: a file system in memory whose copies cost nothing, with a quota.

#![forbid(unsafe_code)]

pub mod contents;
pub mod tree;
