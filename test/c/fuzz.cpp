// Random argument blocks through every C entry point: any status may come, but no crash, no sanitizer's report, no lost handle, no write
// outside the output tensors, and none at all where a call was refused. Half of the blocks are right, so that the deep paths run: the
// table of entry points says how often each must have succeeded. Now and then four threads share all handles. Nothing waits for what will
// never come: before a queue is waited for, something is posted there.
//
//   fuzz [blocks] [seed]      or ROPE_FUZZ_SEED; by default 100 000 blocks and a seed of the clock
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "allocation.h"
#include "check.h"
#include "fuzz_blocks.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
// Asking for too much is part of the game: malloc then returns NULL, and operator new of allocation.h throws.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1:max_allocation_size_mb=4096"; }
#endif

namespace {

Handles handles;
std::atomic<int64_t> failures{0};
uint64_t seed;
thread_local const char* current_name = "";
thread_local int64_t current_number = 0;

void fail(const char* what, const std::string& detail = "") {
  std::fprintf(stderr, "seed %llu, block %lld, %s: %s %s\n", static_cast<unsigned long long>(seed), static_cast<long long>(current_number),
               current_name, what, detail.c_str());
  ++failures;
}

// An entry point, for a block of any type.
template <class>
struct ArgsOf;
template <class T>
struct ArgsOf<int32_t (*)(T*, rope_error*)> {
  using type = T;
};
template <auto kFunction>
int32_t call(void* block, rope_error* error) {
  return kFunction(static_cast<typename ArgsOf<decltype(kFunction)>::type*>(block), error);
}

// A handle in a block.
struct Place {
  Kind kind = kNone;
  size_t at = 0;
};

struct Entry {
  const char* name;
  size_t size;  // of the block
  int32_t (*call)(void* block, rope_error* error);
  Blocks::Fill fill;
  int weight;
  int ok_percent, fault_percent;  // the least that must come out so
  const std::vector<Number>& numbers;
  Place makes, ends;
};

struct Counts {
  std::atomic<int64_t> of[8] = {};
};

extern const std::vector<Entry> entries;
std::vector<Counts>& counts() {
  static std::vector<Counts> all(entries.size());
  return all;
}

// ---- one call and what must hold after it -------------------------------------------------------------------------------

class Worker {
 public:
  Worker(uint64_t seed, bool alone) : blocks_(seed, alone, handles), alone_(alone) {}

  void step() {
    Random& random = blocks_.random;
    const size_t which = choose();
    const Entry& entry = entries[which];
    current_name = entry.name;
    ++current_number;
    blocks_.make(entry.fill, entry.size, entry.numbers);

    // On the heap: the block as long as it says, or as the library could ever read, and a record of any length.
    uint32_t size;
    std::memcpy(&size, blocks_.block, sizeof size);
    const size_t bytes = std::max<size_t>(4, std::min<size_t>(size, sizeof blocks_.block));
    char* const real = static_cast<char*>(std::malloc(bytes));
    std::memcpy(real, blocks_.block, bytes);
    const size_t error_bytes = random.chance(70) ? sizeof(rope_error) : static_cast<size_t>(random.between(4, sizeof(rope_error) + 40));
    rope_error* const error = random.chance(10) ? nullptr : static_cast<rope_error*>(std::malloc(error_bytes));
    if (error != nullptr) {
      std::memset(error, 0xee, error_bytes);
      error->size = static_cast<uint32_t>(error_bytes);
    }
    if (alone_) save_outputs();

    std::unique_lock<std::mutex> waiting;
    if (entry.call == call<rope_queue_wait>) waiting = post_to_queue();
    if (entry.call == call<rope_realm_close> && random.chance(90)) handles.empty_queues();
    const bool no_block = blocks_.mode == Mode::random_bytes && random.chance(2);
    const int32_t status = entry.call(no_block ? nullptr : real, error);
    if (status < ROPE_OK || status > ROPE_OUT_OF_MEMORY) fail("returned status", std::to_string(status));
    ++counts()[which].of[status & 7];
    if (error != nullptr) check_record(entry, status, error, error_bytes);
    check_block(entry, status, real, bytes);
    if (alone_) check_outputs(status);
    if (status == ROPE_OK) check_results(entry, real, bytes);
    if (status == ROPE_OK) keep_handles(entry, real, bytes);
    std::free(error);
    std::free(real);
  }

