// cuda:0 as a C program sees it, next to the CPU: memory, streams, graphs, completions, and the same bits from both devices.
//   cuda_test [random cases, usually 600]
// Ends with 77 where there is no GPU.
#include <cinttypes>
#include <thread>

#include "kv_cases.h"
#include "pipeline_cases.h"
#include "rotate_cases.h"
#include "tensor_cases.h"

namespace {

// ---- the device -------------------------------------------------------------------------------------------------------------------

// How many multiprocessors it has; 0 where there is none.
uint32_t look_at_device() {
  rope_device_info_args info;
  START(info);
  info.device = kCuda;
  if (rope_device_info(&info, record()) != ROPE_OK) {
    printf("cuda_test: skipped, there is no GPU to test: %s\n", last_error.advice[0] != 0 ? last_error.advice : last_error.actual);
    return 0;
  }
  printf("%s, %" PRIu64 " MB, %u multiprocessors, %u.%u, runtime %u, driver %u\n", info.description, info.memory_bytes >> 20, info.cores,
         info.capability / 10, info.capability % 10, info.cuda_runtime, info.cuda_driver);
  CHECK(info.usable == 1 && info.count >= 1 && info.cores > 0 && info.capability >= 80 && info.memory_bytes > 1 << 30);
  const uint32_t multiprocessors = info.cores;
  info.device = static_cast<uint16_t>(kCuda + info.count);
  CHECK_ERROR(ROPE_DEVICE, "device", rope_device_info(&info, record()));
  return multiprocessors;
}

void test_memory() {
  const rope_usage_args before = usage();
  constexpr uint64_t kBytes = 1 << 20;
  const uint64_t device = allocate(kBytes), pinned = allocate(kBytes, ROPE_MEMORY_PINNED);
  CHECK(device % 64 == 0 && pinned % 64 == 0);
  CHECK(usage().bytes == before.bytes + 2 * kBytes);
  std::vector<uint64_t> there(kBytes / 8), back(kBytes / 8);
  for (uint64_t& word : there) word = random_bits();
  transfer(device, reinterpret_cast<uint64_t>(there.data()), kBytes);
  transfer(pinned, device, kBytes);
  CHECK_OK(synchronize());
  CHECK(memcmp(reinterpret_cast<void*>(pinned), there.data(), kBytes) == 0);
  transfer(reinterpret_cast<uint64_t>(back.data()), device + 8, kBytes - 8);
  CHECK_OK(synchronize());
  CHECK(memcmp(back.data(), there.data() + 1, kBytes - 8) == 0);
  release(device);
  release(pinned);
  CHECK(usage().bytes == before.bytes);

  rope_memory_args args;
  START(args);
  args.device = kCuda;
  CHECK_OK(rope_memory_trim(&args, record()));
  args.bytes = UINT64_C(1) << 50;
  CHECK_ERROR(ROPE_OUT_OF_MEMORY, "", rope_memory_allocate(&args, record()));
  CHECK(last_error.requested == args.bytes && last_error.available > 0);
  args.address = device;
  CHECK(rope_memory_release(&args, record()) == ROPE_DISPOSED);
  CHECK_OK(synchronize());  // nothing lingers
}

uint64_t create_stream() {
  rope_stream_args args;
  START(args);
  args.device = kCuda;
  CHECK_OK(rope_stream_create(&args, record()));
  return args.stream;
}

void destroy_stream(uint64_t stream) {
  rope_stream_args args;
  START(args);
  args.device = kCuda;
  args.stream = stream;
  CHECK_OK(rope_stream_destroy(&args, record()));
}

void order(uint64_t stream, uint64_t after) {
  rope_order_args args;
  START(args);
  args.device = kCuda;
  args.stream = stream;
  args.after = after;
  CHECK_OK(rope_stream_order(&args, record()));
}

void fill(const rope_tensor& tensor, double value, uint64_t stream) {
  rope_fill_args args;
  START(args);
  args.stream = stream;
  args.target = ref(&tensor);
  args.start = value;
  CHECK_OK(rope_fill(&args, record()));
}

void copy(const rope_tensor& source, const rope_tensor& target, uint64_t stream) {
  rope_copy_args args;
  START(args);
  args.stream = stream;
  args.source = ref(&source);
  args.target = ref(&target);
  CHECK_OK(rope_copy(&args, record()));
}

// A stream reads what the other one writes, to and fro, in memory long enough to be late.
void test_order() {
  constexpr int64_t kCount = 16 << 20;
  const uint64_t first = create_stream(), second = create_stream();
  Twin a(ROPE_FLOAT32, contiguous({kCount})), b(ROPE_FLOAT32, contiguous({kCount}));
  std::vector<float> there(kCount);
  for (int i = 0; i < 20; ++i) {
    fill(a.cuda, i, first);
    order(second, first);
    copy(a.cuda, b.cuda, second);
    order(first, second);
  }
  fill(a.cuda, -1, first);
  transfer(reinterpret_cast<uint64_t>(there.data()), b.cuda.data, kCount * 4, second);
  CHECK_OK(synchronize(second));
  CHECK(std::count(there.begin(), there.end(), 19.0f) == kCount);

  // The same through an event, which also measures.
  rope_event_args start, end;
  START(start);
  start.device = kCuda;
  start.stream = first;
  end = start;
  CHECK_OK(rope_event_record(&start, record()));
  fill(a.cuda, 7, first);
  CHECK_OK(rope_event_record(&end, record()));
  end.stream = second;
  CHECK_OK(rope_event_wait(&end, record()));
  copy(a.cuda, b.cuda, second);
  transfer(reinterpret_cast<uint64_t>(there.data()), b.cuda.data, kCount * 4, second);
  CHECK_OK(synchronize(second));
  CHECK(std::count(there.begin(), there.end(), 7.0f) == kCount);
  end.since = start.event;
  CHECK_OK(rope_event_synchronize(&end, record()));
  CHECK_OK(rope_event_elapsed(&end, record()));
  CHECK(end.elapsed_ms > 0 && end.elapsed_ms < 1000);
  CHECK_OK(rope_event_destroy(&start, record()));
  CHECK_OK(rope_event_destroy(&end, record()));
  destroy_stream(first);
  destroy_stream(second);
}

// ---- a rotation whose positions can be changed -------------------------------------------------------------------------------------

struct Rotation {
  static constexpr int64_t kTokens = 9, kHeads = 12, kWidth = 128;
  uint64_t frequencies = create_frequencies(kWidth);
  Twin q{ROPE_BFLOAT16, contiguous({kTokens, kHeads, kWidth})}, ids{ROPE_INT64, contiguous({kTokens})};
  Blocks<rope_rotate_args> blocks;

