//! From bytes to a value, or to the shape of its type.
//!
//! A [`Decoder`] has one of two inputs. With a [`StateReader`] it reads a value. With a [`Tracer`] it supplies whatever
//! the type requests, and the tracer notes the requests.
//!
//! A string within one chunk is read from there, and any other is gathered in memory of its own, which it then keeps.

use std::cell::OnceCell;

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::shape::{Kind, Tracer};
use super::{Error, Result, bytes};
use crate::snapshot::StateReader;

/// Supplies values, in the order in which they were written.
pub(in crate::snapshot) struct Decoder<'a, 'de> {
    input: Input<'a>,
    /// The place for the next string that must live until reading ends.
    kept: &'de OnceCell<Box<KeptString>>,
}

enum Input<'a> {
    Bytes(&'a mut StateReader),
    Nothing(&'a mut Tracer),
}

impl<'a, 'de> Decoder<'a, 'de> {
    pub(in crate::snapshot) fn of_bytes(reader: &'a mut StateReader, kept: &'de Kept) -> Self {
        Self { input: Input::Bytes(reader), kept: &kept.first }
    }

    pub(super) fn of_nothing(tracer: &'a mut Tracer, kept: &'de Kept) -> Self {
        Self { input: Input::Nothing(tracer), kept: &kept.first }
    }

    /// Returns the tracer, if there is one.
    fn tracer(&mut self) -> Option<&mut Tracer> {
        match &mut self.input {
            Input::Bytes(_) => None,
            Input::Nothing(tracer) => Some(tracer),
        }
    }

    #[inline(never)]
    fn byte(&mut self, kind: Kind) -> Result<u8> {
        match &mut self.input {
            Input::Bytes(reader) => reader.pop(),
            Input::Nothing(tracer) => tracer.number(kind).map(|number| number as u8),
        }
    }

    /// Reads a number of at most `bits` bits, with 7 bits in each byte.
    #[inline(never)]
    fn varint(&mut self, kind: Kind, bits: u32) -> Result<u64> {
        let reader = match &mut self.input {
            Input::Bytes(reader) => reader,
            Input::Nothing(tracer) => return tracer.number(kind),
        };
        let mut number = 0;
        let mut shift = 0;
        loop {
            let byte = u64::from(reader.pop()?);
            let left = bits - shift;
            if left < 8 && byte >> left != 0 {
                return Err(Error::Invalid("number"));
            }
            number |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    #[inline(never)]
    fn wide_varint(&mut self, kind: Kind) -> Result<u128> {
        let reader = match &mut self.input {
            Input::Bytes(reader) => reader,
            Input::Nothing(tracer) => return tracer.number(kind).map(u128::from),
        };
        let mut number = 0;
        let mut shift = 0;
        loop {
            let byte = u128::from(reader.pop()?);
            let left = u128::BITS - shift;
            if left < 8 && byte >> left != 0 {
                return Err(Error::Invalid("number"));
            }
            number |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    fn zigzag(&mut self, kind: Kind, bits: u32) -> Result<i64> {
        let number = self.varint(kind, bits)?;
        Ok(if self.tracer().is_some() { number as i64 } else { (number >> 1) as i64 ^ -((number & 1) as i64) })
    }

    /// Reads as many bytes as fit in `N`.
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        for byte in &mut array {
            *byte = match &mut self.input {
                Input::Bytes(reader) => reader.pop()?,
                Input::Nothing(_) => 0,
            };
        }
        Ok(array)
    }

    /// Reads the length of a string, a list or a map.
    #[inline(never)]
    fn length(&mut self) -> Result<usize> {
        let length = self.varint(Kind::U64, u64::BITS)?;
        usize::try_from(length).map_err(|_| Error::Invalid("length"))
    }

    /// Reads a string into memory of its own.
    #[inline(never)]
    fn owned(&mut self, kind: Kind) -> Result<Vec<u8>> {
        if let Some(tracer) = self.tracer() {
            return tracer.string(kind).map(Vec::from);
        }
        let length = self.length()?;
        match &mut self.input {
            Input::Bytes(reader) => reader.gather(length),
            Input::Nothing(_) => Ok(Vec::new()),
        }
    }

    /// Reads a string into memory that lives until reading ends.
    ///
    /// A few types require borrowed input, although they own their value in the end.
    #[inline(never)]
    fn borrowed(&mut self, kind: Kind) -> Result<&'de [u8]> {
        if let Some(tracer) = self.tracer() {
            return tracer.string(kind);
        }
        let bytes = self.owned(kind)?;
        let string = self.kept.get_or_init(|| Box::new(KeptString { bytes, next: OnceCell::new() }));
        self.kept = &string.next;
        Ok(&string.bytes)
    }

    /// Returns the place of the elements of a value that begins here.
    fn place(&mut self, kind: Kind, names: &'static [&'static str], count: usize) -> Result<Place> {
        let node = match self.tracer() {
            Some(tracer) => tracer.begin(kind, None, names)?,
            None => 0,
        };
        Ok(Place { node, next: 0, left: count, mark: None })
    }

    /// Goes to the next element of a list with a length of its own. Returns whether there is one.
    fn next_in_list(&mut self, place: &mut Place) -> bool {
        match self.tracer() {
            Some(tracer) => {
                place.next = 0;
                tracer.repeat(place.node, &mut place.mark)
            }
            None => place.step(),
        }
    }

    /// Goes to the next element of a tuple. Returns whether there is one.
    fn next_in_tuple(&mut self, place: &mut Place) -> bool {
        let has_next = place.step();
        if has_next {
            self.enter(place);
        }
        has_next
    }

    /// Goes to the element of a place, and makes the one behind it the next.
    fn enter(&mut self, place: &mut Place) {
        if let Input::Nothing(tracer) = &mut self.input {
            tracer.enter(place.node, place.next);
            place.next += 1;
        }
    }

    fn tuple<V: Visitor<'de>>(&mut self, place: Place, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(Elements { decoder: self, place, is_list: false })
    }
}

/// The elements of a value: how many are left, and where their shapes are noted.
struct Place {
    node: usize,
    next: usize,
    left: usize,
    mark: Option<usize>,
}

impl Place {
    fn step(&mut self) -> bool {
        let has_next = self.left > 0;
        self.left -= usize::from(has_next);
        has_next
    }
}

/// Methods that supply one number.
macro_rules! numbers {
    ($($method:ident: $visit:ident, $kind:ident, $decoder:ident => $read:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            let $decoder = self;
            let number = $read?;
            visitor.$visit(number as _)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Decoder<'_, 'de> {
    type Error = Error;

    numbers! {
        deserialize_u8: visit_u8, U8, decoder => decoder.byte(Kind::U8);
        deserialize_i8: visit_i8, I8, decoder => decoder.byte(Kind::I8);
        deserialize_u16: visit_u16, U16, decoder => decoder.varint(Kind::U16, 16);
        deserialize_u32: visit_u32, U32, decoder => decoder.varint(Kind::U32, 32);
        deserialize_u64: visit_u64, U64, decoder => decoder.varint(Kind::U64, 64);
        deserialize_u128: visit_u128, U128, decoder => decoder.wide_varint(Kind::U128);
        deserialize_i16: visit_i16, I16, decoder => decoder.zigzag(Kind::I16, 16);
        deserialize_i32: visit_i32, I32, decoder => decoder.zigzag(Kind::I32, 32);
        deserialize_i64: visit_i64, I64, decoder => decoder.zigzag(Kind::I64, 64);
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let number = self.wide_varint(Kind::I128)?;
        visitor.visit_i128(if self.tracer().is_some() {
            number as i128
        } else {
            (number >> 1) as i128 ^ -((number & 1) as i128)
        })
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.byte(Kind::Bool)? {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            _ => Err(Error::Invalid("bool")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(tracer) = self.tracer() {
            tracer.number(Kind::F32)?;
        }
        let bytes = self.array()?;
        visitor.visit_f32(f32::from_le_bytes(bytes))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(tracer) = self.tracer() {
            tracer.number(Kind::F64)?;
        }
        let bytes = self.array()?;
        visitor.visit_f64(f64::from_le_bytes(bytes))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(tracer) = self.tracer() {
            tracer.number(Kind::Char)?;
            return visitor.visit_char('a');
        }
        let length = self.length()?;
        let mut bytes = [0; 4];
        let bytes = bytes.get_mut(..length).ok_or(Error::Invalid("character"))?;
        for byte in bytes.iter_mut() {
            *byte = self.byte(Kind::U8)?;
        }
        let mut characters = std::str::from_utf8(bytes).unwrap_or_default().chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) => visitor.visit_char(character),
            _ => Err(Error::Invalid("character")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let bytes = self.borrowed(Kind::Text)?;
        visitor.visit_borrowed_str(text(bytes)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.tracer().is_some() {
            return self.deserialize_str(visitor);
        }
        let length = self.length()?;
        let Input::Bytes(reader) = &mut self.input else { return Err(Error::End) };
        if let Some(bytes) = reader.take_from_chunk(length) {
            return visitor.visit_str(text(bytes)?);
        }
        let bytes = reader.gather(length)?;
        visitor.visit_string(String::from_utf8(bytes).map_err(|_| Error::Invalid("UTF-8"))?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let bytes = self.borrowed(Kind::Bytes)?;
        visitor.visit_borrowed_bytes(bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let bytes = self.owned(Kind::Bytes)?;
        visitor.visit_byte_buf(bytes)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(tracer) = self.tracer() {
            let node = tracer.begin(Kind::Option, None, &[])?;
            let mut mark = None;
            if !tracer.repeat(node, &mut mark) {
                return visitor.visit_none();
            }
            tracer.enter(node, 0);
            let value = visitor.visit_some(&mut *self)?;
            if let Some(tracer) = self.tracer() {
                tracer.end(node, mark);
            }
            return Ok(value);
        }
        match self.byte(Kind::U8)? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(self),
            _ => Err(Error::Invalid("option")),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(tracer) = self.tracer() {
            tracer.number(Kind::Unit)?;
        }
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if bytes::is_asked_for_by::<V>() {
            let bytes = self.owned(Kind::Bytes)?;
            return bytes::into(bytes).ok_or(Error::Invalid("list"));
        }
        let count = if self.tracer().is_some() { 0 } else { self.length()? };
        let place = self.place(Kind::List, &[], count)?;
        visitor.visit_seq(Elements { decoder: self, place, is_list: true })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value> {
        let place = self.place(Kind::Tuple, &[], count)?;
        self.tuple(place, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, count: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_tuple(count, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let count = if self.tracer().is_some() { 0 } else { self.length()? };
        let place = self.place(Kind::Map, &[], count)?;
        visitor.visit_map(Elements { decoder: self, place, is_list: true })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let node = match self.tracer() {
            Some(tracer) => tracer.begin(Kind::Struct, Some(typeid::of::<V>()), fields)?,
            None => 0,
        };
        self.tuple(Place { node, next: 0, left: fields.len(), mark: None }, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let Some(tracer) = self.tracer() else {
            let index = self.varint(Kind::U32, u32::BITS)? as u32;
            return visitor.visit_enum(Variant { decoder: self, index });
        };
        let node = tracer.begin(Kind::Enum, Some(typeid::of::<V>()), variants)?;
        let (index, mark) = tracer.variant(node)?;
        let value = visitor.visit_enum(Variant { decoder: &mut *self, index: index as u32 })?;
        if let Some(tracer) = self.tracer() {
            tracer.end_variant(node, index, mark);
        }
        Ok(value)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(self.untyped())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(self.untyped())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(self.untyped())
    }
}

impl Decoder<'_, '_> {
    #[inline(never)]
    fn untyped(&mut self) -> Error {
        if let Some(tracer) = self.tracer() {
            let _ = tracer.begin(Kind::Untyped, None, &[]);
        }
        Error::Untyped
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::Invalid("UTF-8"))
}

struct Elements<'a, 'b, 'de> {
    decoder: &'a mut Decoder<'b, 'de>,
    place: Place,
    is_list: bool,
}

impl Elements<'_, '_, '_> {
    #[inline(never)]
    fn next(&mut self) -> bool {
        if !self.is_list {
            return self.decoder.next_in_tuple(&mut self.place);
        }
        let has_next = self.decoder.next_in_list(&mut self.place);
        if has_next {
            self.decoder.enter(&mut self.place);
        }
        has_next
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, '_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if self.next() { seed.deserialize(&mut *self.decoder).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.place.left)
    }
}

impl<'de> MapAccess<'de> for Elements<'_, '_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
        self.decoder.enter(&mut self.place);
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.place.left)
    }
}

struct Variant<'a, 'b, 'de> {
    decoder: &'a mut Decoder<'b, 'de>,
    index: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_, 'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self)> {
        let index: U32Deserializer<Error> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        match self.decoder.tracer() {
            Some(tracer) => tracer.number(Kind::Unit).map(drop),
            None => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self.decoder)
    }

    fn tuple_variant<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value> {
        self.decoder.deserialize_tuple(count, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        let place = self.decoder.place(Kind::Struct, fields, fields.len())?;
        self.decoder.tuple(place, visitor)
    }
}

/// Strings for the few types that require borrowed input, although they own their value in the end (such as a UUID,
/// which requests `&[u8]`). They are freed when reading ends.
#[derive(Default)]
pub(in crate::snapshot) struct Kept {
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
