use crate::*;

const ROOT: Ino = Ino::ROOT;
const CREATE: OpenHow =
    OpenHow { create: true, exclusive: false, truncate: false, directory: false, follow: false, write: true };
const CHUNK: u64 = CHUNK_BYTES as u64;

fn call(sequence: u64) -> Call {
    Call { now_ns: 1_000 + sequence, mark: Mark::new(sequence, 1), limit_bytes: 1 << 30, is_read_only: false }
}

/// Returns an empty disk in its first call.
fn disk() -> Disk {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    disk
}

/// Creates a file and leaves it open.
fn create(disk: &mut Disk, path: &str) -> Ino {
    disk.open_at(ROOT, path, CREATE).expect("it can be created").0
}

/// Creates a file with bytes.
fn file(disk: &mut Disk, path: &str, bytes: &[u8]) -> Ino {
    let ino = create(disk, path);
    disk.write(ino, 0, bytes).expect("there is room");
    disk.close(ino);
    ino
}

/// Returns all that a guest can find out about a disk.
fn contents(disk: &Disk) -> Vec<(String, Stat, Vec<u8>)> {
    let mut disk = disk.clone();
    let mut all = vec![(String::new(), disk.stat(ROOT).expect("the root"), Vec::new())];
    let mut directories = vec![(ROOT, String::new())];
    while let Some((directory, path)) = directories.pop() {
        for (name, kind) in disk.list(directory).expect("a directory") {
            let stat = disk.stat_at(directory, &name, false).expect("a listed entry");
            let path = format!("{path}/{name}");
            let bytes = match kind {
                Type::File => disk.read(stat.ino, 0, stat.bytes).expect("a file"),
                Type::Link => disk.read_link_at(directory, &name).expect("a link").as_bytes().to_vec(),
                Type::Directory => {
                    directories.push((stat.ino, path.clone()));
                    Vec::new()
                }
            };
            all.push((path, stat, bytes));
        }
    }
    all
}

/// Returns a disk with a file of each type and a file that is open.
fn filled() -> (Disk, Ino) {
    let mut disk = disk();
    disk.create_directory_at(ROOT, "directory").expect("there is room");
    file(&mut disk, "file", b"bytes");
    disk.symlink_at("file", ROOT, "link").expect("there is room");
    let open = create(&mut disk, "directory/open");
    disk.take_fuel();
    (disk, open)
}

type Change = fn(&mut Disk, Ino) -> Result<()>;

/// Each operation that changes a disk of [`filled`].
const CHANGES: [(&str, Change); 15] = [
    ("create", |disk, _| disk.open_at(ROOT, "new", CREATE).map(drop)),
    ("open for writing", |disk, _| disk.open_at(ROOT, "file", OpenHow { create: false, ..CREATE }).map(drop)),
    ("truncate", |disk, _| disk.open_at(ROOT, "file", OpenHow { truncate: true, ..OpenHow::default() }).map(drop)),
    ("create_directory", |disk, _| disk.create_directory_at(ROOT, "new")),
    ("remove_directory", |disk, _| {
        disk.unlink_at(ROOT, "directory/open")?;
        disk.remove_directory_at(ROOT, "directory")
    }),
    ("unlink", |disk, _| disk.unlink_at(ROOT, "file")),
    ("rename", |disk, _| disk.rename_at(ROOT, "file", ROOT, "renamed")),
    ("rename over", |disk, _| disk.rename_at(ROOT, "file", ROOT, "directory/open")),
    ("link", |disk, _| disk.link_at(ROOT, "file", ROOT, "linked")),
    ("symlink", |disk, _| disk.symlink_at("target", ROOT, "symlink")),
    ("write", |disk, open| disk.write(open, 0, b"written")),
    ("append", |disk, open| disk.append(open, b"appended").map(drop)),
    ("set_size", |disk, open| disk.set_size(open, 100)),
    ("set_times", |disk, open| disk.set_times(open, SetTimes { accessed_ns: Some(5), modified_ns: None })),
    ("set_times_at", |disk, _| {
        disk.set_times_at(ROOT, "link", true, SetTimes { accessed_ns: None, modified_ns: Some(5) })
    }),
];

#[test]
fn a_read_only_call_changes_nothing() {
    let (mut disk, open) = filled();
    let before = contents(&disk);
    disk.enter(Call { is_read_only: true, ..call(2) });
    for (name, change) in CHANGES {
        assert_eq!(change(&mut disk, open), Err(Error::ReadOnly), "{name}");
        assert_eq!(contents(&disk), before, "{name}");
    }
    assert_eq!(disk.close_all(), 1);
}

