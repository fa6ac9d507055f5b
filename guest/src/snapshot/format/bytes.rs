//! Lists of bytes, recognised by their types.
//!
//! `serde` has no special case for `Vec<u8>`: it writes and reads one byte at a time. A hundred megabytes then take a
//! second and, while the list grows, twice their memory. Here, a `Vec<u8>` is recognised where it passes by, and copied
//! as a whole. Its encoding is the same.

use std::any::TypeId;
use std::mem::ManuallyDrop;

use serde::de::value::Error as ProbeError;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// Returns the contents of `value` if its type is a list of bytes.
#[expect(unsafe_code, reason = "`Any` would need `T: 'static`, which `serde` does not promise")]
pub(super) fn of<T: ?Sized>(value: &T) -> Option<&[u8]> {
    let id = typeid::of::<T>();
    let value = std::ptr::from_ref(value);
    if id == TypeId::of::<Vec<u8>>() {
        // SAFETY: `T` is `Vec<u8>`, by its id. The reference lives as long as the given one.
        Some(unsafe { &*value.cast::<Vec<u8>>() })
    } else if id == TypeId::of::<Box<[u8]>>() {
        // SAFETY: `T` is `Box<[u8]>`, by its id. The reference lives as long as the given one.
        Some(unsafe { &*value.cast::<Box<[u8]>>() })
    } else {
        None
    }
}

/// Returns whether `V` is the visitor with which `serde` itself reads a `Vec<u8>`.
///
/// Another visitor may make its bytes from other elements, so the type of its value is not enough.
pub(super) fn is_asked_for_by<'de, V: Visitor<'de>>() -> bool {
    let mut id = None;
    let _ = Vec::<u8>::deserialize(Probe(&mut id));
    id == Some(typeid::of::<V>())
}

/// Returns `bytes` as a `T`, if that is what a `T` is.
#[expect(unsafe_code, reason = "`Any` would need `T: 'static`, which `serde` does not promise")]
pub(super) fn into<T>(bytes: Vec<u8>) -> Option<T> {
    if typeid::of::<T>() != TypeId::of::<Vec<u8>>() {
        return None;
    }
    let bytes = ManuallyDrop::new(bytes);
    // SAFETY: `T` is `Vec<u8>`, by its id. `ManuallyDrop` has the same layout and does not drop the original.
    Some(unsafe { std::mem::transmute_copy::<ManuallyDrop<Vec<u8>>, T>(&bytes) })
}

/// Notes the id of the visitor that asks for a list.
struct Probe<'a>(&'a mut Option<TypeId>);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = ProbeError;

    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ProbeError> {
        *self.0 = Some(typeid::of::<V>());
        Err(ProbeError::custom(""))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ProbeError> {
        Err(ProbeError::custom(""))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct tuple tuple_struct map struct enum identifier ignored_any
    }
}
