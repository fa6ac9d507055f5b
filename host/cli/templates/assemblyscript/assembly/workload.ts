// The exports of the workload, by the names that Lifeboat knows beside the canonical ones.

import { add, getTotal, setTotal } from "./counter";
import { err, ok, readAll, taken, text, write } from "./lifeboat";

export { cabi_realloc } from "./lifeboat";

// The form of the state. Raise it when `lifeboat_snapshot` writes another one, and let `lifeboat_restore` read both.
const STATE_VERSION: u32 = 1;

export function lifeboat_execute(
  id: usize, idLength: usize, user: usize, userLength: usize, sequence: u64, timestamp: u64,
  body: usize, length: usize,
): usize {
  taken(id, idLength);
  taken(user, userLength);
  const reason = add(text(taken(body, length)));
  return reason === null ? ok(getTotal().toString()) : err(reason);
}

export function lifeboat_query(
  id: usize, idLength: usize, user: usize, userLength: usize, sequence: u64, timestamp: u64,
  body: usize, length: usize,
): usize {
  taken(id, idLength);
  taken(user, userLength);
  taken(body, length);
  return ok(getTotal().toString());
}

export function lifeboat_state_version(): u32 {
  return STATE_VERSION;
}

export function lifeboat_snapshot(): usize {
  const bytes = new Uint8Array(8);
  store<i64>(bytes.dataStart, getTotal());
  write(bytes);
  return ok("");
}

export function lifeboat_restore(version: u32): usize {
  const bytes = readAll();
  if (version != STATE_VERSION || bytes.length != 8) return err("it is no state of version 1");
  setTotal(load<i64>(bytes.dataStart));
  return ok("");
}
