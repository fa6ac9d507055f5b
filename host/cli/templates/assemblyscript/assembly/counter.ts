// A counter. A transaction is a number to add, and its reply is the total.

// The state: all that a failover moves, beside the files of the virtual disk. Any other variable begins anew.
let total: i64 = 0;

export function getTotal(): i64 {
  return total;
}

export function setTotal(value: i64): void {
  total = value;
}

// Adds a number in decimal. Returns the reason for which it is refused, or `null`.
export function add(body: string): string | null {
  if (!isNumber(body)) return "send a whole number of at most 18 digits, such as 5";
  const number = I64.parseInt(body, 10);
  const sum = total + number;
  if (((total ^ sum) & (number ^ sum)) < 0) return "the total would not fit in 64 bits";
  total = sum;
  return null;
}

function isNumber(body: string): bool {
  const start = body.startsWith("-") ? 1 : 0;
  if (body.length == start || body.length - start > 18) return false;
  for (let at = start; at < body.length; at++) {
    const code = body.charCodeAt(at);
    if (code < 0x30 || code > 0x39) return false;
  }
  return true;
}
