// A counter. A transaction is a number to add, and its reply is the total.

export class Counter {
  // The state: all that a failover moves, beside the files of the virtual disk.
  total = 0;

  // Applies a transaction. What it throws is the reason for which the transaction is refused.
  execute(context, add) {
    if (!Number.isSafeInteger(add)) throw new Error('send a whole number, such as 5');
    if (!Number.isSafeInteger(this.total + add)) throw new Error('the total would not fit in 53 bits');
    this.total += add;
    return this.total;
  }

  // Answers a query, and changes nothing.
  query(context, query) {
    return this.total;
  }

  // Returns the state as a value for JSON.
  save() {
    return { total: this.total };
  }

  // Takes a state that `save` of this or of an older version returned.
  load(version, state) {
    if (version !== 1) throw new Error(`state has version ${version}, this workload reads version 1`);
    this.total = state.total;
  }
}
