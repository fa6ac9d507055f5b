// Bytes in and out of the exports of a workload, by the canonical ABI of `lifeboat:vm@0.1.0`.

// @ts-ignore: decorator
@external("lifeboat:vm/state@0.1.0", "write")
declare function stateWrite(chunk: usize, length: usize): void;

// @ts-ignore: decorator
@external("lifeboat:vm/state@0.1.0", "read")
declare function stateRead(max: u32, answer: usize): void;

// The host takes at most 1 MiB at a time.
const CHUNK_BYTES: i32 = 65536;

// Where an export leaves its result: one byte, 1 for an error; the address and the length of its bytes.
const RESULT: usize = memory.data(12);

// Where `state.read` leaves the address and the length of a chunk.
const CHUNK: usize = memory.data(8);

// The last result. The host reads it before the next call.
let last: ArrayBuffer = new ArrayBuffer(0);

// Takes bytes that the host put into memory for an argument.
export function taken(address: usize, length: usize): Uint8Array {
  const bytes = new Uint8Array(<i32>length);
  memory.copy(bytes.dataStart, address, length);
  heap.free(address);
  return bytes;
}

export function text(bytes: Uint8Array): string {
  return String.UTF8.decodeUnsafe(bytes.dataStart, bytes.length);
}

export function ok(reply: string): usize {
  return result(0, reply);
}

export function err(reason: string): usize {
  return result(1, reason);
}

function result(isErr: u8, reply: string): usize {
  last = String.UTF8.encode(reply);
  store<u8>(RESULT, isErr);
  store<usize>(RESULT, changetype<usize>(last), 4);
  store<usize>(RESULT, <usize>last.byteLength, 8);
  return RESULT;
}

// Appends bytes to the snapshot.
export function write(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    stateWrite(bytes.dataStart + <usize>at, <usize>min(CHUNK_BYTES, bytes.length - at));
  }
}

// Reads the rest of the snapshot.
export function readAll(): Uint8Array {
  let all = new Uint8Array(0);
  while (true) {
    stateRead(<u32>CHUNK_BYTES, CHUNK);
    const length = load<u32>(CHUNK, 4);
    if (length == 0) return all;
    const chunk = taken(load<u32>(CHUNK), <usize>length);
    const longer = new Uint8Array(all.length + chunk.length);
    longer.set(all);
    longer.set(chunk, all.length);
    all = longer;
  }
}

// The host puts arguments where this function says.
export function cabi_realloc(old: usize, oldLength: usize, alignment: usize, length: usize): usize {
  return old == 0 ? heap.alloc(length) : heap.realloc(old, length);
}

// A failed assertion traps, which undoes the transaction.
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  unreachable();
}
