// The blocks fuzz.cpp calls with: right ones, in their own way, and what spoils them.
#ifndef ROPE_TEST_FUZZ_BLOCKS_H
#define ROPE_TEST_FUZZ_BLOCKS_H

#include "fuzz_memory.h"

// A number in a block that may be anything.
struct Number {
  size_t offset, size;
};

enum class Mode { right, spoiled_tensors, edge_numbers, random_bytes };

// An output tensor, the heap block it lies in, and what stood there before the call.
struct Output {
  rope_tensor tensor;
  const Buffer* buffer;
  std::vector<char> before;
};

// One thread's blocks over its own memory and everybody's handles. `alone`: no other thread runs.
class Blocks {
 public:
  Blocks(uint64_t seed, bool alone, Handles& handles) : random(seed), memory(random), alone_(alone), handles_(handles) {}

  using Fill = void (Blocks::*)();

  // Makes a block, which begins with its size.
  void make(Fill fill, size_t bytes, const std::vector<Number>& numbers) {
    memory.start_call();
    outputs.clear();
    for (void* array : arrays_) std::free(array);
    arrays_.clear();
    const int64_t dice = random.below(100);
    mode = dice < 50 ? Mode::right : dice < 70 ? Mode::spoiled_tensors : dice < 90 ? Mode::edge_numbers : Mode::random_bytes;
    std::memset(block, 0, sizeof block);
    (this->*fill)();
    spoil_numbers(numbers);
    uint32_t size = static_cast<uint32_t>(bytes);
    if (mode != Mode::right && random.chance(25)) {
      size = static_cast<uint32_t>(random.chance(60) ? random.below(static_cast<int64_t>(bytes) + 40) : random.edge());
      if (random.chance(70)) size &= ~7u;
    }
    std::memcpy(block, &size, sizeof size);
    tell_addresses(fill, size);
  }
  ~Blocks() {
    for (void* array : arrays_) std::free(array);
  }
  Blocks(const Blocks&) = delete;

  Random random;
  Memory memory;
  Mode mode = Mode::right;
  alignas(16) char block[640];
  std::vector<Output> outputs;

  // ---- plausible blocks -------------------------------------------------------------------------------------------------

  void fill_nothing() {}
  void fill_abi() { args<rope_abi_args>().capacity = static_cast<uint64_t>(random.between(0, 20000)); }
  void fill_realm_close() { args<rope_realm_args>().realm = handle(kRealm); }
  void fill_memory_allocate() {
    auto& a = args<rope_memory_args>();
    a.kind = random.chance(10) ? ROPE_MEMORY_PINNED : ROPE_MEMORY_DEVICE;
    a.realm = realm();
    a.stream = stream();
    a.bytes = static_cast<uint64_t>(random.between(1, 100000));
  }
  void fill_memory_release() {
    args<rope_memory_args>().address = handle(kMemory);
    args<rope_memory_args>().stream = stream();
  }
  void fill_transfer() {
    args<rope_transfer_args>().stream = stream();
    args<rope_transfer_args>().bytes = static_cast<uint64_t>(random.chance(10) ? 0 : random.between(1, 10000));
  }
  void fill_stream_create() { args<rope_stream_args>().realm = realm(); }
  void fill_stream() { args<rope_stream_args>().stream = handle(kStream); }
  void fill_order() {
    args<rope_order_args>().stream = stream();
    args<rope_order_args>().after = stream();
  }
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
  void fill_queue_open() { args<rope_queue_args>().realm = handle(kRealm); }
  void fill_queue() { args<rope_queue_args>().queue = handle(kQueue); }
  void fill_notify() {
    auto& a = args<rope_notify_args>();
    a.realm = realm();
    a.queue = handle(kQueue);
    a.ticket = static_cast<uint64_t>(random.between(1, 1000));
    a.stream = stream();
    a.event = random.chance(50) ? 0 : handle(kEvent);
  }
  void fill_health() {
    auto& a = args<rope_health_args>();
    a.realm = realm();
    if (random.chance(50)) a.first.code = 1, a.operation[0] = a.reason[0] = 'x';
  }

