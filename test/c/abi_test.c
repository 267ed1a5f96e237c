// The C ABI as a C program sees it: layouts, blocks and error records of any size, realms, handles, memory, streams, events and graphs.
// tensor_test.c and rotate_test.c have the operations on tensors.
#include <pthread.h>
#include <stddef.h>

#include "check.h"

// ---- the library --------------------------------------------------------------------------------------------------------

static void test_version(void) {
  int here = 0;
  CHECK(rope_abi_version() == ROPE_ABI_VERSION);
  CHECK(rope_version() == ROPE_VERSION_MAJOR * 1000000 + ROPE_VERSION_MINOR * 1000 + ROPE_VERSION_PATCH);
  CHECK(rope_address(&here) == (uint64_t)(uintptr_t)&here);
  CHECK(rope_address(NULL) == 0);
}

// Looks for `entry` in the JSON; a struct's fields are looked for after its name.
static const char* current_struct;
static void check_entry(const char* from, const char* entry, int line) {
  check(from != NULL && strstr(from, entry) != NULL, __FILE__, line, entry);
}

static void check_layouts(const char* json) {
  char entry[160];
#define ROPE_ABI_STRUCT(type)                                                               \
  snprintf(entry, sizeof entry, "\"%s\": {\"size\": %zu, \"fields\"", #type, sizeof(type)); \
  current_struct = strstr(json, entry);                                                     \
  check_entry(json, entry, __LINE__);
#define ROPE_ABI_FIELD(type, field)                                                                                                       \
  snprintf(entry, sizeof entry, "\"%s\": {\"offset\": %zu, \"size\": %zu}", #field, offsetof(type, field), sizeof(((type*)NULL)->field)); \
  check_entry(current_struct, entry, __LINE__);
#define ROPE_ABI_CONSTANT(name)                                            \
  snprintf(entry, sizeof entry, "\"%s\": %lld", #name, (long long)(name)); \
  check_entry(json, entry, __LINE__);
#include "../../csrc/core/abi_table.inc"
#undef ROPE_ABI_STRUCT
#undef ROPE_ABI_FIELD
#undef ROPE_ABI_CONSTANT
}

static void test_abi(void) {
  rope_abi_args args;
  char* text;
  uint64_t length;
  START(args);
  CHECK_OK(rope_abi(&args, record()));  // no capacity: the length only
  length = args.length;
  CHECK(length > 1000 && length < 65536);

  text = (char*)fenced(length);
  args.text = rope_address(text);
  args.capacity = 10;
  CHECK_OK(rope_abi(&args, record()));
  CHECK(args.length == length && memcmp(text, "{\"structs\":", 10) == 0 && poisoned(text + 10, length - 10));
  args.capacity = length;
  CHECK_OK(rope_abi(&args, record()));
  CHECK(args.length == length && text[length - 1] == '}' && fences_whole(text, length));
  free_fenced(text);

  text = (char*)calloc(length + 1, 1);
  args.text = rope_address(text);
  args.capacity = length + 1;
  CHECK_OK(rope_abi(&args, record()));
  CHECK(strlen(text) == length);
  check_layouts(text);
  free(text);

  args.text = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "text", rope_abi(&args, record()));
}

// ---- blocks and error records of any size -------------------------------------------------------------------------------

typedef int32_t (*entry_point)(void* args, rope_error* error);
typedef struct named_entry {
  const char* name;
  entry_point call;
} named_entry;

#define WRAP(function, args) \
  static int32_t call_##function(void* block, rope_error* error) { return function((args*)block, error); }
ROPE_ENTRY_POINTS(WRAP)
#define LIST(function, args) {#function, call_##function},
static const named_entry entry_points[] = {ROPE_ENTRY_POINTS(LIST)};

static void test_blocks(void) {
  size_t i;
  for (i = 0; i < sizeof entry_points / sizeof *entry_points; ++i) {
    const named_entry e = entry_points[i];
    uint64_t small[2] = {0, 0};
    uint32_t size;
    check_error(ROPE_ARGUMENT, "args", e.call(NULL, record()), __FILE__, __LINE__, e.name);
    CHECK(e.call(NULL, NULL) == ROPE_ARGUMENT);
    // Too short, or cutting a field in two.
    for (size = 0; size < 16; ++size) {
      if (size == 8) continue;
      memcpy(small, &size, sizeof size);
      check_error(ROPE_ARGUMENT, "size", e.call(small, record()), __FILE__, __LINE__, e.name);
    }
    CHECK(e.call(small, NULL) == ROPE_ARGUMENT);
    CHECK(small[1] == 0);
  }
}

static void test_block_sizes(void) {
  struct {
    rope_usage_args args;
    uint64_t beyond;
  } longer;
  rope_usage_args shorter;
  rope_frequencies_args frequencies;
  rope_realm_args realm;
  rope_stream_args stream;
  rope_event_args event;
  rope_graph_args graph;
  START(longer.args);
  longer.beyond = UINT64_C(0x1122334455667788);
  longer.args.size = sizeof longer;
  CHECK_OK(rope_usage(&longer.args, record()));
  CHECK(longer.args.size == sizeof longer && longer.beyond == UINT64_C(0x1122334455667788));

  START(shorter);
  shorter.bytes = 77;
  shorter.size = offsetof(rope_usage_args, bytes);
  CHECK_OK(rope_usage(&shorter, record()));
  CHECK(shorter.handles == longer.args.handles && shorter.bytes == 77);

  // A caller of an older header, whose block ends after theta: the rest is the default, whatever stands there.
  memset(&frequencies, 0xff, sizeof frequencies);
  frequencies.size = offsetof(rope_frequencies_args, factor);
  frequencies.rule = ROPE_RULE_DEFAULT;
  frequencies.realm = 0;
  frequencies.rotary_dim = 8;
  frequencies.axes = 0;
  frequencies.heads = 0;
  frequencies.theta = 10000;
  CHECK_OK(rope_frequencies_create(&frequencies, record()));
  CHECK_OK(rope_frequencies_release(&frequencies, record()));
  frequencies.size = offsetof(rope_frequencies_args, theta);
  CHECK_ERROR(ROPE_ARGUMENT, "theta", rope_frequencies_create(&frequencies, record()));

  // No room for the handle: nothing is made that nobody could release.
  START(realm);
  START(stream);
  START(event);
  START(graph);
  realm.size = offsetof(rope_realm_args, realm);
  stream.size = offsetof(rope_stream_args, stream);
  event.size = offsetof(rope_event_args, event);
  graph.size = offsetof(rope_graph_args, stream);
  frequencies.size = offsetof(rope_frequencies_args, frequencies);
  CHECK_ERROR(ROPE_ARGUMENT, "size", rope_realm_open(&realm, record()));
  CHECK_ERROR(ROPE_ARGUMENT, "size", rope_stream_create(&stream, record()));
  CHECK_ERROR(ROPE_ARGUMENT, "size", rope_event_record(&event, record()));
  CHECK_ERROR(ROPE_ARGUMENT, "size", rope_graph_begin(&graph, record()));
  CHECK_ERROR(ROPE_ARGUMENT, "size", rope_frequencies_create(&frequencies, record()));
  CHECK(usage().handles == longer.args.handles);
}

static void test_record_sizes(void) {
  static const uint32_t sizes[] = {0,         4, 7, 8, 40, 41, 232, sizeof(rope_error) - 1, sizeof(rope_error), sizeof(rope_error) + 32,
                                   UINT32_MAX};
  size_t i;
  rope_stream_args args;
  START(args);
  args.stream = 1;
  for (i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
    unsigned char* const memory = (unsigned char*)fenced(sizeof(rope_error) + 64);
    rope_error* const e = (rope_error*)(void*)memory;
    const size_t written = sizes[i] < 8 ? 4 : sizes[i] < sizeof *e ? sizes[i] : sizeof *e;
    e->size = sizes[i];
    CHECK(rope_stream_destroy(&args, e) == ROPE_DISPOSED);
    CHECK(e->size == sizes[i]);
    CHECK(poisoned(memory + written, sizeof *e + 64 - written));
    if (sizes[i] >= 8) CHECK(e->status == ROPE_DISPOSED);
    if (sizes[i] >= 40) CHECK(strcmp(e->operation, "rope_stream_destroy") == 0);
    free_fenced(memory);
  }
  CHECK(rope_stream_destroy(&args, NULL) == ROPE_DISPOSED);
  args.stream = 0;
  CHECK_OK(rope_stream_synchronize(&args, record()));
  CHECK(last_error.size == sizeof last_error && last_error.status == 0x5a5a5a5a);  // a success leaves it alone
}

// ---- devices and memory -------------------------------------------------------------------------------------------------

static void test_devices(void) {
  rope_device_info_args info;
  rope_memory_args memory;
  rope_stream_args stream;
  rope_event_args event;
  rope_graph_args graph;
  static const uint16_t absent[] = {1, 255, ROPE_CUDA << 8, (ROPE_CUDA << 8) + 3, 2 << 8, 65535};
  size_t i;
  START(info);
  CHECK_OK(rope_device_info(&info, record()));
  CHECK(info.memory_bytes > 1 << 20 && info.cores >= 1 && info.usable == 1);
  CHECK(strlen(info.description) > 5 && ends_within(info.description, sizeof info.description));
  for (i = 0; i < sizeof absent / sizeof *absent; ++i) {
    START(info);
    START(memory);
    START(stream);
    START(event);
    START(graph);
    memory.bytes = 64;
    info.device = memory.device = stream.device = event.device = graph.device = absent[i];
    CHECK_ERROR(ROPE_DEVICE, "device", rope_device_info(&info, record()));
    CHECK_ERROR(ROPE_DEVICE, "device", rope_memory_allocate(&memory, record()));
    CHECK_ERROR(ROPE_DEVICE, "device", rope_memory_release(&memory, record()));
    CHECK_ERROR(ROPE_DEVICE, "device", rope_stream_create(&stream, record()));
    CHECK_ERROR(ROPE_DEVICE, "device", rope_stream_synchronize(&stream, record()));
    CHECK_ERROR(ROPE_DEVICE, "device", rope_event_record(&event, record()));
    CHECK_ERROR(ROPE_DEVICE, "device", rope_graph_begin(&graph, record()));
  }
}

static void test_memory(void) {
  const rope_usage_args before = usage();
  rope_device_info_args info;
  rope_memory_args args;
  const unsigned char* bytes;
  size_t i;
  int zeroed = 1;
  START(info);
  CHECK_OK(rope_device_info(&info, record()));
  START(args);
  CHECK_ERROR(ROPE_ARGUMENT, "bytes", rope_memory_allocate(&args, record()));
  args.bytes = 100000;
  CHECK_OK(rope_memory_allocate(&args, record()));
  CHECK(args.address != 0 && args.address % 64 == 0);
  CHECK(usage().bytes == before.bytes + 100000);
  bytes = (const unsigned char*)(uintptr_t)args.address;
  for (i = 0; i < args.bytes; ++i) zeroed &= bytes[i] == 0;
  CHECK(zeroed);
  CHECK_OK(rope_memory_release(&args, record()));
  CHECK(usage().bytes == before.bytes);
  CHECK_ERROR(ROPE_DISPOSED, "address", rope_memory_release(&args, record()));
  args.address = 0;
  CHECK_ERROR(ROPE_DISPOSED, "address", rope_memory_release(&args, record()));

  // Out of memory: the numbers, and everything still works.
  args.bytes = UINT64_MAX;
  CHECK_ERROR(ROPE_OUT_OF_MEMORY, "", rope_memory_allocate(&args, record()));
  CHECK(last_error.requested == UINT64_MAX && last_error.available > 0 && last_error.available <= info.memory_bytes);
  args.bytes = info.memory_bytes + 1;
  CHECK_ERROR(ROPE_OUT_OF_MEMORY, "", rope_memory_allocate(&args, record()));
  CHECK(last_error.requested == args.bytes && last_error.available > 0 && last_error.available <= info.memory_bytes);
  args.bytes = 1;
  CHECK_OK(rope_memory_allocate(&args, record()));
  CHECK_OK(rope_memory_release(&args, record()));
  // A block too short for the address.
  args.size = offsetof(rope_memory_args, address);
  CHECK_ERROR(ROPE_ARGUMENT, "size", rope_memory_allocate(&args, record()));
  CHECK(usage().bytes == before.bytes);
}

// ---- one of everything --------------------------------------------------------------------------------------------------

typedef struct one_of_each {
  uint64_t realm, stream, event, recording, graph, frequencies, memory;
} one_of_each;

static one_of_each create_all(uint64_t realm) {
  one_of_each all;
  rope_stream_args stream;
  rope_event_args event;
  rope_graph_args graph;
  rope_frequencies_args frequencies;
  rope_memory_args memory;
  memset(&all, 0, sizeof all);
  all.realm = realm;

  START(stream);
  stream.realm = realm;
  CHECK_OK(rope_stream_create(&stream, record()));
  all.stream = stream.stream;

  START(event);
  event.realm = realm;
  event.stream = all.stream;
  CHECK_OK(rope_event_record(&event, record()));
  all.event = event.event;

  START(graph);
  graph.realm = realm;
  CHECK_OK(rope_graph_begin(&graph, record()));
  CHECK_OK(rope_graph_end(&graph, record()));
  CHECK(graph.nodes == 0);
  all.graph = graph.graph;
  CHECK_OK(rope_graph_begin(&graph, record()));
  all.recording = graph.stream;

  START(frequencies);
  frequencies.realm = realm;
  frequencies.rotary_dim = 64;
  frequencies.theta = 10000;
  CHECK_OK(rope_frequencies_create(&frequencies, record()));
  all.frequencies = frequencies.frequencies;

  START(memory);
  memory.realm = realm;
  memory.bytes = 4096;
  CHECK_OK(rope_memory_allocate(&memory, record()));
  all.memory = memory.address;
  CHECK(all.stream != 0 && all.event != 0 && all.graph != 0 && all.recording != 0 && all.frequencies != 0);
  CHECK(all.stream < UINT64_C(1) << 53 && all.event < UINT64_C(1) << 53 && all.frequencies < UINT64_C(1) << 53);
  return all;
}

static void destroy_all(const one_of_each* all) {
  rope_stream_args stream;
  rope_event_args event;
  rope_graph_args graph;
  rope_frequencies_args frequencies;
  rope_memory_args memory;
  START(stream);
  stream.stream = all->stream;
  CHECK_OK(rope_stream_destroy(&stream, record()));
  START(event);
  event.event = all->event;
  CHECK_OK(rope_event_destroy(&event, record()));
  START(graph);
  graph.graph = all->graph;
  CHECK_OK(rope_graph_destroy(&graph, record()));
  graph.stream = all->recording;
  CHECK_OK(rope_graph_cancel(&graph, record()));
  START(frequencies);
  frequencies.frequencies = all->frequencies;
  CHECK_OK(rope_frequencies_release(&frequencies, record()));
  START(memory);
  memory.address = all->memory;
  CHECK_OK(rope_memory_release(&memory, record()));
}

// None of these handles may be used as what its field says, and no call that meets one changes anything.
static void check_dead(const one_of_each* dead) {
  const rope_usage_args before = usage();
  rope_realm_args realm;
  rope_stream_args stream;
  rope_event_args event;
  rope_graph_args graph;
  rope_frequencies_args frequencies;
  rope_frequencies_read_args read;
  rope_memory_args memory;
  rope_event_args live;
  START(realm);
  realm.realm = dead->realm;
  CHECK_ERROR(ROPE_DISPOSED, "realm", rope_realm_close(&realm, record()));
  if (dead->realm != 0) {
    START(stream);
    stream.realm = dead->realm;
    CHECK_ERROR(ROPE_DISPOSED, "realm", rope_stream_create(&stream, record()));
    START(event);
    event.realm = dead->realm;
    CHECK_ERROR(ROPE_DISPOSED, "realm", rope_event_record(&event, record()));
    START(graph);
    graph.realm = dead->realm;
    CHECK_ERROR(ROPE_DISPOSED, "realm", rope_graph_begin(&graph, record()));
    START(frequencies);
    frequencies.realm = dead->realm;
    frequencies.rotary_dim = 2;
    frequencies.theta = 2;
    CHECK_ERROR(ROPE_DISPOSED, "realm", rope_frequencies_create(&frequencies, record()));
    START(memory);
    memory.realm = dead->realm;
    memory.bytes = 64;
    CHECK_ERROR(ROPE_DISPOSED, "realm", rope_memory_allocate(&memory, record()));
  }
  START(live);
  CHECK_OK(rope_event_record(&live, record()));
  START(stream);
  stream.stream = dead->stream;
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_stream_destroy(&stream, record()));
  if (dead->stream != 0) {
    CHECK_ERROR(ROPE_DISPOSED, "stream", rope_stream_synchronize(&stream, record()));
    START(event);
    event.stream = dead->stream;
    CHECK_ERROR(ROPE_DISPOSED, "stream", rope_event_record(&event, record()));
    event.event = live.event;
    CHECK_ERROR(ROPE_DISPOSED, "stream", rope_event_wait(&event, record()));
  }
  START(event);
  event.event = dead->event;
  event.since = live.event;
  CHECK_ERROR(ROPE_DISPOSED, "event", rope_event_wait(&event, record()));
  CHECK_ERROR(ROPE_DISPOSED, "event", rope_event_synchronize(&event, record()));
  CHECK_ERROR(ROPE_DISPOSED, "event", rope_event_elapsed(&event, record()));
  CHECK_ERROR(ROPE_DISPOSED, "event", rope_event_destroy(&event, record()));
  event.event = live.event;
  event.since = dead->event;
  CHECK_ERROR(ROPE_DISPOSED, "since", rope_event_elapsed(&event, record()));
  CHECK_OK(rope_event_destroy(&live, record()));

  START(graph);
  graph.graph = dead->graph;
  CHECK_ERROR(ROPE_DISPOSED, "graph", rope_graph_launch(&graph, record()));
  CHECK_ERROR(ROPE_DISPOSED, "graph", rope_graph_destroy(&graph, record()));
  graph.stream = dead->recording;
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_graph_end(&graph, record()));
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_graph_cancel(&graph, record()));

  START(frequencies);
  frequencies.frequencies = dead->frequencies;
  CHECK_ERROR(ROPE_DISPOSED, "frequencies", rope_frequencies_release(&frequencies, record()));
  START(read);
  read.frequencies = dead->frequencies;
  CHECK_ERROR(ROPE_DISPOSED, "frequencies", rope_frequencies_read(&read, record()));
  START(memory);
  memory.address = dead->memory;
  CHECK_ERROR(ROPE_DISPOSED, "address", rope_memory_release(&memory, record()));
  CHECK(usage().handles == before.handles && usage().bytes == before.bytes);
}

