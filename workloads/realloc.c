/* Memory for the adapter of WASI preview 1, from the program's own heap.
 *
 * Without this export, the adapter grows the memory for itself. The allocator of wasi-libc before version 20 of the WASI
 * SDK, as Debian has it, takes all memory up to its end when it begins, so it would take the adapter's as well. A program
 * is linked with this file, and its own sources do not change.
 */
#include <stdlib.h>

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_bytes, size_t align, size_t bytes) {
  (void)old_bytes;
  (void)align;
  void *result = realloc(old, bytes);
  if (result == NULL && bytes > 0) __builtin_trap();
  return result;
}