  void fill_frequencies_create() {
    auto& a = args<rope_frequencies_args>();
    a.realm = realm();
    a.rule = static_cast<uint32_t>(random.below(9));
    a.rotary_dim = 2 * (random.chance(90) ? random.between(1, 20) : random.between(1, 600));
    a.theta = random.chance(50) ? 10000 : static_cast<double>(random.between(1, 1000000)) / 7;
    a.factor = static_cast<double>(random.between(1, 100)) / 10;
    a.low_freq_factor = 1;
    a.high_freq_factor = random.chance(20) ? 1 : 4;
    a.original_max_position = static_cast<double>(random.between(2, 10000));
    a.context_length = random.chance(50) ? 0 : static_cast<double>(random.between(1, 100000));
    a.max_position = random.chance(50) ? 0 : static_cast<double>(random.between(1, 100000));
    if (a.max_position != 0 && random.chance(50)) a.factor = 0;
    a.alpha = random.chance(70) ? 0 : 1000;
    a.mixed_b = random.chance(50) ? 0 : 0.7;
    a.beta_fast = random.chance(70) ? 0 : static_cast<double>(random.between(2, 40));
    a.mscale = random.chance(70) ? 0 : 0.7;
    a.mscale_all_dim = random.chance(50) ? 0 : 1;
    a.long_mscale = random.chance(70) ? 0 : 1.2;
    a.partial = random.chance(50) ? 0 : static_cast<double>(random.between(1, 100)) / 100;
    a.no_truncate = static_cast<uint32_t>(random.below(2));
    a.attention_factor = random.chance(70) ? 0 : 1.5;
    a.axes = random.chance(60) ? 0 : random.between(1, 4);
    mapped_axes_ = (a.rule != ROPE_RULE_CUSTOM && a.axes > 1) || random.chance(20);
    if (a.rule == ROPE_RULE_CUSTOM && !mapped_axes_ && random.chance(50)) a.heads = random.between(1, 3);
    const int64_t pairs = a.rotary_dim / 2;
    if (a.rule == ROPE_RULE_CUSTOM) {
      a.custom_count = static_cast<uint64_t>(mapped_axes_ ? pairs : std::max<int64_t>(a.axes, 1) * std::max<int64_t>(a.heads, 1) * pairs);
    }
    if (a.rule == ROPE_RULE_LONGROPE) a.custom_count = static_cast<uint64_t>(a.rotary_dim);
    if (mapped_axes_) a.axis_of_pair_count = static_cast<uint64_t>(pairs);
  }
  void fill_frequencies_read() {
    auto& a = args<rope_frequencies_read_args>();
    a.frequencies = handle(kFrequencies);
    const FrequencyShape f = handles_.shape_of(a.frequencies);
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
    const FrequencyShape f = handles_.shape_of(a.frequencies);
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
    const FrequencyShape f = handles_.shape_of(a.frequencies);
    const int64_t n = random.below(10);
    a.positions = positions(f.axes > 1 ? std::vector<int64_t>{f.axes, n} : std::vector<int64_t>{n});
    for (rope_tensor_ref* out : {&a.cos, &a.sin}) {
      std::vector<int64_t> shape{n, f.rotary_dim / 2};
      if (f.heads > 0) shape.insert(shape.begin() + 1, f.heads);
      *out = output(contiguous(memory.place(false, ROPE_FLOAT32, shape, true)));
    }
  }

