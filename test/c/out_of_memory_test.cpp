// Every allocation of the library fails once, in scenarios that use all of it: the call says ROPE_OUT_OF_MEMORY or manages without, and
// afterwards nothing is left behind and everything works. Does nothing where the library has an operator new of its own (see
// allocation.h).
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "allocation.h"
#include "check.h"

namespace {

bool failing = false;  // a call may be out of memory
bool met = false;      // one was

// Whether the call succeeded. Out of memory is the only error there may be.
bool works(int32_t status, int line) {
  if (status == ROPE_OK) return true;
  check(failing && status == ROPE_OUT_OF_MEMORY && last_error.status == status, __FILE__, line, "only memory may be wanting");
  met = true;
  return false;
}
#define WORKS(call) works((call), __LINE__)

template <class Args>
Args start() {
  Args args{};
  args.size = sizeof args;
  return args;
}

uint64_t create_frequencies(uint64_t realm, int64_t rotary_dim) {
  auto args = start<rope_frequencies_args>();
  args.realm = realm;
  args.rotary_dim = rotary_dim;
  args.theta = 10000;
  return WORKS(rope_frequencies_create(&args, record())) ? args.frequencies : 0;
}

void try_to_release(uint64_t handle) {
  auto args = start<rope_frequencies_args>();
  args.frequencies = handle;
  if (handle != 0) WORKS(rope_frequencies_release(&args, record()));
}

// Rotates [tokens, 1, rotary_dim] with fresh frequencies, on a stream or at once.
void rotate(uint64_t stream, int64_t tokens, int64_t rotary_dim) {
  const uint64_t frequencies = create_frequencies(0, rotary_dim);
  if (frequencies == 0) return;
  static float in[1 << 20], out[1 << 20];
  rope_tensor q = tensor(in, ROPE_FLOAT32, 3, tokens, 1, rotary_dim, 0), q_out = tensor(out, ROPE_FLOAT32, 3, tokens, 1, rotary_dim, 0);
  auto args = start<rope_rotate_args>();
  args.stream = stream;
  args.frequencies = frequencies;
  args.q = ref(&q);
  args.q_out = ref(&q_out);
  WORKS(rope_rotate(&args, record()));
  try_to_release(frequencies);
}

void use_abi() {
  auto args = start<rope_abi_args>();
  if (WORKS(rope_abi(&args, record()))) CHECK(args.length > 1000);
}

// Enough rotary channels that the scratch memory of a thread is on the heap, enough tokens for all threads.
void use_rotation() {
  rotate(0, 4, 64);
  rotate(0, 128, 8192);
}

void use_tensors() {
  static int32_t source[60];
  static double target[60];
  rope_tensor s = tensor(source, ROPE_INT32, 3, 3, 4, 5, 0), t = tensor(target, ROPE_FLOAT64, 3, 3, 4, 5, 0);
  auto copy = start<rope_copy_args>();
  copy.source = ref(&s);
  copy.target = ref(&t);
  WORKS(rope_copy(&copy, record()));
  auto fill = start<rope_fill_args>();
  fill.target = ref(&t);
  WORKS(rope_fill(&fill, record()));
}

void use_graph() {
  auto graph = start<rope_graph_args>();
  if (!WORKS(rope_graph_begin(&graph, record()))) return;
  for (int i = 0; i < 5; ++i) rotate(graph.stream, 4, 64);
  if (!WORKS(rope_graph_end(&graph, record()))) {
    // The recording ends with the call or is still there.
    allocations_left = INT64_MAX;
    const int32_t status = rope_graph_cancel(&graph, record());
    CHECK(status == ROPE_OK || status == ROPE_DISPOSED);
    return;
  }
  graph.stream = 0;
  WORKS(rope_graph_launch(&graph, record()));
  WORKS(rope_graph_destroy(&graph, record()));
}

void use_events() {
  auto stream = start<rope_stream_args>();
  auto event = start<rope_event_args>();
  if (!WORKS(rope_stream_create(&stream, record()))) return;
  event.stream = stream.stream;
  if (WORKS(rope_event_record(&event, record()))) WORKS(rope_event_destroy(&event, record()));
  WORKS(rope_stream_destroy(&stream, record()));
}

// A realm with one of everything, closed: its handles and bytes are gone even if closing it took two calls.
void use_realm() {
  auto realm = start<rope_realm_args>();
  if (!WORKS(rope_realm_open(&realm, record()))) return;
  auto stream = start<rope_stream_args>();
  auto event = start<rope_event_args>();
  auto graph = start<rope_graph_args>();
  auto memory = start<rope_memory_args>();
  stream.realm = event.realm = graph.realm = memory.realm = realm.realm;
  memory.bytes = 4096;
  WORKS(rope_stream_create(&stream, record()));
  WORKS(rope_event_record(&event, record()));
  WORKS(rope_graph_begin(&graph, record()));
  WORKS(rope_memory_allocate(&memory, record()));
  WORKS(rope_memory_allocate(&memory, record()));
  create_frequencies(realm.realm, 32);
  if (WORKS(rope_realm_close(&realm, record()))) return;
  allocations_left = INT64_MAX;
  CHECK_OK(rope_realm_close(&realm, record()));
}

// Many handles at once, so that the tables grow.
void use_many() {
  static rope_stream_args streams[300];
  for (rope_stream_args& stream : streams) {
    stream = start<rope_stream_args>();
    WORKS(rope_stream_create(&stream, record()));
  }
  for (const rope_stream_args& stream : streams) {
    if (stream.stream != 0) WORKS(rope_stream_destroy(&stream, record()));
  }
}

struct Scenario {
  const char* name;
  void (*use)();
};

}  // namespace

int main() {
  const Scenario scenarios[] = {{"abi", use_abi},       {"rotation", use_rotation}, {"tensors", use_tensors}, {"graph", use_graph},
                                {"events", use_events}, {"realm", use_realm},       {"many", use_many}};
  int64_t failed = 0;
  for (const Scenario& scenario : scenarios) {
    for (const bool all : {false, true}) {
      // The n-th allocation fails, or all from the n-th on, until the scenario needs no more than n.
      for (int64_t n = 0;; ++n) {
        const rope_usage_args before = usage();
        const int64_t failed_before = allocations_failed;
        failing = true;
        met = false;
        all_fail_then = all;
        allocations_left = n;
        scenario.use();
        allocations_left = INT64_MAX;
        all_fail_then = failing = false;
        const rope_usage_args after = usage();
        check(after.handles == before.handles && after.bytes == before.bytes, __FILE__, __LINE__, scenario.name);
        if (after.handles != before.handles || after.bytes != before.bytes) {
          std::fprintf(stderr, "  %s: allocation %lld%s failed; %lld handles and %lld bytes are left\n", scenario.name,
                       static_cast<long long>(n), all ? " and all later ones" : "", static_cast<long long>(after.handles - before.handles),
                       static_cast<long long>(after.bytes - before.bytes));
        }
        failed += allocations_failed - failed_before;
        if (allocations_failed == failed_before) break;
      }
      scenario.use();
    }
  }
#if defined(__SANITIZE_ADDRESS__)
  CHECK(failed > 100);
#endif
  std::printf("out_of_memory_test: %lld allocations failed\n", static_cast<long long>(failed));
  return finish("out_of_memory_test");
}