 private:
  size_t choose() {
    static const int64_t total = [] {
      int64_t sum = 0;
      for (const Entry& e : entries) sum += e.weight;
      return sum;
    }();
    int64_t rest = blocks_.random.below(total);
    size_t i = 0;
    while (rest >= entries[i].weight) rest -= entries[i++].weight;
    return i;
  }

  // Nobody else may wait for the queue until this thread has.
  std::unique_lock<std::mutex> post_to_queue() {
    static std::mutex& mutex = *new std::mutex;
    std::unique_lock lock(mutex);
    rope_queue_args wait;
    std::memcpy(&wait, blocks_.block, sizeof wait);
    rope_notify_args notify{sizeof notify, 0, 0, 0, wait.queue, 1, 0, 0};
    const int32_t status = rope_queue_notify(&notify, nullptr);
    if (status != ROPE_OK && status != ROPE_DISPOSED) fail("cannot post", std::to_string(status)), std::abort();
    return lock;
  }

  // A success leaves the record alone; a failure fills it as far as it goes.
  void check_record(const Entry& entry, int32_t status, const rope_error* error, size_t bytes) {
    const auto* const raw = reinterpret_cast<const unsigned char*>(error);
    if (error->size != bytes) fail("changed the record's size");
    if (status == ROPE_OK || bytes < 8) {
      for (size_t i = 4; i < bytes; ++i) {
        if (raw[i] != 0xee) return fail("wrote to the record of a success");
      }
      return;
    }
    if (error->status != status) fail("left another status in the record");
    if (bytes < sizeof *error) return;
    const auto ends = [](const char* text, size_t capacity) { return std::memchr(text, 0, capacity) != nullptr; };
    if (!ends(error->operation, 32) || !ends(error->argument, 32) || !ends(error->expected, 160) || !ends(error->actual, 160) ||
        !ends(error->advice, 256)) {
      return fail("left a text without an end");
    }
    if (std::strcmp(error->operation, entry.name) != 0 && status != ROPE_FAULT) fail("named another operation");
    const bool refused = status == ROPE_ARGUMENT || status == ROPE_DISPOSED || status == ROPE_DEVICE;
    if (refused && (error->argument[0] == 0 || error->expected[0] == 0 || error->actual[0] == 0)) fail("left a text empty");
    if (refused && (std::strstr(error->actual, "0x") != nullptr || std::strstr(error->expected, "0x") != nullptr))
      fail("printed an address");
    if (status == ROPE_FAULT && (error->fault.code < ROPE_FAULT_POSITION || error->fault.code > ROPE_FAULT_LENGTH))
      fail("has no fault's code");
  }

  // The library writes results and nothing else.
  void check_block(const Entry& entry, int32_t status, const char* real, size_t bytes) {
    const size_t from = status == ROPE_OK ? entry.size : 0;
    if (bytes > from && std::memcmp(real + from, blocks_.block + from, bytes - from) != 0) fail("wrote where it should not in the block");
  }

  // What the CPU says of itself, whatever stood in the block.
  void check_results(const Entry& entry, const char* real, size_t bytes) {
    if (entry.call == call<rope_device_info>) {
      rope_device_info_args a{};
      std::memcpy(&a, real, std::min(bytes, sizeof a));
      if (a.device != 0) fail("has a device that is not there");
      if (bytes >= sizeof a &&
          (a.usable != 1 || a.count != 1 || a.cores < 1 || a.capability != 0 || a.cuda_runtime != 0 || a.cuda_driver != 0))
        fail("does not describe the CPU");
    }
    if (entry.call == call<rope_device_health>) {
      rope_health_args a{};
      std::memcpy(&a, real, std::min(bytes, sizeof a));
      if (a.failed != 0 || a.fault != 0 || a.first.code != 0 || a.operation[0] != 0 || a.reason[0] != 0)
        fail("has a device that is not well");
    }
    if (entry.call == call<rope_queue_take>) {
      rope_queue_args a{};
      std::memcpy(&a, real, std::min(bytes, sizeof a));
      if (a.status != ROPE_OK) fail("took a wait that failed");
    }
  }

