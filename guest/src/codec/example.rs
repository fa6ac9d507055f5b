//! Examples of a type's JSON, generated from its `Deserialize` alone.
//!
//! [`Sampler`] is a `Deserializer` without input: it supplies every type with the value that it requests, and writes
//! the JSON of that value. The documentation of [`Json`](super::Json) lists the types without an example.

use std::slice::Iter;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// The longest text of examples, in bytes, without the words between them. Longer examples are omitted.
const EXAMPLES_MAX_BYTES: usize = 300;

/// The most variants of an enum that are tried as its examples.
const VARIANTS_MAX: usize = 16;

/// The most variants that are tried for enums inside an example: the first variant may contain the enum itself.
const INNER_VARIANTS_MAX: usize = 4;

/// The depth from which on optional values are absent and collections are empty.
const SPARSE_DEPTH: usize = 3;

/// The greatest depth of an example: a deeper type has none.
const DEPTH_MAX: usize = 8;

/// The most newtypes and options that may be nested around one value. A type that nests more has no example.
const WRAPPERS_MAX: usize = 8;

/// The most fields that an example omits because they are aliases of others.
const LEFT_OUT_MAX: usize = 8;

/// The length of the part of a body that is searched for the names of an enum's variants, in bytes.
const NAMED_WITHIN_BYTES: usize = 128;

/// Returns bodies that are a `T`, such as `{"add":1}`, or an empty string if none is known. For an enum it returns the
/// variant that the beginning of `body` names, otherwise one example for every variant, as far as the text has room.
pub(super) fn examples<T: DeserializeOwned>(body: &[u8]) -> String {
    examples_by(body, &|sample| {
        T::deserialize(Sampler { sample, depth: 0, wrappers: 0 })?;
        if sample.is_certain || serde_json::from_slice::<T>(sample.json.as_bytes()).is_ok() {
            Ok(())
        } else {
            Err(NoExample::Refused)
        }
    })
}

/// Returns the examples of the type whose samples `make` makes.
fn examples_by(body: &[u8], make: &dyn Fn(&mut Sample<'_>) -> Result<(), NoExample>) -> String {
    let mut examples = String::new();
    let mut sample = Sample {
        body: &body[..body.len().min(NAMED_WITHIN_BYTES)],
        json: String::with_capacity(EXAMPLES_MAX_BYTES),
        is_certain: true,
        variants: 1,
        variant: 0,
        inner_variant: 0,
        outermost: "",
        last_field: None,
        left_out: Vec::new(),
    };
    while sample.variant < sample.variants.min(VARIANTS_MAX) {
        sample.json.clear();
        sample.is_certain = true;
        match (make(&mut sample), sample.last_field) {
            (Ok(()), _) => add(&mut examples, &sample.json),
            (Err(NoExample::FieldTwice), Some(alias)) if sample.left_out.len() < LEFT_OUT_MAX => {
                sample.left_out.push(alias);
                continue;
            }
            _ if sample.inner_variant + 1 < INNER_VARIANTS_MAX => {
                sample.inner_variant += 1;
                continue;
            }
            _ => {}
        }
        sample.inner_variant = 0;
        sample.variant += 1;
    }
    examples
}

/// Appends an example if there is room.
fn add(examples: &mut String, json: &str) {
    if examples.len() + json.len() <= EXAMPLES_MAX_BYTES {
        examples.push_str(if examples.is_empty() { "" } else { " or " });
        examples.push_str(json);
    }
}

/// Returns the first of `variants` that occurs in quotes in `body`.
fn named_in(body: &[u8], variants: &[&str]) -> Option<usize> {
    let mut quoted = body.split(|byte| *byte == b'"').skip(1);
    quoted.find_map(|text| variants.iter().position(|name| name.as_bytes() == text))
}

/// An example that is being made.
struct Sample<'a> {
    /// The beginning of the wrong body.
    body: &'a [u8],
    json: String,
    /// Whether the JSON certainly reads as the value.
    is_certain: bool,
    /// The number of variants of the outermost enum to show.
    variants: usize,
    /// The index of the variant that this example shows.
    variant: usize,
    /// The index of the variant to use of every other enum, modulo the number of its variants.
    inner_variant: usize,
    /// The name of the outermost struct. A struct that contains an enum of the same name is an adjacently tagged enum.
    outermost: &'static str,
    /// The last field that was written, in the list that its type supplied.
    last_field: Option<&'static &'static str>,
    /// The fields to omit.
    left_out: Vec<&'static &'static str>,
}

/// The reason why there is no example.
#[derive(Debug)]
enum NoExample {
    /// The type does not accept the sample.
    Refused,
    /// The last field is an alias of an earlier one: `serde` lists both.
    FieldTwice,
}

