// Random argument blocks through every C entry point: any status may come, but no crash, no sanitizer's report, no lost handle, no write outside
// the output tensors, and none at all where a call was refused. Half of the blocks are right, so that the deep paths run: the end of main says how
// often each entry point must have succeeded. Now and then four threads share all handles.
//
//   fuzz [blocks] [seed]      or ROPE_FUZZ_SEED; by default 100 000 blocks and a seed of the clock
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "allocation.h"
#include "fuzz_memory.h"

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
  std::fprintf(stderr, "seed %llu, block %lld, %s: %s %s\n", static_cast<unsigned long long>(seed), static_cast<long long>(current_number), current_name,
               what, detail.c_str());
  ++failures;
}

class Worker;

// A number in a block that may be anything.
struct Number {
  size_t offset, size;
};

struct Entry {
  const char* name;
  size_t size;  // of the block
  int32_t (*call)(void* block, rope_error* error);
  void (Worker::*fill)();
  int weight;
  int ok_percent, fault_percent;  // the least that must come out so
  std::vector<Number> numbers;
  Kind makes = kNone;
  size_t makes_at = 0;
  Kind ends = kNone;
  size_t ends_at = 0;
};

struct Counts {
  std::atomic<int64_t> of[8] = {};
};

extern const std::vector<Entry> entries;
std::vector<Counts>& counts() {
  static std::vector<Counts> all(entries.size());
  return all;
}

enum class Mode { right, spoiled_tensors, edge_numbers, random_bytes };

class Worker {
 public:
  Worker(uint64_t seed, bool alone) : random(seed), memory(random), alone_(alone) {}

  // One call of one entry point, and everything that must hold after it.
  void step() {
    const size_t which = choose();
    const Entry& entry = entries[which];
    current_name = entry.name;
    ++current_number;
    memory.start_call();
    outputs_.clear();
    arrays_.clear();
    const int dice = static_cast<int>(random.below(100));
    mode_ = dice < 50 ? Mode::right : dice < 70 ? Mode::spoiled_tensors : dice < 90 ? Mode::edge_numbers : Mode::random_bytes;
    std::memset(block, 0, sizeof block);
    (this->*entry.fill)();
    spoil_numbers(entry);
    uint32_t size = static_cast<uint32_t>(entry.size);
    if (mode_ != Mode::right && random.chance(25)) {
      size = static_cast<uint32_t>(random.chance(60) ? random.below(static_cast<int64_t>(entry.size) + 40) : random.edge());
    }
    std::memcpy(block, &size, sizeof size);
    settle(entry, size);

    // The block is as long as it says, or as the library could ever read.
    const size_t bytes = std::max<size_t>(4, std::min<size_t>(size, sizeof block));
    char* const real = static_cast<char*>(std::malloc(bytes));
    std::memcpy(real, block, bytes);
    const size_t error_bytes = random.chance(70) ? sizeof(rope_error) : static_cast<size_t>(random.between(4, sizeof(rope_error) + 40));
    rope_error* const error = random.chance(10) ? nullptr : static_cast<rope_error*>(std::malloc(error_bytes));
    if (error != nullptr) {
      std::memset(error, 0xee, error_bytes);
      error->size = static_cast<uint32_t>(error_bytes);
    }
    if (alone_) save_outputs();
    const bool no_block = mode_ == Mode::random_bytes && random.chance(2);
    const int32_t status = entry.call(no_block ? nullptr : real, error);
    if (status < ROPE_OK || status > ROPE_OUT_OF_MEMORY) fail("returned status", std::to_string(status));
    ++counts()[which].of[status & 7];
    if (error != nullptr) check_record(entry, status, error, error_bytes);
    check_block(entry, status, real, bytes);
    if (alone_) check_outputs(status);
    if (status == ROPE_OK) keep_handles(entry, real, bytes);
    std::free(error);
    std::free(real);
    for (void* array : arrays_) std::free(array);
  }

  // ---- plausible blocks ------------------------------------------------------------------------------------------------------------------