  void fill_shift() {
    auto& a = args<rope_shift_args>();
    a.stream = stream();
    a.flags = random.chance(30) ? ROPE_CONJUGATE : 0;
    a.frequencies = handle(kFrequencies);
    for (int i = 0; i < 3 && handles_.shape_of(a.frequencies).axes > 1; ++i) a.frequencies = handle(kFrequencies);
    const FrequencyShape f = handles_.shape_of(a.frequencies);
    a.pairing = static_cast<uint8_t>(random.below(3));
    a.angles = static_cast<uint8_t>(random.below(2));
    const int64_t head_dim = f.rotary_dim + (random.chance(60) ? 0 : random.between(0, 9));
    a.rotary_offset = random.between(0, head_dim - f.rotary_dim);
    const int dtypes[] = {ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2};
    const int64_t pages = random.chance(3) ? 0 : random.between(1, 6), page_size = random.between(1, 4);
    const PageTableValues table = page_table(pages, page_size);
    a.cache = output(
        memory.place(false, random.one_of(dtypes), {pages, page_size, f.heads > 0 ? f.heads : random.between(1, 3), head_dim}, true));
    a.owners = output(contiguous(memory.place(false, ROPE_INT32, {pages}, true)));
    a.page_indptr = integers(table.indptr);
    a.page_indices = integers(table.ids);
    a.last_page_len = integers(table.last_page_len);
    std::vector<int64_t> deltas(table.last_page_len.size());
    for (int64_t& delta : deltas) delta = random.between(-5000, 5000);
    if (random.chance(50)) {
      a.deltas = integers(deltas);
    } else {
      a.delta = random.chance(95) ? random.between(-5000, 5000) : random.edge();
    }
  }
  void fill_seq_lens() {
    auto& a = args<rope_seq_lens_args>();
    a.stream = stream();
    a.page_size = random.between(1, 20);
    const PageTableValues table = page_table(random.between(0, 20), a.page_size);
    a.page_indptr = integers(table.indptr);
    a.last_page_len = integers(table.last_page_len);
    a.seq_lens = output(memory.place(false, ROPE_INT32, {static_cast<int64_t>(table.last_page_len.size())}, false));
  }
  void fill_batch_indices() {
    auto& a = args<rope_batch_indices_args>();
    a.stream = stream();
    const int64_t tokens = random.below(30);
    std::vector<int64_t> indptr = rising(random.between(1, 6), tokens), lengths;
    for (size_t i = 1; i < indptr.size(); ++i) lengths.push_back(indptr[i] - indptr[i - 1] + random.below(100));
    a.indptr = integers(indptr);
    a.seq_lens = integers(lengths);
    a.batch_indices = output(memory.place(false, ROPE_INT32, {tokens}, false));
    a.places = output(memory.place(false, ROPE_INT32, {tokens}, false));
  }

 private:
  template <class Args>
  Args& args() {
    static_assert(sizeof(Args) <= sizeof block - 64);
    return *reinterpret_cast<Args*>(block);
  }

  // ---- parts of blocks --------------------------------------------------------------------------------------------------

  uint64_t handle(Kind kind) {
    return random.chance(mode == Mode::right ? 2 : 15) ? handles_.pick_bad(random, kind) : handles_.pick(random, kind);
  }
  uint64_t realm() { return random.chance(60) ? 0 : handle(kRealm); }
  uint64_t stream() { return random.chance(60) ? 0 : handle(random.chance(60) ? kStream : kRecording); }
  int dtype() { return static_cast<int>(random.below(9)); }

  rope_tensor_ref reference(rope_tensor* t) {
    rope_tensor_ref r{reinterpret_cast<uint64_t>(t), t->generation, static_cast<uint32_t>(random.below(2))};
    if (mode == Mode::right || !random.chance(mode == Mode::random_bytes ? 80 : 30)) return r;
    switch (random.below(6)) {
      case 0: r.tensor = 0; break;
      case 1: r.tensor += static_cast<uint64_t>(random.between(1, 7)); break;
      case 2: ++r.generation; break;
      default: memory.spoil(t); break;
    }
    return r;
  }
  rope_tensor_ref output(rope_tensor* t) {
    if (mode == Mode::random_bytes && random.chance(50)) t = memory.wild(false);
    const rope_tensor_ref r = reference(t);
    outputs.push_back({*t, nullptr, {}});
    return r;
  }
  rope_tensor_ref input(rope_tensor* t) { return reference(mode == Mode::random_bytes && random.chance(50) ? memory.wild(false) : t); }