#[test]
fn a_read_only_call_reads() {
    let (mut disk, _) = filled();
    disk.enter(Call { is_read_only: true, ..call(2) });
    let (file, kind) = disk.open_at(ROOT, "link", OpenHow { follow: true, ..OpenHow::default() }).expect("it is there");
    assert_eq!(kind, Type::File);
    assert_eq!(disk.read(file, 1, 3).expect("a file"), b"yte");
}

#[test]
fn a_new_disk_and_a_copy_are_read_only_until_a_call() {
    let mut disk = Disk::new(7);
    assert_eq!(disk.create_directory_at(ROOT, "a"), Err(Error::ReadOnly));
    disk.enter(call(1));
    disk.create_directory_at(ROOT, "a").expect("there is room");
    let mut copy = disk.clone();
    assert_eq!(copy.create_directory_at(ROOT, "b"), Err(Error::ReadOnly));
    assert_eq!((disk.refused_writes(), copy.refused_writes()), (1, 1), "each counts its own");
}

#[test]
fn a_copy_stays_unchanged_while_each_operation_runs() {
    for (name, change) in CHANGES {
        let (mut disk, open) = filled();
        let (copy, before) = (disk.clone(), contents(&disk));
        disk.enter(call(2));
        change(&mut disk, open).expect(name);
        if name != "open for writing" {
            assert_ne!(contents(&disk), before, "{name}");
        }
        assert_eq!(contents(&copy), before, "{name}");
    }
}

#[test]
fn fuel_does_not_depend_on_copies() {
    for (name, change) in CHANGES {
        let ((mut lone, open), (mut shared, _)) = (filled(), filled());
        let copy = shared.clone();
        for disk in [&mut lone, &mut shared] {
            disk.enter(call(2));
            change(disk, open).expect(name);
        }
        assert_eq!(lone.take_fuel(), shared.take_fuel(), "{name}");
        drop(copy);
    }
}

#[test]
fn times_are_those_of_the_calls_that_changed_something() {
    let mut disk = disk();
    disk.create_directory_at(ROOT, "d").expect("there is room");
    let ino = create(&mut disk, "d/f");
    let times = |disk: &mut Disk, path: &str| {
        let times = disk.stat_at(ROOT, path, false).expect("it is there").times;
        [times.accessed_ns, times.modified_ns, times.changed_ns].map(|at| at.saturating_sub(1_000))
    };
    let mut at = |sequence: u64, change: &dyn Fn(&mut Disk) -> Result<()>| {
        disk.enter(call(sequence));
        change(&mut disk).expect("it succeeds");
        (times(&mut disk, "d"), times(&mut disk, "d/f"))
    };
    assert_eq!(at(1, &|_| Ok(())), ([1, 1, 1], [1, 1, 1]));
    assert_eq!(at(2, &|disk| disk.write(ino, 0, b"x")), ([1, 1, 1], [1, 2, 2]));
    assert_eq!(at(3, &|disk| disk.write(ino, 0, b"")), ([1, 1, 1], [1, 2, 2]));
    assert_eq!(at(4, &|disk| disk.read(ino, 0, 9).map(drop)), ([1, 1, 1], [1, 2, 2]));
    assert_eq!(at(5, &|disk| disk.set_size(ino, 1)), ([1, 1, 1], [1, 5, 5]));
    assert_eq!(at(6, &|disk| disk.link_at(ROOT, "d/f", ROOT, "d/g")), ([1, 6, 6], [1, 5, 6]));
    assert_eq!(at(7, &|disk| disk.unlink_at(ROOT, "d/g")), ([1, 7, 7], [1, 5, 7]));
    assert_eq!(at(8, &|disk| disk.rename_at(ROOT, "d/f", ROOT, "d/f")), ([1, 7, 7], [1, 5, 7]));
    assert_eq!(at(9, &|disk| disk.rename_at(ROOT, "d", ROOT, "e").and(disk.rename_at(ROOT, "e", ROOT, "d"))), {
        ([1, 7, 9], [1, 5, 7])
    });
    let set = SetTimes { accessed_ns: Some(1_030), modified_ns: Some(1_020) };
    assert_eq!(at(10, &|disk| disk.set_times(ino, set)), ([1, 7, 9], [30, 20, 10]));
    assert_eq!(at(11, &|disk| disk.set_times(ino, SetTimes::default())), ([1, 7, 9], [30, 20, 10]));
    let truncate = OpenHow { create: false, truncate: true, ..CREATE };
    assert_eq!(at(12, &|disk| disk.open_at(ROOT, "d/f", truncate).map(drop)), ([1, 7, 9], [30, 12, 12]));
}