impl std::fmt::Display for NoExample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no example")
    }
}

impl std::error::Error for NoExample {}

impl serde::de::Error for NoExample {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self::Refused
    }

    // Without these, the texts of the default methods would be part of every module.
    fn invalid_type(_: serde::de::Unexpected<'_>, _: &dyn serde::de::Expected) -> Self {
        Self::Refused
    }

    fn invalid_value(_: serde::de::Unexpected<'_>, _: &dyn serde::de::Expected) -> Self {
        Self::Refused
    }

    fn invalid_length(_: usize, _: &dyn serde::de::Expected) -> Self {
        Self::Refused
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        Self::Refused
    }

    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self::Refused
    }

    fn missing_field(_: &'static str) -> Self {
        Self::Refused
    }

    fn duplicate_field(_: &'static str) -> Self {
        Self::FieldTwice
    }
}

/// Makes one value of an example.
struct Sampler<'a, 'b> {
    sample: &'a mut Sample<'b>,
    depth: usize,
    /// The number of newtypes and options around this value.
    wrappers: usize,
}

impl<'b> Sampler<'_, 'b> {
    /// Returns a sampler for the contents of this value.
    fn inside(&mut self) -> Sampler<'_, 'b> {
        Sampler { sample: self.sample, depth: self.depth + 1, wrappers: 0 }
    }

    /// Returns a sampler for the next value at this depth, unless the example is already too deep or too long.
    fn next(&mut self) -> Result<Sampler<'_, 'b>, NoExample> {
        if self.depth > DEPTH_MAX || self.sample.json.len() > EXAMPLES_MAX_BYTES {
            return Err(NoExample::Refused);
        }
        Ok(Sampler { sample: self.sample, depth: self.depth, wrappers: 0 })
    }

    // Every type calls these, so they should not be inlined into each.
    #[inline(never)]
    fn write(&mut self, json: &str) {
        self.sample.json.push_str(json);
    }

    /// Writes `"name"` between `before` and `after`.
    #[inline(never)]
    fn write_name(&mut self, before: &str, name: &str, after: &str) {
        self.write(before);
        if name.bytes().all(|byte| !matches!(byte, ..b' ' | b'"' | b'\\')) {
            for part in ["\"", name, "\""] {
                self.write(part);
            }
        } else {
            self.sample.is_certain = false;
            self.write(&serde_json::to_string(name).unwrap_or_default());
        }
        self.write(after);
    }

    /// Returns the variant of an enum that this value should have.
    #[inline(never)]
    fn variant(&mut self, name: &str, variants: &'static [&'static str]) -> Option<&'static str> {
        let is_outermost = self.depth == 0 || self.depth == 1 && name == self.sample.outermost;
        let index = if !is_outermost {
            self.sample.inner_variant.checked_rem(variants.len())?
        } else if self.sample.variant == 0
            && let Some(index) = named_in(self.sample.body, variants)
        {
            index
        } else {
            // The body names no variant; otherwise there would be only one example.
            self.sample.variants = variants.len();
            self.sample.variant
        };
        variants.get(index).copied()
    }

    /// Writes a list of `count` elements.
    fn list<'de, V: Visitor<'de>>(mut self, count: usize, visitor: V) -> Result<V::Value, NoExample> {
        self.write("[");
        let value = visitor.visit_seq(Elements { sampler: self.inside(), left: count, is_first: true })?;
        self.write("]");
        Ok(value)
    }

    /// Writes an object with these fields.
    fn object<'de, V: Visitor<'de>>(
        mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoExample> {
        self.write("{");
        let value = visitor.visit_map(Fields { sampler: self.inside(), fields: fields.iter(), is_first: true })?;
        self.write("}");
        Ok(value)
    }
}

/// Methods that supply one value, with its JSON.
macro_rules! values {
    ($($json:literal = $visit:ident $value:tt: $($method:ident)*;)*) => {$($(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, NoExample> {
            self.write($json);
            visitor.$visit $value
        }
    )*)*};
}

impl<'de> Deserializer<'de> for Sampler<'_, '_> {
    type Error = NoExample;

    values! {
        "true" = visit_bool(true): deserialize_bool;
        "1" = visit_u64(1): deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
            deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128;
        "1.5" = visit_f64(1.5): deserialize_f32 deserialize_f64;
        "\"a\"" = visit_char('a'): deserialize_char;
        "\"text\"" = visit_str("text"): deserialize_str deserialize_string;
        "null" = visit_unit(): deserialize_any deserialize_unit deserialize_ignored_any;
    }