  void save_outputs() {
    for (Output& out : blocks_.outputs) {
      out.buffer = blocks_.memory.buffer_of(out.tensor);
      if (out.buffer != nullptr) out.before.assign(out.buffer->data, out.buffer->data + out.buffer->bytes);
    }
  }
  void check_outputs(int32_t status) {
    for (const Output& out : blocks_.outputs) {
      if (status == ROPE_OK && out.tensor.device != 0) fail("ran on a device that is not there");
      if (out.buffer == nullptr || std::memcmp(out.before.data(), out.buffer->data, out.buffer->bytes) == 0) continue;
      if (status != ROPE_OK && status != ROPE_FAULT) return fail("refused, but wrote to an output");
      std::vector<char> now(out.buffer->data, out.buffer->data + out.buffer->bytes);
      for (const Output& other : blocks_.outputs) {
        if (other.buffer != out.buffer) continue;
        const size_t size = static_cast<size_t>(element_size(other.tensor.dtype));
        const size_t start = other.tensor.data - reinterpret_cast<uint64_t>(out.buffer->data);
        each_element(other.tensor, [&](int64_t offset) {
          const size_t at = start + static_cast<size_t>(offset) * size;
          std::memcpy(now.data() + at, out.before.data() + at, size);
        });
      }
      if (std::memcmp(now.data(), out.before.data(), now.size()) != 0) fail("wrote between or beyond the elements of its outputs");
    }
  }

  void keep_handles(const Entry& entry, const char* real, size_t bytes) {
    uint64_t value;
    if (entry.ends.kind != kNone) {
      std::memcpy(&value, blocks_.block + entry.ends.at, sizeof value);
      handles.remove(entry.ends.kind, value);
    }
    if (entry.makes.kind == kNone) return;
    if (bytes < entry.makes.at + 8) return fail("succeeded, but the block has no room for the handle");
    std::memcpy(&value, real + entry.makes.at, sizeof value);
    if (entry.makes.kind != kFrequencies) return handles.add(entry.makes.kind, value);
    rope_frequencies_args a{};
    std::memcpy(&a, real, std::min(bytes, sizeof a));
    handles.add_frequencies(value, {a.rotary_dim, std::max<int64_t>(a.axes, 1), a.heads});
  }

