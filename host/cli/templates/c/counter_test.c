// Runs natively: `make test`.

#undef NDEBUG
#include <assert.h>

#include "counter.c"

static bool run(const char *body, lifeboat_buffer *reply) {
  lifeboat_context context = {0};
  return execute(&context, (lifeboat_slice){body, strlen(body)}, reply);
}

int main(void) {
  lifeboat_buffer reply = {0};

  // Numbers are added.
  assert(run("5", &reply) && strcmp(reply.bytes, "5") == 0);
  assert(run("-2", &reply) && strcmp(reply.bytes, "3") == 0);

  // Any other body is refused, and changes nothing.
  assert(!run("five", &reply) && !run("", &reply) && !run("1 2", &reply) && !run("9223372036854775807", &reply));
  assert(query(NULL, (lifeboat_slice){"", 0}, &reply) && strcmp(reply.bytes, "3") == 0);

  // The state survives a failover.
  assert(snapshot(&reply));
  total = 0;
  assert(restore(state_version(), &reply) && total == 3);

  puts("all tests passed");
  return 0;
}
