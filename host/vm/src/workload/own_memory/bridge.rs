//! The functions that are added to a module with two memories.
//!
//! The second memory is laid out so: 16 bytes that stay free, since 0 is no address; the adapter's two pages; the arena.
//! The arena holds copies of arguments and results. It is a stack: a bridge takes what it needs from its top, and
//! releases it at its end. What the host writes and reads there lives until the end of the call: arguments of an export,
//! until they are in the module's memory, and its result.

use wasm_encoder::{BlockType, Function, InstructionSink, MemArg, ValType};
use wasmparser::FuncType;
use wit_parser::{Type, TypeDefKind};

use super::super::contract::{self, CONTRACT};
use lifeboat_api::transaction::REPLY_BYTES_MAX;

/// The size of a page of memory, which is what the adapter allocates at once.
const PAGE_BYTES: i32 = 64 << 10;
/// The place of the first of the two allocations of the adapter.
const ADAPTER: i32 = 16;
/// The number of allocations of the adapter: one for its state, one for its stack.
const ADAPTER_PAGES: i32 = 2;
/// The place of the arena.
pub(super) const ARENA: i32 = ADAPTER + ADAPTER_PAGES * PAGE_BYTES;

/// The most bytes that are copied at once for `fd_read` or `fd_write`. Like the disk, a read returns less than asked for
/// then. A write goes on with the rest.
const TRANSFER_BYTES_MAX: i32 = 1 << 20;
/// The host refuses to return more random bytes at once.
const _: () = assert!(crate::wasi::RANDOM_BYTES_PER_CALL_MAX < TRANSFER_BYTES_MAX as u64);
/// The longest list that is copied, which is longer than the host takes: it refuses a longer one.
const LIST_BYTES_MAX: i32 = REPLY_BYTES_MAX as i32 + 1;
/// The most subscriptions of `poll_oneoff`: more than the host takes.
const SUBSCRIPTIONS_MAX: i32 = 65_535;

/// The indices that bridges use.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// The memory of the module.
    pub(super) guest: u32,
    /// The second memory.
    pub(super) own: u32,
    /// The global with the top of the arena.
    pub(super) top: u32,
    /// The global with the number of pages that the adapter has allocated.
    pub(super) adapter_pages: u32,
    /// The function that grows the second memory.
    pub(super) reserve: u32,
    /// The function that takes bytes of the arena.
    pub(super) allocate: u32,
}

/// The instructions of a function, and its locals after its parameters.
pub(super) struct Code {
    layout: Layout,
    bytes: Vec<u8>,
    /// The index of the next local of type i32.
    next_local: u32,
    /// The locals of type i64, after all others.
    i64s: u32,
}

impl Code {
    fn new(layout: Layout, ty: &FuncType) -> Self {
        Self { layout, bytes: Vec::new(), next_local: ty.params().len() as u32, i64s: 0 }
    }

    /// Returns the function, which has `params` parameters.
    pub(super) fn function(&self, params: usize) -> Function {
        let i32s = self.next_local - params as u32;
        let mut function = Function::new([(i32s, ValType::I32), (self.i64s, ValType::I64)]);
        function.raw(self.bytes.iter().copied());
        function.instructions().end();
        function
    }

    fn local(&mut self) -> u32 {
        self.next_local += 1;
        self.next_local - 1
    }

