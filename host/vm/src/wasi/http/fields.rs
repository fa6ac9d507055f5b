//! The headers and trailers of a message: names with values, checked and bounded.
//!
//! The names and values that are valid, the forbidden names and the order of the entries are those of wasmtime-wasi-http
//! 48. That order is the one of [`HeaderMap`]: by the first value of each name, except that the last name takes the
//! place of one that is removed. The tests compare it with a list, because replies depend on it.

use super::super::Wasi;
use super::Held;
use super::bindings::wasi::http::types;
use super::error::HeaderFailure;
use http::header::{CONTENT_LENGTH, Entry, HeaderMap, HeaderName, HeaderValue};
use http::header::{InvalidHeaderName, InvalidHeaderValue, MaxSizeReached};
use lifeboat_api::call::{FORBIDDEN_HEADERS, Field};
use wasmtime::component::Resource;

/// The most bytes of names and values in one `fields`, with [`FIELD_NAME_BYTES`] and [`FIELD_VALUE_BYTES`] for each.
pub(crate) const FIELDS_BYTES_MAX: usize = 128 * 1024;

/// The count of a name beside its length, and of a value beside its length.
///
/// They are the sizes that these have in memory for wasmtime-wasi-http 48 on a machine of 64 bits. Here they are numbers
/// of their own, so that no guest's limit depends on a compiler.
pub(crate) const FIELD_NAME_BYTES: usize = 32;
/// See [`FIELD_NAME_BYTES`].
pub(crate) const FIELD_VALUE_BYTES: usize = 40;

/// The reason why `fields` do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldsError {
    /// A name or a value is not valid.
    Invalid,
    /// The name is one of [`FORBIDDEN_HEADERS`].
    Forbidden,
    /// They belong to a message.
    Immutable,
    /// They would have more than [`FIELDS_BYTES_MAX`].
    TooLarge,
}

impl From<InvalidHeaderName> for FieldsError {
    fn from(_: InvalidHeaderName) -> Self {
        Self::Invalid
    }
}

impl From<InvalidHeaderValue> for FieldsError {
    fn from(_: InvalidHeaderValue) -> Self {
        Self::Invalid
    }
}

impl From<MaxSizeReached> for FieldsError {
    fn from(_: MaxSizeReached) -> Self {
        Self::TooLarge
    }
}

/// A `fields` of a guest.
#[derive(Debug, Clone)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct Fields {
    map: HeaderMap,
    /// The bytes of `map` as [`FIELDS_BYTES_MAX`] counts them.
    bytes: usize,
    is_mutable: bool,
}

impl Fields {
    /// Creates mutable fields without an entry.
    pub(super) fn new() -> Self {
        Self { map: HeaderMap::new(), bytes: 0, is_mutable: true }
    }

    /// Returns the fields of a response, without the names that a guest may not set. None if they are more than fields
    /// can hold.
    pub(super) fn received(received: &[Field]) -> Option<Self> {
        let mut fields = Self::new();
        for Field { name, value } in received {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            if FORBIDDEN_HEADERS.contains(&name.as_str()) {
                continue;
            }
            let value = HeaderValue::from_bytes(value).ok()?;
            let name_bytes = if fields.map.contains_key(&name) { 0 } else { name_bytes(&name) };
            // A bound of its own holds for what was received; the counts beside it only count.
            fields.bytes += name_bytes + value_bytes(&value);
            fields.map.try_append(name, value).ok()?;
        }
        Some(fields.into_immutable())
    }

    /// Makes the fields those of a message.
    pub(super) fn into_immutable(self) -> Self {
        Self { is_mutable: false, ..self }
    }

    /// Returns a copy that a guest may change.
    pub(super) fn to_mutable(&self) -> Self {
        Self { is_mutable: true, ..self.clone() }
    }

