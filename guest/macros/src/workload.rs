//! Checks and completes `impl Workload for T`.
//!
//! Every error points at the offending tokens and says what to write instead; `guest/tests/fail` pins them.

use proc_macro2::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Error, ImplItem, Item, ItemImpl, Result, parse_quote};

/// Expands `#[workload]` on `item`.
///
/// # Errors
/// The first rule that the item breaks, with its span.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut block = impl_block(arguments, item)?;
    check_header(&block)?;
    complete(&mut block)?;

    let workload = &block.self_ty;
    Ok(quote! {
        #block
        ::lifeboat_guest::__export!(#workload);
    })
}

fn impl_block(arguments: TokenStream, item: TokenStream) -> Result<ItemImpl> {
    if !arguments.is_empty() {
        return Err(Error::new(
            arguments.span(),
            "`#[workload]` takes no arguments: write settings as items of the impl, for example `type Codec = Raw;`",
        ));
    }
    match syn::parse2::<Item>(item)? {
        Item::Impl(block) => Ok(block),
        Item::Struct(item) => Err(belongs_on_impl(item.ident)),
        Item::Enum(item) => Err(belongs_on_impl(item.ident)),
        other => Err(Error::new(other.span(), "`#[workload]` belongs on an `impl Workload for ...` block")),
    }
}

fn belongs_on_impl(name: syn::Ident) -> Error {
    let message =
        format!("`#[workload]` belongs on the impl block, not on the type: move it to `impl Workload for {name}`");
    Error::new(name.span(), message)
}

fn check_header(block: &ItemImpl) -> Result<()> {
    let Some((_, path, _)) = &block.trait_ else {
        return Err(Error::new(
            block.self_ty.span(),
            "`#[workload]` needs the trait `Workload`: write `impl Workload for ...`",
        ));
    };
    if path.segments.last().is_none_or(|segment| segment.ident != "Workload") {
        return Err(Error::new(path.span(), "`#[workload]` needs the trait `Workload`: write `impl Workload for ...`"));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new(
            block.generics.span(),
            "a workload is one concrete type: remove the generic parameters and name the type, as in \
             `impl Workload for Store<u64>`",
        ));
    }
    Ok(())
}

/// Inserts the optional items that are missing, and refuses the block if a required one is missing.
fn complete(block: &mut ItemImpl) -> Result<()> {
    for (name, remedy) in [
        ("Transaction", "add `type Transaction = ...;`, the type of a request"),
        ("Reply", "add `type Reply = ...;`, the type of the answer to a transaction"),
    ] {
        if !has_type(block, name) {
            return Err(Error::new(block.self_ty.span(), format!("the workload has no `{name}`: {remedy}")));
        }
    }
    if !has_function(block, "execute") {
        return Err(Error::new(
            block.self_ty.span(),
            "the workload has no `execute`: add `fn execute(&mut self, context: &Context, transaction: Self::Transaction) \
             -> Result<Self::Reply, Self::Error>`",
        ));
    }

    if !has_type(block, "Error") {
        block.items.push(parse_quote! { type Error = ::std::string::String; });
    }
    if !has_type(block, "Codec") {
        block.items.push(parse_quote! { type Codec = ::lifeboat_guest::Json; });
    }
    if !has_type(block, "StateCodec") {
        block.items.push(parse_quote! { type StateCodec = ::lifeboat_guest::Postcard; });
    }
    complete_query(block)
}

/// Requires all of `Query`, `Answer` and `query`, or none of them.
fn complete_query(block: &mut ItemImpl) -> Result<()> {
    let present = [has_type(block, "Query"), has_type(block, "Answer"), has_function(block, "query")];
    if present == [false; 3] {
        block.items.push(parse_quote! { type Query = ::lifeboat_guest::NoQuery; });
        block.items.push(parse_quote! { type Answer = ::lifeboat_guest::NoQuery; });
        block.items.push(parse_quote! {
            fn query(
                &self,
                _: &::lifeboat_guest::Context,
                query: Self::Query,
            ) -> ::core::result::Result<Self::Answer, Self::Error> {
                match query {}
            }
        });
        return Ok(());
    }

    let items = [
        "`type Query = ...;`",
        "`type Answer = ...;`",
        "`fn query(&self, context: &Context, query: Self::Query) -> Result<Self::Answer, Self::Error>`",
    ];
    let missing: Vec<&str> =
        items.into_iter().zip(present).filter(|(_, present)| !present).map(|(item, _)| item).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("queries need `Query`, `Answer` and `query` together: add {}", missing.join(" and "));
    Err(Error::new(block.self_ty.span(), message))
}

fn has_type(block: &ItemImpl, name: &str) -> bool {
    block.items.iter().any(|item| matches!(item, ImplItem::Type(item) if item.ident == name))
}

fn has_function(block: &ItemImpl, name: &str) -> bool {
    block.items.iter().any(|item| matches!(item, ImplItem::Fn(item) if item.sig.ident == name))
}
