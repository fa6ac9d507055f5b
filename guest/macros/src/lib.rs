//! The attribute of `lifeboat-guest`. Depend on that crate, which re-exports it and documents the trait that it
//! completes.
//!
//! This crate only rewrites one `impl` block. The code of the exports is in `lifeboat-guest`.

mod workload;

use proc_macro::TokenStream;

/// Makes `impl Workload for T` the workload of its crate.
///
/// It inserts the missing items (`Error = String`, `Codec = Json`, `StateCodec = Postcard`; without a `fn query`, one
/// that answers no queries) and, on `wasm32` only, exports the component functions. One crate holds one workload: a second one fails to link.
#[proc_macro_attribute]
pub fn workload(arguments: TokenStream, item: TokenStream) -> TokenStream {
    workload::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