#[test]
fn inode_numbers_are_not_used_again() {
    let mut disk = disk();
    let first = file(&mut disk, "a", b"");
    disk.unlink_at(ROOT, "a").expect("it is there");
    let second = file(&mut disk, "a", b"");
    assert!(second > first);
    assert_eq!(disk.stat(first), Err(Error::BadDescriptor));
}

#[test]
fn a_file_without_entries_lives_while_it_is_open() {
    let mut disk = disk();
    let used = disk.used_bytes();
    let ino = create(&mut disk, "a");
    disk.open(ino).expect("it is there");
    disk.write(ino, 0, b"bytes").expect("there is room");
    disk.unlink_at(ROOT, "a").expect("it is there");
    assert_eq!(disk.used_bytes(), used + 5);
    disk.close(ino);
    disk.append(ino, b", more bytes").expect("there is room");
    assert_eq!(disk.read(ino, 0, 100).expect("it is open"), b"bytes, more bytes");
    assert_eq!(disk.stat(ino).expect("it is open").links, 0);
    disk.close(ino);
    assert_eq!(disk.used_bytes(), used);
    assert_eq!(disk.read(ino, 0, 100), Err(Error::BadDescriptor));
}

#[test]
fn the_end_of_a_call_closes_what_is_open() {
    let mut disk = disk();
    let used = disk.used_bytes();
    let ino = create(&mut disk, "a");
    disk.write(ino, 0, &[1; CHUNK_BYTES]).expect("there is room");
    disk.unlink_at(ROOT, "a").expect("it is there");
    disk.take_fuel();
    assert_eq!(disk.close_all(), 1);
    assert_eq!((disk.used_bytes(), disk.inodes()), (used, 1));
    assert_eq!(disk.take_fuel(), FUEL_PER_CHUNK_RELEASED);
    // Descriptors of before are stale, and a late close is harmless.
    disk.close(ino);
    assert_eq!(disk.write(ino, 0, b"x"), Err(Error::BadDescriptor));
}

#[test]
fn a_copy_has_no_unlinked_files() {
    let mut disk = disk();
    let ino = create(&mut disk, "a");
    disk.write(ino, 0, &vec![1; 100 * CHUNK_BYTES]).expect("there is room");
    disk.unlink_at(ROOT, "a").expect("it is there");
    let mut copy = disk.clone();
    assert_eq!((copy.used_bytes(), copy.inodes()), (0, 1));
    assert_eq!((copy.take_fuel(), copy.take_released().bytes()), (0, 0));
    assert_eq!(disk.read(ino, 0, 5).expect("it is open"), [1; 5]);
}

#[test]
fn a_file_that_a_rename_replaces_lives_while_it_is_open() {
    let mut disk = disk();
    let old = create(&mut disk, "old");
    disk.write(old, 0, b"old").expect("there is room");
    file(&mut disk, "new", b"newer");
    disk.rename_at(ROOT, "new", ROOT, "old").expect("both are files");
    assert_eq!(disk.read(old, 0, 9).expect("it is open"), b"old");
    assert_eq!(disk.used_bytes(), ENTRY_BYTES + 3 + 3 + 5);
    disk.close(old);
    assert_eq!(disk.used_bytes(), ENTRY_BYTES + 3 + 5);
}

#[test]
fn an_operation_that_needs_the_last_byte_succeeds_and_one_byte_less_is_full() {
    // Each with the bytes that the disk uses afterwards.
    let cases: [(&str, u64, Change); 8] = [
        ("create", 4 * ENTRY_BYTES + 1, |disk, _| disk.open_at(ROOT, "n", CREATE).map(drop)),
        ("create_directory", 4 * ENTRY_BYTES + 2, |disk, _| disk.create_directory_at(ROOT, "nn")),
        ("symlink", 4 * ENTRY_BYTES + 3, |disk, _| disk.symlink_at("tt", ROOT, "n")),
        ("link", 4 * ENTRY_BYTES + 4, |disk, _| disk.link_at(ROOT, "file", ROOT, "link")),
        ("rename", 3 * ENTRY_BYTES + 2, |disk, _| disk.rename_at(ROOT, "file", ROOT, "longer")),
        ("write", 3 * ENTRY_BYTES + 8, |disk, open| disk.write(open, 2, b"longer")),
        ("append", 3 * ENTRY_BYTES + 1, |disk, open| disk.append(open, b"x").map(drop)),
        ("set_size", 3 * ENTRY_BYTES + 1_000, |disk, open| disk.set_size(open, 1_000)),
    ];
    for (name, added, change) in cases {
        let mut disk = disk();
        file(&mut disk, "file", b"bytes");
        file(&mut disk, "other", b"");
        let open = create(&mut disk, "open");
        let start = 4 + 5 + 5 + 4;
        assert_eq!(disk.used_bytes(), 3 * ENTRY_BYTES + start, "{name}");
        let wanted_bytes = start + added;
        let (before, limit_bytes) = (contents(&disk), wanted_bytes - 1);
        disk.enter(Call { limit_bytes, ..call(2) });
        assert_eq!(change(&mut disk, open), Err(Error::Full { wanted_bytes, limit_bytes }), "{name}");
        assert_eq!(contents(&disk), before, "{name}");
        disk.enter(Call { limit_bytes: wanted_bytes, ..call(2) });
        change(&mut disk, open).expect(name);
        assert_eq!(disk.used_bytes(), wanted_bytes, "{name}");
    }
}

