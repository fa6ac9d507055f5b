//! The codecs of states.

use std::any::type_name;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::format::{Decoder, Encoder, Error, Kept, shape};
use super::header::Header;
use super::writer::Writer;
use super::{Sink, StateReader};

/// Converts a state to bytes and back. The codec of a workload is its `StateCodec`.
pub trait StateCodec {
    /// Writes all of `state` to `sink`.
    ///
    /// # Errors
    /// One sentence with the reason: the state cannot be written, or could not be read back. The bytes written until
    /// then are unusable.
    fn write<T: Serialize + DeserializeOwned>(state: &T, sink: &mut dyn Sink) -> Result<(), String>;

    /// Reads all of `state` as one `T`.
    ///
    /// # Errors
    /// One sentence with the reason: the bytes are not exactly one `T` in this codec.
    fn read<T: DeserializeOwned>(state: StateReader) -> Result<T, String>;
}

/// Compact bytes without names: [postcard](https://postcard.jamesmunns.com/wire-format). The default.
///
/// The state begins with a fingerprint of its type's shape: the names, order and types of all fields and variants. A
/// state with another fingerprint is refused. Names of types are not part of it, and neither are newtypes and boxes.
///
/// Types that take whatever value follows cannot be read back: `serde_json::Value`, `#[serde(untagged)]`,
/// `#[serde(flatten)]`, `#[serde(tag = "...")]` without `content`. They are refused at the first snapshot, and
/// so is a field that `skip_serializing_if` leaves out. Use [`MessagePack`] for them.
#[derive(Clone, Copy, Debug)]
pub struct Postcard;

/// Self-describing bytes with the names of all fields: [MessagePack](https://msgpack.org).
///
/// It is for small states with `serde_json::Value`, `#[serde(untagged)]`, `#[serde(flatten)]` or
/// `skip_serializing_if`. It needs more bytes than [`Postcard`], about 200 fuel for each value that it reads, and 50 kB
/// in the module. It has no fingerprint: a field is found by its name, so fields may change their order, and new ones
/// may have `#[serde(default)]`.
///
/// `Some(None)` and `Some(())` are read as `None`, as in every self-describing codec of `serde`. A `Vec<u8>` is a list
/// of numbers here: add `#[serde(with = "serde_bytes")]`, from the crate of that name, to a long one.
#[derive(Clone, Copy, Debug)]
pub struct MessagePack;

impl StateCodec for Postcard {
    fn write<T: Serialize + DeserializeOwned>(state: &T, sink: &mut dyn Sink) -> Result<(), String> {
        let shape = shape::of::<T>();
        if let Some(place) = &shape.untyped {
            return Err(untyped("write", short_name::<T>(), place));
        }
        let mut output = Writer::new(sink);
        Header::Postcard { fingerprint: shape.fingerprint }.write(&mut output);
        let mut encoder = Encoder::new(output);
        encoder.write(state).map_err(|error| failed("write", short_name::<T>(), &error))?;
        encoder.finish();
        Ok(())
    }

    fn read<T: DeserializeOwned>(mut state: StateReader) -> Result<T, String> {
        match state.header() {
            Some(Header::Postcard { fingerprint }) => {
                let shape = shape::of::<T>();
                if let Some(place) = &shape.untyped {
                    return Err(untyped("read", short_name::<T>(), place));
                }
                if shape.fingerprint != fingerprint {
                    return Err(other_shape(short_name::<T>()));
                }
            }
            Some(other) => return Err(other_codec(other, "Postcard")),
            None => {}
        }
        let kept = Kept::default();
        let value = T::deserialize(&mut Decoder::of_bytes(&mut state, &kept));
        match value {
            Ok(value) => ended(state).map(|()| value),
            Err(Error::Untyped) => {
                let shape = shape::of::<T>();
                Err(untyped("read", short_name::<T>(), shape.untyped.as_deref().unwrap_or_default()))
            }
            Err(error) => Err(unreadable(&error, &state)),
        }
    }
}

impl StateCodec for MessagePack {
    fn write<T: Serialize + DeserializeOwned>(state: &T, sink: &mut dyn Sink) -> Result<(), String> {
        let mut output = Writer::new(sink);
        Header::MessagePack.write(&mut output);
        let mut serializer = rmp_serde::Serializer::new(&mut output).with_struct_map();
        state.serialize(&mut serializer).map_err(|error| failed("write", short_name::<T>(), &error))?;
        output.flush();
        Ok(())
    }

    fn read<T: DeserializeOwned>(mut state: StateReader) -> Result<T, String> {
        match state.header() {
            Some(Header::MessagePack) => {}
            other => {
                return Err(other_codec(other.unwrap_or(Header::Postcard { fingerprint: 0 }), "MessagePack"));
            }
        }
        match rmp_serde::from_read(&mut state) {
            Ok(value) => ended(state).map(|()| value),
            Err(error) => Err(unreadable(&error, &state)),
        }
    }
}

/// Returns an error unless the stream ends here.
fn ended(mut state: StateReader) -> Result<(), String> {
    if state.has_more() {
        return Err(format!("cannot read the state: it goes on after its end at byte {}", state.position()));
    }
    Ok(())
}

// The host shows no more than 200 bytes of these.

#[cold]
fn untyped(verb: &str, name: &str, place: &str) -> String {
    let (of, place) = if place.is_empty() { ("", "it") } else { ("`", place) };
    format!(
        "cannot {verb} the state `{name}`: {of}{place}{of} has no type of its own (serde_json::Value, untagged, \
         flatten): give it one, or write `type StateCodec = MessagePack;` in the workload"
    )
}

#[cold]
fn other_shape(name: &str) -> String {
    format!(
        "cannot read the state: its shape is not that of `{name}` (names, order, types of fields and variants): restore \
         them, or raise STATE_VERSION and read the old shape in `migrate`"
    )
}

#[cold]
fn other_codec(written: Header, own: &str) -> String {
    format!(
        "cannot read the state by {own}: {} wrote it: keep `type StateCodec`, or raise STATE_VERSION and read the old \
         state in `migrate`",
        written.codec()
    )
}

#[cold]
fn failed(verb: &str, name: &str, error: &dyn std::fmt::Display) -> String {
    format!("cannot {verb} the state `{name}`: {error}")
}

#[cold]
fn unreadable(error: &dyn std::fmt::Display, state: &StateReader) -> String {
    format!("cannot read the state: {error} at byte {}", state.position())
}

/// Returns the name of a type without its path and parameters.
fn short_name<T>() -> &'static str {
    let name = type_name::<T>();
    let name = name.split_once('<').map_or(name, |(name, _)| name);
    name.rsplit("::").next().unwrap_or(name)
}
