use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The bytes behind `base` that the steps may reach.
const REACH: usize = 5 * CHUNK_BYTES;

#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, len: usize, byte: u8 },
    Append { len: usize, byte: u8 },
    SetLen(usize),
    SetLenBeforeBase(u64),
    NextMark,
    Copy,
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![3 => 0..40usize, 2 => 0..5_000usize, 1 => 0..2 * CHUNK_BYTES, 1 => Just(CHUNK_BYTES)];
    let at = prop_oneof![2 => 0..3 * CHUNK_BYTES, 1 => (0..4usize).prop_map(|index| index * CHUNK_BYTES)];
    prop::collection::vec(
        prop_oneof![
            6 => (at.clone(), len.clone(), 1..=255u8).prop_map(|(at, len, byte)| Step::Write { at, len, byte }),
            3 => (0..3_000usize, 1..=255u8).prop_map(|(len, byte)| Step::Append { len, byte }),
            2 => at.prop_map(Step::SetLen),
            1 => any::<u64>().prop_map(Step::SetLenBeforeBase),
            2 => Just(Step::NextMark),
            1 => Just(Step::Copy),
            1 => Just(Step::Restore),
        ],
        1..40,
    )
}

/// A file of zeros before `base`, and of `bytes` from there on.
#[derive(Debug, Clone, Default)]
struct Model {
    base: u64,
    len: u64,
    bytes: Vec<u8>,
    marks: BTreeMap<u64, Mark>,
}

impl Model {
    fn write(&mut self, at: u64, bytes: &[u8], mark: Mark) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let from = (at - self.base) as usize;
        let end = from + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[from..end].copy_from_slice(bytes);
        self.len = self.len.max(self.base + end as u64);
        let chunks = at / CHUNK..=(at + bytes.len() as u64 - 1) / CHUNK;
        let first = chunks.filter(|index| self.marks.insert(*index, mark) != Some(mark)).count();
        (bytes.len() as u64).div_ceil(8) + 2_000 * first as u64
    }

    fn set_len(&mut self, len: u64, mark: Mark) -> u64 {
        let was_longer = len < self.len;
        self.len = len;
        if !was_longer {
            return 0;
        }
        self.bytes.truncate(len.saturating_sub(self.base) as usize);
        let released = self.marks.split_off(&len.div_ceil(CHUNK)).len();
        let mut fuel = 20 * released as u64;
        if !len.is_multiple_of(CHUNK)
            && let Some(written) = self.marks.get_mut(&(len / CHUNK))
            && std::mem::replace(written, mark) != mark
        {
            fuel += 2_000;
        }
        fuel
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        let byte = |at: u64| match at.checked_sub(self.base) {
            Some(index) => self.bytes.get(index as usize).copied().unwrap_or(0),
            None => 0,
        };
        (offset..end.max(offset)).map(byte).collect()
    }
}

fn check(contents: &Contents) {
    let mut allocated = 0;
    for (index, chunk) in &contents.chunks {
        let stored = index * CHUNK + chunk.bytes().len() as u64;
        assert!(stored <= contents.len, "chunk {index} stores bytes behind the end");
        assert!(chunk.capacity() <= CHUNK_BYTES);
        allocated += chunk.capacity() as u64;
    }
    let most = contents.len + contents.len / SPARE_PART;
    assert!(allocated <= most, "{allocated} bytes for a file of {} bytes", contents.len);
}