    fn deserialize_bytes<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, NoExample> {
        self.sample.is_certain = false;
        self.write("[1]");
        visitor.visit_bytes(&[1])
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoExample> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoExample> {
        Err(NoExample::Refused)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, NoExample> {
        // This is half of the bound, since a newtype inside the last option would have no value.
        if self.depth < SPARSE_DEPTH && self.wrappers < WRAPPERS_MAX / 2 {
            self.wrappers += 1;
            return visitor.visit_some(self);
        }
        self.write("null");
        visitor.visit_none()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NoExample> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoExample> {
        self.wrappers += 1;
        if self.wrappers > WRAPPERS_MAX {
            return Err(NoExample::Refused);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoExample> {
        let count = usize::from(self.depth < SPARSE_DEPTH);
        self.list(count, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value, NoExample> {
        self.list(count, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, NoExample> {
        self.list(count, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, NoExample> {
        let has_entry = self.depth < SPARSE_DEPTH;
        self.write("{");
        let value = visitor.visit_map(Entry { sampler: self.inside(), is_left: has_entry })?;
        self.write("}");
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoExample> {
        if self.depth == 0 {
            self.sample.outermost = name;
        }
        self.object(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoExample> {
        let name = self.variant(name, variants).ok_or(NoExample::Refused)?;
        visitor.visit_enum(Variant { sampler: self, name })
    }
}

struct Elements<'a, 'b> {
    sampler: Sampler<'a, 'b>,
    left: usize,
    is_first: bool,
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = NoExample;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NoExample> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if !std::mem::take(&mut self.is_first) {
            self.sampler.write(",");
        }
        seed.deserialize(self.sampler.next()?).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

struct Fields<'a, 'b> {
    sampler: Sampler<'a, 'b>,
    fields: Iter<'static, &'static str>,
    is_first: bool,
}

impl Fields<'_, '_> {
    /// Writes the name of the next field and returns it.
    #[inline(never)]
    fn next(&mut self) -> Option<&'static str> {
        let left_out = &self.sampler.sample.left_out;
        let field = self.fields.find(|field| !left_out.iter().any(|left_out| std::ptr::eq(*left_out, *field)))?;
        self.sampler.sample.last_field = Some(field);
        self.sampler.write_name(if std::mem::take(&mut self.is_first) { "" } else { "," }, field, ":");
        Some(field)
    }
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = NoExample;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoExample> {
        let Some(field) = self.next() else { return Ok(None) };
        seed.deserialize(named(field)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, NoExample> {
        seed.deserialize(self.sampler.next()?)
    }
}

/// The entry of a map, whose key may have any type.
struct Entry<'a, 'b> {
    sampler: Sampler<'a, 'b>,
    is_left: bool,
}

impl<'de> MapAccess<'de> for Entry<'_, '_> {
    type Error = NoExample;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NoExample> {
        if !std::mem::take(&mut self.is_left) {
            return Ok(None);
        }
        let start = self.sampler.sample.json.len();
        let key = self.next_value_seed(seed)?;
        // JSON accepts the key `1` as `"1"`, but not every type does.
        let json = self.sampler.sample.json.split_off(start);
        let quote = if json.starts_with('"') { "" } else { "\"" };
        self.sampler.sample.is_certain &= quote.is_empty();
        for part in [quote, &json, quote, ":"] {
            self.sampler.write(part);
        }
        Ok(Some(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, NoExample> {
        seed.deserialize(self.sampler.next()?)
    }
}

struct Variant<'a, 'b> {
    sampler: Sampler<'a, 'b>,
    name: &'static str,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = NoExample;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), NoExample> {
        Ok((seed.deserialize(named(self.name))?, self))
    }
}

impl<'b> Variant<'_, 'b> {
    /// Writes `{"name":value}`.
    fn with<T>(mut self, value: impl FnOnce(Sampler<'_, 'b>) -> Result<T, NoExample>) -> Result<T, NoExample> {
        self.sampler.write_name("{", self.name, ":");
        let value = value(self.sampler.inside().next()?)?;
        self.sampler.write("}");
        Ok(value)
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = NoExample;

    fn unit_variant(mut self) -> Result<(), NoExample> {
        self.sampler.write_name("", self.name, "");
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NoExample> {
        self.with(|sampler| seed.deserialize(sampler))
    }

    fn tuple_variant<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value, NoExample> {
        self.with(|sampler| sampler.list(count, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoExample> {
        self.with(|sampler| sampler.object(fields, visitor))
    }
}

/// Returns a deserializer that yields the name of a field or a variant.
fn named(name: &'static str) -> StrDeserializer<'static, NoExample> {
    name.into_deserializer()
}

#[cfg(test)]
mod tests;