  Rotation() {
    q.set_numbers();
    q.upload();
    set_ids(-1);
    blocks.set(&rope_rotate_args::frequencies, frequencies);
    blocks.set(&rope_rotate_args::q, q);
    blocks.set(&rope_rotate_args::q_out, q);
    blocks.set(&rope_rotate_args::positions, ids);
  }
  ~Rotation() { release_frequencies(frequencies); }
  // One of them at fault, or with -1 none.
  void set_ids(int64_t bad) {
    for (int64_t i = 0; i < kTokens; ++i) ids.set(i, i == bad ? ROPE_MAX_POSITION + 1 : 1000 + i);
    ids.upload();
  }
  void run(uint64_t stream = 0) {
    blocks.cuda.stream = stream;
    CHECK_OK(rope_rotate(&blocks.cuda, record()));
  }
};

bool is_fault(int32_t status, int64_t index) {
  return status == ROPE_FAULT && last_error.fault.code == ROPE_FAULT_POSITION && last_error.fault.index == index &&
         last_error.fault.value == ROPE_MAX_POSITION + 1 && strcmp(last_error.operation, "rope_rotate") == 0;
}

// A fault reaches every realm that works with the device, each once; the next one is kept again.
void test_faults() {
  Rotation rotation;
  rope_realm_args realm;
  START(realm);
  CHECK_OK(rope_realm_open(&realm, record()));
  CHECK_OK(synchronize(0, realm.realm));
  for (const int64_t bad : {3, 8, 0}) {
    rotation.set_ids(bad);
    rotation.run();
    rotation.run();
    CHECK(is_fault(synchronize(), bad));
    CHECK_OK(synchronize());
    CHECK(is_fault(synchronize(0, realm.realm), bad));
    CHECK_OK(synchronize(0, realm.realm));
  }
  rope_health_args health;
  START(health);
  health.device = kCuda;
  CHECK_OK(rope_device_health(&health, record()));
  CHECK(health.fault == 0 && health.failed == 0);
  rotation.run();
  CHECK(is_fault(synchronize(0, realm.realm), 0));
  CHECK_OK(rope_device_health(&health, record()));
  CHECK(health.fault == 1 && health.first.index == 0 && strcmp(health.operation, "rope_rotate") == 0);
  CHECK_OK(synchronize());
  CHECK_OK(rope_realm_close(&realm, record()));
}

// Bad entries where there is nothing to rotate are met all the same.
void test_empty() {
  const uint64_t frequencies = create_frequencies(8);
  Twin q(ROPE_FLOAT32, contiguous({0, 2, 8})), indptr(ROPE_INT32, contiguous({3}));
  indptr.set(0, 0), indptr.set(1, 1), indptr.set(2, 0);
  indptr.upload();
  Blocks<rope_rotate_args> blocks;
  blocks.set(&rope_rotate_args::frequencies, frequencies);
  blocks.set(&rope_rotate_args::q, q);
  blocks.set(&rope_rotate_args::q_out, q);
  CHECK_OK(rope_rotate(&blocks.cuda, record()));
  CHECK_OK(synchronize());
  blocks.set(&rope_rotate_args::indptr, indptr);
  const int32_t on_cpu = rope_rotate(&blocks.cpu, record());
  const rope_error cpu_error = last_error;
  CHECK(on_cpu == ROPE_FAULT);
  check_outcome(on_cpu, cpu_error, rope_rotate(&blocks.cuda, record()), {true, true});
  release_frequencies(frequencies);

  Twin still(ROPE_BFLOAT16, contiguous({3, 2, 8}));  // in place, and nothing to be done
  still.upload();
  rope_rotate_args args;
  START(args);
  args.flags = ROPE_STILL;
  args.q = args.q_out = ref(&still.cuda);
  CHECK_OK(rope_rotate(&args, record()));
  CHECK_OK(synchronize());
  CHECK(still.same(Allowed::nothing));
}

// What CUDA cannot do is said before anything is queued.
[[maybe_unused]] void test_limits() {
  const uint64_t frequencies = create_frequencies(16384);
  Twin q(ROPE_FLOAT32, contiguous({1, 1, 16384}));
  rope_rotate_args args;
  START(args);
  args.frequencies = frequencies;
  args.q = args.q_out = ref(&q.cuda);
  args.pairing = ROPE_INTERLEAVED_TO_HALF;
  CHECK_ERROR(ROPE_ARGUMENT, "pairing", rope_rotate(&args, record()));
  args.pairing = ROPE_HALF;
  rope_tensor huge = q.cuda;
  huge.shape[0] = (INT64_C(1) << 31) + 1;
  huge.extent = UINT64_C(1) << 62;
  args.q = args.q_out = ref(&huge);
  CHECK_ERROR(ROPE_ARGUMENT, "q", rope_rotate(&args, record()));
  huge.shape[0] = 1;
  huge.shape[1] = 65536;
  CHECK_ERROR(ROPE_ARGUMENT, "q", rope_rotate(&args, record()));
  CHECK_OK(synchronize());
  release_frequencies(frequencies);
}

// ---- graphs -------------------------------------------------------------------------------------------------------------------------

rope_graph_args begin_graph() {
  rope_graph_args graph;
  START(graph);
  graph.device = kCuda;
  CHECK_OK(rope_graph_begin(&graph, record()));
  return graph;
}

// 1000 replays give what 1000 calls on the CPU give; a fault in one of them is reported, and the next.
void test_graph(uint64_t stream) {
  Rotation rotation;
  rope_graph_args graph = begin_graph();
  rotation.run(graph.stream);
  CHECK(synchronize(graph.stream) == ROPE_ARGUMENT);
  CHECK_OK(rope_graph_end(&graph, record()));
  CHECK(graph.nodes == 1);
  graph.stream = stream;
  for (int i = 0; i < 1000; ++i) {
    if (rope_graph_launch(&graph, record()) != ROPE_OK) CHECK(!"rope_graph_launch");
  }
  CHECK_OK(synchronize(stream));
  for (int i = 0; i < 1000; ++i) rope_rotate(&rotation.blocks.cpu, record());
  CHECK(rotation.q.same());
  for (const int64_t bad : {5, -1, 2}) {
    rotation.set_ids(bad);
    CHECK_OK(rope_graph_launch(&graph, record()));
    const int32_t status = synchronize(stream);
    CHECK(bad < 0 ? status == ROPE_OK : is_fault(status, bad));
    rope_rotate(&rotation.blocks.cpu, record());
    CHECK(rotation.q.same());
  }
  CHECK_OK(rope_graph_destroy(&graph, record()));
}

// While recording, memory is allocated and a table of frequencies is put on the device; the graph outlives the frequencies.
void test_graph_memory() {
  const rope_usage_args before = usage();
  constexpr int64_t kWidth = 2048;
  {
    Twin q(ROPE_FLOAT32, contiguous({3, 2, kWidth}));
    q.set_numbers();
    q.upload();
    Blocks<rope_rotate_args> blocks;
    const uint64_t frequencies = create_frequencies(kWidth, 54321);
    blocks.set(&rope_rotate_args::frequencies, frequencies);
    blocks.set(&rope_rotate_args::q, q);
    blocks.set(&rope_rotate_args::q_out, q);
    blocks.set(&rope_rotate_args::offset, INT64_C(12345));
    rope_graph_args graph = begin_graph();
    const uint64_t memory = allocate(3 * 2 * kWidth * 4, ROPE_MEMORY_DEVICE, graph.stream);
    // What waits for the device, as another realm may any time: the recording does not mind.
    release(allocate(64, ROPE_MEMORY_PINNED));
    rope_memory_args trim;
    START(trim);
    trim.device = kCuda;
    CHECK_OK(rope_memory_trim(&trim, record()));
    rope_tensor out = q.cuda;
    out.data = memory;
    fill(out, 7, 0);  // initcheck judges the copy below before the kernel that writes its source
    blocks.cuda.q_out = ref(&out);
    blocks.cuda.stream = graph.stream;
    CHECK_OK(rope_rotate(&blocks.cuda, record()));
    copy(out, q.cuda, graph.stream);
    CHECK_OK(rope_graph_end(&graph, record()));
    CHECK(graph.nodes == 2);
    graph.stream = 0;
    CHECK_OK(rope_rotate(&blocks.cpu, record()));
    release_frequencies(frequencies);
    CHECK_OK(rope_graph_launch(&graph, record()));
    CHECK_OK(synchronize());
    CHECK(q.same());
    CHECK_OK(rope_graph_destroy(&graph, record()));
    release(memory);

    graph = begin_graph();
    fill(q.cuda, 1, graph.stream);
    rope_graph_args cancelled = graph;
    CHECK_OK(rope_graph_cancel(&cancelled, record()));
    CHECK_OK(synchronize());
    CHECK(q.same());
  }
  CHECK(usage().bytes == before.bytes && usage().handles == before.handles);
}

// ---- completions ----------------------------------------------------------------------------------------------------------------------

void test_queue(uint64_t stream) {
  Rotation rotation;
  rope_queue_args queue;
  START(queue);
  CHECK_OK(rope_queue_open(&queue, record()));
  CHECK_OK(rope_queue_take(&queue, record()));
  CHECK(queue.ticket == 0);
  for (const int64_t bad : {-1, 4, -1, 7}) {
    rotation.set_ids(bad);
    for (int i = 0; i < 50; ++i) rotation.run(stream);
    rope_notify_args notify;
    START(notify);
    notify.device = kCuda;
    notify.queue = queue.queue;
    notify.ticket = static_cast<uint64_t>(100 + bad);
    notify.stream = stream;
    CHECK_OK(rope_queue_notify(&notify, record()));
    queue.ticket = 0;
    for (int tries = 0; queue.ticket == 0 && tries < 10000; ++tries) {
      CHECK_OK(rope_queue_wait(&queue, record()));
      CHECK_OK(rope_queue_take(&queue, record()));
    }
    CHECK(queue.ticket == notify.ticket);
    CHECK(bad < 0 ? queue.status == ROPE_OK : is_fault(queue.status, bad));
    CHECK_OK(synchronize(stream));
  }
}

// Threads with a stream each, at once: the bits of each are right.
void test_threads() {
  constexpr int kThreads = 4;
  std::vector<std::unique_ptr<Rotation>> rotations;
  std::vector<int32_t> status(kThreads, ROPE_INTERNAL);
  for (int i = 0; i < kThreads; ++i) rotations.push_back(std::make_unique<Rotation>());
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      rope_stream_args stream;
      START(stream);
      stream.device = kCuda;
      int32_t worst = rope_stream_create(&stream, nullptr);
      rope_rotate_args args = rotations[static_cast<size_t>(i)]->blocks.cuda;
      args.stream = stream.stream;
      for (int n = 0; n < 200; ++n) worst = std::max(worst, rope_rotate(&args, nullptr));
      worst = std::max(worst, rope_stream_synchronize(&stream, nullptr));
      status[static_cast<size_t>(i)] = std::max(worst, rope_stream_destroy(&stream, nullptr));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < kThreads; ++i) {
    CHECK(status[static_cast<size_t>(i)] == ROPE_OK);
    for (int n = 0; n < 200; ++n) rope_rotate(&rotations[static_cast<size_t>(i)]->blocks.cpu, record());
    CHECK(rotations[static_cast<size_t>(i)]->q.same());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t cases = argc > 1 ? strtoull(argv[1], nullptr, 10) : 600;
  const uint32_t multiprocessors = look_at_device();
  if (multiprocessors == 0) return 77;
  test_memory();
  test_order();
  test_faults();
  test_empty();
#if !defined(ROPE_FAKE_CUDA)
  test_limits();  // those of kernels
#endif
  const uint64_t stream = create_stream();
  test_graph(stream);
  test_graph(0);
  test_graph_memory();
  test_queue(stream);
  destroy_stream(stream);
  test_threads();
  for (uint64_t i = 0; i < cases; ++i) test_rotation(20000 + i);
  for (uint64_t i = 0; i < 2 * cases; ++i) test_pipeline(160000 + i, multiprocessors);
  for (uint64_t i = 0; i < cases / 4; ++i) test_cos_sin(40000 + i);
  for (uint64_t i = 0; i < cases; ++i) test_copy(60000 + i);
  for (uint64_t i = 0; i < cases / 2; ++i) test_fill(80000 + i);
  for (uint64_t i = 0; i < cases / 2; ++i) test_shift(100000 + i);
  for (uint64_t i = 0; i < cases / 4; ++i) test_seq_lens(120000 + i);
  for (uint64_t i = 0; i < cases / 4; ++i) test_batch_indices(140000 + i);
  return finish("cuda_test");
}