    fn emit(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.bytes)
    }

    /// Notes the top of the arena. Returns the local with it.
    fn mark(&mut self) -> u32 {
        let (top, mark) = (self.layout.top, self.local());
        self.emit().global_get(top).local_set(mark);
        mark
    }

    /// Releases what was taken from the arena since `mark`.
    fn release(&mut self, mark: u32) {
        let top = self.layout.top;
        self.emit().local_get(mark).global_set(top);
    }

    /// Takes as many bytes of the arena as the local `length` has. Returns the local with their address.
    fn allocate(&mut self, length: u32) -> u32 {
        let (allocate, address) = (self.layout.allocate, self.local());
        self.emit().local_get(length).call(allocate).local_set(address);
        address
    }

    /// Takes `bytes` of the arena. Returns the locals with their address and their number.
    fn allocate_fixed(&mut self, bytes: i32) -> (u32, u32) {
        let length = self.local();
        self.emit().i32_const(bytes).local_set(length);
        (self.allocate(length), length)
    }

    /// Copies from the module's memory into the second one.
    fn copy_in(&mut self, to: u32, from: u32, length: u32) {
        let Layout { guest, own, .. } = self.layout;
        self.emit().local_get(to).local_get(from).local_get(length).memory_copy(own, guest);
    }

    /// Copies from the second memory into the module's.
    fn copy_out(&mut self, to: u32, from: u32, length: u32) {
        let Layout { guest, own, .. } = self.layout;
        self.emit().local_get(to).local_get(from).local_get(length).memory_copy(guest, own);
    }

    fn at(memory_index: u32, offset: u64) -> MemArg {
        // An alignment is a hint, and a module may give any address.
        MemArg { offset, align: 0, memory_index }
    }

    /// Sets the local `to` to the least of the locals `one` and `other`, which are unsigned.
    fn least(&mut self, to: u32, one: u32, other: u32) {
        self.emit().local_get(one).local_get(other).local_get(one).local_get(other).i32_lt_u().select().local_set(to);
    }

    /// Cuts the local `length` to `max`.
    fn cut(&mut self, length: u32, max: i32) {
        let bound = self.local();
        self.emit().i32_const(max).local_set(bound);
        self.least(length, length, bound);
    }

    /// Traps as an access out of bounds does, if `length` bytes at `address` are not in the module's memory. Otherwise
    /// the arena would grow for what is an error.
    fn check(&mut self, address: u32, length: u32) {
        let guest = self.layout.guest;
        self.emit()
            .local_get(address)
            .i64_extend_i32_u()
            .local_get(length)
            .i64_extend_i32_u()
            .i64_add()
            .memory_size(guest)
            .i64_extend_i32_u()
            .i64_const(16)
            .i64_shl()
            .i64_gt_u()
            .if_(BlockType::Empty)
            .i32_const(-1)
            .i32_load8_u(Self::at(guest, u64::from(u32::MAX)))
            .drop()
            .end();
    }

    fn trap_if(&mut self) {
        self.emit().if_(BlockType::Empty).unreachable().end();
    }
}

fn function_type(params: &[wasmparser::ValType], results: &[wasmparser::ValType]) -> FuncType {
    FuncType::new(params.iter().copied(), results.iter().copied())
}

const I32: wasmparser::ValType = wasmparser::ValType::I32;

/// `reserve(end)`: grows the second memory so that it has `end` bytes, a number of 64 bits.
pub(super) fn reserve(layout: Layout) -> (FuncType, Code) {
    let ty = function_type(&[wasmparser::ValType::I64], &[]);
    let mut code = Code::new(layout, &ty);
    let (end, own) = (0, layout.own);
    code.emit()
        .local_get(end)
        .memory_size(own)
        .i64_extend_i32_u()
        .i64_const(16)
        .i64_shl()
        .i64_gt_u()
        .if_(BlockType::Empty)
        // The pages up to `end`, without those that are there. The memory cannot reach 2^32 bytes, so an `end` beyond
        // that fails here, too.
        .local_get(end)
        .i64_const(i64::from(PAGE_BYTES) - 1)
        .i64_add()
        .i64_const(16)
        .i64_shr_u()
        .i32_wrap_i64()
        .memory_size(own)
        .i32_sub()
        .memory_grow(own)
        .i32_const(-1)
        .i32_eq();
    code.trap_if();
    code.emit().end();
    (ty, code)
}

/// `allocate(bytes) -> address`: takes bytes of the arena, aligned to 8.
pub(super) fn allocate(layout: Layout) -> (FuncType, Code) {
    let ty = function_type(&[I32], &[I32]);
    let mut code = Code::new(layout, &ty);
    code.i64s = 1;
    let end = 1;
    let Layout { top, reserve, .. } = layout;
    code.emit()
        .global_get(top)
        .i64_extend_i32_u()
        .local_get(0)
        .i64_extend_i32_u()
        .i64_const(7)
        .i64_add()
        .i64_const(!7)
        .i64_and()
        .i64_add()
        .local_tee(end)
        .call(reserve)
        .global_get(top)
        .local_get(end)
        .i32_wrap_i64()
        .global_set(top);
    (ty, code)
}

