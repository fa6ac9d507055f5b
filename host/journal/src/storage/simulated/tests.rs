use super::*;

fn read(storage: &SimulatedStorage, name: &str) -> io::Result<Vec<u8>> {
    let file = storage.open(name)?;
    let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(io::Error::other)?];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Returns a storage whose file `a` has so many bytes of 1, which are synced, and that file.
fn with_synced(seed: u64, bytes: usize) -> io::Result<(SimulatedStorage, Box<dyn StorageFile>)> {
    let storage = SimulatedStorage::new(seed);
    let file = storage.create("a")?;
    file.write_all_at(0, &vec![1; bytes])?;
    file.sync_data()?;
    storage.sync_directory()?;
    Ok((storage, file))
}

#[test]
fn synced_bytes_are_there_after_every_crash() -> io::Result<()> {
    for seed in 0..100 {
        let (storage, file) = with_synced(seed, 2000)?;
        assert_eq!(read(&storage.crash(), "a")?, [1; 2000]);
        assert!(file.sync_data().is_err(), "the old handles are dead");
    }
    Ok(())
}

#[test]
fn unsynced_bytes_survive_a_crash_sector_by_sector() -> io::Result<()> {
    let (mut whole, mut torn, mut lost, mut missing) = (0, 0, 0, 0);
    for seed in 0..300 {
        let storage = SimulatedStorage::new(seed);
        let file = storage.create("a")?;
        file.preallocate(4096)?;
        file.sync_data()?;
        if seed % 2 == 0 {
            storage.sync_directory()?;
        }
        file.write_all_at(0, &[1; 4096])?;
        let after = storage.crash();
        let Ok(bytes) = read(&after, "a") else {
            assert!(seed % 2 == 1, "a synced name is never lost");
            missing += 1;
            continue;
        };
        for sector in bytes.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are whole");
        }
        match bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() {
            4096 => whole += 1,
            0 => lost += 1,
            _ => torn += 1,
        }
    }
    assert!(whole > 10 && torn > 10 && lost > 10 && missing > 10, "{whole} {torn} {lost} {missing}");
    Ok(())
}

#[test]
fn a_sync_after_a_failed_one_does_not_save_what_that_one_lost() -> io::Result<()> {
    let mut lost = 0;
    for seed in 0..50 {
        let storage = SimulatedStorage::new(seed);
        let file = storage.create("a")?;
        file.preallocate(4096)?;
        file.sync_data()?;
        storage.sync_directory()?;
        file.write_all_at(0, &[1; 4096])?;
        storage.fail(Operation::SyncData, 1);
        assert!(file.sync_data().is_err());
        file.sync_data()?;
        lost += usize::from(read(&storage.crash(), "a")? != [1; 4096]);
    }
    assert!(lost > 40, "{lost}");
    Ok(())
}

#[test]
fn a_fault_of_one_file_is_taken_by_no_other() -> io::Result<()> {
    let storage = SimulatedStorage::new(1);
    let (one, other) = (storage.create("one")?, storage.create("other")?);
    let fault = storage.fail_in("one", Operation::SyncData, 2);
    let mut seen = Vec::new();
    for file in [&other, &one, &other, &other] {
        file.sync_data()?;
        seen.push(fault.has_fired());
    }
    assert!(one.sync_data().is_err() && fault.has_fired());
    one.sync_data()?;
    assert_eq!(seen, [false; 4]);
    let fault = storage.fail_in("new", Operation::Create, 1);
    assert!(storage.create("new").is_err() && fault.has_fired());
    Ok(())
}

#[test]
fn an_unsynced_cut_may_survive_a_crash_or_not() -> io::Result<()> {
    let (mut cut, mut whole) = (0, 0);
    for seed in 0..100 {
        let (storage, file) = with_synced(seed, 4096)?;
        file.set_bytes(1000)?;
        assert_eq!(read(&storage, "a")?, [1; 1000]);
        match read(&storage.crash(), "a")?.len() {
            1000 => cut += 1,
            4096 => whole += 1,
            other => panic!("{other} bytes"),
        }
    }
    assert!(cut > 10 && whole > 10, "{cut} {whole}");
    Ok(())
}

