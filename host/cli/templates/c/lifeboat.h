// The exports of a workload in C, by the canonical ABI of `lifeboat:vm@0.1.0`.
//
// Include it in one file, after these five functions. They return whether they succeeded; `reply` is the reply, or the
// reason for which the request is refused. A trap undoes a transaction.

#ifndef LIFEBOAT_H
#define LIFEBOAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Bytes that belong to whoever made them.
typedef struct {
  const char *bytes;
  size_t length;
} lifeboat_slice;

// Who asks, and when. The same in every replay of a transaction.
typedef struct {
  lifeboat_slice id, user;
  uint64_t sequence;
  uint64_t timestamp_ns;
} lifeboat_context;

// A reply, with memory of its own.
typedef struct {
  char *bytes;
  size_t length;
} lifeboat_buffer;

static bool execute(const lifeboat_context *context, lifeboat_slice transaction, lifeboat_buffer *reply);
static bool query(const lifeboat_context *context, lifeboat_slice query, lifeboat_buffer *reply);
static uint32_t state_version(void);
static bool snapshot(lifeboat_buffer *reason);
static bool restore(uint32_t version, lifeboat_buffer *reason);

// Replaces the content of a buffer. Traps if no memory is left.
static inline void lifeboat_set(lifeboat_buffer *buffer, const void *bytes, size_t length) {
  char *copy = realloc(buffer->bytes, length + 1);
  if (copy == NULL) abort();
  memcpy(copy, bytes, length);
  copy[length] = 0;
  buffer->bytes = copy;
  buffer->length = length;
}

static inline void lifeboat_set_text(lifeboat_buffer *buffer, const char *text) {
  lifeboat_set(buffer, text, strlen(text));
}

#ifdef __wasm__

#define LIFEBOAT_CHUNK_BYTES 65536

__attribute__((import_module("lifeboat:vm/state@0.1.0"), import_name("write"))) void lifeboat_state_write(
    const void *chunk, size_t length);
__attribute__((import_module("lifeboat:vm/state@0.1.0"), import_name("read"))) void lifeboat_state_read(
    uint32_t max, lifeboat_buffer *chunk);

// Appends bytes to the snapshot.
static inline void lifeboat_write(const void *bytes, size_t length) {
  const char *rest = bytes;
  while (length > 0) {
    size_t some = length < LIFEBOAT_CHUNK_BYTES ? length : LIFEBOAT_CHUNK_BYTES;
    lifeboat_state_write(rest, some);
    rest += some;
    length -= some;
  }
}

// Reads exactly `length` bytes of the snapshot. Returns false if it has fewer.
static inline bool lifeboat_read(void *bytes, size_t length) {
  char *rest = bytes;
  while (length > 0) {
    lifeboat_buffer chunk;
    lifeboat_state_read(length < LIFEBOAT_CHUNK_BYTES ? length : LIFEBOAT_CHUNK_BYTES, &chunk);
    if (chunk.length == 0) return false;
    memcpy(rest, chunk.bytes, chunk.length);
    free(chunk.bytes);
    rest += chunk.length;
    length -= chunk.length;
  }
  return true;
}

// What an export returns: whether it is an error, and the reply or the reason.
typedef struct {
  uint8_t is_err;
  lifeboat_buffer reply;
} lifeboat_result;

static lifeboat_result lifeboat_last;

static inline lifeboat_result *lifeboat_call(bool (*call)(const lifeboat_context *, lifeboat_slice, lifeboat_buffer *),
                                             lifeboat_context context, lifeboat_slice body) {
  lifeboat_last.is_err = !call(&context, body, &lifeboat_last.reply);
  free((void *)context.id.bytes);
  free((void *)context.user.bytes);
  free((void *)body.bytes);
  return &lifeboat_last;
}

#define LIFEBOAT_EXPORT(name) __attribute__((export_name("lifeboat:vm/workload@0.1.0#" name)))

LIFEBOAT_EXPORT("execute")
lifeboat_result *lifeboat_execute(char *id, size_t id_length, char *user, size_t user_length, uint64_t sequence,
                                  uint64_t timestamp_ns, char *body, size_t length) {
  lifeboat_context context = {{id, id_length}, {user, user_length}, sequence, timestamp_ns};
  return lifeboat_call(execute, context, (lifeboat_slice){body, length});
}

LIFEBOAT_EXPORT("query")
lifeboat_result *lifeboat_query(char *id, size_t id_length, char *user, size_t user_length, uint64_t sequence,
                                uint64_t timestamp_ns, char *body, size_t length) {
  lifeboat_context context = {{id, id_length}, {user, user_length}, sequence, timestamp_ns};
  return lifeboat_call(query, context, (lifeboat_slice){body, length});
}

LIFEBOAT_EXPORT("state-version") uint32_t lifeboat_state_version(void) { return state_version(); }

LIFEBOAT_EXPORT("snapshot") lifeboat_result *lifeboat_snapshot(void) {
  lifeboat_last.is_err = !snapshot(&lifeboat_last.reply);
  return &lifeboat_last;
}

LIFEBOAT_EXPORT("restore") lifeboat_result *lifeboat_restore(uint32_t version) {
  lifeboat_last.is_err = !restore(version, &lifeboat_last.reply);
  return &lifeboat_last;
}

// The host puts arguments where this function says.
__attribute__((export_name("cabi_realloc"))) void *lifeboat_realloc(void *old, size_t old_length, size_t alignment,
                                                                    size_t length) {
  (void)old_length, (void)alignment;
  void *memory = realloc(old, length == 0 ? 1 : length);
  if (memory == NULL) abort();
  return memory;
}

#else

// In native tests, the snapshot is in memory.
static lifeboat_buffer lifeboat_state;
static size_t lifeboat_state_taken;

static inline void lifeboat_write(const void *bytes, size_t length) {
  char *grown = realloc(lifeboat_state.bytes, lifeboat_state.length + length + 1);
  if (grown == NULL) abort();
  memcpy(grown + lifeboat_state.length, bytes, length);
  lifeboat_state.bytes = grown;
  lifeboat_state.length += length;
}

static inline bool lifeboat_read(void *bytes, size_t length) {
  if (lifeboat_state.length - lifeboat_state_taken < length) return false;
  memcpy(bytes, lifeboat_state.bytes + lifeboat_state_taken, length);
  lifeboat_state_taken += length;
  return true;
}

#endif

#endif