/// `cabi_realloc(old, old bytes, alignment, bytes) -> address`, for the host.
pub(super) fn realloc(layout: Layout) -> (FuncType, Code) {
    let ty = function_type(&[I32; 4], &[I32]);
    let mut code = Code::new(layout, &ty);
    let (old, old_bytes, bytes) = (0, 1, 3);
    let address = code.allocate(bytes);
    let kept = code.local();
    code.least(kept, old_bytes, bytes);
    let own = layout.own;
    code.emit().local_get(address).local_get(old).local_get(kept).memory_copy(own, own).local_get(address);
    (ty, code)
}

/// `cabi_realloc_adapter(old, old bytes, alignment, bytes) -> address`: returns the next page for the adapter.
///
/// wit-component's adapters allocate whole pages only, never release one, and need two.
pub(super) fn adapter_realloc(layout: Layout) -> (FuncType, Code) {
    let ty = function_type(&[I32; 4], &[I32]);
    let mut code = Code::new(layout, &ty);
    let Layout { adapter_pages: pages, reserve, .. } = layout;
    let (bytes, address) = (3, code.local());
    code.emit().local_get(bytes).i32_const(PAGE_BYTES).i32_ne();
    code.emit().global_get(pages).i32_const(ADAPTER_PAGES).i32_ge_u().i32_or();
    code.trap_if();
    code.emit().global_get(pages).i32_const(PAGE_BYTES).i32_mul().i32_const(ADAPTER).i32_add().local_tee(address);
    code.emit().i64_extend_i32_u().i64_const(i64::from(PAGE_BYTES)).i64_add().call(reserve);
    code.emit().global_get(pages).i32_const(1).i32_add().global_set(pages).local_get(address);
    (ty, code)
}

/// `cabi_post_...(result)`: empties the arena, once the host has read the result of an export.
pub(super) fn release(layout: Layout) -> (FuncType, Code) {
    let ty = function_type(&[I32], &[]);
    let mut code = Code::new(layout, &ty);
    code.emit().i32_const(ARENA).global_set(layout.top);
    (ty, code)
}

/// What one or two parameters of a function of preview 1 are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Argument {
    /// A number.
    Value,
    /// The address and the length of bytes that are read.
    In,
    /// The address and the length of bytes that are written in part.
    InOut,
    /// The address and the length of bytes that are all written.
    Filled,
    /// The address and the length of bytes that are written from the first on. The first result has their number.
    Used,
    /// The address of a result of this many bytes.
    Out(i32),
    /// The address of an array of elements of this many bytes, whose number the third parameter has.
    Array(i32),
    /// The address and the number of buffers to read into. The first result has the number of bytes.
    Read,
    /// The address and the number of buffers to write from. The last parameter is the address of the number of bytes.
    Write,
}

