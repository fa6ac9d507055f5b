// A counter. A transaction is a number to add, and its reply is the total.

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "lifeboat.h"

// The state: all that a failover moves, beside the files of the virtual disk. Any other variable begins anew.
static int64_t total;

static void reply_with_total(lifeboat_buffer *reply) {
  char text[32];
  snprintf(text, sizeof text, "%" PRId64, total);
  lifeboat_set_text(reply, text);
}

// Check first, change afterwards: what a refused transaction changed is kept.
static bool execute(const lifeboat_context *context, lifeboat_slice transaction, lifeboat_buffer *reply) {
  (void)context;
  char text[32] = {0};
  if (transaction.length > 0 && transaction.length < sizeof text) {
    memcpy(text, transaction.bytes, transaction.length);
  }
  char *end = text;
  errno = 0;
  long long add = strtoll(text, &end, 10);
  if (end == text || *end != 0 || errno != 0) {
    lifeboat_set_text(reply, "send a whole number of 64 bits, such as 5");
    return false;
  }
  int64_t sum;
  if (__builtin_add_overflow(total, add, &sum)) {
    lifeboat_set_text(reply, "the total would not fit in 64 bits");
    return false;
  }
  total = sum;
  reply_with_total(reply);
  return true;
}

static bool query(const lifeboat_context *context, lifeboat_slice query, lifeboat_buffer *reply) {
  (void)context, (void)query;
  reply_with_total(reply);
  return true;
}

// Raise it when `snapshot` writes another form, and let `restore` read the older one.
static uint32_t state_version(void) { return 1; }

static bool snapshot(lifeboat_buffer *reason) {
  (void)reason;
  lifeboat_write(&total, sizeof total);
  return true;
}

static bool restore(uint32_t version, lifeboat_buffer *reason) {
  if (version != 1 || !lifeboat_read(&total, sizeof total)) {
    lifeboat_set_text(reason, "it is no state of version 1");
    return false;
  }
  return true;
}