static void test_handles(void) {
  const rope_usage_args before = usage();
  one_of_each first, second, bad;
  rope_realm_args realm;
  rope_stream_args stream, stale;
  START(realm);
  CHECK_OK(rope_realm_open(&realm, record()));
  first = create_all(0);
  destroy_all(&first);
  first.realm = realm.realm;
  CHECK_OK(rope_realm_close(&realm, record()));
  check_dead(&first);  // released

  second = create_all(0);
  first.memory = 0;    // an address is no handle: the second may have the same
  check_dead(&first);  // released, and its place taken by another
  memset(&bad, 0, sizeof bad);
  check_dead(&bad);  // zero
  memset(&bad, 0xff, sizeof bad);
  check_dead(&bad);  // forged
  bad.realm = second.stream;
  bad.stream = second.event;
  bad.event = second.graph;
  bad.graph = second.frequencies;
  bad.recording = second.graph;
  bad.frequencies = second.stream;
  bad.memory = second.memory + 64;
  check_dead(&bad);  // alive, but another kind
  bad.realm = second.stream + (UINT64_C(1) << 24);
  bad.stream = second.stream + (UINT64_C(1) << 24);
  bad.event = second.event | UINT64_C(1) << 52;
  bad.graph = second.graph ^ 1;
  bad.recording = second.recording + (UINT64_C(1) << 47);
  bad.frequencies = second.frequencies | UINT64_C(1) << 63;
  check_dead(&bad);  // one bit off
  destroy_all(&second);

  // The place of a handle is taken at once by another of the same kind: the old one stays dead.
  START(stream);
  CHECK_OK(rope_stream_create(&stream, record()));
  stale = stream;
  CHECK_OK(rope_stream_destroy(&stream, record()));
  CHECK_OK(rope_stream_create(&stream, record()));
  CHECK(stream.stream != stale.stream);
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_stream_synchronize(&stale, record()));
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_stream_destroy(&stale, record()));
  CHECK_OK(rope_stream_destroy(&stream, record()));
  CHECK(usage().handles == before.handles && usage().bytes == before.bytes);
}

