//! Random operations on few names, so that they collide.

use lifeboat_disk::OpenHow;
use proptest::prelude::*;
use proptest::sample::select;

/// An operation. Indices are taken modulo the number of open descriptors.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Open { base: usize, path: String, how: OpenHow },
    CreateDirectory { base: usize, path: String },
    RemoveDirectory { base: usize, path: String },
    Unlink { base: usize, path: String },
    Rename { from: (usize, String), to: (usize, String) },
    Link { from: (usize, String), to: (usize, String) },
    Symlink { target: String, base: usize, path: String },
    ReadLink { base: usize, path: String },
    StatAt { base: usize, path: String, is_followed: bool },
    SetTimesAt { base: usize, path: String, is_followed: bool, is_set: bool },
    List { base: usize },
    Read { file: usize, offset: u64, len: usize },
    Write { file: usize, offset: u64, bytes: Vec<u8> },
    Append { file: usize, bytes: Vec<u8> },
    SetSize { file: usize, bytes: u64 },
    Stat { file: usize },
    CloseFile { file: usize },
    CloseDirectory { base: usize },
}

/// Paths of a few short names, `.` and `..`, with doubled and trailing slashes.
fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![16 => select(vec!["a", "b", "c", "l"]), 1 => Just("."), 1 => Just("..")];
    let slash = prop_oneof![12 => Just("/"), 1 => Just("//"), 1 => Just("/./"), 2 => Just("/../")];
    let end = prop_oneof![24 => Just(""), 3 => Just("/"), 1 => Just("//"), 1 => Just("/."), 1 => Just("/..")];
    let len = prop_oneof![3 => Just(1), 2 => Just(2), 1 => Just(3)];
    let usual = (len.prop_flat_map(move |len| prop::collection::vec((name.clone(), slash.clone()), len)), end)
        .prop_map(|(parts, end)| {
            let mut path = String::new();
            for (index, (name, slash)) in parts.iter().enumerate() {
                if index > 0 {
                    path += slash;
                }
                path += name;
            }
            path + end
        });
    let odd = select(vec![
        String::new(),
        "/".into(),
        "//".into(),
        "/a".into(),
        "./a".into(),
        "a\0".into(),
        "n".repeat(255),
        "n".repeat(256),
        format!("a/{}", "n".repeat(256)),
        format!("{}/a", "n".repeat(256)),
        format!("{}a", "./".repeat(2_047)),
        format!("{}a", "a/../".repeat(820)),
        "é/ü".into(),
        "é".into(),
        "l".into(),
        "l/".into(),
    ]);
    prop_oneof![30 => usual, 1 => odd]
}

/// Two paths: without a NUL, which the disk finds before it resolves the other path, and Wasmtime afterwards.
fn two() -> impl Strategy<Value = ((usize, String), (usize, String))> {
    (based(), based()).prop_filter("a NUL", |((_, one), (_, two))| !one.contains('\0') && !two.contains('\0'))
}

fn based() -> impl Strategy<Value = (usize, String)> {
    (base(), path())
}

/// The root half of the time.
fn base() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 0..60usize]
}

fn how() -> impl Strategy<Value = OpenHow> {
    (any::<[bool; 4]>(), prop::bool::weighted(0.6), prop::bool::weighted(0.2)).prop_map(
        |([exclusive, truncate, follow, write], create, directory)| OpenHow {
            create: create && !directory,
            exclusive: exclusive && !(directory && write),
            truncate: truncate && !directory,
            directory,
            follow,
            write,
        },
    )
}

fn offset() -> impl Strategy<Value = u64> {
    let odd = select(vec![1 << 60, i64::MAX as u64 - 1, i64::MAX as u64, 1 << 63, u64::MAX]);
    prop_oneof![10 => 0..40_000u64, 4 => 0..20u64, 1 => odd]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![3 => 0..20usize, 2 => 0..3_000usize, 1 => 0..40_000usize];
    (len, 1..=255u8).prop_map(|(len, byte)| vec![byte; len])
}

/// Operations that make a small tree of files, and hold its directories open.
fn beginning() -> impl Strategy<Value = Vec<Step>> {
    let directory = |path: &str| Step::CreateDirectory { base: 0, path: path.into() };
    let open = |path: &str, how| Step::Open { base: 0, path: path.into(), how };
    let link = |target: &str, path: &str| Step::Symlink { target: target.into(), base: 0, path: path.into() };
    let created = OpenHow { create: true, ..OpenHow::default() };
    let opened = OpenHow { directory: true, ..OpenHow::default() };
    let all = vec![
        directory("a"),
        directory("a/b"),
        directory("b"),
        directory("a/b/c"),
        open("c", created),
        open("a/c", created),
        open("b/a", created),
        link("a", "l"),
        link("../c", "b/l"),
        link("b/c/", "a/l"),
        link("../l", "b/b"),
        open("a", opened),
        open("a/b", opened),
        open("b", opened),
        open("a/b/c", opened),
    ];
    let len = all.len();
    prop::sample::subsequence(all, len / 2..=len)
}

/// Between 1 and 74 operations.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    (beginning(), prop::collection::vec(step(), 1..60)).prop_map(|(beginning, steps)| [beginning, steps].concat())
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..60usize;
    let names = prop_oneof![
        10 => (base(), path(), how()).prop_map(|(base, path, how)| Step::Open { base, path, how }),
        6 => based().prop_map(|(base, path)| Step::CreateDirectory { base, path }),
        3 => based().prop_map(|(base, path)| Step::RemoveDirectory { base, path }),
        3 => based().prop_map(|(base, path)| Step::Unlink { base, path }),
        6 => two().prop_map(|(from, to)| Step::Rename { from, to }),
        3 => two().prop_map(|(from, to)| Step::Link { from, to }),
        5 => (path(), base(), path()).prop_map(|(target, base, path)| Step::Symlink { target, base, path }),
        1 => based().prop_map(|(base, path)| Step::ReadLink { base, path }),
        3 => (base(), path(), any::<bool>())
            .prop_map(|(base, path, is_followed)| Step::StatAt { base, path, is_followed }),
        2 => (base(), path(), any::<bool>(), any::<bool>())
            .prop_map(|(base, path, is_followed, is_set)| Step::SetTimesAt { base, path, is_followed, is_set }),
        1 => base().prop_map(|base| Step::List { base }),
        1 => (1..60usize).prop_map(|base| Step::CloseDirectory { base }),
    ];
    let files = prop_oneof![
        2 => (file(), offset(), 0..50_000usize).prop_map(|(file, offset, len)| Step::Read { file, offset, len }),
        4 => (file(), offset(), bytes()).prop_map(|(file, offset, bytes)| Step::Write { file, offset, bytes }),
        2 => (file(), bytes()).prop_map(|(file, bytes)| Step::Append { file, bytes }),
        2 => (file(), offset()).prop_map(|(file, bytes)| Step::SetSize { file, bytes }),
        1 => file().prop_map(|file| Step::Stat { file }),
        1 => file().prop_map(|file| Step::CloseFile { file }),
    ];
    prop_oneof![4 => names, 1 => files]
}