#[test]
fn after_a_synced_cut_a_file_grows_with_zeros_alone() -> io::Result<()> {
    for seed in 0..100 {
        let storage = SimulatedStorage::new(seed);
        let file = storage.create("a")?;
        file.write_all_at(0, &[1; 4096])?;
        file.set_bytes(1000)?;
        file.sync_data()?;
        storage.sync_directory()?;
        file.set_bytes(4096)?;
        let now = read(&storage, "a")?;
        assert!(now[..1000].iter().all(|byte| *byte == 1) && now[1000..].iter().all(|byte| *byte == 0));
        let after = read(&storage.crash(), "a")?;
        assert!(after == now || after == now[..1000], "{} bytes", after.len());
    }
    Ok(())
}

#[test]
fn an_unsynced_cut_that_grows_again_leaves_zeros_or_what_was_there() -> io::Result<()> {
    let (mut zeros, mut old) = (0, 0);
    for seed in 0..100 {
        let (storage, file) = with_synced(seed, 4096)?;
        file.set_bytes(1024)?;
        file.set_bytes(4096)?;
        for sector in read(&storage.crash(), "a")?[1024..].chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]));
            if sector[0] == 0 { zeros += 1 } else { old += 1 }
        }
    }
    assert!(zeros > 10 && old > 10, "{zeros} {old}");
    Ok(())
}

#[test]
fn held_room_belongs_to_its_file_until_that_is_cut() -> io::Result<()> {
    let storage = SimulatedStorage::new(1);
    storage.limit_space(1000);
    let (file, other) = (storage.create("a")?, storage.create("b")?);
    let full = Err(io::ErrorKind::StorageFull);
    file.hold_room(600, 0)?;
    assert_eq!((file.bytes()?, storage.used_bytes(), storage.taken_bytes()), (0, 0, 600));
    assert_eq!(other.set_bytes(401).map_err(|error| error.kind()), full);
    other.set_bytes(400)?;
    assert_eq!(file.hold_room(601, 0).map_err(|error| error.kind()), full);
    file.set_bytes(300)?;
    file.write_all_at(300, &[1; 300])?;
    assert_eq!(file.write_all_at(600, &[1]).map_err(|error| error.kind()), full);
    file.hold_room(600, 0)?;
    file.set_bytes(300)?;
    other.set_bytes(700)
}

#[test]
fn a_length_that_cannot_be_set_stays() -> io::Result<()> {
    let storage = SimulatedStorage::new(1);
    storage.limit_space(1000);
    let file = storage.create("a")?;
    file.set_bytes(1000)?;
    assert_eq!(file.set_bytes(1001).map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
    storage.fail(Operation::SetBytes, 1);
    assert!(file.set_bytes(10).is_err());
    assert_eq!(file.bytes()?, 1000);
    Ok(())
}

#[test]
fn renames_are_lost_or_survive_whole() -> io::Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let storage = SimulatedStorage::new(seed);
        storage.create("old")?;
        storage.sync_directory()?;
        storage.rename("old", "new")?;
        let names = storage.crash().list()?;
        assert_eq!(names.len(), 1);
        seen.extend(names);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["new", "old"]);
    Ok(())
}

#[test]
fn a_full_disk_refuses_a_write_over_its_space() -> io::Result<()> {
    let storage = SimulatedStorage::new(1);
    storage.limit_space(1000);
    storage.write_short();
    let file = storage.create("a")?;
    file.preallocate(1000)?;
    assert_eq!(file.write_all_at(999, &[1, 1]).map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
    file.write_all_at(0, &[2; 1000])?;
    assert_eq!(read(&storage, "a")?, [2; 1000], "a full disk refuses growth alone");
    Ok(())
}

#[test]
fn short_writes_are_continued_to_their_end() -> io::Result<()> {
    let storage = SimulatedStorage::new(1);
    storage.write_short();
    let file = storage.create("a")?;
    for value in 0..10 {
        file.write_all_at(0, &[value; 1000])?;
        assert_eq!(read(&storage, "a")?, [value; 1000]);
    }
    assert!(storage.count(Operation::Write) > 10, "no write was short");
    Ok(())
}