// ---- realms -------------------------------------------------------------------------------------------------------------

static void* open_and_leave(void* out) {
  rope_realm_args realm;
  START(realm);
  if (rope_realm_open(&realm, NULL) == ROPE_OK) *(one_of_each*)out = create_all(realm.realm);
  return NULL;
}

static void* close_elsewhere(void* realm) {
  rope_realm_args args;
  START(args);
  args.realm = *(const uint64_t*)realm;
  CHECK_OK(rope_realm_close(&args, record()));
  return NULL;
}

static void test_realms(void) {
  const rope_usage_args before = usage();
  rope_realm_args realm, other;
  one_of_each owned, apart;
  pthread_t thread;
  START(realm);
  START(other);
  CHECK_OK(rope_realm_open(&realm, record()));
  CHECK_OK(rope_realm_open(&other, record()));
  CHECK(realm.realm != 0 && other.realm != 0 && realm.realm != other.realm);
  CHECK(usage().handles == before.handles + 2);
  owned = create_all(realm.realm);
  apart = create_all(other.realm);
  CHECK(usage().handles == before.handles + 12 && usage().bytes == before.bytes + 8192);
  CHECK_OK(rope_realm_close(&realm, record()));
  CHECK(usage().handles == before.handles + 6 && usage().bytes == before.bytes + 4096);
  check_dead(&owned);
  destroy_all(&apart);
  apart = create_all(other.realm);
  CHECK(pthread_create(&thread, NULL, close_elsewhere, &other.realm) == 0 && pthread_join(thread, NULL) == 0);
  check_dead(&apart);
  CHECK(usage().handles == before.handles && usage().bytes == before.bytes);

  // A thread that ends gives back what its realm holds.
  memset(&owned, 0, sizeof owned);
  CHECK(pthread_create(&thread, NULL, open_and_leave, &owned) == 0 && pthread_join(thread, NULL) == 0);
  CHECK(owned.realm != 0);
  check_dead(&owned);
  CHECK(usage().handles == before.handles && usage().bytes == before.bytes);
}

