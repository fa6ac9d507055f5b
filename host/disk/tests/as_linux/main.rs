//! The disk beside a directory of the host, under random operations.
//!
//! Each operation runs on a [`Disk`] and, through `cap-primitives` as Wasmtime calls it, on a temporary directory. Both
//! must give the same result or the same error code, and in the end both trees must be equal. The host needs `openat2`,
//! which Linux 5.6 added.
//!
//! Left out, because there the host answers as its own file system and kernel do:
//!
//! - the number of links and the size of a directory, the device, and all times;
//! - what the quota refuses: such an operation is not run on the directory;
//! - a path that is too long, but not without its last name: the disk refuses it, and Wasmtime splits it first;
//! - a NUL in one of two paths: the disk finds it before it resolves the other path, and Wasmtime afterwards;
//! - descriptors without the right to read or to write, which the disk leaves to its caller.

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod guest;
mod host;
mod steps;

use guest::{Guest, Outcome};
use host::Host;
use lifeboat_disk::{Call, Disk, Error, Ino, Mark, Type};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Something in a tree of files, for the comparison of whole trees.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File { bytes: Vec<u8>, links: u64 },
    Directory,
    Link(String),
}

type Nodes = BTreeMap<String, Node>;

impl Guest {
    /// Returns the used bytes, by a walk over all that there is.
    fn used_bytes(&mut self) -> u64 {
        let mut used = 0;
        let mut seen = BTreeSet::new();
        let mut directories = vec![Ino::ROOT];
        while let Some(directory) = directories.pop() {
            for (name, kind) in self.disk.list(directory).expect("a directory") {
                let stat = self.disk.stat_at(directory, &name, false).expect("a listed entry");
                assert_eq!(stat.kind, kind);
                used += 1_024 + name.len() as u64;
                if seen.insert(stat.ino) {
                    used += stat.bytes;
                }
                if kind == Type::Directory {
                    directories.push(stat.ino);
                }
            }
        }
        for ino in &self.files {
            let stat = self.disk.stat(*ino).expect("it is open");
            if seen.insert(stat.ino) {
                assert_eq!(stat.links, 0);
                used += stat.bytes;
            }
        }
        self.disk.take_fuel();
        used
    }
}

/// Returns all that is on a disk.
fn nodes(disk: &Disk) -> Nodes {
    let mut disk = disk.clone();
    let mut nodes = Nodes::new();
    let mut directories = vec![(Ino::ROOT, String::new())];
    while let Some((directory, path)) = directories.pop() {
        for (name, kind) in disk.list(directory).expect("a directory") {
            let stat = disk.stat_at(directory, &name, false).expect("a listed entry");
            let path = format!("{path}/{name}");
            let node = match kind {
                Type::File => {
                    let bytes = disk.read(stat.ino, 0, stat.bytes).expect("a file");
                    Node::File { bytes, links: stat.links.into() }
                }
                Type::Directory => {
                    directories.push((stat.ino, path.clone()));
                    Node::Directory
                }
                Type::Link => Node::Link(disk.read_link_at(directory, &name).expect("a link").to_string()),
            };
            nodes.insert(path, node);
        }
    }
    nodes
}

fn call(sequence: usize, limit_bytes: u64) -> Call {
    Call { now_ns: 1, mark: Mark::new(sequence as u64 / 4, 1), limit_bytes, is_read_only: false }
}

proptest! {
    #[test]
    fn a_disk_does_as_linux_below_wasmtime(
        steps in steps::steps(),
        limit_bytes in prop::sample::select(vec![12_000, 60_000, 600_000]),
        copied_at in 0..70usize,
    ) {
        let mut guest = Guest::new(Disk::new(0));
        // The same guest, of whose disk each step leaves a copy: its fuel must be the same.
        let mut shared = Guest::new(Disk::new(0));
        let mut copies = Vec::new();
        let mut copied = None;
        let mut host = Host::new();
        for (sequence, step) in steps.iter().enumerate() {
            if sequence == copied_at {
                copied = Some((guest.disk.clone(), nodes(&guest.disk)));
            }
            copies.push(shared.disk.clone());
            guest.disk.enter(call(sequence, limit_bytes));
            shared.disk.enter(call(sequence, limit_bytes));
            let used_before = guest.disk.used_bytes();
            let outcome = guest.run(step);
            prop_assert_eq!(&shared.run(step), &outcome);
            prop_assert_eq!(guest.disk.take_fuel(), shared.disk.take_fuel());
            if let Outcome::Failed(Error::Full { wanted_bytes, .. }) = outcome {
                prop_assert!(wanted_bytes > limit_bytes);
                prop_assert_eq!(guest.disk.used_bytes(), used_before);
            } else {
                let expected = host.run(step);
                prop_assert_eq!(&outcome, &expected, "step {} of {:#?}", sequence, &steps[..=sequence]);
            }
            let used = guest.used_bytes();
            prop_assert_eq!(guest.disk.used_bytes(), used);
            prop_assert!(used <= limit_bytes);
        }
        let expected = host.nodes();
        prop_assert_eq!(nodes(&guest.disk), expected);
        if let Some((disk, before)) = copied {
            prop_assert_eq!(nodes(&disk), before);
        }
        guest.disk.close_all();
        guest.files.clear();
        let used = guest.used_bytes();
        prop_assert_eq!(guest.disk.used_bytes(), used);
    }
}
