//! The numbers that tables and packs consist of.
//!
//! A varint is LEB128: seven bits a byte, the lowest first, in the fewest bytes. All other integers are little-endian.

/// The most bytes of a varint.
const VARINT_BYTES_MAX: usize = 10;

/// Appends a varint.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Why bytes cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end within a value.
    #[error("{wanted} bytes are wanted at offset {offset}, {left} are left")]
    CutOff {
        /// Where the value begins.
        offset: usize,
        /// The bytes that the value needs at least.
        wanted: u64,
        /// The bytes that are left.
        left: usize,
    },
    /// A varint is more than a `u64`, or has more bytes than it needs.
    #[error("the bytes at offset {offset} are not the shortest varint of a u64")]
    BadVarint {
        /// Where the varint begins.
        offset: usize,
    },
    /// Bytes follow the last value.
    #[error("{left} bytes follow the end at offset {offset}")]
    TooLong {
        /// Where the last value ends.
        offset: usize,
        /// The bytes that are left.
        left: usize,
    },
}

/// Decodes values from the front of bytes.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Returns the bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: u64) -> Result<&'a [u8], WireError> {
        let cut_off = WireError::CutOff { offset: self.offset, wanted: count, left: self.rest.len() };
        let (taken, rest) =
            usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count)).ok_or(cut_off)?;
        self.rest = rest;
        self.offset += taken.len();
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let bad = WireError::BadVarint { offset: self.offset };
        let mut value = 0;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has one bit of 64, and a last byte of zero could be left out.
            if index == VARINT_BYTES_MAX - 1 && bits > 1 || index > 0 && byte == 0 {
                return Err(bad);
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(bad)
    }

    /// Decodes the number of items that follow, each of at least `least_bytes`: as many as the bytes have room for.
    pub(crate) fn count(&mut self, least_bytes: u64) -> Result<usize, WireError> {
        let offset = self.offset;
        let count = self.varint()?;
        let wanted = count.saturating_mul(least_bytes);
        match usize::try_from(count) {
            Ok(count) if wanted <= self.rest.len() as u64 => Ok(count),
            _ => Err(WireError::CutOff { offset, wanted, left: self.rest.len() }),
        }
    }

    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(WireError::TooLong { offset: self.offset, left: self.rest.len() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_is_read_as_it_was_written() {
        for bit in 0..64 {
            for value in [1_u64 << bit, (1 << bit) - 1, u64::MAX >> bit] {
                let mut bytes = Vec::new();
                put_varint(&mut bytes, value);
                let mut reader = Reader::new(&bytes);
                assert_eq!(reader.varint(), Ok(value));
                assert_eq!(reader.end(), Ok(()));
                let cut = bytes.len() - 1;
                let error = WireError::CutOff { offset: cut, wanted: 1, left: 0 };
                assert_eq!(Reader::new(&bytes[..cut]).varint(), Err(error));
            }
        }
    }

    #[test]
    fn a_varint_that_is_too_long_is_refused() {
        let mut large = [0xff; 10];
        large[9] = 2;
        for bytes in [&[0x80, 0][..], &[0xff, 0x80, 0], &large, &[0xff; 12]] {
            assert_eq!(Reader::new(bytes).varint(), Err(WireError::BadVarint { offset: 0 }), "{bytes:?}");
        }
    }

    #[test]
    fn a_count_has_room_in_the_bytes_that_are_left() {
        let bytes = [2, 0, 0, 0, 0];
        assert_eq!(Reader::new(&bytes).count(2), Ok(2));
        assert_eq!(Reader::new(&bytes).count(3), Err(WireError::CutOff { offset: 0, wanted: 6, left: 4 }));
    }
}
