//! A counter. A transaction is a number to add, and its reply is the total.

const std = @import("std");
const builtin = @import("builtin");
const lifeboat = @import("lifeboat.zig");

/// The state: all that a failover moves. Any other variable begins anew.
var total: i64 = 0;

/// Raise it when `snapshot` writes another form, and let `restore` read the older one.
pub const state_version: u32 = 1;

/// Check first, change afterwards: what a refused transaction changed is kept.
pub fn execute(context: lifeboat.Context, transaction: []const u8) lifeboat.Result {
    _ = context;
    const add = std.fmt.parseInt(i64, transaction, 10) catch return refused("send a whole number of 64 bits, such as 5");
    total = std.math.add(i64, total, add) catch return refused("the total would not fit in 64 bits");
    return replied();
}

/// Answers a query, and changes nothing.
pub fn query(context: lifeboat.Context, body: []const u8) lifeboat.Result {
    _ = context;
    _ = body;
    return replied();
}

pub fn snapshot() lifeboat.Result {
    lifeboat.write(std.mem.asBytes(&total));
    return .{ .ok = "" };
}

pub fn restore(version: u32) lifeboat.Result {
    if (version != state_version or !lifeboat.read(std.mem.asBytes(&total))) return refused("it is no state of version 1");
    return .{ .ok = "" };
}

fn replied() lifeboat.Result {
    return .{ .ok = std.fmt.allocPrint(lifeboat.allocator, "{d}", .{total}) catch @panic("no memory is left") };
}

fn refused(reason: []const u8) lifeboat.Result {
    return .{ .err = lifeboat.allocator.dupe(u8, reason) catch @panic("no memory is left") };
}

comptime {
    if (!builtin.is_test) lifeboat.exportWorkload(@This());
}

fn expectReply(body: []const u8, reply: ?[]const u8) !void {
    const result = execute(.{ .id = "1", .user = "ann", .sequence = 1, .timestamp_ns = 0 }, body);
    switch (result) {
        .ok => |bytes| {
            defer lifeboat.allocator.free(bytes);
            try std.testing.expectEqualStrings(reply.?, bytes);
        },
        .err => |bytes| {
            defer lifeboat.allocator.free(bytes);
            try std.testing.expect(reply == null);
        },
    }
}

test "numbers are added" {
    total = 0;
    try expectReply("5", "5");
    try expectReply("-2", "3");
}

test "any other body is refused and changes nothing" {
    total = 3;
    for ([_][]const u8{ "", "five", "1 2", "9223372036854775807" }) |body| try expectReply(body, null);
    try std.testing.expectEqual(3, total);
}

test "the state survives a failover" {
    total = 7;
    try std.testing.expect(snapshot() == .ok);
    total = 0;
    try std.testing.expect(restore(state_version) == .ok);
    try std.testing.expectEqual(7, total);
}
