//! Replaces the asynchronous built-ins of a component by functions that trap.
//!
//! Runtimes of languages declare them for programs that use asynchronous functions. A workload has none, and WASI 0.2
//! has none, so nothing calls them. The engine leaves them off, because they would change how it calls every guest.
//!
//! A core module with a function for each of them is put at the beginning of each component that declares any, and an
//! alias of one of its functions in the place of each built-in. So only the indices of core modules and core instances
//! change there, by one.
//!
//! Built-ins of streams and futures stay, and are refused: they need types that are off as well.

use std::convert::Infallible;
use std::sync::LazyLock;

use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent, component_utils};
use wasm_encoder::{
    Alias, CanonicalFunctionSection, Component, ComponentAliasSection, ComponentSectionId, ExportKind, InstanceSection,
    ModuleArg, NestedComponentSection, RawSection,
};
use wasmparser::{CanonicalFunction, ComponentCanonicalSectionReader, Encoding, Parser, Payload, ValType};

use super::convert::survive;

/// A module with a function for each built-in, by its name and with its type.
static TRAPS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = r#"(module
        (func (export "task.cancel") unreachable)
        (func (export "context.get") (result i32) unreachable)
        (func (export "context.set") (param i32) unreachable)
        (func (export "thread.yield") (result i32) unreachable)
        (func (export "subtask.drop") (param i32) unreachable)
        (func (export "subtask.cancel") (param i32) (result i32) unreachable)
        (func (export "backpressure.inc") unreachable)
        (func (export "backpressure.dec") unreachable)
        (func (export "waitable-set.new") (result i32) unreachable)
        (func (export "waitable-set.wait") (param i32 i32) (result i32) unreachable)
        (func (export "waitable-set.poll") (param i32 i32) (result i32) unreachable)
        (func (export "waitable-set.drop") (param i32) unreachable)
        (func (export "waitable.join") (param i32 i32) unreachable))"#;
    wat::parse_str(text).expect("the text is part of this crate")
});

/// Returns the name in [`TRAPS`] of an asynchronous built-in.
fn name(function: &CanonicalFunction) -> Option<&'static str> {
    Some(match function {
        CanonicalFunction::TaskCancel => "task.cancel",
        CanonicalFunction::ContextGet { ty: ValType::I32, .. } => "context.get",
        CanonicalFunction::ContextSet { ty: ValType::I32, .. } => "context.set",
        CanonicalFunction::ThreadYield { .. } => "thread.yield",
        CanonicalFunction::SubtaskDrop => "subtask.drop",
        CanonicalFunction::SubtaskCancel { .. } => "subtask.cancel",
        CanonicalFunction::BackpressureInc => "backpressure.inc",
        CanonicalFunction::BackpressureDec => "backpressure.dec",
        CanonicalFunction::WaitableSetNew => "waitable-set.new",
        CanonicalFunction::WaitableSetWait { .. } => "waitable-set.wait",
        CanonicalFunction::WaitableSetPoll { .. } => "waitable-set.poll",
        CanonicalFunction::WaitableSetDrop => "waitable-set.drop",
        CanonicalFunction::WaitableJoin => "waitable.join",
        _ => return None,
    })
}

/// Returns `component` without asynchronous built-ins, or `None` if it has none that can be replaced. Its counts and its
/// nesting must be within their bounds; otherwise it may be invalid.
pub(super) fn without_async(component: &[u8]) -> Option<Vec<u8>> {
    let declaring = declaring_async(component);
    if !declaring.contains(&true) {
        return None;
    }
    let rewrite = || {
        let mut rewritten = Component::new();
        let mut declaring = declaring.into_iter();
        let around = vec![declaring.next().unwrap_or_default()];
        let mut rewriter = Rewriter { declaring, around };
        rewriter.parse_component(&mut rewritten, Parser::new(0), component).map_err(|error| error.to_string())?;
        Ok(rewritten.finish())
    };
    // If it fails, the validator refuses the component with a message that is of more use.
    survive(rewrite).ok()
}