/// The functions with addresses in their parameters, from `witx/wasi_snapshot_preview1.witx` of the WASI repository. The
/// sizes are those of its types.
const ADDRESSING: &[(&str, &[Argument])] = {
    use Argument::{Array, Filled, In, InOut, Out, Read, Used, Value, Write};
    &[
        ("adapter_open_badfd", &[Out(4)]),
        ("args_sizes_get", &[Out(4), Out(4)]),
        ("clock_res_get", &[Value, Out(8)]),
        ("clock_time_get", &[Value, Value, Out(8)]),
        ("environ_sizes_get", &[Out(4), Out(4)]),
        ("fd_fdstat_get", &[Value, Out(24)]),
        ("fd_filestat_get", &[Value, Out(64)]),
        ("fd_pread", &[Value, Read, Value, Out(4)]),
        ("fd_prestat_dir_name", &[Value, InOut]),
        ("fd_prestat_get", &[Value, Out(8)]),
        ("fd_pwrite", &[Value, Write, Value, Out(4)]),
        ("fd_read", &[Value, Read, Out(4)]),
        ("fd_readdir", &[Value, Used, Value, Out(4)]),
        ("fd_seek", &[Value, Value, Value, Out(8)]),
        ("fd_tell", &[Value, Out(8)]),
        ("fd_write", &[Value, Write, Out(4)]),
        ("path_create_directory", &[Value, In]),
        ("path_filestat_get", &[Value, Value, In, Out(64)]),
        ("path_filestat_set_times", &[Value, Value, In, Value, Value, Value]),
        ("path_link", &[Value, Value, In, Value, In]),
        ("path_open", &[Value, Value, In, Value, Value, Value, Value, Out(4)]),
        ("path_readlink", &[Value, In, Used, Out(4)]),
        ("path_remove_directory", &[Value, In]),
        ("path_rename", &[Value, In, Value, In]),
        ("path_symlink", &[In, Value, In]),
        ("path_unlink_file", &[Value, In]),
        ("poll_oneoff", &[Array(48), Array(32), Value, Out(4)]),
        ("random_get", &[Filled]),
        ("sock_accept", &[Value, Value, Out(4)]),
        ("sock_recv", &[Value, Read, Value, Out(4), Out(2)]),
        ("sock_send", &[Value, Write, Value, Out(4)]),
    ]
};

/// The functions that write strings and their addresses, each with the one that returns how many, and how long.
const STRINGS: [(&str, &str); 2] = [("args_get", "args_sizes_get"), ("environ_get", "environ_sizes_get")];

/// Returns the function that must be asked before `name` is called, if there is one.
pub(super) fn sizes_of(name: &str) -> Option<&'static str> {
    STRINGS.into_iter().find_map(|(function, sizes)| (function == name).then_some(sizes))
}

/// Returns the bridge to the function of preview 1 that is imported as `import`, or `None` if it has no addresses.
/// `sizes` is the import of what [`sizes_of`] returns.
pub(super) fn of_preview_1(layout: Layout, name: &str, import: u32, sizes: Option<u32>) -> Option<(FuncType, Code)> {
    if let Some(sizes) = sizes {
        return Some(of_strings(layout, import, sizes));
    }
    let (_, arguments) = ADDRESSING.iter().find(|(function, _)| *function == name)?;
    let ty = super::super::convert::adapter_function(name)?;
    if arguments.contains(&Argument::Write) {
        return Some((ty.clone(), of_write(layout, ty, import)));
    }
    let mut code = Code::new(layout, ty);
    let mark = code.mark();
    let mut param = 0;
    let mut passed = Vec::new();
    // What is copied back afterwards: to, from, and the length.
    let mut results: Vec<(u32, u32, u32)> = Vec::new();
    // The same, if there was no error.
    let mut filled = None;
    // The same, but the first result has the length.
    let mut used = None;
    for argument in *arguments {
        let (address, length) = (param, param + 1);
        match *argument {
            Argument::Value => {
                passed.push(param);
                param += 1;
            }
            Argument::In | Argument::InOut => {
                code.cut(length, LIST_BYTES_MAX);
                code.check(address, length);
                let copy = code.allocate(length);
                code.copy_in(copy, address, length);
                passed.extend([copy, length]);
                if *argument == Argument::InOut {
                    results.push((address, copy, length));
                }
                param += 2;
            }
            Argument::Filled | Argument::Used => {
                code.check(address, length);
                // The host refuses a longer one before it fills anything.
                let taken = code.local();
                code.emit().local_get(length).local_set(taken);
                if *argument == Argument::Filled {
                    code.cut(taken, TRANSFER_BYTES_MAX);
                    filled = Some((address, code.allocate(taken), taken));
                    passed.extend(filled.map(|(_, copy, _)| copy));
                } else {
                    used = Some((address, code.allocate(taken)));
                    passed.extend(used.map(|(_, copy)| copy));
                }
                passed.push(length);
                param += 2;
            }
            Argument::Out(bytes) => {
                // It is copied in as well: a function that fails leaves it as it is.
                let (copy, length) = code.allocate_fixed(bytes);
                code.copy_in(copy, param, length);
                passed.push(copy);
                results.push((param, copy, length));
                param += 1;
            }
            Argument::Array(element_bytes) => {
                let count = 2;
                code.emit().local_get(count).i32_const(SUBSCRIPTIONS_MAX).i32_gt_u();
                code.trap_if();
                let length = code.local();
                code.emit().local_get(count).i32_const(element_bytes).i32_mul().local_set(length);
                code.check(param, length);
                let copy = code.allocate(length);
                code.copy_in(copy, param, length);
                passed.push(copy);
                results.push((param, copy, length));
                param += 1;
            }
            Argument::Read => {
                let (address, length) = first_buffer(&mut code, param);
                code.cut(length, TRANSFER_BYTES_MAX);
                code.check(address, length);
                let copy = code.allocate(length);
                used = Some((address, copy));
                let (buffers, one) = one_buffer(&mut code, copy, length);
                passed.extend([buffers, one]);
                param += 2;
            }
            Argument::Write => unreachable!("a function that writes has a bridge of its own"),
        }
    }
    for local in passed {
        code.emit().local_get(local);
    }
    let error = code.local();
    code.emit().call(import).local_tee(error).i32_eqz().if_(BlockType::Empty);
    if let Some((to, from, length)) = filled {
        code.copy_out(to, from, length);
    }
    if let Some((to, from)) = used {
        let (_, count, _) = results[0];
        let (length, own) = (code.local(), layout.own);
        code.emit().local_get(count).i32_load(Code::at(own, 0)).local_set(length);
        code.copy_out(to, from, length);
    }
    code.emit().end();
    for (to, from, length) in results {
        code.copy_out(to, from, length);
    }
    code.release(mark);
    code.emit().local_get(error);
    Some((ty.clone(), code))
}