  void fill_nothing() {}
  void fill_abi() { args<rope_abi_args>().capacity = static_cast<uint64_t>(random.between(0, 20000)); }
  void fill_realm_close() { args<rope_realm_args>().realm = handle(kRealm); }
  void fill_memory_allocate() {
    args<rope_memory_args>().realm = realm();
    args<rope_memory_args>().bytes = static_cast<uint64_t>(random.between(1, 100000));
  }
  void fill_memory_release() { args<rope_memory_args>().address = handle(kMemory); }
  void fill_stream_create() { args<rope_stream_args>().realm = realm(); }
  void fill_stream() { args<rope_stream_args>().stream = handle(kStream); }
  void fill_event() {
    auto& a = args<rope_event_args>();
    a.realm = realm();
    a.stream = stream();
    a.event = handle(kEvent);
    a.since = handle(kEvent);
  }
  void fill_graph() {
    auto& a = args<rope_graph_args>();
    a.realm = realm();
    a.stream = handle(kRecording);
    a.graph = handle(kGraph);
  }
  void fill_launch() {
    fill_graph();
    args<rope_graph_args>().stream = stream();
  }

  void fill_frequencies_create() {
    auto& a = args<rope_frequencies_args>();
    a.realm = realm();
    a.rule = static_cast<uint32_t>(random.below(4));
    a.rotary_dim = 2 * (random.chance(90) ? random.between(1, 20) : random.between(1, 600));
    a.theta = random.chance(50) ? 10000 : static_cast<double>(random.between(1, 1000000)) / 7;
    a.factor = static_cast<double>(random.between(1, 100)) / 10;
    a.low_freq_factor = 1;
    a.high_freq_factor = random.chance(20) ? 1 : 4;
    a.original_max_position = static_cast<double>(random.between(1, 10000));
    a.attention_factor = random.chance(70) ? 0 : 1.5;
    a.axes = random.chance(60) ? 0 : random.between(1, 4);
    mapped_axes_ = (a.rule != ROPE_RULE_CUSTOM && a.axes > 1) || random.chance(20);
    if (a.rule == ROPE_RULE_CUSTOM && !mapped_axes_ && random.chance(50)) a.heads = random.between(1, 3);
    const int64_t pairs = a.rotary_dim / 2;
    if (a.rule == ROPE_RULE_CUSTOM) {
      a.custom_count = static_cast<uint64_t>(mapped_axes_ ? pairs : std::max<int64_t>(a.axes, 1) * std::max<int64_t>(a.heads, 1) * pairs);
    }
    if (mapped_axes_) a.axis_of_pair_count = static_cast<uint64_t>(pairs);
  }
  void fill_frequencies_read() {
    auto& a = args<rope_frequencies_read_args>();
    a.frequencies = handle(kFrequencies);
    const FrequencyShape f = handles.shape_of(a.frequencies);
    a.count = static_cast<uint64_t>(f.axes * std::max<int64_t>(f.heads, 1) * f.rotary_dim / 2);
  }
  void fill_frequencies_release() { args<rope_frequencies_args>().frequencies = handle(kFrequencies); }