#[test]
fn a_disk_over_its_limit_may_be_changed_where_it_does_not_grow() {
    let mut disk = disk();
    let open = create(&mut disk, "file");
    disk.write(open, 0, b"bytes").expect("there is room");
    file(&mut disk, "other", b"");
    disk.enter(Call { limit_bytes: 10, ..call(2) });
    disk.write(open, 1, b"ytes").expect("it is inside of the file");
    assert!(matches!(disk.write(open, 1, b"ytes!"), Err(Error::Full { limit_bytes: 10, .. })));
    disk.rename_at(ROOT, "file", ROOT, "f").expect("the name is shorter");
    disk.rename_at(ROOT, "f", ROOT, "other").expect("one entry less");
    disk.set_size(open, 5).expect("the same size");
    disk.set_size(open, 1).expect("less");
    disk.unlink_at(ROOT, "other").expect("less");
}

#[test]
fn an_offset_of_an_exbibyte_is_full_and_one_above_an_off_t_invalid() {
    let mut disk = disk();
    let ino = create(&mut disk, "a");
    let used = disk.used_bytes();
    let (limit_bytes, far) = (1 << 30, 1 << 60);
    assert_eq!(disk.write(ino, far, b"x"), Err(Error::Full { wanted_bytes: used + far + 1, limit_bytes }));
    assert_eq!(disk.set_size(ino, far), Err(Error::Full { wanted_bytes: used + far, limit_bytes }));
    for offset in [i64::MAX as u64, u64::MAX] {
        assert_eq!(disk.write(ino, offset, b"x"), Err(Error::Invalid));
        assert_eq!(disk.read(ino, offset, 1), Err(Error::Invalid));
    }
    assert_eq!(disk.set_size(ino, 1 << 63), Err(Error::Invalid));
    disk.enter(Call { limit_bytes: u64::MAX, ..call(2) });
    let other = create(&mut disk, "b");
    disk.set_size(ino, i64::MAX as u64).expect("there is room");
    let full = disk.set_size(other, i64::MAX as u64);
    assert_eq!(full, Err(Error::Full { wanted_bytes: u64::MAX, limit_bytes: u64::MAX }), "more than a u64");
    disk.write(ino, far, b"x").expect("it is inside of the file");
    assert_eq!(disk.read(ino, far - 1, 3).expect("a file"), [0, b'x', 0]);
}

#[test]
fn a_listing_is_sorted_and_as_of_its_opening() {
    let mut disk = disk();
    for name in ["b", "ä", "B", "a.", "a"] {
        file(&mut disk, name, b"");
    }
    let listing = disk.list(ROOT).expect("a directory");
    disk.unlink_at(ROOT, "a.").expect("it is there");
    file(&mut disk, "c", b"");
    let names = |listing: Listing| listing.map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(listing), ["B", "a", "a.", "b", "ä"]);
    assert_eq!(names(disk.list(ROOT).expect("a directory")), ["B", "a", "b", "c", "ä"]);
}

