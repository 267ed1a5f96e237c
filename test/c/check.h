// What the C programs share: checks that go on after a failure, an error record, blocks, and tensors in fenced memory.
#ifndef ROPE_TEST_CHECK_H
#define ROPE_TEST_CHECK_H

#include <rope.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Every entry point that takes a block, and the type of its block. `bun run test sanitize` compares the list with rope.h.
#define ROPE_ENTRY_POINTS(X)                           \
  X(rope_abi, rope_abi_args)                           \
  X(rope_realm_open, rope_realm_args)                  \
  X(rope_realm_close, rope_realm_args)                 \
  X(rope_usage, rope_usage_args)                       \
  X(rope_device_info, rope_device_info_args)           \
  X(rope_memory_allocate, rope_memory_args)            \
  X(rope_memory_release, rope_memory_args)             \
  X(rope_memory_trim, rope_memory_args)                \
  X(rope_transfer, rope_transfer_args)                 \
  X(rope_stream_create, rope_stream_args)              \
  X(rope_stream_destroy, rope_stream_args)             \
  X(rope_stream_synchronize, rope_stream_args)         \
  X(rope_stream_order, rope_order_args)                \
  X(rope_event_record, rope_event_args)                \
  X(rope_event_wait, rope_event_args)                  \
  X(rope_event_synchronize, rope_event_args)           \
  X(rope_event_elapsed, rope_event_args)               \
  X(rope_event_destroy, rope_event_args)               \
  X(rope_graph_begin, rope_graph_args)                 \
  X(rope_graph_end, rope_graph_args)                   \
  X(rope_graph_cancel, rope_graph_args)                \
  X(rope_graph_launch, rope_graph_args)                \
  X(rope_graph_destroy, rope_graph_args)               \
  X(rope_queue_open, rope_queue_args)                  \
  X(rope_queue_take, rope_queue_args)                  \
  X(rope_queue_wait, rope_queue_args)                  \
  X(rope_queue_notify, rope_notify_args)               \
  X(rope_device_health, rope_health_args)              \
  X(rope_copy, rope_copy_args)                         \
  X(rope_fill, rope_fill_args)                         \
  X(rope_frequencies_create, rope_frequencies_args)    \
  X(rope_frequencies_read, rope_frequencies_read_args) \
  X(rope_frequencies_release, rope_frequencies_args)   \
  X(rope_rotate, rope_rotate_args)                     \
  X(rope_cos_sin, rope_cos_sin_args)                   \
  X(rope_shift, rope_shift_args)                       \
  X(rope_seq_lens, rope_seq_lens_args)                 \
  X(rope_batch_indices, rope_batch_indices_args)

// ---- checks -------------------------------------------------------------------------------------------------------------

static int checks_passed = 0, checks_failed = 0;

static inline void check(int holds, const char* file, int line, const char* what) {
  if (holds) {
    ++checks_passed;
  } else {
    ++checks_failed;
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
  }
}
#define CHECK(condition) check((condition) ? 1 : 0, __FILE__, __LINE__, #condition)

static inline int finish(const char* program) {
  printf("%s: %d checks passed, %d failed\n", program, checks_passed, checks_failed);
  return checks_failed == 0 ? 0 : 1;
}

// ---- calls: CHECK_OK(rope_usage(&args, record())), CHECK_ERROR(ROPE_DISPOSED, "stream", rope_stream_destroy(&args, record()))

static rope_error last_error;

// A fresh record for one call.
static inline rope_error* record(void) {
  memset(&last_error, 0x5a, sizeof last_error);
  last_error.size = (uint32_t)sizeof last_error;
  return &last_error;
}

static inline void check_ok(int32_t status, const char* file, int line, const char* what) {
  check(status == ROPE_OK, file, line, what);
  if (status == ROPE_OK) return;
  fprintf(stderr, "  status %d: %s must be %s, got %s\n", (int)status, last_error.argument, last_error.expected, last_error.actual);
}
#define CHECK_OK(call) check_ok((call), __FILE__, __LINE__, #call)

static inline int ends_within(const char* text, size_t capacity) { return memchr(text, 0, capacity) != NULL; }

