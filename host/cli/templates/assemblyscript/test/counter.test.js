// Calls the built module as a host does, with a snapshot in memory.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

const module = await WebAssembly.compile(await readFile(new URL('../{{name}}.wasm', import.meta.url)));

// Returns an instance that reads its state from `state`, and appends to it.
function service(state = []) {
  const view = () => new DataView(exports.memory.buffer);
  const bytes = (address, length) => new Uint8Array(exports.memory.buffer, address, length);
  const put = (values) => {
    const address = exports.cabi_realloc(0, 0, 1, values.length);
    bytes(address, values.length).set(values);
    return address;
  };
  const imports = {
    'lifeboat:vm/state@0.1.0': {
      write: (address, length) => state.push(...bytes(address, length)),
      read(max, answer) {
        const chunk = state.splice(0, Math.min(max, 3));
        const address = put(chunk);
        view().setUint32(answer, address, true);
        view().setUint32(answer + 4, chunk.length, true);
      },
    },
  };
  const { exports } = new WebAssembly.Instance(module, imports);
  const result = (address) => {
    const text = bytes(view().getUint32(address + 4, true), view().getUint32(address + 8, true));
    return [view().getUint8(address) === 0 ? 'ok' : 'err', new TextDecoder().decode(text)];
  };
  return {
    state,
    execute(body) {
      const [id, user, text] = ['1', 'ann', body].map((value) => new TextEncoder().encode(value));
      const call = [put(id), id.length, put(user), user.length, 1n, 0n, put(text), text.length];
      return result(exports.lifeboat_execute(...call));
    },
    snapshot: () => result(exports.lifeboat_snapshot()),
    restore: (version) => result(exports.lifeboat_restore(version)),
  };
}

test('numbers are added', () => {
  const counter = service();
  assert.deepEqual(counter.execute('5'), ['ok', '5']);
  assert.deepEqual(counter.execute('-2'), ['ok', '3']);
});

test('any other body is refused and changes nothing', () => {
  const counter = service();
  for (const body of ['', '-', 'five', '1.5', '1234567890123456789']) assert.equal(counter.execute(body)[0], 'err');
  assert.deepEqual(counter.execute('0'), ['ok', '0']);
});

test('the state survives a failover', () => {
  const counter = service();
  counter.execute('5');
  assert.deepEqual(counter.snapshot(), ['ok', '']);
  const moved = service([...counter.state]);
  assert.deepEqual(moved.restore(1), ['ok', '']);
  assert.deepEqual(moved.execute('1'), ['ok', '6']);
  assert.equal(service([...counter.state]).restore(2)[0], 'err');
});