/// Returns whether each component, in the order of their beginnings, has built-ins to replace.
fn declaring_async(component: &[u8]) -> Vec<bool> {
    let (mut declaring, mut open) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(component) {
        match payload {
            Ok(Payload::Version { encoding: Encoding::Component, .. }) => {
                open.push(Some(declaring.len()));
                declaring.push(false);
            }
            Ok(Payload::Version { encoding: Encoding::Module, .. }) => open.push(None),
            Ok(Payload::End(_)) => drop(open.pop()),
            Ok(Payload::ComponentCanonicalSection(section)) => {
                let has_async = section.into_iter().flatten().any(|function| name(&function).is_some());
                if let Some(&Some(index)) = open.last() {
                    declaring[index] |= has_async;
                }
            }
            Ok(_) => {}
            Err(_) => return Vec::new(),
        }
    }
    declaring
}

struct Rewriter {
    /// Whether each component that is still to come has built-ins to replace.
    declaring: std::vec::IntoIter<bool>,
    /// The same of the current component or type, which is last, and of those around it. It is false for a type.
    around: Vec<bool>,
}

impl Rewriter {
    /// Returns by how much indices grow in the component that is `count` around the current one.
    fn shift(&self, count: u32) -> u32 {
        self.around.iter().rev().nth(count as usize).copied().map_or(0, u32::from)
    }
}

impl Reencode for Rewriter {
    type Error = Infallible;
}

impl ReencodeComponent for Rewriter {
    fn module_index(&mut self, module: u32) -> u32 {
        module.saturating_add(self.shift(0))
    }

    fn instance_index(&mut self, instance: u32) -> u32 {
        instance.saturating_add(self.shift(0))
    }

    fn outer_module_index(&mut self, count: u32, module: u32) -> u32 {
        module.saturating_add(self.shift(count))
    }

    fn push_depth(&mut self) {
        self.around.push(false);
    }

    fn pop_depth(&mut self) {
        self.around.pop();
    }

    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        _parser: Parser,
        module: &[u8],
    ) -> Result<(), Error<Infallible>> {
        component.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: module });
        Ok(())
    }

    fn parse_component_subcomponent(
        &mut self,
        component: &mut Component,
        parser: Parser,
        subcomponent: &[u8],
        whole_component: &[u8],
    ) -> Result<(), Error<Infallible>> {
        self.around.push(self.declaring.next().unwrap_or_default());
        let mut rewritten = Component::new();
        component_utils::parse_component(self, &mut rewritten, parser, subcomponent, whole_component)?;
        component.section(&NestedComponentSection(&rewritten));
        self.around.pop();
        Ok(())
    }

    fn parse_component_payload(
        &mut self,
        component: &mut Component,
        payload: Payload<'_>,
        whole_component: &[u8],
    ) -> Result<(), Error<Infallible>> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } if self.shift(0) > 0 => {
                component.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: &TRAPS });
                let mut instances = InstanceSection::new();
                instances.instantiate(0, std::iter::empty::<(&str, ModuleArg)>());
                component.section(&instances);
                Ok(())
            }
            Payload::ComponentCanonicalSection(section) if self.shift(0) > 0 => self.replace(component, section),
            payload => component_utils::parse_component_payload(self, component, payload, whole_component),
        }
    }
}

impl Rewriter {
    /// Copies a section of built-ins and lifted functions, in parts between those that are replaced.
    fn replace(
        &mut self,
        component: &mut Component,
        section: ComponentCanonicalSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        let mut functions = CanonicalFunctionSection::new();
        for function in section {
            let function = function?;
            let Some(name) = name(&function) else {
                self.parse_component_canonical(&mut functions, function)?;
                continue;
            };
            if !functions.is_empty() {
                component.section(&std::mem::take(&mut functions));
            }
            let mut alias = ComponentAliasSection::new();
            alias.alias(Alias::CoreInstanceExport { instance: 0, kind: ExportKind::Func, name });
            component.section(&alias);
        }
        if !functions.is_empty() {
            component.section(&functions);
        }
        Ok(())
    }
}
