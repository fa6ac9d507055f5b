//! The world of everything that a workload may import, and guests of it that are generated as text.

use std::fmt::Write as _;
use std::sync::LazyLock;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{
    Function, FunctionKind, Handle, InterfaceId, Resolve, Type, TypeDefKind, TypeId, TypeOwner, WorldId, WorldItem,
};

/// The imports that a workload may have, with the names and types that its core module sees.
pub(crate) struct World {
    pub(crate) resolve: Resolve,
    pub(crate) id: WorldId,
}

/// The world `everything` of `tests/guests/assembled/everything.wit`.
pub(crate) static WORLD: LazyLock<World> = LazyLock::new(|| {
    let mut resolve = Resolve::default();
    resolve.push_str("vm.wit", include_str!("../host/wit/vm.wit")).expect("valid");
    let everything = resolve.push_str("everything.wit", include_str!("guests/assembled/everything.wit"));
    let package = everything.unwrap_or_else(|error| panic!("{error:?}"));
    let id = resolve.select_world(&[package], Some("everything")).expect("it is there");
    World { resolve, id }
});

/// The world of a workload that imports all of `wasi:http` that the host links, from the host's own files.
pub(crate) static HTTP_WORLD: LazyLock<World> = LazyLock::new(|| {
    const WORLD: &str = "package test:http;
        world http {
          include lifeboat:vm/vm@0.1.0;
          import wasi:http/types@0.2.12;
          import wasi:http/outgoing-handler@0.2.12;
        }";
    let mut resolve = Resolve::default();
    for (file, text) in [
        ("vm.wit", include_str!("../host/wit/vm.wit")),
        ("io.wit", include_str!("../host/vm/wasi/deps/io.wit")),
        ("clocks.wit", include_str!("../host/vm/wasi/deps/clocks.wit")),
        ("http.wit", include_str!("../host/vm/wasi/deps/http.wit")),
    ] {
        resolve.push_str(file, text).unwrap_or_else(|error| panic!("{file}: {error:?}"));
    }
    let package = resolve.push_str("http-world.wit", WORLD).unwrap_or_else(|error| panic!("{error:?}"));
    let id = resolve.select_world(&[package], Some("http")).expect("it is there");
    World { resolve, id }
});

impl World {
    /// Returns the interfaces and their functions.
    pub(crate) fn functions(&self) -> Vec<(InterfaceId, &Function)> {
        let interfaces = self.resolve.worlds[self.id].imports.values().filter_map(|item| match item {
            WorldItem::Interface { id, .. } => Some(*id),
            _ => None,
        });
        interfaces
            .flat_map(|id| self.resolve.interfaces[id].functions.values().map(move |function| (id, function)))
            .collect()
    }

    pub(crate) fn interface(&self, id: InterfaceId) -> String {
        self.resolve.id_of(id).expect("it has a name")
    }

    /// Turns a core module into a component with the same imports.
    pub(crate) fn component(&self, module: &str) -> Vec<u8> {
        let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}\n{module}"));
        embed_component_metadata(&mut module, &self.resolve, self.id, StringEncoding::UTF8).expect("a world");
        let mut encoder = ComponentEncoder::default().module(&module).unwrap_or_else(|error| panic!("{error:?}"));
        encoder.encode().unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Returns an import of `function` as `$call{index}`, and the text of a call that leaves nothing on the stack.
    pub(crate) fn call(&self, index: usize, (interface, function): (InterfaceId, &Function)) -> (String, String) {
        let signature = self.resolve.wasm_signature(AbiVariant::GuestImport, function);
        let list = |types: &[WasmType]| types.iter().map(core_type).collect::<Vec<_>>().join(" ");
        let mut imports = format!(
            "(import \"{}\" \"{}\" (func $call{index} (param {}) (result {})))\n",
            self.interface(interface),
            function.name,
            list(&signature.params),
            list(&signature.results),
        );
        let mut arguments: Vec<String> =
            signature.params.iter().map(|ty| format!("({}.const 0)", core_type(ty))).collect();
        if let FunctionKind::Method(resource) = function.kind {
            let resource = self.resolve.types[resource].name.as_deref().expect("a resource has a name");
            arguments[0] = format!("(global.get ${resource})");
        }
        match function.name.rsplit('.').next().expect("a name") {
            "get-random-bytes" | "get-insecure-random-bytes" => arguments[0] = "(i64.const 1024)".into(),
            "write" if arguments.len() > 2 => arguments[2] = "(i32.const 1000)".into(),
            "blocking-write-and-flush" => arguments[2] = "(i32.const 1000)".into(),
            "write-zeroes" | "blocking-write-zeroes-and-flush" => arguments[1] = "(i64.const 1000)".into(),
            "splice" | "blocking-splice" => arguments[1] = "(global.get $input-stream)".into(),
            "[constructor]outgoing-request" => arguments[0] = "(call $new-fields)".into(),
            "handle" => arguments[0] = "(call $new-request (call $new-fields))".into(),
            "poll" => (arguments[0], arguments[1]) = ("(i32.const 2048)".into(), "(i32.const 1)".into()),
            _ => {}
        }
        if signature.retptr {
            *arguments.last_mut().expect("a place for the result") = "(i32.const 4096)".into();
        }
        let mut call = format!("(call $call{index} {})", arguments.join(" "));
        match function.result.as_ref().and_then(|ty| self.owned(ty)) {
            Some(resource) => {
                let ty = &self.resolve.types[resource];
                let TypeOwner::Interface(owner) = ty.owner else { panic!("{ty:?}") };
                let (owner, name) = (self.interface(owner), ty.name.as_deref().expect("a resource has a name"));
                writeln!(imports, "(import \"{owner}\" \"[resource-drop]{name}\" (func $drop{index} (param i32)))")
                    .expect("a string takes all");
                call = format!("(call $drop{index} {call})");
            }
            None if !signature.results.is_empty() => call = format!("(drop {call})"),
            None => {}
        }
        (imports, call)
    }

    /// Returns the resource of a handle type, where it was defined.
    fn owned(&self, ty: &Type) -> Option<TypeId> {
        let Type::Id(mut id) = *ty else { return None };
        if let TypeDefKind::Handle(Handle::Own(resource)) = self.resolve.types[id].kind {
            id = resource;
            while let TypeDefKind::Type(Type::Id(original)) = self.resolve.types[id].kind {
                id = original;
            }
            return Some(id);
        }
        None
    }
}

fn core_type(ty: &WasmType) -> &'static str {
    match ty {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
    }
}