    /// Returns the bytes of names and values, with the counts of each.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of values of all names.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns the values of a name in their order, none if the name is not valid.
    pub(super) fn get(&self, name: &str) -> Vec<Vec<u8>> {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return Vec::new() };
        self.map.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
    }

    /// Returns whether a name has a value.
    pub(super) fn has(&self, name: &str) -> bool {
        HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| self.map.contains_key(name))
    }

    /// Returns every value with its name in lower case.
    pub(super) fn entries(&self) -> Vec<(String, Vec<u8>)> {
        self.map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
    }

    /// Returns the length that the message announces for its body.
    pub(super) fn content_length(&self) -> Option<u64> {
        // Only one valid value ever gets into the map.
        self.map.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Replaces the values of a name. Without a value, it removes the name.
    ///
    /// # Errors
    /// The fields stay as they are, except if they are too large: the guest then ends.
    pub(super) fn set(&mut self, name: &str, values: Vec<Vec<u8>>) -> Result<(), FieldsError> {
        let name = settable(name)?;
        self.check_mutable()?;
        if name == CONTENT_LENGTH && values.len() > 1 {
            return Err(FieldsError::Invalid);
        }
        let values = values.into_iter().map(|value| parse_value(&name, value)).collect::<Result<Vec<_>, _>>()?;
        let name_bytes = name_bytes(&name);
        let values_bytes: usize = values.iter().map(value_bytes).sum();
        let mut values = values.into_iter();
        let Some(first) = values.next() else {
            self.remove(name);
            return Ok(());
        };
        match self.map.try_entry(name)? {
            Entry::Vacant(entry) => {
                grow(&mut self.bytes, name_bytes + values_bytes)?;
                let mut entry = entry.try_insert_entry(first)?;
                values.for_each(|value| entry.append(value));
            }
            Entry::Occupied(mut entry) => {
                self.bytes -= entry.iter().map(value_bytes).sum::<usize>();
                grow(&mut self.bytes, values_bytes)?;
                entry.insert(first);
                values.for_each(|value| entry.append(value));
            }
        }
        Ok(())
    }

    /// Removes the values of a name.
    ///
    /// # Errors
    /// The fields stay as they are.
    pub(super) fn delete(&mut self, name: &str) -> Result<(), FieldsError> {
        let name = settable(name)?;
        self.check_mutable()?;
        self.remove(name);
        Ok(())
    }

    /// Adds a value after those that its name has.
    ///
    /// # Errors
    /// The fields stay as they are.
    pub(super) fn append(&mut self, name: &str, value: Vec<u8>) -> Result<(), FieldsError> {
        let name = settable(name)?;
        let value = parse_value(&name, value)?;
        let is_new = !self.map.contains_key(&name);
        // Two lengths would make the end of the body ambiguous.
        if name == CONTENT_LENGTH && !is_new {
            return Err(FieldsError::Invalid);
        }
        self.check_mutable()?;
        let name_bytes = if is_new { name_bytes(&name) } else { 0 };
        grow(&mut self.bytes, name_bytes + value_bytes(&value))?;
        self.map.try_append(name, value)?;
        Ok(())
    }

    fn check_mutable(&self) -> Result<(), FieldsError> {
        if self.is_mutable { Ok(()) } else { Err(FieldsError::Immutable) }
    }

    fn remove(&mut self, name: HeaderName) {
        if let Ok(Entry::Occupied(entry)) = self.map.try_entry(name) {
            let (name, values) = entry.remove_entry_mult();
            self.bytes -= name_bytes(&name) + values.map(|value| value_bytes(&value)).sum::<usize>();
        }
    }
}

impl Held for Fields {
    fn content_bytes(&self) -> usize {
        self.bytes()
    }
}

impl types::HostFields for Wasi {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        self.hold(Fields::new())
    }

    fn from_list(&mut self, entries: Vec<(String, Vec<u8>)>) -> Result<Resource<Fields>, HeaderFailure> {
        let bytes = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.charge_fields(entries.len(), bytes);
        let mut fields = Fields::new();
        for (name, value) in entries {
            fields.append(&name, value)?;
        }
        Ok(self.hold(fields)?)
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        let values = self.table.get(&fields)?.get(&name);
        self.charge_fields(1 + values.len(), name.len() + values.iter().map(Vec::len).sum::<usize>());
        Ok(values)
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        self.charge_fields(1, name.len());
        Ok(self.table.get(&fields)?.has(&name))
    }

    fn set(&mut self, fields: Resource<Fields>, name: String, values: Vec<Vec<u8>>) -> Result<(), HeaderFailure> {
        self.charge_fields(1 + values.len(), name.len() + values.iter().map(Vec::len).sum::<usize>());
        Ok(self.change(&fields, |fields| fields.set(&name, values))??)
    }

    fn delete(&mut self, fields: Resource<Fields>, name: String) -> Result<(), HeaderFailure> {
        self.charge_fields(1, name.len());
        Ok(self.change(&fields, |fields| fields.delete(&name))??)
    }

    fn append(&mut self, fields: Resource<Fields>, name: String, value: Vec<u8>) -> Result<(), HeaderFailure> {
        self.charge_fields(1, name.len() + value.len());
        Ok(self.change(&fields, |fields| fields.append(&name, value))??)
    }

    fn entries(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        let fields = self.table.get(&fields)?;
        let (values, bytes, entries) = (fields.len(), fields.bytes(), fields.entries());
        self.charge_fields(values, bytes);
        Ok(entries)
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let copy = self.table.get(&fields)?.to_mutable();
        self.hold_headers(copy)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.take(fields).map(drop)
    }
}

/// Returns a name that a guest may set.
fn settable(name: &str) -> Result<HeaderName, FieldsError> {
    let name = HeaderName::from_bytes(name.as_bytes())?;
    if FORBIDDEN_HEADERS.contains(&name.as_str()) { Err(FieldsError::Forbidden) } else { Ok(name) }
}

fn parse_value(name: &HeaderName, value: Vec<u8>) -> Result<HeaderValue, FieldsError> {
    if name != CONTENT_LENGTH {
        return Ok(value.try_into()?);
    }
    // RFC 9110 has digits alone, and `parse` would take a sign.
    let digits = str::from_utf8(&value).map_err(|_| FieldsError::Invalid)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FieldsError::Invalid);
    }
    let length: u64 = digits.parse().map_err(|_| FieldsError::Invalid)?;
    Ok(length.into())
}

fn name_bytes(name: &HeaderName) -> usize {
    name.as_str().len() + FIELD_NAME_BYTES
}

fn value_bytes(value: &HeaderValue) -> usize {
    value.len() + FIELD_VALUE_BYTES
}

/// Adds `more` to `bytes`, within [`FIELDS_BYTES_MAX`].
fn grow(bytes: &mut usize, more: usize) -> Result<(), FieldsError> {
    let sum = *bytes + more;
    if sum > FIELDS_BYTES_MAX {
        return Err(FieldsError::TooLarge);
    }
    *bytes = sum;
    Ok(())
}