  void fill_copy() {
    auto& a = args<rope_copy_args>();
    a.stream = stream();
    std::vector<int64_t> shape;
    for (int64_t rank = random.below(7); rank > 0; --rank) shape.push_back(random.chance(3) ? 0 : random.between(1, rank > 4 ? 3 : 7));
    if (random.chance(1)) shape = {random.between(100, 400), random.between(100, 400)};
    rope_tensor* const source = memory.place(alone_ && random.chance(10), random.chance(95) ? dtype() : 255, shape, false);
    rope_tensor* const target = memory.place(false, dtype(), shape, false);
    if (random.chance(20) && shape.size() > 1) {
      std::swap(target->stride[0], target->stride[1]);
      if (shape[0] == shape[1]) std::swap(source->stride[0], source->stride[1]);
    }
    if (random.chance(5) && shape.size() > 0) source->stride[0] = 0;
    a.source = reference(source);
    a.target = output(target);
  }
  void fill_fill() {
    auto& a = args<rope_fill_args>();
    a.stream = stream();
    a.kind = static_cast<uint32_t>(random.below(3));
    a.start = random.chance(50) ? static_cast<double>(random.between(0, 100)) : static_cast<double>(random.between(-1000, 1000)) / 8;
    a.step = random.chance(50) ? static_cast<double>(random.between(0, 2)) : static_cast<double>(random.between(-1000, 1000)) / 8;
    a.seed = random.bits();
    std::vector<int64_t> shape;
    for (int64_t rank = random.below(7); rank > 0; --rank) shape.push_back(random.chance(3) ? 0 : random.between(1, 5));
    if (random.chance(1)) shape = {random.between(100, 400), random.between(100, 400)};
    a.target = output(memory.place(alone_ && random.chance(10), dtype(), shape, false));
  }

  void fill_rotate() {
    auto& a = args<rope_rotate_args>();
    a.stream = stream();
    a.flags = static_cast<uint32_t>(random.below(4));
    a.frequencies = handle(kFrequencies);
    a.pairing = static_cast<uint8_t>(random.below(3));
    a.angles = static_cast<uint8_t>(random.below(2));
    const FrequencyShape f = handles.shape_of(a.frequencies);
    const int type = static_cast<int>(random.below(4));  // the first four dtypes are those of q, but for their order
    const int dtype = std::min<int>(type, ROPE_BFLOAT16);
    const int64_t head_dim = f.rotary_dim + (random.chance(60) ? 0 : random.between(0, 9));
    a.rotary_offset = random.between(0, head_dim - f.rotary_dim);
    const int64_t rank = random.between(2, 4), batch = rank == 4 ? random.between(1, 3) : 1;
    const int64_t tokens = random.chance(1) ? random.between(500, 2000) : random.below(9);
    const auto shape = [&](int64_t heads) -> std::vector<int64_t> {
      if (rank == 2) return {tokens, heads * head_dim};
      if (rank == 3) return {tokens, heads, head_dim};
      return {batch, tokens, heads, head_dim};
    };
    if (rank == 2 || random.chance(10)) a.head_dim = head_dim;
    place_side(&a.q, &a.q_out, dtype, shape(f.heads > 0 ? f.heads : random.between(1, 5)));
    if (random.chance(60)) place_side(&a.k, &a.k_out, dtype, shape(f.heads > 0 ? f.heads : random.between(1, 3)));
    place_positions(a, f.axes, batch, tokens, rank);
  }
  void fill_cos_sin() {
    auto& a = args<rope_cos_sin_args>();
    a.stream = stream();
    a.flags = static_cast<uint32_t>(random.below(4));
    a.frequencies = handle(kFrequencies);
    a.angles = static_cast<uint8_t>(random.below(2));
    const FrequencyShape f = handles.shape_of(a.frequencies);
    const int64_t n = random.below(10);
    a.positions = positions(f.axes > 1 ? std::vector<int64_t>{f.axes, n} : std::vector<int64_t>{n});
    for (rope_tensor_ref* out : {&a.cos, &a.sin}) {
      std::vector<int64_t> shape{n, f.rotary_dim / 2};
      if (f.heads > 0) shape.insert(shape.begin() + 1, f.heads);
      rope_tensor* const t = memory.place(false, ROPE_FLOAT32, shape, true);
      for (int64_t i = t->rank - 1, stride = 1; i >= 0; stride *= t->shape[i--]) t->stride[i] = stride;
      *out = output(t);
    }
  }

 private:
  template <class Args>
  Args& args() {
    static_assert(sizeof(Args) <= sizeof block - 64);
    return *reinterpret_cast<Args*>(block);
  }

  size_t choose() {
    static const int64_t total = [] {
      int64_t sum = 0;
      for (const Entry& e : entries) sum += e.weight;
      return sum;
    }();
    int64_t rest = random.below(total);
    size_t i = 0;
    while (rest >= entries[i].weight) rest -= entries[i++].weight;
    return i;
  }

