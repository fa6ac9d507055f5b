//! From a value to bytes.

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{Error, Result, bytes};
use crate::snapshot::writer::Writer;

/// Writes values.
pub(in crate::snapshot) struct Encoder<'a> {
    output: Writer<'a>,
}

impl<'a> Encoder<'a> {
    pub(in crate::snapshot) fn new(output: Writer<'a>) -> Self {
        Self { output }
    }

    /// Writes one value.
    ///
    /// # Errors
    /// The value has no encoding.
    pub(in crate::snapshot) fn write<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        match bytes::of(value) {
            Some(bytes) => self.string(bytes),
            None => value.serialize(&mut *self),
        }
    }

    pub(in crate::snapshot) fn finish(mut self) {
        self.output.flush();
    }

    #[inline(never)]
    fn varint(&mut self, mut value: u64) -> Result<()> {
        while value > 0x7f {
            self.output.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.output.push(value as u8);
        Ok(())
    }

    #[inline(never)]
    fn wide_varint(&mut self, mut value: u128) -> Result<()> {
        while value > 0x7f {
            self.output.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.output.push(value as u8);
        Ok(())
    }

    fn zigzag(&mut self, value: i64) -> Result<()> {
        self.varint((value << 1 ^ value >> 63) as u64)
    }

    #[inline(never)]
    fn byte(&mut self, byte: u8) -> Result<()> {
        self.output.push(byte);
        Ok(())
    }

    #[inline(never)]
    fn string(&mut self, bytes: &[u8]) -> Result<()> {
        self.varint(bytes.len() as u64)?;
        self.output.extend(bytes);
        Ok(())
    }

    fn length(&mut self, count: Option<usize>) -> Result<()> {
        match count {
            Some(count) => self.varint(count as u64),
            None => Err(Error::Custom("a list or map does not know its length (or `flatten` is used)".into())),
        }
    }
}

/// Methods that write one number.
macro_rules! numbers {
    ($($method:ident($number:ident: $type:ty) as $convert:expr, by $write:ident;)*) => {$(
        fn $method(self, $number: $type) -> Result<()> {
            self.$write($convert)
        }
    )*};
}

impl Serializer for &mut Encoder<'_> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    numbers! {
        serialize_bool(value: bool) as u8::from(value), by byte;
        serialize_u8(value: u8) as value, by byte;
        serialize_i8(value: i8) as value as u8, by byte;
        serialize_u16(value: u16) as value.into(), by varint;
        serialize_u32(value: u32) as value.into(), by varint;
        serialize_u64(value: u64) as value, by varint;
        serialize_u128(value: u128) as value, by wide_varint;
        serialize_i16(value: i16) as value.into(), by zigzag;
        serialize_i32(value: i32) as value.into(), by zigzag;
        serialize_i64(value: i64) as value, by zigzag;
        serialize_i128(value: i128) as (value << 1 ^ value >> 127) as u128, by wide_varint;
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_f32(self, value: f32) -> Result<()> {
        self.output.extend(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<()> {
        self.output.extend(&value.to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<()> {
        self.string(value.encode_utf8(&mut [0; 4]).as_bytes())
    }

    fn serialize_str(self, value: &str) -> Result<()> {
        self.string(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<()> {
        self.string(value)
    }

    fn serialize_none(self) -> Result<()> {
        self.byte(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        self.byte(1)?;
        self.write(value)
    }

    fn serialize_unit(self) -> Result<()> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<()> {
        self.varint(index.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
        self.write(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<()> {
        self.varint(index.into())?;
        self.write(value)
    }

    fn serialize_seq(self, count: Option<usize>) -> Result<Self> {
        self.length(count)?;
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_tuple_variant(self, _: &'static str, index: u32, _: &'static str, _: usize) -> Result<Self> {
        self.varint(index.into())?;
        Ok(self)
    }

    fn serialize_map(self, count: Option<usize>) -> Result<Self> {
        self.length(count)?;
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_struct_variant(self, _: &'static str, index: u32, _: &'static str, _: usize) -> Result<Self> {
        self.varint(index.into())?;
        Ok(self)
    }
}

/// Implements the traits for values inside another one, which write nothing of their own.
macro_rules! elements {
    ($($trait:ident::$method:ident;)*) => {$(
        impl $trait for &mut Encoder<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.write(value)
            }

            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

elements! {
    SerializeSeq::serialize_element;
    SerializeTuple::serialize_element;
    SerializeTupleStruct::serialize_field;
    SerializeTupleVariant::serialize_field;
}

impl SerializeMap for &mut Encoder<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.write(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.write(value)
    }

    fn end(self) -> Result<()> {
        Ok(())
    }
}

/// Implements the traits for named fields. A field that is left out would move all that follow it.
macro_rules! fields {
    ($($trait:ident)*) => {$(
        impl $trait for &mut Encoder<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<()> {
                self.write(value)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<()> {
                Err(left_out(name))
            }

            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

#[cold]
fn left_out(name: &'static str) -> Error {
    let reason = format!(
        "its field `{name}` is left out (skip_serializing_if): write it always, or write \
         `type StateCodec = MessagePack;` in the workload"
    );
    Error::Custom(reason.into())
}