#[test]
fn fuel_is_as_documented() {
    let mut disk = disk();
    disk.create_directory_at(ROOT, "d").expect("there is room");
    assert_eq!(disk.take_fuel(), FUEL_PER_COMPONENT + FUEL_PER_ENTRY_CHANGE);
    let ino = create(&mut disk, "d/../d/./f");
    assert_eq!(disk.take_fuel(), 5 * FUEL_PER_COMPONENT + FUEL_PER_ENTRY_CHANGE);
    disk.write(ino, 0, &vec![1; 70 * CHUNK_BYTES]).expect("there is room");
    let moved = 70 * CHUNK / BYTES_PER_FUEL;
    assert_eq!(disk.take_fuel(), moved + 70 * FUEL_PER_FIRST_WRITE);
    disk.write(ino, 5, b"again").expect("there is room");
    assert_eq!(disk.take_fuel(), 1);
    disk.read(ino, 0, 9).expect("a file");
    assert_eq!(disk.take_fuel(), 2);
    disk.enter(call(2));
    disk.write(ino, CHUNK - 1, b"xy").expect("there is room");
    assert_eq!(disk.take_fuel(), 1 + 2 * FUEL_PER_FIRST_WRITE);
    disk.set_size(ino, 69 * CHUNK + 1).expect("less");
    assert_eq!(disk.take_fuel(), FUEL_PER_FIRST_WRITE);
    disk.close(ino);
    disk.unlink_at(ROOT, "d/f").expect("it is there");
    assert_eq!(disk.take_fuel(), 2 * FUEL_PER_COMPONENT + FUEL_PER_ENTRY_CHANGE + 70 * FUEL_PER_CHUNK_RELEASED);
    assert_eq!(disk.take_released().bytes(), 70 * CHUNK);
    assert_eq!(disk.take_released().bytes(), 0);
}

#[test]
fn a_path_leads_through_at_most_forty_links() {
    let mut disk = disk();
    file(&mut disk, "l0", b"");
    for index in 0..41 {
        disk.symlink_at(&format!("l{index}"), ROOT, &format!("l{}", index + 1)).expect("there is room");
    }
    disk.stat_at(ROOT, "l40", true).expect("40 links");
    assert_eq!(disk.stat_at(ROOT, "l41", true), Err(Error::Loop));
}

#[test]
fn names_and_targets_have_the_bounds_of_linux() {
    let mut disk = disk();
    let (long, longer) = ("n".repeat(NAME_BYTES_MAX), "n".repeat(NAME_BYTES_MAX + 1));
    disk.create_directory_at(ROOT, &long).expect("255 bytes");
    assert_eq!(disk.create_directory_at(ROOT, &longer), Err(Error::NameTooLong));
    assert_eq!(disk.stat_at(ROOT, &longer, false), Err(Error::NameTooLong));
    let (long, longer) = ("./".repeat(2_047) + "d", "./".repeat(2_047) + "dd");
    assert_eq!((long.len(), longer.len()), (PATH_BYTES_MAX, 4_096));
    disk.create_directory_at(ROOT, "d").expect("there is room");
    disk.symlink_at(&long, ROOT, "link").expect("4,095 bytes");
    assert_eq!(disk.read_link_at(ROOT, "link").as_deref(), Ok(&*long));
    assert!(disk.is_directory(disk.clone().stat_at(ROOT, "link", true).expect("it leads to d").ino).expect("it is"));
    assert_eq!(disk.symlink_at(&longer, ROOT, "other"), Err(Error::NameTooLong));
    assert_eq!(disk.create_directory_at(ROOT, &longer), Err(Error::NameTooLong));
}

#[test]
fn a_file_has_at_most_65_000_entries() {
    let mut disk = disk();
    let ino = file(&mut disk, "0", b"bytes");
    for index in 1..HARD_LINKS_MAX {
        disk.link_at(ROOT, "0", ROOT, &index.to_string()).expect("fewer than the bound");
    }
    assert_eq!(disk.link_at(ROOT, "0", ROOT, "one more"), Err(Error::TooManyLinks));
    assert_eq!(disk.stat(ino).expect("it is there").links, HARD_LINKS_MAX);
    for index in 0..HARD_LINKS_MAX {
        disk.unlink_at(ROOT, &index.to_string()).expect("it is there");
    }
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn what_is_no_file_is_a_bad_descriptor() {
    let mut disk = disk();
    let file = file(&mut disk, "a", b"");
    assert_eq!(disk.write(ROOT, 0, b"x"), Err(Error::BadDescriptor));
    assert_eq!(disk.read(ROOT, 0, 1), Err(Error::BadDescriptor));
    assert_eq!(disk.set_size(ROOT, 1), Err(Error::BadDescriptor));
    assert_eq!(disk.stat_at(file, "a", false), Err(Error::NotDirectory));
    assert!(matches!(disk.list(file), Err(Error::NotDirectory)));
}

#[test]
fn a_disk_moves_between_threads() {
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<Disk>();
    is_shared::<Released>();
    is_shared::<Listing>();
}