/// The bridge to a function that writes from buffers: `(descriptor, buffers, their number, [more,] address of the number
/// of bytes)`. It passes on the first buffer that is not empty in parts, until one is not written as a whole. An offset
/// in a file counts on. An error after the first part ends the write as well, and the parts before it count.
fn of_write(layout: Layout, ty: &FuncType, import: u32) -> Code {
    let mut code = Code::new(layout, ty);
    let own = layout.own;
    let (descriptor, buffers, result_address) = (0, 1, ty.params().len() as u32 - 1);
    let more = (result_address == 4).then_some(3);
    let mark = code.mark();
    let (address, length) = first_buffer(&mut code, buffers);
    code.check(address, length);
    let part = code.local();
    code.emit().local_get(length).local_set(part);
    code.cut(part, TRANSFER_BYTES_MAX);
    let copy = code.allocate(part);
    let (result, result_bytes) = code.allocate_fixed(4);
    code.copy_in(result, result_address, result_bytes);
    let (done, error, written) = (code.local(), code.local(), code.local());
    let (one_buffer, one) = one_buffer(&mut code, copy, part);
    code.emit().block(BlockType::Empty).loop_(BlockType::Empty);
    // The rest, or as much of it as there is room for. An empty buffer is one part.
    code.emit().local_get(length).local_get(done).i32_sub().local_set(part);
    code.cut(part, TRANSFER_BYTES_MAX);
    code.emit().local_get(one_buffer).local_get(part).i32_store(Code::at(own, 4));
    code.copy_in(copy, address, part);
    code.emit().local_get(descriptor).local_get(one_buffer).local_get(one);
    if let Some(more) = more {
        code.emit().local_get(more);
    }
    code.emit().local_get(result).call(import).local_tee(error).br_if(1);
    code.emit().local_get(result).i32_load(Code::at(own, 0)).local_tee(written);
    code.emit().local_get(done).i32_add().local_set(done);
    code.emit().local_get(address).local_get(written).i32_add().local_set(address);
    if let Some(offset) = more.filter(|more| ty.params()[*more as usize] == wasmparser::ValType::I64) {
        code.emit().local_get(offset).local_get(written).i64_extend_i32_u().i64_add().local_set(offset);
    }
    code.emit().local_get(written).local_get(part).i32_lt_u().br_if(1);
    code.emit().local_get(done).local_get(length).i32_lt_u().br_if(0).end().end();
    // If anything was written, that is the result. The local `written` is the number of the last part alone.
    code.emit().local_get(done).if_(BlockType::Empty);
    code.emit().i32_const(0).local_set(error);
    code.emit().local_get(result).local_get(done).i32_store(Code::at(own, 0)).end();
    code.copy_out(result_address, result, result_bytes);
    code.release(mark);
    code.emit().local_get(error);
    code
}