  Blocks blocks_;
  const bool alone_;
};

// ---- the entry points ---------------------------------------------------------------------------------------------------

// What may be anything in each block. Addresses are not among these: they tell the truth or are 0.
template <class Args, class... Fields>
std::vector<Number> numbers(Fields Args::*... fields) {
  static const Args args{};
  const auto at = [](const auto& field) {
    return static_cast<size_t>(reinterpret_cast<const char*>(&field) - reinterpret_cast<const char*>(&args));
  };
  return {{at(args.*fields), sizeof(args.*fields)}...};
}

using Abi = rope_abi_args;
using Realm = rope_realm_args;
using Usage = rope_usage_args;
using Info = rope_device_info_args;
using MemoryArgs = rope_memory_args;
using Transfer = rope_transfer_args;
using Stream = rope_stream_args;
using Order = rope_order_args;
using Event = rope_event_args;
using Graph = rope_graph_args;
using Queue = rope_queue_args;
using Notify = rope_notify_args;
using Health = rope_health_args;
using Copy = rope_copy_args;
using Fill = rope_fill_args;
using Freq = rope_frequencies_args;
using Read = rope_frequencies_read_args;
using Rotate = rope_rotate_args;
using CosSin = rope_cos_sin_args;
using Shift = rope_shift_args;
using SeqLens = rope_seq_lens_args;
using BatchIndices = rope_batch_indices_args;

const std::vector<Number> abi = numbers(&Abi::capacity, &Abi::length), realm = numbers(&Realm::realm),
                          usages = numbers(&Usage::handles, &Usage::bytes),
                          info = numbers(&Info::device, &Info::cores, &Info::capability, &Info::cuda_runtime, &Info::cuda_driver,
                                         &Info::count),
                          memory = numbers(&MemoryArgs::device, &MemoryArgs::kind, &MemoryArgs::realm, &MemoryArgs::stream,
                                           &MemoryArgs::bytes, &MemoryArgs::address),
                          transfer = numbers(&Transfer::device, &Transfer::stream, &Transfer::bytes),
                          order = numbers(&Order::device, &Order::stream, &Order::after),
                          queue = numbers(&Queue::wake_fd, &Queue::realm, &Queue::queue, &Queue::ticket, &Queue::status),
                          notify =
                              numbers(&Notify::device, &Notify::realm, &Notify::queue, &Notify::ticket, &Notify::stream, &Notify::event),
                          health = numbers(&Health::device, &Health::failed, &Health::realm, &Health::fault),
                          stream = numbers(&Stream::device, &Stream::realm, &Stream::stream),
                          event = numbers(&Event::device, &Event::realm, &Event::stream, &Event::event, &Event::since),
                          graph = numbers(&Graph::device, &Graph::realm, &Graph::stream, &Graph::graph), copy = numbers(&Copy::stream),
                          fill = numbers(&Fill::kind, &Fill::stream, &Fill::start, &Fill::step),
                          frequencies = numbers(
                              &Freq::rule, &Freq::realm, &Freq::rotary_dim, &Freq::axes, &Freq::heads, &Freq::theta, &Freq::factor,
                              &Freq::low_freq_factor, &Freq::high_freq_factor, &Freq::original_max_position, &Freq::attention_factor,
                              &Freq::custom_count, &Freq::axis_of_pair_count, &Freq::context_length, &Freq::max_position, &Freq::alpha,
                              &Freq::mixed_b, &Freq::beta_fast, &Freq::beta_slow, &Freq::mscale, &Freq::mscale_all_dim, &Freq::short_mscale,
                              &Freq::long_mscale, &Freq::partial, &Freq::chosen_attention_factor, &Freq::no_truncate),
                          named = numbers(&Freq::frequencies), read = numbers(&Read::frequencies, &Read::count),
                          rotate = numbers(&Rotate::flags, &Rotate::stream, &Rotate::frequencies, &Rotate::offset, &Rotate::head_dim,
                                           &Rotate::rotary_offset, &Rotate::pairing, &Rotate::angles, &Rotate::reserved),
                          cos_sin = numbers(&CosSin::flags, &CosSin::stream, &CosSin::frequencies, &CosSin::angles),
                          shift = numbers(&Shift::flags, &Shift::stream, &Shift::frequencies, &Shift::delta, &Shift::rotary_offset,
                                          &Shift::pairing, &Shift::angles, &Shift::reserved),
                          seq_lens = numbers(&SeqLens::stream, &SeqLens::page_size), batch_indices = numbers(&BatchIndices::stream);

#define ENTRY(function, args) #function, sizeof(args), call < function>
#define AT(args, field) offsetof(args, field)

const std::vector<Entry> entries = {
    {ENTRY(rope_abi, Abi), &Blocks::fill_abi, 10, 50, 0, abi, {}, {}},
    {ENTRY(rope_realm_open, Realm), &Blocks::fill_nothing, 3, 50, 0, realm, {kRealm, AT(Realm, realm)}, {}},
    {ENTRY(rope_realm_close, Realm), &Blocks::fill_realm_close, 2, 10, 0, realm, {}, {kRealm, AT(Realm, realm)}},
    {ENTRY(rope_usage, Usage), &Blocks::fill_nothing, 5, 50, 0, usages, {}, {}},
    {ENTRY(rope_device_info, Info), &Blocks::fill_nothing, 5, 30, 0, info, {}, {}},
    {ENTRY(rope_memory_allocate, MemoryArgs), &Blocks::fill_memory_allocate, 15, 30, 0, memory, {kMemory, AT(MemoryArgs, address)}, {}},
    {ENTRY(rope_memory_release, MemoryArgs), &Blocks::fill_memory_release, 10, 10, 0, memory, {}, {kMemory, AT(MemoryArgs, address)}},
    {ENTRY(rope_memory_trim, MemoryArgs), &Blocks::fill_nothing, 3, 30, 0, memory, {}, {}},
    {ENTRY(rope_transfer, Transfer), &Blocks::fill_transfer, 40, 30, 0, transfer, {}, {}},
    {ENTRY(rope_stream_create, Stream), &Blocks::fill_stream_create, 15, 30, 0, stream, {kStream, AT(Stream, stream)}, {}},
    {ENTRY(rope_stream_destroy, Stream), &Blocks::fill_stream, 8, 10, 0, stream, {}, {kStream, AT(Stream, stream)}},
    {ENTRY(rope_stream_synchronize, Stream), &Blocks::fill_stream, 10, 10, 0, stream, {}, {}},
    {ENTRY(rope_stream_order, Order), &Blocks::fill_order, 10, 10, 0, order, {}, {}},
    {ENTRY(rope_event_record, Event), &Blocks::fill_event, 15, 30, 0, event, {kEvent, AT(Event, event)}, {}},
    {ENTRY(rope_event_wait, Event), &Blocks::fill_event, 10, 10, 0, event, {}, {}},
    {ENTRY(rope_event_synchronize, Event), &Blocks::fill_event, 10, 10, 0, event, {}, {}},
    {ENTRY(rope_event_elapsed, Event), &Blocks::fill_event, 10, 10, 0, event, {}, {}},
    {ENTRY(rope_event_destroy, Event), &Blocks::fill_event, 8, 10, 0, event, {}, {kEvent, AT(Event, event)}},
    {ENTRY(rope_graph_begin, Graph), &Blocks::fill_graph, 15, 30, 0, graph, {kRecording, AT(Graph, stream)}, {}},
    {ENTRY(rope_graph_end, Graph), &Blocks::fill_graph, 10, 10, 0, graph, {kGraph, AT(Graph, graph)}, {kRecording, AT(Graph, stream)}},
    {ENTRY(rope_graph_cancel, Graph), &Blocks::fill_graph, 2, 10, 0, graph, {}, {kRecording, AT(Graph, stream)}},
    {ENTRY(rope_graph_launch, Graph), &Blocks::fill_launch, 20, 10, 1, graph, {}, {}},
    {ENTRY(rope_graph_destroy, Graph), &Blocks::fill_graph, 5, 10, 0, graph, {}, {kGraph, AT(Graph, graph)}},
    {ENTRY(rope_queue_open, Queue), &Blocks::fill_queue_open, 8, 10, 0, queue, {kQueue, AT(Queue, queue)}, {}},
    {ENTRY(rope_queue_take, Queue), &Blocks::fill_queue, 15, 10, 0, queue, {}, {}},
    {ENTRY(rope_queue_wait, Queue), &Blocks::fill_queue, 8, 10, 0, queue, {}, {}},
    {ENTRY(rope_queue_notify, Notify), &Blocks::fill_notify, 20, 10, 0, notify, {}, {}},
    {ENTRY(rope_device_health, Health), &Blocks::fill_health, 5, 30, 0, health, {}, {}},
    {ENTRY(rope_copy, Copy), &Blocks::fill_copy, 150, 30, 0, copy, {}, {}},
    {ENTRY(rope_fill, Fill), &Blocks::fill_fill, 100, 30, 0, fill, {}, {}},
    {ENTRY(rope_frequencies_create, Freq),
     &Blocks::fill_frequencies_create,
     60,
     30,
     0,
     frequencies,
     {kFrequencies, AT(Freq, frequencies)},
     {}},
    {ENTRY(rope_frequencies_read, Read), &Blocks::fill_frequencies_read, 20, 10, 0, read, {}, {}},
    {ENTRY(rope_frequencies_release, Freq), &Blocks::fill_frequencies_release, 10, 10, 0, named, {}, {kFrequencies, AT(Freq, frequencies)}},
    {ENTRY(rope_rotate, Rotate), &Blocks::fill_rotate, 350, 25, 2, rotate, {}, {}},
    {ENTRY(rope_cos_sin, CosSin), &Blocks::fill_cos_sin, 100, 25, 2, cos_sin, {}, {}},
    {ENTRY(rope_shift, Shift), &Blocks::fill_shift, 100, 20, 5, shift, {}, {}},
    {ENTRY(rope_seq_lens, SeqLens), &Blocks::fill_seq_lens, 30, 25, 5, seq_lens, {}, {}},
    {ENTRY(rope_batch_indices, BatchIndices), &Blocks::fill_batch_indices, 30, 25, 5, batch_indices, {}, {}},
};

// Whether the table has every entry point of check.h, whose list is complete.
void check_table() {
#define CHECK_ENTRY(function, block) \
  current_name = #function;          \
  if (std::none_of(entries.begin(), entries.end(), [](const Entry& e) { return e.call == call<function>; })) fail("is not in the table");
  ROPE_ENTRY_POINTS(CHECK_ENTRY)
#undef CHECK_ENTRY
}

// ---- rounds -------------------------------------------------------------------------------------------------------------

constexpr int64_t kRound = 2500;
constexpr int kThreads = 4;

// Every round has fresh memory; nothing of it may be left at its end. Every fourth is done by four threads.
void run_round(uint64_t number, int64_t blocks) {
  const rope_usage_args before = usage();
  const auto work = [&](uint64_t worker, int64_t count, bool alone) {
    auto w = std::make_unique<Worker>(seed * 1000003 + number * kThreads + worker, alone);
    current_number = static_cast<int64_t>(number) * kRound;
    for (int64_t i = 0; i < count; ++i) w->step();
    return w;
  };
  std::vector<std::unique_ptr<Worker>> workers(number % 4 == 3 ? kThreads : 1);
  if (workers.size() == 1) {
    workers[0] = work(0, blocks, true);
  } else {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < workers.size(); ++i) threads.emplace_back([&, i] { workers[i] = work(i, blocks / kThreads, false); });
    for (std::thread& thread : threads) thread.join();
  }
  current_name = "the end of a round";
  handles.release_all();
  workers.clear();
  const rope_usage_args after = usage();
  if (after.handles != before.handles) fail("left handles:", std::to_string(static_cast<int64_t>(after.handles - before.handles)));
  if (after.bytes != before.bytes) fail("left bytes:", std::to_string(static_cast<int64_t>(after.bytes - before.bytes)));
}