  // ---- parts of blocks -------------------------------------------------------------------------------------------------------------------

  uint64_t handle(Kind kind) { return random.chance(mode_ == Mode::right ? 2 : 15) ? handles.pick_bad(random, kind) : handles.pick(random, kind); }
  uint64_t realm() { return random.chance(60) ? 0 : handle(kRealm); }
  uint64_t stream() { return random.chance(60) ? 0 : handle(random.chance(60) ? kStream : kRecording); }
  int dtype() { return static_cast<int>(random.below(9)); }

  rope_tensor_ref reference(rope_tensor* t) {
    rope_tensor_ref r{reinterpret_cast<uint64_t>(t), t->generation, static_cast<uint32_t>(random.below(2))};
    if (mode_ == Mode::right || !random.chance(mode_ == Mode::random_bytes ? 80 : 30)) return r;
    switch (random.below(6)) {
      case 0: r.tensor = 0; break;
      case 1: r.tensor += static_cast<uint64_t>(random.between(1, 7)); break;
      case 2: ++r.generation; break;
      default: memory.spoil(t); break;
    }
    return r;
  }
  rope_tensor_ref output(rope_tensor* t) {
    if (mode_ == Mode::random_bytes && random.chance(50)) t = memory.wild(false);
    const rope_tensor_ref r = reference(t);
    outputs_.push_back({*t, nullptr, {}});
    return r;
  }
  rope_tensor_ref input(rope_tensor* t) { return reference(mode_ == Mode::random_bytes && random.chance(50) ? memory.wild(false) : t); }

  void place_side(rope_tensor_ref* in, rope_tensor_ref* out, int dtype, const std::vector<int64_t>& shape) {
    rope_tensor* const t = memory.place(false, dtype, shape, true);
    *in = input(t);
    if (random.chance(30)) {
      *out = *in;
      outputs_.push_back({*t, nullptr, {}});
    } else {
      *out = output(memory.place(false, dtype, shape, true));
    }
  }

  // Position ids, most of them sensible. Threads leave the contents alone: a graph may be reading them.
  rope_tensor_ref positions(const std::vector<int64_t>& shape) {
    const int dtypes[] = {ROPE_INT32, ROPE_INT64, ROPE_FLOAT32};
    rope_tensor* const t = memory.place(!alone_ || random.chance(95), random.one_of(dtypes), shape, false);
    if (alone_) {
      const int bad = random.chance(15) ? 20 : 0;
      each_element(*t, [&](int64_t offset) {
        if (static_cast<uint64_t>(offset + 1) * static_cast<uint64_t>(element_size(t->dtype)) > t->extent) return;
        write(*t, offset, random.chance(bad) ? random.edge() : random.between(-1, 3000), random.chance(20) ? 0.25 : 0);
      });
    }
    return reference(mode_ == Mode::random_bytes && random.chance(50) ? memory.wild(true) : t);
  }
  static void write(const rope_tensor& t, int64_t offset, int64_t value, double fraction) {
    char* const at = reinterpret_cast<char*>(t.data) + offset * element_size(t.dtype);
    const int32_t narrow = static_cast<int32_t>(value);
    const float real = value == 7 ? NAN : static_cast<float>(static_cast<double>(value) + fraction);
    if (t.dtype == ROPE_INT64) std::memcpy(at, &value, 8);
    if (t.dtype == ROPE_INT32) std::memcpy(at, &narrow, 4);
    if (t.dtype == ROPE_FLOAT32) std::memcpy(at, &real, 4);
  }
  rope_tensor_ref indices(int64_t count, int64_t least, int64_t most, bool rising) {
    rope_tensor* const t = memory.place(true, random.chance(50) ? ROPE_INT32 : ROPE_INT64, {count}, false);
    if (alone_) {
      const bool bad = random.chance(10);
      each_element(*t, [&](int64_t offset) {
        if (static_cast<uint64_t>(offset + 1) * static_cast<uint64_t>(element_size(t->dtype)) > t->extent) return;
        const int64_t value = random.between(least, most);
        write(*t, offset, bad && random.chance(20) ? random.edge() : value, 0);
        if (rising) least = value;
      });
    }
    return reference(t);
  }
  void place_positions(rope_rotate_args& a, int64_t axes, int64_t batch, int64_t tokens, int64_t rank) {
    const int64_t form = axes > 1 ? 0 : random.below(5);
    std::vector<int64_t> shape{tokens};
    if (rank == 4 && random.chance(60)) shape = random.chance(60) ? std::vector<int64_t>{batch, tokens} : std::vector<int64_t>{batch * tokens};
    if (axes > 1) shape.insert(shape.begin(), axes);
    const int64_t requests = random.between(0, 5);
    if (form == 0) a.positions = positions(shape);
    if (form == 1) a.offset = random.chance(90) ? random.between(-100, 5000) : random.edge();
    if (form == 2) a.offsets = indices(batch, 0, 4000, false);
    if (form == 3 && rank < 4) a.indptr = indices(requests + 1, 0, tokens, true);
    if (form == 3 && rank < 4 && random.chance(50)) a.offsets = indices(requests, 0, 4000, false);
  }

