//! Disks with many files and deep directories.

use lifeboat_disk::{Call, Disk, ENTRY_BYTES, Error, Ino, Mark, OpenHow};

fn disk(limit_bytes: u64) -> Disk {
    let mut disk = Disk::new(0);
    disk.enter(Call { now_ns: 1, mark: Mark::new(1, 0), limit_bytes, is_read_only: false });
    disk
}

#[test]
fn a_disk_has_room_for_a_million_empty_files() {
    const FILES: u64 = 1_000_000;
    let name = |index: u64| format!("{index:07}");
    let limit_bytes = FILES * (ENTRY_BYTES + 7);
    let mut disk = disk(limit_bytes);
    let how = OpenHow { create: true, ..OpenHow::default() };
    for index in 0..FILES {
        let (ino, _) = disk.open_at(Ino::ROOT, &name(index), how).expect("there is room");
        disk.close(ino);
    }
    assert!(matches!(disk.open_at(Ino::ROOT, "x", how), Err(Error::Full { .. })));
    assert_eq!(disk.used_bytes(), limit_bytes);
    let listed = disk.list(Ino::ROOT).expect("a directory").map(|(name, _)| name.to_string());
    assert!(listed.eq((0..FILES).map(name)));
    // Each third file, so that nodes shrink and are joined everywhere.
    for index in (0..3).flat_map(|first| (first..FILES).step_by(3)) {
        disk.unlink_at(Ino::ROOT, &name(index)).expect("it is there");
    }
    assert_eq!((disk.used_bytes(), disk.inodes()), (0, 1));
}

#[test]
fn directories_may_be_ten_thousand_levels_deep() {
    const LEVELS: usize = 10_000;
    // Little stack: recursion over the depth would overflow it.
    let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(|| {
        let mut disk = disk(u64::MAX);
        let open = OpenHow { directory: true, ..OpenHow::default() };
        let mut path = vec![Ino::ROOT];
        for level in 0..LEVELS {
            disk.create_directory_at(path[level], "d").expect("there is room");
            path.push(disk.open_at(path[level], "d", open).expect("it was just made").0);
        }
        let (bottom, copy) = (path[LEVELS], disk.clone());
        assert_eq!(disk.rename_at(Ino::ROOT, "d", bottom, "e"), Err(Error::Invalid));
        assert_eq!(disk.rename_at(path[LEVELS - 1], "d", Ino::ROOT, "d"), Err(Error::NotEmpty));
        disk.create_directory_at(Ino::ROOT, "e").expect("there is room");
        disk.rename_at(Ino::ROOT, "e", bottom, "e").expect("it is no ancestor");
        disk.remove_directory_at(bottom, "e").expect("it is empty");
        disk.create_directory_at(Ino::ROOT, "e").expect("there is room");
        disk.rename_at(Ino::ROOT, "d", Ino::ROOT, "e/d").expect("it is no ancestor");
        let up = "../".repeat(1_365);
        let mut at = bottom;
        for _ in 0..LEVELS / 1_365 {
            assert_eq!(disk.stat_at(at, &up, true), Err(Error::NotPermitted));
            at = path[path.iter().position(|ino| *ino == at).expect("a level") - 1_365];
        }
        for level in (1..LEVELS).rev() {
            disk.remove_directory_at(path[level], "d").expect("it is empty");
        }
        disk.close_all();
        assert_eq!(disk.inodes(), 3);
        assert_eq!(copy.inodes(), LEVELS + 1);
        drop(copy);
        drop(disk);
    });
    thread.expect("a thread").join().expect("no overflow");
}