// ---- streams and events; graphs of operations are in rotate_test.c ------------------------------------------------------

static void test_streams(void) {
  const rope_usage_args before = usage();
  rope_stream_args stream, recording, cuda;
  rope_event_args first, second;
  rope_graph_args graph;
  START(stream);
  CHECK_OK(rope_stream_synchronize(&stream, record()));  // the default stream
  CHECK_OK(rope_stream_create(&stream, record()));
  CHECK_OK(rope_stream_synchronize(&stream, record()));
  START(first);
  START(second);
  first.stream = stream.stream;
  CHECK_OK(rope_event_record(&first, record()));
  CHECK_OK(rope_event_record(&second, record()));
  CHECK_OK(rope_event_wait(&first, record()));
  CHECK_OK(rope_event_synchronize(&second, record()));
  second.since = first.event;
  CHECK_OK(rope_event_elapsed(&second, record()));
  CHECK(second.elapsed_ms >= 0 && second.elapsed_ms < 60000);
  CHECK_OK(rope_event_destroy(&first, record()));
  CHECK_OK(rope_event_destroy(&second, record()));
  cuda = stream;
  cuda.device = ROPE_CUDA << 8;
  CHECK_ERROR(ROPE_DEVICE, "stream", rope_stream_destroy(&cuda, record()));

  // What a recording stream refuses, and one that does not record.
  START(graph);
  CHECK_OK(rope_graph_begin(&graph, record()));
  recording = stream;
  recording.stream = graph.stream;
  CHECK_ERROR(ROPE_ARGUMENT, "stream", rope_stream_synchronize(&recording, record()));
  CHECK_ERROR(ROPE_ARGUMENT, "stream", rope_stream_destroy(&recording, record()));
  first.stream = graph.stream;
  CHECK_ERROR(ROPE_ARGUMENT, "stream", rope_event_record(&first, record()));
  graph.stream = stream.stream;
  CHECK_ERROR(ROPE_ARGUMENT, "stream", rope_graph_end(&graph, record()));
  CHECK_ERROR(ROPE_ARGUMENT, "stream", rope_graph_cancel(&graph, record()));
  CHECK_OK(rope_stream_destroy(&stream, record()));
  graph.stream = recording.stream;
  CHECK_OK(rope_graph_cancel(&graph, record()));
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_graph_cancel(&graph, record()));
  CHECK(usage().handles == before.handles);
}

static void test_flat(void) {
  const rope_usage_args before = usage();
  int i;
  int flat = 1;
  for (i = 0; i < 10000; ++i) {
    rope_stream_args stream;
    rope_graph_args graph;
    START(stream);
    START(graph);
    flat &= rope_stream_create(&stream, NULL) == ROPE_OK && rope_stream_destroy(&stream, NULL) == ROPE_OK;
    flat &= rope_stream_destroy(&stream, NULL) == ROPE_DISPOSED;
    flat &= rope_graph_begin(&graph, NULL) == ROPE_OK && rope_graph_end(&graph, NULL) == ROPE_OK;
    graph.stream = 0;
    flat &= rope_graph_launch(&graph, NULL) == ROPE_OK && rope_graph_destroy(&graph, NULL) == ROPE_OK;
  }
  CHECK(flat);
  CHECK(usage().handles == before.handles && usage().bytes == before.bytes);
}

int main(void) {
  test_version();
  test_abi();
  test_blocks();
  test_block_sizes();
  test_record_sizes();
  test_devices();
  test_memory();
  test_handles();
  test_realms();
  test_streams();
  test_flat();
  return finish("abi_test");
}
