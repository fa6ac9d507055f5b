//! The first bytes of a state: how the rest is encoded.
//!
//! | bytes | content |
//! |---|---|
//! | 7 | [`MAGIC`] |
//! | 1 | the codec: 1 [`Postcard`](super::Postcard), 2 [`MessagePack`](super::MessagePack) |
//! | 8 | of `Postcard` only: the fingerprint of the state's shape, little-endian |
//!
//! Streams of earlier builds of this SDK have no header. They begin with the first value of the state, and practically
//! never with these bytes.

use super::writer::Writer;

/// The first bytes of a header. 0xf7 begins no text in UTF-8.
const MAGIC: [u8; 7] = [0xf7, b'L', b'b', b'S', 0x1a, 0xd3, 0x9e];

/// The longest header, in bytes.
pub(super) const HEADER_MAX_BYTES: usize = MAGIC.len() + 1 + 8;

/// How a state is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Postcard {
        fingerprint: u64,
    },
    MessagePack,
    /// A codec of a later build of this SDK.
    Unknown,
}

impl Header {
    /// Returns the header at the beginning of `bytes`, and its length.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (codec, rest) = bytes.strip_prefix(&MAGIC)?.split_first()?;
        let length = MAGIC.len() + 1;
        Some(match codec {
            1 => (Self::Postcard { fingerprint: u64::from_le_bytes(*rest.first_chunk()?) }, length + 8),
            2 => (Self::MessagePack, length),
            _ => (Self::Unknown, length),
        })
    }

    pub(super) fn write(self, to: &mut Writer<'_>) {
        to.extend(&MAGIC);
        match self {
            Self::Postcard { fingerprint } => {
                to.push(1);
                to.extend(&fingerprint.to_le_bytes());
            }
            Self::MessagePack => to.push(2),
            Self::Unknown => to.push(0),
        }
    }

    /// Returns the name of the codec.
    pub(super) fn codec(self) -> &'static str {
        match self {
            Self::Postcard { .. } => "Postcard",
            Self::MessagePack => "MessagePack",
            Self::Unknown => "a later build of the SDK",
        }
    }
}