proptest! {
    #[test]
    fn a_file_and_its_copies_are_as_a_vector(
        steps in steps(),
        base in prop::sample::select(vec![0, 7 * CHUNK, 1 << 40, (1 << 62) - 5]),
        reads in prop::collection::vec((0..REACH, 0..REACH), 4),
    ) {
        let (mut file, mut model) = (Contents::default(), Model { base, ..Model::default() });
        let (mut copy, mut copied) = (file.clone(), model.clone());
        // The same steps without a copy: the fuel must be the same.
        let mut lone = Contents::default();
        let (mut sequence, mut released) = (1, Released::default());
        for step in steps {
            let mark = Mark::new(sequence, 1);
            match step {
                Step::Write { at, len, byte } => {
                    let bytes = vec![byte; len];
                    let fuel = file.write(base + at as u64, &bytes, mark);
                    prop_assert_eq!(fuel, model.write(base + at as u64, &bytes, mark));
                    prop_assert_eq!(fuel, lone.write(base + at as u64, &bytes, mark));
                }
                Step::Append { len, byte } => {
                    let (at, bytes) = (file.len().max(base), vec![byte; len]);
                    if at < base + 3 * CHUNK {
                        let fuel = file.write(at, &bytes, mark);
                        prop_assert_eq!(fuel, model.write(at, &bytes, mark));
                        prop_assert_eq!(fuel, lone.write(at, &bytes, mark));
                    }
                }
                Step::SetLen(_) | Step::SetLenBeforeBase(_) => {
                    let len = match step {
                        Step::SetLen(len) => base + len as u64,
                        Step::SetLenBeforeBase(len) => len % (base + 1),
                        _ => 0,
                    };
                    let fuel = file.set_len(len, mark, &mut released);
                    prop_assert_eq!(fuel, model.set_len(len, mark));
                    prop_assert_eq!(fuel, lone.set_len(len, mark, &mut released));
                }
                Step::NextMark => sequence += 1,
                Step::Copy => (copy, copied) = (file.clone(), model.clone()),
                Step::Restore => {
                    (file, model) = (copy.clone(), copied.clone());
                    lone = Contents { len: file.len, chunks: Chunks::default() };
                    for (index, chunk) in &file.chunks {
                        let copy = chunk.replaced(0, &[], chunk.bytes().len(), chunk.written());
                        lone.chunks.insert(*index, Arc::new(copy));
                    }
                }
            }
            check(&file);
            prop_assert_eq!(file.len(), model.len);
        }
        // A snapshot holds the stored bytes: they must not depend on copies either.
        let stored = |file: &Contents| -> Vec<_> {
            file.chunks.iter().map(|(index, chunk)| (*index, chunk.bytes().to_vec(), chunk.written())).collect()
        };
        prop_assert!(stored(&file) == stored(&lone));
        for (file, model) in [(&file, &model), (&copy, &copied), (&lone, &model)] {
            for (from, len) in &reads {
                for offset in [base + *from as u64, base.saturating_sub(*from as u64)] {
                    prop_assert_eq!(file.read(offset, *len), model.read(offset, *len));
                }
            }
        }
    }
}

#[test]
fn a_small_file_takes_its_bytes_alone() {
    let mut file = Contents::default();
    file.write(0, &[1; 1_024], Mark::new(1, 0));
    let chunk = file.chunks.get(&0).expect("it was written");
    assert_eq!(chunk.capacity(), 1_024);
}

#[test]
fn appends_of_one_byte_waste_at_most_an_eighth() {
    let mut file = Contents::default();
    for at in 0..CHUNK * 2 {
        file.write(at, &[1], Mark::new(1, 0));
        let (capacity, stored) = file
            .chunks
            .iter()
            .fold((0, 0), |(capacity, stored), (_, chunk)| (capacity + chunk.capacity(), stored + chunk.bytes().len()));
        assert!(capacity <= stored + stored / 8, "{capacity} bytes for {stored}");
    }
}

#[test]
fn chunks_of_a_large_file_are_allocated_once() {
    let mut file = Contents::default();
    file.write(0, &vec![1; 8 * CHUNK_BYTES], Mark::new(1, 0));
    file.write(8 * CHUNK, &[1], Mark::new(1, 0));
    let chunk = file.chunks.get(&8).expect("it was written");
    assert_eq!(chunk.capacity(), CHUNK_BYTES);
}

#[test]
fn a_read_behind_the_end_is_empty() {
    let mut file = Contents::default();
    file.write(10, &[1; 10], Mark::new(1, 0));
    assert_eq!(file.read(20, 5), []);
    assert_eq!(file.read(u64::MAX, usize::MAX), []);
    assert_eq!(file.read(18, usize::MAX), [1, 1]);
    assert_eq!(file.read(8, 4), [0, 0, 1, 1]);
}
