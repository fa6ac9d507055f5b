use super::*;

#[test]
fn a_second_lock_is_refused_until_the_first_is_dropped() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let first = DiskStorage::create(&directory.path().join("journal"))?;
    let second = DiskStorage::open(&directory.path().join("journal"))?;
    let guard = first.lock()?;
    assert_eq!(second.lock().map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
    drop(guard);
    second.lock().map(drop)
}

#[test]
fn a_removed_lock_file_still_excludes_others() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let (first, second) = (DiskStorage::open(directory.path())?, DiskStorage::open(directory.path())?);
    let guard = first.lock()?;
    fs::remove_file(directory.path().join(LOCK_FILE))?;
    assert_eq!(second.lock().map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
    first.check_lock()?;
    // An older release does this.
    let file = File::options().write(true).open(directory.path().join(LOCK_FILE))?;
    assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    drop(guard);
    second.lock().map(drop)
}

/// On a file system that cannot lock directories, only the locks of files exclude others.
#[test]
fn a_lasting_file_lets_nobody_in_without_the_other_locks() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join(LASTING_FILE);
    let storage = DiskStorage::open(directory.path())?;
    let guard = storage.lock()?;
    storage.create(LASTING_FILE)?;
    storage.check_lock()?;
    // This is what another process finds that has neither the directory's lock nor the first process's lock file.
    let other = || lock_lasting_file(directory.path()).map(drop).map_err(|error| error.kind());
    assert_eq!(other(), Err(io::ErrorKind::WouldBlock), "a new directory");
    drop(guard);
    assert_eq!(other(), Ok(()));
    let guard = storage.lock()?;
    assert_eq!(other(), Err(io::ErrorKind::WouldBlock));
    drop(guard);

    let held = File::open(&path)?;
    held.lock()?;
    for other in [DiskStorage::open(directory.path())?, DiskStorage::open_to_look(directory.path())?] {
        assert_eq!(other.lock().map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        assert_eq!(other.lock_shared().map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
    }
    drop(held);
    let looks = [storage.lock_shared()?, storage.lock_shared()?];
    assert_eq!(other(), Err(io::ErrorKind::WouldBlock), "who only reads holds it, too");
    drop(looks);
    storage.lock().map(drop)
}

#[test]
fn a_lasting_file_that_is_removed_or_replaced_is_noticed() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::open(directory.path())?;
    storage.create(LASTING_FILE)?;
    let _guard = storage.lock()?;
    storage.check_lock()?;
    storage.rename(LASTING_FILE, "aside")?;
    let removed = storage.check_lock().expect_err("there is none").to_string();
    assert!(removed.contains("its 'catalog.redb' is gone"), "{removed}");
    storage.create(LASTING_FILE)?;
    let replaced = storage.check_lock().expect_err("it is another").to_string();
    assert!(replaced.contains("its 'catalog.redb' is now another file"), "{replaced}");
    storage.rename("aside", LASTING_FILE)?;
    storage.check_lock()
}

#[test]
fn another_file_of_the_same_name_is_distinguished_from_the_opened_one() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::open(directory.path())?;
    let identity = {
        let file = storage.create("a")?;
        file.write_all_at(0, b"x")?;
        file.identity()?
    };
    storage.rename("a", "b")?;
    storage.check_place("b", &identity)?;
    assert!(storage.open("b")?.identity()?.is_same(&identity));
    let removed = storage.check_place("a", &identity).expect_err("there is none").to_string();
    assert!(removed.contains("its 'a' is gone"), "{removed}");
    // No process has the file open, so the next file may have its number.
    storage.remove("b")?;
    storage.create("b")?;
    let replaced = storage.check_place("b", &identity).expect_err("it is another").to_string();
    assert!(replaced.contains("its 'b' is now another file"), "{replaced}");
    fs::rename(directory.path().join("b"), directory.path().join("c"))?;
    std::os::unix::fs::symlink("c", directory.path().join("b"))?;
    assert!(storage.check_place("b", &storage.open("c")?.identity()?).is_err(), "a start finds no links");
    Ok(())
}

#[test]
fn a_loss_of_the_directory_or_its_lock_is_noticed() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("data");
    let storage = DiskStorage::create(&path)?;
    let guard = storage.lock()?;
    fs::remove_file(path.join(LOCK_FILE))?;
    // An older release checks nothing else.
    let older = open_lock_file(&path)?;
    older.lock()?;
    let lost = storage.check_lock().expect_err("another has it");
    assert!(lost.to_string().contains("another process"), "{lost}");
    drop(older);
    storage.check_lock()?;
    fs::rename(&path, directory.path().join("old"))?;
    assert!(storage.check_lock().is_err(), "there is none");
    DiskStorage::create(&path)?;
    assert!(storage.check_lock().is_err() && storage.lock().is_err(), "there is another");
    fs::remove_dir_all(&path)?;
    fs::rename(directory.path().join("old"), &path)?;
    drop(guard);
    storage.lock().map(drop)
}

