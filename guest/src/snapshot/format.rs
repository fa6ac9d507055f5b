//! The layout of [`Postcard`](super::Postcard): [postcard](https://postcard.jamesmunns.com/wire-format), version 1.
//!
//! It is written here, and not by the crate `postcard`, for three reasons. Bytes are copied as a whole, also where a
//! type does not say that it holds bytes. One [`Decoder`] both reads a type and traces its shape, so that a module
//! contains the code of each `Deserialize` once. And what cannot be read back is refused where it is written.

mod bytes;
mod decode;
mod encode;
pub(super) mod shape;

pub(super) use decode::{Decoder, Kept};
pub(super) use encode::Encoder;

/// The reason why a value cannot be written or read.
#[derive(Debug)]
pub(super) enum Error {
    /// The input ends within the value.
    End,
    /// The bytes are no value of the type: the name of what they should be.
    Invalid(&'static str),
    /// The type takes whatever value follows, and the bytes do not say which.
    Untyped,
    /// A string is longer than the memory that is left.
    Memory,
    /// The type itself refused the value, or has no encoding.
    Custom(Box<str>),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::End => f.write_str("the bytes end before the value does"),
            Self::Invalid(expected) => write!(f, "there is no valid {expected}"),
            Self::Untyped => f.write_str("a value has no type of its own"),
            Self::Memory => f.write_str("no memory is left for a string"),
            Self::Custom(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}

impl serde::ser::Error for Error {
    fn custom<T: std::fmt::Display>(reason: T) -> Self {
        Self::Custom(reason.to_string().into())
    }
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(reason: T) -> Self {
        Self::Custom(reason.to_string().into())
    }
}

pub(super) type Result<T> = std::result::Result<T, Error>;
