import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Counter } from '../src/counter.js';

test('numbers are added', () => {
  const counter = new Counter();
  assert.equal(counter.execute({}, 5), 5);
  assert.equal(counter.execute({}, -2), 3);
  assert.equal(counter.query({}, 'total'), 3);
});

test('a body that is no whole number changes nothing', () => {
  const counter = new Counter();
  assert.throws(() => counter.execute({}, 'five'), /send a whole number/);
  assert.throws(() => counter.execute({}, 1.5), /send a whole number/);
  assert.equal(counter.total, 0);
});

test('the state survives a failover', () => {
  const counter = new Counter();
  counter.execute({}, 5);
  const moved = new Counter();
  moved.load(1, JSON.parse(JSON.stringify(counter.save())));
  assert.deepEqual(moved, counter);
});