/// Finds the first buffer that is not empty, which is the only one that the adapter uses. `param` is the address of the
/// buffers, and the next one their number; both are changed. Returns the locals with its address and its length, which
/// are 0 if there is none.
fn first_buffer(code: &mut Code, param: u32) -> (u32, u32) {
    let (buffers, left) = (param, param + 1);
    let (address, length) = (code.local(), code.local());
    let guest = code.layout.guest;
    code.emit()
        .block(BlockType::Empty)
        .block(BlockType::Empty)
        .loop_(BlockType::Empty)
        .local_get(left)
        .i32_eqz()
        .br_if(1)
        .local_get(buffers)
        .i32_load(Code::at(guest, 0))
        .local_set(address)
        .local_get(buffers)
        .i32_load(Code::at(guest, 4))
        .local_tee(length)
        .br_if(2)
        .local_get(buffers)
        .i32_const(8)
        .i32_add()
        .local_set(buffers)
        .local_get(left)
        .i32_const(1)
        .i32_sub()
        .local_set(left)
        .br(0)
        .end()
        .end()
        // An empty buffer may have any address.
        .i32_const(0)
        .local_set(address)
        .i32_const(0)
        .local_set(length)
        .end();
    (address, length)
}

/// Makes an array of one buffer. Returns the locals with its address and with 1.
///
/// An empty buffer is passed on as well: the adapter looks at the descriptor only if there is a buffer.
fn one_buffer(code: &mut Code, address: u32, length: u32) -> (u32, u32) {
    let (buffers, _) = code.allocate_fixed(8);
    let own = code.layout.own;
    code.emit().local_get(buffers).local_get(address).i32_store(Code::at(own, 0));
    code.emit().local_get(buffers).local_get(length).i32_store(Code::at(own, 4));
    let one = code.local();
    code.emit().i32_const(1).local_set(one);
    (buffers, one)
}

/// The bridge to `args_get` or `environ_get`: their strings, and an array of the addresses of these.
fn of_strings(layout: Layout, import: u32, sizes: u32) -> (FuncType, Code) {
    let ty = function_type(&[I32; 2], &[I32]);
    let mut code = Code::new(layout, &ty);
    let (guest_array, guest_strings) = (0, 1);
    let Layout { guest, own, .. } = layout;
    let mark = code.mark();
    let (asked, _) = code.allocate_fixed(8);
    let error = code.local();
    code.emit().block(BlockType::Empty);
    code.emit().local_get(asked).local_get(asked).i32_const(4).i32_add().call(sizes).local_tee(error).br_if(0);
    let (array_bytes, length) = (code.local(), code.local());
    code.emit().local_get(asked).i32_load(Code::at(own, 0)).i32_const(2).i32_shl().local_set(array_bytes);
    code.emit().local_get(asked).i32_load(Code::at(own, 4)).local_set(length);
    let array = code.allocate(array_bytes);
    let strings = code.allocate(length);
    code.emit().local_get(array).local_get(strings).call(import).local_tee(error).br_if(0);
    code.copy_out(guest_strings, strings, length);
    // From the last element to the first.
    code.emit()
        .loop_(BlockType::Empty)
        .local_get(array_bytes)
        .if_(BlockType::Empty)
        .local_get(array_bytes)
        .i32_const(4)
        .i32_sub()
        .local_set(array_bytes)
        .local_get(guest_array)
        .local_get(array_bytes)
        .i32_add()
        .local_get(array)
        .local_get(array_bytes)
        .i32_add()
        .i32_load(Code::at(own, 0))
        .local_get(strings)
        .i32_sub()
        .local_get(guest_strings)
        .i32_add()
        .i32_store(Code::at(guest, 0))
        .br(1)
        .end()
        .end()
        .end();
    code.release(mark);
    code.emit().local_get(error);
    (ty, code)
}