  void spoil_numbers(const Entry& entry) {
    if (mode_ != Mode::edge_numbers && mode_ != Mode::random_bytes) return;
    for (const Number& number : entry.numbers) {
      if (!random.chance(mode_ == Mode::random_bytes ? 80 : 150 / static_cast<int>(entry.numbers.size() + 1))) continue;
      const int64_t integer = random.edge();
      const double real = random.edge_double();
      const uint64_t raw = random.bits();
      const void* const value = mode_ == Mode::random_bytes && random.chance(50) ? static_cast<const void*>(&raw)
                                : number.size == 8 && random.chance(40)          ? static_cast<const void*>(&real)
                                                                                 : static_cast<const void*>(&integer);
      std::memcpy(block + number.offset, value, number.size);
    }
  }

  // Addresses tell the truth: an array of exactly as many elements as the block says, or 0.
  void* array(uint64_t count, size_t size) {
    if (count > 100000 || random.chance(mode_ == Mode::right ? 0 : 10)) return nullptr;
    void* const memory = std::malloc(count * size);
    arrays_.push_back(memory);
    return memory;
  }
  void settle(const Entry& entry, uint32_t size) {
    if (entry.call == entries[0].call) args<rope_abi_args>().text = reinterpret_cast<uint64_t>(array(args<rope_abi_args>().capacity, 1));
    if (entry.fill == &Worker::fill_frequencies_read) {
      auto& a = args<rope_frequencies_read_args>();
      // A block cut short is read as count 0.
      a.exact = reinterpret_cast<uint64_t>(array(size < sizeof a ? 0 : a.count, sizeof(double)));
      a.inv_freq = reinterpret_cast<uint64_t>(array(size < sizeof a ? 0 : a.count, sizeof(float)));
    }
    if (entry.fill != &Worker::fill_frequencies_create) return;
    auto& a = args<rope_frequencies_args>();
    if (a.rule == ROPE_RULE_CUSTOM) {
      double* const custom = static_cast<double*>(array(a.custom_count, sizeof(double)));
      for (uint64_t i = 0; custom != nullptr && i < a.custom_count; ++i) {
        custom[i] = random.chance(20) ? 0 : mode_ != Mode::right && random.chance(2) ? random.edge_double() : 1.0 / static_cast<double>(i + 1);
      }
      a.custom = reinterpret_cast<uint64_t>(custom);
    }
    if (!mapped_axes_) return;
    int32_t* const axis = static_cast<int32_t*>(array(a.axis_of_pair_count, sizeof(int32_t)));
    for (uint64_t i = 0; axis != nullptr && i < a.axis_of_pair_count; ++i) {
      const int64_t wrong = mode_ != Mode::right && random.chance(1) ? random.edge() : 0;
      axis[i] = static_cast<int32_t>(wrong != 0 || a.axes < 2 ? wrong : random.below(std::min<int64_t>(a.axes, 16)));
    }
    a.axis_of_pair = reinterpret_cast<uint64_t>(axis);
  }