  void place_side(rope_tensor_ref* in, rope_tensor_ref* out, int dtype, const std::vector<int64_t>& shape) {
    rope_tensor* const t = memory.place(false, dtype, shape, true);
    *in = input(t);
    if (random.chance(30)) {
      *out = *in;
      outputs.push_back({*t, nullptr, {}});
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
    return reference(mode == Mode::random_bytes && random.chance(50) ? memory.wild(true) : t);
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
    if (rank == 4 && random.chance(60))
      shape = random.chance(60) ? std::vector<int64_t>{batch, tokens} : std::vector<int64_t>{batch * tokens};
    if (axes > 1) shape.insert(shape.begin(), axes);
    const int64_t requests = random.between(0, 5);
    if (form == 0) a.positions = positions(shape);
    if (form == 1) a.offset = random.chance(90) ? random.between(-100, 5000) : random.edge();
    if (form == 2) a.offsets = indices(batch, 0, 4000, false);
    if (form == 3 && rank < 4) a.indptr = indices(requests + 1, 0, tokens, true);
    if (form == 3 && rank < 4 && random.chance(50)) a.offsets = indices(requests, 0, 4000, false);
  }

  // A vector of numbers, now and then with hostile ones among them. Threads leave the contents alone here too.
  rope_tensor_ref integers(const std::vector<int64_t>& values) {
    rope_tensor* const t = memory.place(true, random.chance(50) ? ROPE_INT32 : ROPE_INT64, {static_cast<int64_t>(values.size())}, false);
    if (alone_) {
      const bool bad = random.chance(10);
      size_t i = 0;
      each_element(*t, [&](int64_t offset) {
        const int64_t value = values[i++];
        if (static_cast<uint64_t>(offset + 1) * static_cast<uint64_t>(element_size(t->dtype)) > t->extent) return;
        write(*t, offset, !bad || random.chance(70) ? value : random.chance(50) ? random.edge() : random.below(8), 0);
      });
    }
    return reference(mode == Mode::random_bytes && random.chance(50) ? memory.wild(true) : t);
  }
  std::vector<int64_t> rising(int64_t count, int64_t most) {
    std::vector<int64_t> values;
    int64_t next = random.chance(70) ? 0 : random.between(0, most);
    for (int64_t i = 0; i < count; ++i) {
      values.push_back(next);
      next += random.below(most - next + 1);
    }
    return values;
  }
  // Requests that share no page.
  struct PageTableValues {
    std::vector<int64_t> indptr, ids, last_page_len;
  };
  PageTableValues page_table(int64_t pages, int64_t page_size) {
    PageTableValues table;
    const int64_t first = random.below(pages + 1);
    for (int64_t i = 0; i < pages; ++i) table.ids.push_back((i * 5 + first) % pages);
    if (pages % 5 == 0) {
      for (int64_t i = 0; i < pages; ++i) table.ids[static_cast<size_t>(i)] = pages - 1 - i;
    }
    table.indptr = rising(random.between(1, 5), pages);
    for (size_t i = 1; i < table.indptr.size(); ++i) {
      table.last_page_len.push_back(table.indptr[i] == table.indptr[i - 1] ? 0 : random.between(1, page_size));
    }
    return table;
  }
  static rope_tensor* contiguous(rope_tensor* t) {
    for (int64_t i = t->rank - 1, stride = 1; i >= 0; stride *= t->shape[i--]) t->stride[i] = stride;
    return t;
  }

  void spoil_numbers(const std::vector<Number>& numbers) {
    if (mode != Mode::edge_numbers && mode != Mode::random_bytes) return;
    for (const Number& number : numbers) {
      if (!random.chance(mode == Mode::random_bytes ? 80 : 150 / static_cast<int>(numbers.size() + 1))) continue;
      const int64_t integer = random.edge();
      const double real = random.edge_double();
      const uint64_t raw = random.bits();
      const void* const value = mode == Mode::random_bytes && random.chance(50) ? static_cast<const void*>(&raw)
                                : number.size == 8 && random.chance(40)         ? static_cast<const void*>(&real)
                                                                                : static_cast<const void*>(&integer);
      std::memcpy(block + number.offset, value, number.size);
    }
  }

  // Addresses tell the truth: an array of exactly as many elements as the block says, or 0.
  void* array(uint64_t count, size_t size) {
    if (count > 100000 || random.chance(mode == Mode::right ? 0 : 10)) return nullptr;
    void* const memory = std::malloc(count * size);
    arrays_.push_back(memory);
    return memory;
  }
  void tell_addresses(Fill fill, uint32_t size) {
    if (fill == &Blocks::fill_transfer) tell_transfer();
    // One of the process would never close.
    if (fill == &Blocks::fill_queue_open && args<rope_queue_args>().realm == 0) args<rope_queue_args>().realm = 1;
    if (fill == &Blocks::fill_abi) args<rope_abi_args>().text = reinterpret_cast<uint64_t>(array(args<rope_abi_args>().capacity, 1));
    if (fill == &Blocks::fill_frequencies_read) {
      auto& a = args<rope_frequencies_read_args>();
      // A block cut short is read as count 0.
      a.exact = reinterpret_cast<uint64_t>(array(size < sizeof a ? 0 : a.count, sizeof(double)));
      a.inv_freq = reinterpret_cast<uint64_t>(array(size < sizeof a ? 0 : a.count, sizeof(float)));
    }
    if (fill != &Blocks::fill_frequencies_create) return;
    auto& a = args<rope_frequencies_args>();
    if (a.rule == ROPE_RULE_CUSTOM || a.rule == ROPE_RULE_LONGROPE) {
      double* const custom = static_cast<double*>(array(a.custom_count, sizeof(double)));
      for (uint64_t i = 0; custom != nullptr && i < a.custom_count; ++i) {
        custom[i] = random.chance(a.rule == ROPE_RULE_CUSTOM ? 20 : 0) ? 0
                    : mode != Mode::right && random.chance(2)          ? random.edge_double()
                                                                       : 1.0 / static_cast<double>(i + 1);
      }
      a.custom = reinterpret_cast<uint64_t>(custom);
    }
    if (!mapped_axes_) return;
    int32_t* const axis = static_cast<int32_t*>(array(a.axis_of_pair_count, sizeof(int32_t)));
    for (uint64_t i = 0; axis != nullptr && i < a.axis_of_pair_count; ++i) {
      const int64_t wrong = mode != Mode::right && random.chance(1) ? random.edge() : 0;
      axis[i] = static_cast<int32_t>(wrong != 0 || a.axes < 2 ? wrong : random.below(std::min<int64_t>(a.axes, 16)));
    }
    a.axis_of_pair = reinterpret_cast<uint64_t>(axis);
  }

  // Memory of the bytes that the block says, or none.
  void tell_transfer() {
    auto& a = args<rope_transfer_args>();
    a.source = a.target = 0;
    if (a.bytes > 100000) return;
    const std::vector<int64_t> shape{static_cast<int64_t>(a.bytes)};
    const rope_tensor *const source = memory.place(false, ROPE_UINT8, shape, true), *const target =
                                                                                        memory.place(false, ROPE_UINT8, shape, true);
    a.source = random.chance(mode == Mode::right ? 0 : 10) ? 0 : source->data;
    a.target = random.chance(mode == Mode::right ? 0 : 10) ? 0 : target->data;
    outputs.push_back({*target, nullptr, {}});
  }

  const bool alone_;
  Handles& handles_;
  bool mapped_axes_ = false;
  std::vector<void*> arrays_;
};

#endif
