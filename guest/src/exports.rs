//! The component functions, on `wasm32` only. `#[workload]` uses this module; it is not part of the crate's interface.
//!
//! One instance holds one state, in a thread-local that begins as the default. The host calls one function at a time
//! and never calls again after a trap, so the cell is never borrowed at a call.

#[cfg(target_arch = "wasm32")]
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "vm",
        pub_export_macro: true,
        default_bindings_module: "lifeboat_guest::exports",
        export_macro_name: "__export_component",
    });
}

#[cfg(target_arch = "wasm32")]
pub use bindings::exports;
#[cfg(target_arch = "wasm32")]
pub use component::*;

#[cfg(target_arch = "wasm32")]
mod component {
    use std::cell::RefCell;

    pub use super::bindings::__export_component;
    pub use super::bindings::exports::lifeboat::vm::workload::{Context as WireContext, Guest};
    use super::bindings::lifeboat::vm::state;
    use crate::snapshot::{self, Sink, Source, StateReader};
    use crate::{Context, Workload, dispatch};

    /// The host's stream for exported state.
    struct HostState;

    impl Sink for HostState {
        fn write(&mut self, chunk: &[u8]) {
            state::write(chunk);
        }
    }

    impl Source for HostState {
        fn read(&mut self, max: u32) -> Vec<u8> {
            state::read(max)
        }
    }

    impl From<WireContext> for Context {
        fn from(context: WireContext) -> Self {
            let WireContext { id, user, sequence, timestamp } = context;
            Self { id, user, sequence, timestamp }
        }
    }

    pub fn execute<W: Workload>(
        state: &RefCell<W>,
        context: WireContext,
        transaction: &[u8],
    ) -> Result<Vec<u8>, String> {
        dispatch::execute(&mut *state.borrow_mut(), &context.into(), transaction)
    }

    pub fn query<W: Workload>(state: &RefCell<W>, context: WireContext, query: &[u8]) -> Result<Vec<u8>, String> {
        dispatch::query(&*state.borrow(), &context.into(), query)
    }

    pub fn snapshot<W: Workload>(state: &RefCell<W>) -> Result<(), String> {
        snapshot::save(&*state.borrow(), &mut HostState)
    }

    pub fn restore<W: Workload>(state: &RefCell<W>, version: u32) -> Result<(), String> {
        *state.borrow_mut() = snapshot::restore(version, StateReader::new(HostState))?;
        Ok(())
    }
}

/// Exports the functions of the world `lifeboat:vm/vm` for one workload.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($workload:ty) => {
        const _: () = {
            use $crate::exports::{Guest, WireContext};

            ::std::thread_local! {
                static STATE: ::std::cell::RefCell<$workload> = ::std::cell::RefCell::default();
            }

            struct Exports;

            impl Guest for Exports {
                fn execute(context: WireContext, transaction: Vec<u8>) -> Result<Vec<u8>, String> {
                    STATE.with(|state| $crate::exports::execute(state, context, &transaction))
                }

                fn query(context: WireContext, query: Vec<u8>) -> Result<Vec<u8>, String> {
                    STATE.with(|state| $crate::exports::query(state, context, &query))
                }

                fn state_version() -> u32 {
                    <$workload as $crate::Workload>::STATE_VERSION
                }

                fn snapshot() -> Result<(), String> {
                    STATE.with(|state| $crate::exports::snapshot(state))
                }

                fn restore(version: u32) -> Result<(), String> {
                    STATE.with(|state| $crate::exports::restore(state, version))
                }
            }

    $crate::exports::__export_component!(Exports with_types_in $crate::exports);
        };
    };
}

/// Exports nothing: in a native build, a workload is an ordinary type.
///
/// The constant makes it a used one, so that a private type of a crate without tests is not reported as dead code.
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($workload:ty) => {
        const _: fn() -> $workload = <$workload as ::core::default::Default>::default;
    };
}