// Prints the table, and fails where the deep paths were reached too rarely.
void report(int64_t blocks) {
  std::printf("%-26s %9s %9s %9s %9s %9s %9s\n", "", "ok", "argument", "disposed", "device", "fault", "memory");
  for (size_t i = 0; i < entries.size(); ++i) {
    const Counts& c = counts()[i];
    int64_t total = 0;
    for (const auto& n : c.of) total += n;
    std::printf("%-26s", entries[i].name);
    for (int status = ROPE_OK; status <= ROPE_OUT_OF_MEMORY; ++status) std::printf(" %9lld", static_cast<long long>(c.of[status]));
    std::printf("\n");
    current_name = entries[i].name;
    if (blocks < 20000) continue;
    if (c.of[ROPE_OK] * 100 < total * entries[i].ok_percent) fail("succeeded too rarely for this test to be worth anything");
    if (c.of[ROPE_FAULT] * 100 < total * entries[i].fault_percent) fail("met faults too rarely for this test to be worth anything");
  }
}

}  // namespace

int main(int count, char** arguments) {
  const char* const wish = count > 2 ? arguments[2] : std::getenv("ROPE_FUZZ_SEED");
  const int64_t blocks = count > 1 ? std::atoll(arguments[1]) : 100000;
  seed = wish != nullptr ? std::strtoull(wish, nullptr, 10)
                         : static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) % 1000000000;
  std::printf("fuzz: %lld blocks, seed %llu\n", static_cast<long long>(blocks), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback([] { fail("a sanitizer's report"); });
#endif
  check_table();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t done = 0, round = 0; done < blocks && failures < 20; done += kRound, ++round) {
    run_round(static_cast<uint64_t>(round), std::min(kRound, blocks - done));
  }
  report(blocks);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("fuzz: %lld failures, %.1f s\n", static_cast<long long>(failures), seconds);
  return failures == 0 ? 0 : 1;
}
