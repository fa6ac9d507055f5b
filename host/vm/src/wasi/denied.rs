//! Interfaces of WASI that no service is granted, such as sockets.
//!
//! The runtime of a language imports what its programs may need, and most programs need little of it. So a workload may
//! import these interfaces. Their functions have the types of the import, and do nothing:
//!
//! - A function whose error type can express a denial returns that error.
//! - A function that returns a resource of such an interface returns a handle. No function does anything with it.
//! - Any other function traps with `denied: ` and its name. So does one that takes a resource which the guest is
//!   granted.
//!
//! The result depends on nothing but the type, so every replay sees the same one.

use super::HasWasi;
use crate::stop::Stop;
use lifeboat_api::text::shortened;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, Resource, ResourceType, Type, Val};
use wasmtime::{Result, StoreContextMut};

/// The cases of an error that mean a denial. The first one that an error type has is returned.
const DENIALS: [&str; 3] = ["access-denied", "not-supported", "HTTP-request-denied"];

/// The length to which the name of a function is shown in a trap, in bytes. The names come from the guest.
const NAME_SHOWN_BYTES: usize = 200;

/// The fuel charged for each value among the arguments of a function that returns, beside one for each byte of text.
/// wasmtime makes a value of the host for each of them.
const FUEL_PER_VALUE: u64 = 20;

/// A resource of an interface that is denied. All of them are the same type, because no handle gives access to
/// anything.
struct Denied;

/// Defines every function and resource of the interfaces `denied` that `component` imports.
///
/// # Errors
/// Fails only if a name is linked twice, which validation excludes.
pub(crate) fn define<D: HasWasi>(linker: &mut Linker<D>, component: &Component, denied: &[String]) -> Result<()> {
    let engine = linker.engine().clone();
    let mut known = Vec::new();
    for (interface, import) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        let mut linked = match denied.iter().any(|denied| denied == interface) {
            true => Some(linker.instance(interface)?),
            false => None,
        };
        for (name, export) in instance.exports(&engine) {
            match (export.ty, &mut linked) {
                // A resource of an earlier interface was defined there, and its type cannot be defined again.
                (ComponentItem::Resource(resource), _) if known.contains(&resource) => {}
                (ComponentItem::Resource(resource), linked) => {
                    known.push(resource);
                    if let Some(linked) = linked {
                        linked.resource(name, ResourceType::host::<Denied>(), |_, _| Ok(()))?;
                    }
                }
                (ComponentItem::ComponentFunc(_), Some(linked)) => {
                    let function = shortened(&format!("{interface}#{name}"), NAME_SHOWN_BYTES);
                    let message = format!("denied: {function}: the service is not granted it");
                    linked.func_new(name, move |mut store, ty, arguments, results| {
                        // A function without a result traps too: its guest must not believe that it had an effect.
                        let (Some(ty), [result]) = (ty.results().next(), results) else {
                            return Err(Stop::trap(message.clone()));
                        };
                        *result = denial(&mut store, &ty, &message)?;
                        arguments.iter().try_for_each(|argument| release(&mut store, argument, &message))
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the value of type `ty` that means a denial.
///
/// # Errors
/// Traps with `message` if the type has no such value.
fn denial<D: 'static>(store: &mut StoreContextMut<'_, D>, ty: &Type, message: &str) -> Result<Val> {
    let result = match ty {
        Type::Result(result) => result,
        Type::Own(resource) => return handle(store, resource, message),
        _ => return Err(Stop::trap(message.to_owned())),
    };
    let error = match result.err() {
        Some(Type::Enum(error)) => {
            let has = |denial: &&str| error.names().any(|name| name == *denial);
            DENIALS.into_iter().find(has).map(|denial| Val::Enum(denial.to_owned()))
        }
        Some(Type::Variant(error)) => {
            let has = |denial: &&str| error.cases().any(|case| case.name == *denial && case.ty.is_none());
            DENIALS.into_iter().find(has).map(|denial| Val::Variant(denial.to_owned(), None))
        }
        Some(Type::String) => Some(Val::String(message.to_owned())),
        Some(Type::Own(resource)) => Some(handle(store, &resource, message)?),
        _ => None,
    };
    error.map(|error| Val::Result(Err(Some(Box::new(error))))).ok_or_else(|| Stop::trap(message.to_owned()))
}

/// Returns a new handle of `resource` if that is a resource of a denied interface.
///
/// # Errors
/// Traps with `message` if it is one that the guest is granted, and if the guest holds too many handles.
fn handle<D: 'static>(store: &mut StoreContextMut<'_, D>, resource: &ResourceType, message: &str) -> Result<Val> {
    if *resource != ResourceType::host::<Denied>() {
        return Err(Stop::trap(message.to_owned()));
    }
    Ok(Val::Resource(Resource::<Denied>::new_own(0).try_into_resource_any(store)?))
}

/// Charges for an argument, and ends the use of the handles in it, which must be of denied resources.
///
/// # Errors
/// Traps with `message` if one is of a resource that the guest is granted. Its owner would have to close it.
fn release<D: HasWasi>(store: &mut StoreContextMut<'_, D>, argument: &Val, message: &str) -> Result<()> {
    let text_bytes = if let Val::String(text) = argument { text.len() } else { 0 };
    let wasi = store.data_mut().wasi();
    wasi.owed_fuel = wasi.owed_fuel.saturating_add(FUEL_PER_VALUE.saturating_add(text_bytes as u64));
    let mut each = |argument: &Val| release(store, argument, message);
    match argument {
        Val::Resource(handle) if handle.ty() == ResourceType::host::<Denied>() => {
            Resource::<Denied>::try_from_resource_any(*handle, store).map(drop)
        }
        Val::Resource(_) | Val::Future(_) | Val::Stream(_) | Val::ErrorContext(_) => {
            Err(Stop::trap(message.to_owned()))
        }
        Val::List(values) | Val::Tuple(values) | Val::FixedLengthList(values) => values.iter().try_for_each(each),
        Val::Map(entries) => entries.iter().try_for_each(|(key, value)| each(key).and_then(|()| each(value))),
        Val::Record(fields) => fields.iter().try_for_each(|(_, value)| each(value)),
        Val::Variant(_, Some(value)) | Val::Option(Some(value)) => each(value),
        Val::Result(Ok(Some(value)) | Err(Some(value))) => each(value),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