// The record of a failure says which operation and which argument, and shows no address.
static inline void check_error(int32_t wanted, const char* argument, int32_t status, const char* file, int line, const char* what) {
  const rope_error* const e = &last_error;
  check(status == wanted, file, line, what);
  if (status != wanted) fprintf(stderr, "  status %d instead of %d\n", (int)status, (int)wanted);
  if (status == ROPE_OK) return;
  check(e->size == sizeof *e && e->status == status, file, line, "the record holds its size and the status");
  check(ends_within(e->operation, sizeof e->operation) && ends_within(e->argument, sizeof e->argument) &&
            ends_within(e->expected, sizeof e->expected) && ends_within(e->actual, sizeof e->actual) &&
            ends_within(e->advice, sizeof e->advice),
        file, line, "the texts end");
  check(strncmp(what, e->operation, strlen(e->operation)) == 0 && strncmp(e->operation, "rope_", 5) == 0, file, line,
        "the record names the operation");
  check(strstr(e->expected, "0x") == NULL && strstr(e->actual, "0x") == NULL, file, line, "the texts hold no address");
  if (wanted == ROPE_OUT_OF_MEMORY || wanted == ROPE_FAULT) return;
  check(e->expected[0] != 0 && e->actual[0] != 0, file, line, "the record says what was expected and what came");
  check(strcmp(e->argument, argument) == 0, file, line, "the record names the argument");
  if (strcmp(e->argument, argument) != 0) fprintf(stderr, "  \"%s\" instead of \"%s\"\n", e->argument, argument);
}
#define CHECK_ERROR(status, argument, call) check_error((status), (argument), (call), __FILE__, __LINE__, #call)

static inline void check_fault_is(uint32_t code, int64_t request, int64_t index, int64_t value, int64_t limit, const char* file, int line) {
  const rope_fault* const f = &last_error.fault;
  const int holds = f->code == code && f->request == request && f->index == index && f->value == value && f->limit == limit;
  check(holds, file, line, "the record holds the first fault");
  if (holds) return;
  fprintf(stderr, "  code %u, request %lld, index %lld, value %lld, limit %lld\n", (unsigned)f->code, (long long)f->request,
          (long long)f->index, (long long)f->value, (long long)f->limit);
}
#define CHECK_FAULT(code, request, index, value, limit) check_fault_is((code), (request), (index), (value), (limit), __FILE__, __LINE__)

// Zeros, and the size that every block begins with.
#define START(block) (memset(&(block), 0, sizeof(block)), (block).size = (uint32_t)sizeof(block))

static inline rope_usage_args usage(void) {
  rope_usage_args args;
  START(args);
  CHECK_OK(rope_usage(&args, record()));
  return args;
}

// ---- tensors ------------------------------------------------------------------------------------------------------------

enum { kFence = 64, kPoison = 0xa5 };

// Memory full of poison with a fence on either side.
static inline void* fenced(size_t bytes) {
  unsigned char* const base = (unsigned char*)aligned_alloc(64, (bytes + 2 * kFence + 63) / 64 * 64);
  if (base == NULL) abort();
  memset(base, kPoison, bytes + 2 * kFence);
  return base + kFence;
}

static inline int poisoned(const void* memory, size_t bytes) {
  const unsigned char* const p = (const unsigned char*)memory;
  size_t i;
  for (i = 0; i < bytes; ++i) {
    if (p[i] != kPoison) return 0;
  }
  return 1;
}

static inline int fences_whole(const void* memory, size_t bytes) {
  const unsigned char* const p = (const unsigned char*)memory;
  return poisoned(p - kFence, kFence) && poisoned(p + bytes, kFence);
}

static inline void free_fenced(void* memory) { free((unsigned char*)memory - kFence); }

static inline int64_t size_of_dtype(int dtype) {
  static const int sizes[] = {8, 4, 2, 2, 1, 1, 8, 4, 1};
  return sizes[dtype];
}

// A contiguous tensor; lengths beyond its rank are not looked at.
static inline rope_tensor tensor(void* data, int dtype, int rank, int64_t a, int64_t b, int64_t c, int64_t d) {
  rope_tensor t;
  int64_t count = 1;
  int i;
  memset(&t, 0, sizeof t);
  t.data = rope_address(data);
  t.dtype = (uint8_t)dtype;
  t.rank = (uint8_t)rank;
  t.generation = 7;
  t.shape[0] = a;
  t.shape[1] = b;
  t.shape[2] = c;
  t.shape[3] = d;
  for (i = rank - 1; i >= 0; --i) {
    t.stride[i] = count;
    count *= t.shape[i];
  }
  t.extent = (uint64_t)(count * size_of_dtype(dtype));
  return t;
}

static inline rope_tensor vector(void* data, int dtype, int64_t n) { return tensor(data, dtype, 1, n, 0, 0, 0); }

static inline rope_tensor_ref ref(const rope_tensor* t) {
  rope_tensor_ref r;
  r.tensor = rope_address(t);
  r.generation = t->generation;
  r.reserved = 0;
  return r;
}

static inline rope_tensor_ref no_tensor(void) {
  rope_tensor_ref r;
  memset(&r, 0, sizeof r);
  return r;
}

static inline void release_frequencies(uint64_t handle) {
  rope_frequencies_args args;
  START(args);
  args.frequencies = handle;
  CHECK_OK(rope_frequencies_release(&args, record()));
}

#endif
