//! The count of resident bytes. It is one for the process, so this is the process's only test.

use lifeboat_disk::{CHUNK_BYTES, Call, Disk, Ino, Mark, OpenHow, resident_bytes};

const CHUNK: u64 = CHUNK_BYTES as u64;
const CHUNKS: u64 = (256 << 20) / CHUNK;

fn call(sequence: u64) -> Call {
    Call { now_ns: 1, mark: Mark::new(sequence, 0), limit_bytes: 1 << 30, is_read_only: false }
}

#[test]
fn a_byte_written_to_each_chunk_of_a_shared_file_takes_the_bytes_of_its_chunks() {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    let how = OpenHow { create: true, ..OpenHow::default() };
    let (ino, _) = disk.open_at(Ino::ROOT, "file", how).expect("there is room");
    for index in 0..CHUNKS {
        disk.write(ino, index * CHUNK, &[1; CHUNK_BYTES]).expect("there is room");
    }
    assert_eq!(resident_bytes(), CHUNKS * CHUNK);

    let mut copy = disk.clone();
    disk.enter(call(2));
    for index in 0..CHUNKS {
        disk.write(ino, index * CHUNK + index / 2, &[2]).expect("it is inside of the file");
        assert_eq!(resident_bytes(), (CHUNKS + index + 1) * CHUNK);
    }
    for index in 0..CHUNKS {
        let offset = index * CHUNK + index / 2;
        let around = (copy.read(ino, offset - 1.min(offset), 3), disk.read(ino, offset - 1.min(offset), 3));
        let expected = if offset == 0 { vec![2, 1, 1] } else { vec![1, 2, 1] };
        assert_eq!(around, (Ok(vec![1; 3]), Ok(expected)));
    }

    drop(copy);
    assert_eq!(resident_bytes(), CHUNKS * CHUNK);
    disk.set_size(ino, 64 * CHUNK + 100).expect("less");
    let released = disk.take_released();
    assert_eq!(released.bytes(), (CHUNKS - 65) * CHUNK);
    assert_eq!(resident_bytes(), (CHUNKS - 1) * CHUNK + 100);
    drop(released);
    assert_eq!(resident_bytes(), 64 * CHUNK + 100);
    disk.unlink_at(Ino::ROOT, "file").expect("it is there");
    disk.close_all();
    drop(disk.take_released());
    assert_eq!(resident_bytes(), 0);
}