fn mode(path: &Path) -> io::Result<u32> {
    fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Returns a directory with the file `a`, its storage, and the path of the file.
fn with_file() -> io::Result<(tempfile::TempDir, DiskStorage, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::open(directory.path())?;
    storage.create("a")?;
    let path = directory.path().join("a");
    Ok((directory, storage, path))
}

#[test]
fn new_files_are_their_owners_alone() -> io::Result<()> {
    let (directory, storage, a) = with_file()?;
    let out = directory.path().join("out");
    create_file(&out)?;
    assert_eq!((mode(&a)?, mode(&out)?), (0o600, 0o600));
    let _guard = storage.lock()?;
    assert_eq!(mode(&directory.path().join(LOCK_FILE))?, 0o600);
    Ok(())
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_without_a_change() -> io::Result<()> {
    let (directory, storage, a) = with_file()?;
    set_mode(&a, 0o664)?;
    for others in [0o770, 0o702] {
        set_mode(directory.path(), others)?;
        let refused = storage.lock().expect_err("others can write");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("chmod go-w"), "{refused}");
        assert_eq!(mode(&a)?, 0o664, "nothing was changed");
    }
    Ok(())
}

#[test]
fn a_lock_takes_the_right_to_write_files_from_others() -> io::Result<()> {
    let (directory, storage, a) = with_file()?;
    set_mode(&a, 0o664)?;
    set_mode(directory.path(), 0o750)?;
    let _guard = storage.lock()?;
    assert_eq!(mode(&a)?, 0o640);
    Ok(())
}

#[test]
fn a_synced_write_is_read_back() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::create(directory.path())?;
    storage.create("a")?.preallocate(16)?;
    for file in [storage.open("a")?, storage.open_synced("a")?] {
        file.write_synced_at(7, b"seven")?;
        file.write_synced_at(12, b"x")?;
        let mut read = [0; 6];
        storage.open("a")?.read_exact_at(7, &mut read)?;
        assert_eq!((&read, file.bytes()?), (b"sevenx", 16));
    }
    Ok(())
}

#[test]
fn opening_a_file_for_synced_writes_creates_none() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::create(directory.path())?;
    assert_eq!(storage.open_synced("b").map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
    Ok(())
}

#[test]
fn a_cut_file_grows_again_with_zeros() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = DiskStorage::create(directory.path())?.create("a")?;
    file.write_all_at(0, b"seven")?;
    file.set_bytes(2)?;
    assert_eq!(file.bytes()?, 2);
    file.set_bytes(4)?;
    let mut read = [1; 4];
    file.read_exact_at(0, &mut read)?;
    assert_eq!(&read, b"se\0\0");
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn room_is_held_behind_the_end_of_a_file() -> io::Result<()> {
    const ROOM_BYTES: u64 = 1024 * 1024;
    let directory = tempfile::tempdir()?;
    let file = DiskStorage::create(directory.path())?.create("a")?;
    file.write_all_at(0, b"seven")?;
    match file.hold_room(ROOM_BYTES, 0) {
        // Not all file systems can reserve space.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
        held => held?,
    }
    let held_bytes = || fs::metadata(directory.path().join("a")).map(|metadata| metadata.blocks() * 512);
    assert!(file.bytes()? == 5 && held_bytes()? >= ROOM_BYTES, "{} bytes", held_bytes()?);
    file.hold_room(1, 0)?;
    file.set_bytes(100)?;
    assert!(held_bytes()? >= ROOM_BYTES, "{} bytes", held_bytes()?);
    file.set_bytes(5)?;
    assert!(held_bytes()? < ROOM_BYTES, "{} bytes", held_bytes()?);
    // On a disk that would have too little left, the space is left to others.
    let refused = file.hold_room(ROOM_BYTES, u64::MAX).map_err(|error| error.kind());
    assert_eq!(refused, Err(io::ErrorKind::StorageFull));
    assert!(held_bytes()? < ROOM_BYTES, "{} bytes", held_bytes()?);
    // Space that is already reserved takes nothing from others.
    file.hold_room(ROOM_BYTES, 1)?;
    file.hold_room(ROOM_BYTES, u64::MAX)
}

#[test]
fn a_renamed_file_has_what_was_written_to_it() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::create(directory.path())?;
    let file = storage.create("a")?;
    file.preallocate(3 * 1024 * 1024 + 5)?;
    file.write_all_at(7, b"seven")?;
    file.sync_data()?;
    storage.rename("a", "b")?;
    storage.sync_directory()?;
    assert_eq!(storage.list()?, ["b"]);
    let file = storage.open("b")?;
    assert_eq!(file.bytes()?, 3 * 1024 * 1024 + 5);
    let mut read = [0; 6];
    file.read_exact_at(6, &mut read)?;
    assert_eq!(&read, b"\0seven");
    Ok(())
}

#[test]
fn a_removed_file_is_not_listed() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::create(directory.path())?;
    storage.create("b")?;
    storage.remove("b")?;
    assert!(storage.list()?.is_empty());
    Ok(())
}

#[test]
fn no_file_is_created_outside_of_the_directory() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::create(directory.path())?;
    for name in ["../a", "", "..", "a/b"] {
        assert_eq!(storage.create(name).map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
    }
    Ok(())
}

#[test]
fn no_file_is_created_in_the_place_of_another() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = DiskStorage::create(directory.path())?;
    storage.create("b")?;
    assert_eq!(storage.create("b").map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
    Ok(())
}
