//! Guests that import more than a workload's own interfaces, put together here.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The name of [`writer`].
pub(crate) const WRITER: &str = "writer.wat";

/// The name of [`caller`].
pub(crate) const CALLER: &str = "call.wat";

/// What the guests' worlds use, each package after those that it uses itself.
const PACKAGES: [(&str, &str); 5] = [
    ("io.wit", include_str!("../../vm/wasi/deps/io.wit")),
    ("clocks.wit", include_str!("../../vm/wasi/deps/clocks.wit")),
    ("filesystem.wit", include_str!("../../vm/wasi/deps/filesystem.wit")),
    ("http.wit", include_str!("../../vm/wasi/deps/http.wit")),
    ("vm.wit", include_str!("../../wit/vm.wit")),
];

const WRITER_WORLD: &str = "
    package bench:guest;

    world writer {
        include lifeboat:vm/vm@0.1.0;
        import wasi:io/streams@0.2.12;
        import wasi:filesystem/types@0.2.12;
        import wasi:filesystem/preopens@0.2.12;
    }
";

const CALLER_WORLD: &str = "
    package bench:guest;

    world caller {
        include lifeboat:vm/vm@0.1.0;
        import wasi:http/types@0.2.12;
        import wasi:http/outgoing-handler@0.2.12;
    }
";

const SMALL_FILES_WORLD: &str = "
    package bench:guest;

    interface files {
        open: func(name: string) -> u64;
        write: func(file: u64, bytes: list<u8>);
        close: func(file: u64);
    }

    world small-files {
        include lifeboat:vm/vm@0.1.0;
        import files;
    }
";

/// Returns the component of `writer.wat`, which writes and reads files through WASI 0.2.
pub(crate) fn writer() -> Vec<u8> {
    component(include_str!("writer.wat"), WRITER_WORLD)
}

/// Returns the component of `call.wat`, which posts the id of a transaction to a server.
pub(crate) fn caller() -> Vec<u8> {
    component(include_str!("../../../tests/guests/assembled/call.wat"), CALLER_WORLD)
}

/// Returns the component of `small-files.wat`, which writes files through an interface of the bench.
pub(crate) fn small_files() -> Vec<u8> {
    component(include_str!("small-files.wat"), SMALL_FILES_WORLD)
}

/// Makes a module a component of the only world in `world`.
fn component(module: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    for (file, text) in PACKAGES {
        resolve.push_str(file, text).unwrap_or_else(|error| panic!("{file}: {error:?}"));
    }
    let package = resolve.push_str("world.wit", world).unwrap_or_else(|error| panic!("{error:?}"));
    let world = resolve.select_world(&[package], None).expect("its only world");
    let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("a world");
    let encoder = ComponentEncoder::default().module(&module).unwrap_or_else(|error| panic!("{error:?}"));
    encoder.validate(true).encode().unwrap_or_else(|error| panic!("{error:?}"))
}