/// What the parameters and the result of a function of the contract are.
struct Shape {
    /// The parameters that are the address of a list or a string. The next one is its length.
    lists: Vec<u32>,
    result: Returned,
}

/// What a function of the contract returns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Returned {
    /// Nothing, or a number.
    Value,
    /// A list or a string, as its address and its length.
    List,
    /// A tag, and a string if it is not 0, or a list if it is and `has_list`.
    Result { has_list: bool },
}

impl Shape {
    /// Returns the shape of a function of the contract, which has no other types than these.
    fn of(function: &contract::Function) -> Option<Self> {
        let resolve = &CONTRACT.resolve;
        let function = resolve.interfaces.iter().find_map(|(_, it)| it.functions.get(&function.name))?;
        let mut shape = Self { lists: Vec::new(), result: Returned::Value };
        let mut index = 0;
        for param in &function.params {
            shape.add(&param.ty, &mut index)?;
        }
        shape.result = match function.result {
            None | Some(Type::U32) => Returned::Value,
            Some(Type::Id(id)) => match &resolve.types[id].kind {
                TypeDefKind::List(Type::U8) => Returned::List,
                TypeDefKind::Result(result) if result.err == Some(Type::String) => match result.ok {
                    None => Returned::Result { has_list: false },
                    Some(Type::Id(ok)) if matches!(resolve.types[ok].kind, TypeDefKind::List(Type::U8)) => {
                        Returned::Result { has_list: true }
                    }
                    Some(_) => return None,
                },
                _ => return None,
            },
            Some(_) => return None,
        };
        Some(shape)
    }

    /// Adds a parameter whose first core value has this index.
    fn add(&mut self, ty: &Type, index: &mut u32) -> Option<()> {
        match ty {
            Type::U32 | Type::U64 => *index += 1,
            Type::String => {
                self.lists.push(*index);
                *index += 2;
            }
            Type::Id(id) => match &CONTRACT.resolve.types[*id].kind {
                TypeDefKind::List(Type::U8) => {
                    self.lists.push(*index);
                    *index += 2;
                }
                TypeDefKind::Record(record) => {
                    for field in &record.fields {
                        self.add(&field.ty, index)?;
                    }
                }
                _ => return None,
            },
            _ => return None,
        }
        Some(())
    }
}

/// Allocates as many bytes of the module's memory as `length` has. Returns the local with their address.
fn allocate_in_guest(code: &mut Code, realloc: u32, length: u32) -> u32 {
    let address = code.local();
    code.emit().i32_const(0).i32_const(0).i32_const(1).local_get(length).call(realloc).local_set(address);
    address
}

/// Returns the bridge to a function that the module imports from the host, or `None` if it has no addresses.
pub(super) fn of_import(
    layout: Layout,
    function: &contract::Function,
    import: u32,
    guest_realloc: u32,
) -> Option<(FuncType, Code)> {
    let Shape { lists, result } = Shape::of(function)?;
    if lists.is_empty() && result == Returned::Value {
        return None;
    }
    let mut code = Code::new(layout, &function.core);
    let own = layout.own;
    let mark = code.mark();
    for address in lists {
        let length = address + 1;
        code.cut(length, LIST_BYTES_MAX);
        code.check(address, length);
        let copy = code.allocate(length);
        code.copy_in(copy, address, length);
        code.emit().local_get(copy).local_set(address);
    }
    let params = function.core.params().len() as u32;
    match result {
        Returned::Value => {
            for param in 0..params {
                code.emit().local_get(param);
            }
            code.emit().call(import);
            code.release(mark);
        }
        Returned::List => {
            // The last parameter is the address of the result.
            let returned = params - 1;
            let (list, _) = code.allocate_fixed(8);
            for param in 0..returned {
                code.emit().local_get(param);
            }
            code.emit().local_get(list).call(import);
            let (from, length) = (code.local(), code.local());
            code.emit().local_get(list).i32_load(Code::at(own, 0)).local_set(from);
            code.emit().local_get(list).i32_load(Code::at(own, 4)).local_set(length);
            let address = allocate_in_guest(&mut code, guest_realloc, length);
            code.copy_out(address, from, length);
            let guest = layout.guest;
            code.emit().local_get(returned).local_get(address).i32_store(Code::at(guest, 0));
            code.emit().local_get(returned).local_get(length).i32_store(Code::at(guest, 4));
            code.release(mark);
        }
        Returned::Result { .. } => return None,
    }
    Some((function.core.clone(), code))
}

