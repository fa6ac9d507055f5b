//! Bytes in and out of the exports of a workload, by the canonical ABI of `lifeboat:vm@0.1.0`.

const std = @import("std");
const builtin = @import("builtin");

/// The allocator of replies and arguments. What a test leaks is reported.
pub const allocator = if (builtin.is_test) std.testing.allocator else std.heap.wasm_allocator;

/// Who asks, and when. The same in every replay of a transaction.
pub const Context = struct {
    id: []const u8,
    user: []const u8,
    sequence: u64,
    timestamp_ns: u64,
};

/// A reply with memory of `allocator`, or the reason for which a request is refused.
pub const Result = union(enum) { ok: []const u8, err: []const u8 };

/// The host takes at most 1 MiB at a time.
const chunk_bytes = 65536;

const host = if (builtin.is_test) struct {
    // In native tests, the snapshot is in memory.
    var state: [4096]u8 = undefined;
    var written: usize = 0;
    var taken: usize = 0;
} else struct {
    extern "lifeboat:vm/state@0.1.0" fn write(chunk: [*]const u8, length: usize) void;
    extern "lifeboat:vm/state@0.1.0" fn read(max: u32, answer: *Slice) void;
};

const Slice = extern struct { bytes: [*]u8, length: usize };

/// Appends bytes to the snapshot.
pub fn write(bytes: []const u8) void {
    if (builtin.is_test) {
        @memcpy(host.state[host.written..][0..bytes.len], bytes);
        host.written += bytes.len;
        return;
    }
    var rest = bytes;
    while (rest.len > 0) {
        const some = @min(rest.len, chunk_bytes);
        host.write(rest.ptr, some);
        rest = rest[some..];
    }
}

/// Fills `bytes` from the snapshot. Returns false if that has fewer.
pub fn read(bytes: []u8) bool {
    if (builtin.is_test) {
        if (host.written - host.taken < bytes.len) return false;
        @memcpy(bytes, host.state[host.taken..][0..bytes.len]);
        host.taken += bytes.len;
        return true;
    }
    var rest = bytes;
    while (rest.len > 0) {
        var chunk: Slice = undefined;
        host.read(@intCast(@min(rest.len, chunk_bytes)), &chunk);
        if (chunk.length == 0) return false;
        const taken = chunk.bytes[0..chunk.length];
        @memcpy(rest[0..taken.len], taken);
        allocator.free(taken);
        rest = rest[taken.len..];
    }
    return true;
}

/// What an export returns: whether it is an error, and the reply or the reason.
const Returned = extern struct { is_err: u8, bytes: [*]const u8, length: usize };

var last: Returned = undefined;
var last_reply: []const u8 = "";

fn returned(result: Result) *Returned {
    allocator.free(last_reply);
    last_reply = switch (result) {
        .ok, .err => |bytes| bytes,
    };
    last = .{ .is_err = @intFromBool(result == .err), .bytes = last_reply.ptr, .length = last_reply.len };
    return &last;
}

/// Exports the functions of `workload`: execute, query, state_version, snapshot and restore.
pub fn exportWorkload(comptime workload: type) void {
    const exports = struct {
        fn execute(id: [*]u8, id_len: usize, user: [*]u8, user_len: usize, sequence: u64, time: u64, body: [*]u8, len: usize) callconv(.c) *Returned {
            return call(workload.execute, id[0..id_len], user[0..user_len], sequence, time, body[0..len]);
        }
        fn query(id: [*]u8, id_len: usize, user: [*]u8, user_len: usize, sequence: u64, time: u64, body: [*]u8, len: usize) callconv(.c) *Returned {
            return call(workload.query, id[0..id_len], user[0..user_len], sequence, time, body[0..len]);
        }
        fn call(comptime function: anytype, id: []u8, user: []u8, sequence: u64, timestamp_ns: u64, body: []u8) *Returned {
            defer for ([_][]u8{ id, user, body }) |argument| allocator.free(argument);
            return returned(function(.{ .id = id, .user = user, .sequence = sequence, .timestamp_ns = timestamp_ns }, body));
        }
        fn stateVersion() callconv(.c) u32 {
            return workload.state_version;
        }
        fn snapshot() callconv(.c) *Returned {
            return returned(workload.snapshot());
        }
        fn restore(version: u32) callconv(.c) *Returned {
            return returned(workload.restore(version));
        }
        /// The host puts arguments where this function says.
        fn realloc(old: [*]u8, old_len: usize, alignment: usize, len: usize) callconv(.c) [*]u8 {
            _ = alignment;
            // The address that the allocator has for no bytes is outside of the memory, which the host refuses.
            if (len == 0) {
                allocator.free(old[0..old_len]);
                return @ptrCast(&last);
            }
            const memory = if (old_len == 0) allocator.alloc(u8, len) else allocator.realloc(old[0..old_len], len);
            return (memory catch @panic("no memory is left")).ptr;
        }
    };
    const prefix = "lifeboat:vm/workload@0.1.0#";
    @export(&exports.execute, .{ .name = prefix ++ "execute" });
    @export(&exports.query, .{ .name = prefix ++ "query" });
    @export(&exports.stateVersion, .{ .name = prefix ++ "state-version" });
    @export(&exports.snapshot, .{ .name = prefix ++ "snapshot" });
    @export(&exports.restore, .{ .name = prefix ++ "restore" });
    @export(&exports.realloc, .{ .name = "cabi_realloc" });
}