  // ---- what must hold afterwards -----------------------------------------------------------------------------------------------------------

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
    if (!ends(error->operation, 32) || !ends(error->argument, 32) || !ends(error->expected, 160) || !ends(error->actual, 160) || !ends(error->advice, 256)) {
      return fail("left a text without an end");
    }
    if (std::strcmp(error->operation, entry.name) != 0 && !(status == ROPE_FAULT && entry.ends == kNone)) fail("named another operation");
    const bool refused = status == ROPE_ARGUMENT || status == ROPE_DISPOSED || status == ROPE_DEVICE;
    if (refused && (error->argument[0] == 0 || error->expected[0] == 0 || error->actual[0] == 0)) fail("left a text empty");
    if (refused && (std::strstr(error->actual, "0x") != nullptr || std::strstr(error->expected, "0x") != nullptr)) fail("printed an address");
    if (status == ROPE_FAULT && (error->fault.code < ROPE_FAULT_POSITION || error->fault.code > ROPE_FAULT_INDPTR)) fail("has no fault's code");
  }

  // The library writes results and nothing else.
  void check_block(const Entry& entry, int32_t status, const char* real, size_t bytes) {
    const size_t from = status == ROPE_OK ? entry.size : 0;
    if (bytes > from && std::memcmp(real + from, block + from, bytes - from) != 0) fail("wrote where it should not in the block");
  }

  struct Output {
    rope_tensor tensor;
    const Buffer* buffer;
    std::vector<char> before;
  };

  void save_outputs() {
    for (Output& out : outputs_) {
      out.buffer = memory.buffer_of(out.tensor);
      if (out.buffer != nullptr) out.before.assign(out.buffer->data, out.buffer->data + out.buffer->bytes);
    }
  }
  void check_outputs(int32_t status) {
    for (const Output& out : outputs_) {
      if (status == ROPE_OK && out.tensor.device != 0) fail("ran on a device that is not there");
      if (out.buffer == nullptr || std::memcmp(out.before.data(), out.buffer->data, out.buffer->bytes) == 0) continue;
      if (status != ROPE_OK && status != ROPE_FAULT) return fail("refused, but wrote to an output");
      std::vector<char> now(out.buffer->data, out.buffer->data + out.buffer->bytes);
      for (const Output& other : outputs_) {
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
    if (entry.ends != kNone) {
      std::memcpy(&value, block + entry.ends_at, sizeof value);
      handles.remove(entry.ends, value);
    }
    if (entry.makes == kNone) return;
    if (bytes < entry.makes_at + 8) return fail("succeeded, but the block has no room for the handle");
    std::memcpy(&value, real + entry.makes_at, sizeof value);
    if (entry.makes != kFrequencies) return handles.add(entry.makes, value);
    rope_frequencies_args a{};
    std::memcpy(&a, real, std::min(bytes, sizeof a));
    handles.add_frequencies(value, {a.rotary_dim, std::max<int64_t>(a.axes, 1), a.heads});
  }

  Random random;
  Memory memory;
  bool alone_;
  Mode mode_ = Mode::right;
  bool mapped_axes_ = false;
  alignas(16) char block[320];
  std::vector<Output> outputs_;
  std::vector<void*> arrays_;
};

// ---- the entry points ------------------------------------------------------------------------------------------------------------------------

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

#define ENTRY(function, args) #function, sizeof(args), call<function>
#define NUMBER(args, field) {offsetof(args, field), sizeof(args::field)}
#define MEMORY NUMBER(rope_memory_args, device), NUMBER(rope_memory_args, realm), NUMBER(rope_memory_args, bytes), NUMBER(rope_memory_args, address)
#define STREAM NUMBER(rope_stream_args, device), NUMBER(rope_stream_args, realm), NUMBER(rope_stream_args, stream)
#define EVENT                                                                                                                            \
  NUMBER(rope_event_args, device), NUMBER(rope_event_args, realm), NUMBER(rope_event_args, stream), NUMBER(rope_event_args, event), \
      NUMBER(rope_event_args, since)
#define GRAPH NUMBER(rope_graph_args, device), NUMBER(rope_graph_args, realm), NUMBER(rope_graph_args, stream), NUMBER(rope_graph_args, graph)
#define AT(args, field) offsetof(args, field)

const std::vector<Entry> entries = {
    {ENTRY(rope_abi, rope_abi_args), &Worker::fill_abi, 10, 50, 0, {NUMBER(rope_abi_args, capacity), NUMBER(rope_abi_args, length)}},
    {ENTRY(rope_realm_open, rope_realm_args), &Worker::fill_nothing, 3, 50, 0, {NUMBER(rope_realm_args, realm)}, kRealm, AT(rope_realm_args, realm)},
    {ENTRY(rope_realm_close, rope_realm_args), &Worker::fill_realm_close, 2, 10, 0, {NUMBER(rope_realm_args, realm)}, kNone, 0, kRealm,
     AT(rope_realm_args, realm)},
    {ENTRY(rope_usage, rope_usage_args), &Worker::fill_nothing, 5, 50, 0, {NUMBER(rope_usage_args, bytes)}},
    {ENTRY(rope_device_info, rope_device_info_args), &Worker::fill_nothing, 5, 30, 0, {NUMBER(rope_device_info_args, device)}},
    {ENTRY(rope_memory_allocate, rope_memory_args), &Worker::fill_memory_allocate, 15, 30, 0, {MEMORY}, kMemory, AT(rope_memory_args, address)},
    {ENTRY(rope_memory_release, rope_memory_args), &Worker::fill_memory_release, 10, 10, 0, {MEMORY}, kNone, 0, kMemory, AT(rope_memory_args, address)},
    {ENTRY(rope_stream_create, rope_stream_args), &Worker::fill_stream_create, 15, 30, 0, {STREAM}, kStream, AT(rope_stream_args, stream)},
    {ENTRY(rope_stream_destroy, rope_stream_args), &Worker::fill_stream, 8, 10, 0, {STREAM}, kNone, 0, kStream, AT(rope_stream_args, stream)},
    {ENTRY(rope_stream_synchronize, rope_stream_args), &Worker::fill_stream, 10, 10, 0, {STREAM}},
    {ENTRY(rope_event_record, rope_event_args), &Worker::fill_event, 15, 30, 0, {EVENT}, kEvent, AT(rope_event_args, event)},
    {ENTRY(rope_event_wait, rope_event_args), &Worker::fill_event, 10, 10, 0, {EVENT}},
    {ENTRY(rope_event_synchronize, rope_event_args), &Worker::fill_event, 10, 10, 0, {EVENT}},
    {ENTRY(rope_event_elapsed, rope_event_args), &Worker::fill_event, 10, 10, 0, {EVENT}},
    {ENTRY(rope_event_destroy, rope_event_args), &Worker::fill_event, 8, 10, 0, {EVENT}, kNone, 0, kEvent, AT(rope_event_args, event)},
    {ENTRY(rope_graph_begin, rope_graph_args), &Worker::fill_graph, 15, 30, 0, {GRAPH}, kRecording, AT(rope_graph_args, stream)},
    {ENTRY(rope_graph_end, rope_graph_args), &Worker::fill_graph, 10, 10, 0, {GRAPH}, kGraph, AT(rope_graph_args, graph), kRecording,
     AT(rope_graph_args, stream)},
    {ENTRY(rope_graph_cancel, rope_graph_args), &Worker::fill_graph, 2, 10, 0, {GRAPH}, kNone, 0, kRecording, AT(rope_graph_args, stream)},
    {ENTRY(rope_graph_launch, rope_graph_args), &Worker::fill_launch, 20, 10, 1, {GRAPH}},
    {ENTRY(rope_graph_destroy, rope_graph_args), &Worker::fill_graph, 5, 10, 0, {GRAPH}, kNone, 0, kGraph, AT(rope_graph_args, graph)},
    {ENTRY(rope_copy, rope_copy_args), &Worker::fill_copy, 150, 30, 0, {NUMBER(rope_copy_args, stream)}},
    {ENTRY(rope_fill, rope_fill_args), &Worker::fill_fill, 100, 30, 0,
     {NUMBER(rope_fill_args, kind), NUMBER(rope_fill_args, stream), NUMBER(rope_fill_args, start), NUMBER(rope_fill_args, step)}},
    {ENTRY(rope_frequencies_create, rope_frequencies_args), &Worker::fill_frequencies_create, 60, 30, 0,
     {NUMBER(rope_frequencies_args, rule), NUMBER(rope_frequencies_args, realm), NUMBER(rope_frequencies_args, rotary_dim),
      NUMBER(rope_frequencies_args, axes), NUMBER(rope_frequencies_args, heads), NUMBER(rope_frequencies_args, theta),
      NUMBER(rope_frequencies_args, factor), NUMBER(rope_frequencies_args, low_freq_factor), NUMBER(rope_frequencies_args, high_freq_factor),
      NUMBER(rope_frequencies_args, original_max_position), NUMBER(rope_frequencies_args, attention_factor),
      NUMBER(rope_frequencies_args, custom_count), NUMBER(rope_frequencies_args, axis_of_pair_count)},
     kFrequencies, AT(rope_frequencies_args, frequencies)},
    {ENTRY(rope_frequencies_read, rope_frequencies_read_args), &Worker::fill_frequencies_read, 20, 10, 0,
     {NUMBER(rope_frequencies_read_args, frequencies), NUMBER(rope_frequencies_read_args, count)}},
    {ENTRY(rope_frequencies_release, rope_frequencies_args), &Worker::fill_frequencies_release, 10, 10, 0,
     {NUMBER(rope_frequencies_args, frequencies)}, kNone, 0, kFrequencies, AT(rope_frequencies_args, frequencies)},
    {ENTRY(rope_rotate, rope_rotate_args), &Worker::fill_rotate, 350, 25, 2,
     {NUMBER(rope_rotate_args, flags), NUMBER(rope_rotate_args, stream), NUMBER(rope_rotate_args, frequencies), NUMBER(rope_rotate_args, offset),
      NUMBER(rope_rotate_args, head_dim), NUMBER(rope_rotate_args, rotary_offset), NUMBER(rope_rotate_args, pairing),
      NUMBER(rope_rotate_args, angles), NUMBER(rope_rotate_args, reserved)}},
    {ENTRY(rope_cos_sin, rope_cos_sin_args), &Worker::fill_cos_sin, 100, 25, 2,
     {NUMBER(rope_cos_sin_args, flags), NUMBER(rope_cos_sin_args, stream), NUMBER(rope_cos_sin_args, frequencies), NUMBER(rope_cos_sin_args, angles)}},
};

// ---- rounds ----------------------------------------------------------------------------------------------------------------------------------

constexpr int64_t kRound = 2500;
constexpr int kThreads = 4;

rope_usage_args usage() {
  rope_usage_args args{sizeof args, 0, 0, 0};
  rope_usage(&args, nullptr);
  return args;
}

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
  seed = wish != nullptr ? std::strtoull(wish, nullptr, 10) : static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) % 1000000000;
  std::printf("fuzz: %lld blocks, seed %llu\n", static_cast<long long>(blocks), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback([] { fail("a sanitizer's report"); });
#endif
  const auto start = std::chrono::steady_clock::now();
  for (int64_t done = 0, round = 0; done < blocks && failures < 20; done += kRound, ++round) {
    run_round(static_cast<uint64_t>(round), std::min(kRound, blocks - done));
  }
  report(blocks);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("fuzz: %lld failures, %.1f s\n", static_cast<long long>(failures), seconds);
  return failures == 0 ? 0 : 1;
}
