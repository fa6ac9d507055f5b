//! The input of postcard, assembled from chunks.
//!
//! Postcard's own `from_io` reads strings into a scratch buffer of fixed size and fails on a longer one. Here, a string
//! within one chunk is borrowed from it, and any other is gathered in a buffer that grows **as bytes arrive**. A
//! damaged length may request gigabytes, but the buffer holds no more than the source really has.

use std::cell::OnceCell;
use std::io;

use postcard::de_flavors::Flavor;
use postcard::{Deserializer, Error};
use serde::de::DeserializeOwned;

use super::{CHUNK_BYTES, Source};

/// A stream of exported state that is read once.
///
/// [`StateReader::read`] reads a state that a build of this SDK wrote. `impl Read` returns the raw bytes, for a state
/// that something else wrote.
pub struct StateReader {
    source: Box<dyn Source>,
    chunk: Vec<u8>,
    /// The number of bytes of `chunk` that have been read.
    taken: usize,
    /// The number of bytes in the chunks before this one.
    before: u64,
}

impl StateReader {
    /// Creates a reader of `source`.
    pub fn new(source: impl Source + 'static) -> Self {
        Self { source: Box::new(source), chunk: Vec::new(), taken: 0, before: 0 }
    }

    /// Reads the whole stream as one `T`.
    ///
    /// # Errors
    /// The stream ends early, is not a `T`, or continues after it. The message contains the position in bytes.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, String> {
        let kept = Kept::default();
        let mut deserializer =
            Deserializer::from_flavor(Reader { input: self, gathered: Vec::new(), kept: &kept.first });
        let value = T::deserialize(&mut deserializer);
        let rest = deserializer.finalize().map_err(|error| format!("cannot read the state: {error}"))?;
        match value {
            Err(Error::WontImplement) => Err(format!(
                "cannot read the state `{}`: at byte {} it has a value whose type only the value itself tells \
                 (serde_json::Value, untagged, flatten): give it a type, or keep JSON as a String",
                short_name::<T>(),
                rest.position
            )),
            Err(error) => Err(format!("cannot read the state: {error} at byte {}", rest.position)),
            Ok(_) if rest.more => {
                Err(format!("cannot read the state: it goes on after its end at byte {}", rest.position))
            }
            Ok(value) => Ok(value),
        }
    }

    /// Returns the available bytes, which are empty only at the end.
    fn available(&mut self) -> &[u8] {
        if self.taken == self.chunk.len() {
            self.before += self.chunk.len() as u64;
            self.taken = 0;
            // The old chunk is dropped first, so that two are never held at once.
            self.chunk = Vec::new();
            self.chunk = self.source.read(CHUNK_BYTES as u32);
        }
        &self.chunk[self.taken..]
    }

    /// Appends the next `count` bytes to `buffer`, which grows no faster than they arrive.
    pub(super) fn gather(&mut self, count: usize, buffer: &mut Vec<u8>) -> postcard::Result<()> {
        let mut missing = count;
        while missing > 0 {
            let available = self.available();
            if available.is_empty() {
                return Err(Error::DeserializeUnexpectedEnd);
            }
            let some = missing.min(available.len());
            buffer.extend_from_slice(&available[..some]);
            self.taken += some;
            missing -= some;
        }
        Ok(())
    }
}

/// Returns the name of a type without its path and parameters.
fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    let name = name.split_once('<').map_or(name, |(name, _)| name);
    name.rsplit("::").next().unwrap_or(name)
}

impl From<Vec<u8>> for StateReader {
    /// Reads from memory, for tests.
    fn from(bytes: Vec<u8>) -> Self {
        struct Memory(io::Cursor<Vec<u8>>);
        impl Source for Memory {
            fn read(&mut self, max: u32) -> Vec<u8> {
                let mut chunk = Vec::new();
                io::Read::read_to_end(&mut io::Read::take(&mut self.0, u64::from(max)), &mut chunk)
                    .expect("reading from memory cannot fail");
                chunk
            }
        }
        Self::new(Memory(io::Cursor::new(bytes)))
    }
}

impl io::Read for StateReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.available();
        let some = available.len().min(buffer.len());
        buffer[..some].copy_from_slice(&available[..some]);
        self.taken += some;
        Ok(some)
    }
}

impl std::fmt::Debug for StateReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateReader").field("position", &(self.before + self.taken as u64)).finish_non_exhaustive()
    }
}

/// The flavor through which postcard reads.
pub(super) struct Reader<'de> {
    input: StateReader,
    /// The last string that was not within one chunk.
    gathered: Vec<u8>,
    /// The place for the next string that must live until reading ends.
    kept: &'de OnceCell<Box<KeptString>>,
}

/// The position at which reading stopped, and whether the source holds more.
pub(super) struct Rest {
    position: u64,
    more: bool,
}

impl<'de> Flavor<'de> for Reader<'de> {
    type Remainder = Rest;
    type Source = StateReader;

    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        let byte = *self.input.available().first().ok_or(Error::DeserializeUnexpectedEnd)?;
        self.input.taken += 1;
        Ok(byte)
    }

    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        let mut bytes = Vec::new();
        self.input.gather(count, &mut bytes)?;
        let string = self.kept.get_or_init(|| Box::new(KeptString { bytes, next: OnceCell::new() }));
        self.kept = &string.next;
        Ok(&string.bytes)
    }

    fn try_take_n_temp<'a>(&'a mut self, count: usize) -> postcard::Result<&'a [u8]>
    where
        'de: 'a,
    {
        if self.input.available().len() >= count {
            let start = self.input.taken;
            self.input.taken += count;
            return Ok(&self.input.chunk[start..start + count]);
        }
        if self.gathered.capacity() > CHUNK_BYTES {
            self.gathered = Vec::new();
        }
        self.gathered.clear();
        self.input.gather(count, &mut self.gathered)?;
        Ok(&self.gathered)
    }

    fn finalize(mut self) -> postcard::Result<Rest> {
        let more = !self.input.available().is_empty();
        Ok(Rest { position: self.input.before + self.input.taken as u64, more })
    }
}

/// Strings for the few types that require borrowed input, although they own their value in the end (such as a UUID,
/// which requests `&[u8]`). They are freed when reading ends.
#[derive(Default)]
struct Kept {
    first: OnceCell<Box<KeptString>>,
}

struct KeptString {
    bytes: Vec<u8>,
    next: OnceCell<Box<KeptString>>,
}

impl Drop for Kept {
    /// Frees the list link by link: the derived drop would recurse once for each string.
    fn drop(&mut self) {
        let mut next = self.first.take();
        while let Some(mut string) = next {
            next = string.next.take();
        }
    }
}