/// Returns the bridge to `export` of the module, or `None` if it has no addresses. `post` is what the module wants to be
/// called once its result has been read.
pub(super) fn of_export(
    layout: Layout,
    function: &contract::Function,
    export: u32,
    guest_realloc: u32,
    post: Option<u32>,
) -> Option<(FuncType, Code)> {
    let Shape { lists, result } = Shape::of(function)?;
    let Returned::Result { has_list } = result else { return None };
    let mut code = Code::new(layout, &function.core);
    let Layout { guest, own, .. } = layout;
    for address in lists {
        let length = address + 1;
        let copy = allocate_in_guest(&mut code, guest_realloc, length);
        code.copy_out(copy, address, length);
        code.emit().local_get(copy).local_set(address);
    }
    // The arguments are in the module's memory, so the arena has room for the result.
    code.emit().i32_const(ARENA).global_set(layout.top);
    for param in 0..function.core.params().len() as u32 {
        code.emit().local_get(param);
    }
    let returned = code.local();
    code.emit().call(export).local_set(returned);
    // The result is a tag of one byte, and behind it the address and the length, each aligned to 4.
    let (copy, bytes) = code.allocate_fixed(12);
    code.copy_in(copy, returned, bytes);
    if !has_list {
        code.emit().local_get(returned).i32_load8_u(Code::at(guest, 0)).if_(BlockType::Empty);
    }
    let (from, length) = (code.local(), code.local());
    code.emit().local_get(returned).i32_load(Code::at(guest, 4)).local_set(from);
    code.emit().local_get(returned).i32_load(Code::at(guest, 8)).local_set(length);
    code.cut(length, LIST_BYTES_MAX);
    code.check(from, length);
    let list = code.allocate(length);
    code.copy_in(list, from, length);
    code.emit().local_get(copy).local_get(list).i32_store(Code::at(own, 4));
    code.emit().local_get(copy).local_get(length).i32_store(Code::at(own, 8));
    if !has_list {
        code.emit().end();
    }
    if let Some(post) = post {
        code.emit().local_get(returned).call(post);
    }
    code.emit().local_get(copy);
    Some((function.core.clone(), code))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The functions of the adapter without addresses in their parameters.
    const OF_NUMBERS: &[&str] = &[
        "adapter_close_badfd",
        "adapter_monotonic_clock_set_paused",
        "fd_advise",
        "fd_allocate",
        "fd_close",
        "fd_datasync",
        "fd_fdstat_set_flags",
        "fd_fdstat_set_rights",
        "fd_filestat_set_size",
        "fd_filestat_set_times",
        "fd_renumber",
        "fd_sync",
        "proc_exit",
        "proc_raise",
        "reset_adapter_state",
        "sched_yield",
        "sock_shutdown",
    ];

    #[test]
    fn every_function_of_the_adapter_is_known_with_as_many_parameters() {
        for (name, ty) in super::super::super::convert::adapter_functions() {
            if OF_NUMBERS.contains(name) || sizes_of(name).is_some() {
                continue;
            }
            let (_, arguments) = ADDRESSING.iter().find(|(function, _)| function == name).expect(name);
            let params = arguments.iter().map(|argument| match argument {
                Argument::Value | Argument::Out(_) | Argument::Array(_) => 1,
                Argument::In | Argument::InOut | Argument::Filled | Argument::Used => 2,
                Argument::Read | Argument::Write => 2,
            });
            assert_eq!(params.sum::<usize>(), ty.params().len(), "{name}");
        }
    }

    #[test]
    fn every_function_of_the_contract_has_a_shape() {
        let functions = CONTRACT.exports.iter().chain(&CONTRACT.imports);
        for function in functions {
            assert!(Shape::of(function).is_some(), "{}", function.name);
        }
    }
}
