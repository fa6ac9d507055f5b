// The exports of the workload: bytes in and out, around one counter.

import { read, write } from 'lifeboat:vm/state@0.1.0';
import { Counter } from './counter.js';

// The host takes at most 1 MiB at a time.
const CHUNK_BYTES = 65536;

const counter = new Counter();

const encode = (value) => new TextEncoder().encode(JSON.stringify(value));
const decode = (bytes) => JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));

// The engine turns a thrown string into the `err` of a result, and traps on anything else.
function orRefuse(work) {
  try {
    return work();
  } catch (error) {
    throw error.message;
  }
}

export const workload = {
  execute: (context, transaction) => orRefuse(() => encode(counter.execute(context, decode(transaction)))),

  query: (context, query) => orRefuse(() => encode(counter.query(context, decode(query)))),

  // Raise it when `save` returns another form, and let `load` read the older one.
  stateVersion: () => 1,

  snapshot() {
    const bytes = encode(counter.save());
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) write(bytes.subarray(at, at + CHUNK_BYTES));
  },

  restore: (version) =>
    orRefuse(() => {
      const chunks = [];
      for (let chunk = read(CHUNK_BYTES); chunk.length > 0; chunk = read(CHUNK_BYTES)) chunks.push(chunk);
      const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
      let at = 0;
      for (const chunk of chunks) {
        bytes.set(chunk, at);
        at += chunk.length;
      }
      counter.load(version, decode(bytes));
    }),
};
