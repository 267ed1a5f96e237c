// What fuzz.cpp draws from: numbers with a liking for edges, tensors over heap blocks of exactly their size, and handles of every kind.
#ifndef ROPE_TEST_FUZZ_MEMORY_H
#define ROPE_TEST_FUZZ_MEMORY_H

#include <rope.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

// ---- numbers ------------------------------------------------------------------------------------------------------------

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  bool chance(int percent) { return below(100) < percent; }
  template <class T, size_t N>
  T one_of(const T (&values)[N]) {
    return values[below(N)];
  }

  int64_t edge() {
    constexpr int64_t k1 = 1;
    const int64_t edges[] = {0,        1,         2,         3,         7,         8,         64,           65535,
                             -1,       -2,        k1 << 31,  k1 << 32,  k1 << 38,  k1 << 40,  k1 << 53,     k1 << 61,
                             k1 << 62, INT32_MAX, INT64_MAX, INT64_MIN, -k1 << 31, -k1 << 38, INT64_MAX / 8};
    if (chance(20)) return static_cast<int64_t>(bits());
    return static_cast<int64_t>(static_cast<uint64_t>(one_of(edges)) + (chance(10) ? bits() % 3 - 1 : 0));
  }
  double edge_double() {
    const double edges[] = {0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 5e-324, 1e300, 1.7e308, 4294967296.0, 9.3e18, NAN, INFINITY, -INFINITY};
    if (chance(80)) return one_of(edges);
    const uint64_t raw = bits();
    double value;
    std::memcpy(&value, &raw, sizeof value);
    return value;
  }

 private:
  uint64_t state_;
};

// ---- tensors ------------------------------------------------------------------------------------------------------------

inline int64_t element_size(int dtype) {
  const int sizes[] = {8, 4, 2, 2, 1, 1, 8, 4, 1};
  return dtype < 9 ? sizes[dtype] : 1;
}

// Calls visit(offset in elements) for every element; nothing for shapes that no memory holds.
template <class Visit>
void each_element(const rope_tensor& t, Visit visit) {
  int64_t index[ROPE_MAX_RANK] = {}, count = 1;
  for (int i = 0; i < t.rank; ++i) {
    if (t.shape[i] <= 0 || t.shape[i] > 1 << 22) return;
    count *= t.shape[i];
    if (count > 1 << 22) return;
  }
  for (int64_t n = 0; n < count; ++n) {
    int64_t offset = 0;
    for (int i = 0; i < t.rank; ++i) offset += index[i] * t.stride[i];
    visit(offset);
    for (int i = t.rank - 1; i >= 0 && ++index[i] == t.shape[i]; --i) index[i] = 0;
  }
}

struct Buffer {
  char* data;
  size_t bytes;
};

// Blocks of exactly their size, so that AddressSanitizer sees the first byte too many. Descriptors tell the truth about them in data and
// extent; the rest may be anything. Index tensors have blocks of their own that no output lies in: threads may then share graphs.
class Memory {
 public:
  explicit Memory(Random& random) : random_(random) {
    for (const size_t bytes :
         {8, 40, 64, 500, 512, 2048, 4096, 4096, 16384, 16384, 49152, 49152, 49152, 49152, 1200000, 1200000, 1200000}) {
      data_.push_back(make(bytes));
    }
    for (const size_t bytes : {8, 36, 64, 200, 512, 40000, 40000}) index_.push_back(make(bytes));
    for (size_t i = 0; i < 16; ++i) descriptors_.push_back(static_cast<rope_tensor*>(std::malloc(sizeof(rope_tensor))));
    int64_t* const ramp = reinterpret_cast<int64_t*>(index_[4].data);
    for (int64_t i = 0; i < 64; ++i) ramp[i] = i / 16;
  }
  ~Memory() {
    for (const Buffer& b : data_) std::free(b.data);
    for (const Buffer& b : index_) std::free(b.data);
    for (rope_tensor* d : descriptors_) std::free(d);
  }
  Memory(const Memory&) = delete;

  void start_call() { used_ = 0; }

  rope_tensor* descriptor() {
    rope_tensor* const t = descriptors_[used_++ % descriptors_.size()];
    std::memset(t, 0xa5, sizeof *t);
    t->generation = static_cast<uint32_t>(random_.bits());
    t->device = 0;
    return t;
  }

  // A tensor as it should be, in a block it fits in (or, if there is none, with an extent that says so).
  rope_tensor* place(bool index, int dtype, const std::vector<int64_t>& shape, bool packed_last) {
    rope_tensor* const t = descriptor();
    t->dtype = static_cast<uint8_t>(dtype);
    t->rank = static_cast<uint8_t>(shape.size());
    int64_t next = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      const bool last = i + 1 == shape.size();
      if (random_.chance(last && packed_last ? 0 : 10)) next = next * random_.between(1, 3) + random_.below(3);
      t->shape[i] = shape[i];
      t->stride[i] = next;
      next *= shape[i] > 0 ? shape[i] : 1;
    }
    int64_t last = 0;
    for (size_t i = 0; i < shape.size(); ++i) last += shape[i] > 0 ? (shape[i] - 1) * t->stride[i] : 0;
    const size_t size = static_cast<size_t>(element_size(dtype)), bytes = static_cast<size_t>(last + 1) * size;
    std::vector<Buffer>& buffers = index ? index_ : data_;
    size_t first = 0;
    while (first + 1 < buffers.size() && buffers[first].bytes < bytes) ++first;
    const Buffer& b =
        buffers[first + static_cast<size_t>(random_.below(static_cast<int64_t>(std::min<size_t>(4, buffers.size() - first))))];
    const size_t spare = b.bytes > bytes ? (b.bytes - bytes) / size : 0;
    const size_t offset = size * (random_.chance(40)   ? spare
                                  : random_.chance(50) ? 0
                                                       : static_cast<size_t>(random_.below(static_cast<int64_t>(spare) + 1)));
    t->data = reinterpret_cast<uint64_t>(b.data) + offset;
    t->extent = b.bytes - offset;
    return t;
  }

  // Anything, over real memory.
  rope_tensor* wild(bool index) {
    rope_tensor* const t = descriptor();
    const std::vector<Buffer>& buffers = index ? index_ : data_;
    const Buffer& b = buffers[static_cast<size_t>(random_.below(static_cast<int64_t>(buffers.size())))];
    const size_t offset =
        static_cast<size_t>(random_.below(static_cast<int64_t>(b.bytes) + 1)) & (random_.chance(80) ? ~size_t{7} : ~size_t{0});
    t->data = reinterpret_cast<uint64_t>(b.data) + offset;
    t->extent = b.bytes - offset;
    t->dtype = static_cast<uint8_t>(random_.chance(90) ? random_.below(9) : random_.edge());
    t->rank = static_cast<uint8_t>(random_.chance(90) ? random_.below(7) : random_.edge());
    for (int i = 0; i < ROPE_MAX_RANK; ++i) {
      t->shape[i] = random_.chance(80) ? random_.below(5) : random_.edge();
      t->stride[i] = random_.chance(70) ? random_.below(20) : random_.edge();
    }
    return t;
  }

  // One thing wrong with it, perhaps.
  void spoil(rope_tensor* t) {
    const uint16_t devices[] = {0, 1, 255, ROPE_CUDA << 8, 257, 512, 65535};
    switch (random_.below(8)) {
      case 0: t->shape[random_.below(4)] = random_.edge(); break;
      case 1: t->stride[random_.below(4)] = random_.edge(); break;
      case 2: t->dtype = static_cast<uint8_t>(random_.chance(80) ? random_.below(9) : random_.edge()); break;
      case 3: t->rank = static_cast<uint8_t>(random_.chance(80) ? random_.below(7) : random_.edge()); break;
      case 4: t->device = random_.one_of(devices); break;
      case 5: t->extent = static_cast<uint64_t>(random_.below(static_cast<int64_t>(t->extent) + 1)); break;
      case 6:
        if (t->extent > 0) ++t->data, --t->extent;
        break;
      default: t->data = 0; break;
    }
  }

  // The block a tensor lies in, or nullptr.
  const Buffer* buffer_of(const rope_tensor& t) const {
    for (const std::vector<Buffer>* buffers : {&data_, &index_}) {
      for (const Buffer& b : *buffers) {
        const uint64_t start = reinterpret_cast<uint64_t>(b.data);
        if (t.data >= start && t.data < start + b.bytes) return &b;
      }
    }
    return nullptr;
  }

 private:
  Buffer make(size_t bytes) {
    const Buffer b{static_cast<char*>(std::malloc(bytes)), bytes};
    for (size_t i = 0; i < bytes; ++i) b.data[i] = static_cast<char>(random_.bits());
    return b;
  }

  Random& random_;
  std::vector<Buffer> data_, index_;
  std::vector<rope_tensor*> descriptors_;
  size_t used_ = 0;
};

// ---- handles ------------------------------------------------------------------------------------------------------------

enum Kind { kNone, kRealm, kStream, kRecording, kEvent, kGraph, kFrequencies, kQueue, kMemory, kKinds };

struct FrequencyShape {
  int64_t rotary_dim, axes, heads;
};

// Live and dead handles of every kind, shared by all threads. At most kMost of a kind live; the oldest is released for a new one.
class Handles {
 public:
  void add(Kind kind, uint64_t handle) {
    uint64_t oldest = 0;
    {
      const std::lock_guard lock(mutex_);
      live_[kind].push_back(handle);
      if (live_[kind].size() > kMost) oldest = take(kind, 0);
    }
    if (kind == kRealm && oldest != 0) empty_queues();
    if (oldest != 0) release(kind, oldest);
  }
  void add_frequencies(uint64_t handle, const FrequencyShape& shape) {
    {
      const std::lock_guard lock(mutex_);
      shapes_[handle] = shape;
    }
    add(kFrequencies, handle);
  }
  void remove(Kind kind, uint64_t handle) {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < live_[kind].size(); ++i) {
      if (live_[kind][i] == handle) {
        take(kind, i);
        return;
      }
    }
  }
  // 0 if there is none.
  uint64_t pick(Random& random, Kind kind) {
    const std::lock_guard lock(mutex_);
    const std::vector<uint64_t>& all = live_[kind];
    return all.empty() ? 0 : all[static_cast<size_t>(random.below(static_cast<int64_t>(all.size())))];
  }
  // Released, of another kind, or never any.
  uint64_t pick_bad(Random& random, Kind kind) {
    if (random.chance(30)) return random.bits();
    if (random.chance(20)) return 0;
    if (random.chance(30)) return pick(random, kind) ^ uint64_t { 1 } << random.below(53);
    if (random.chance(40)) return pick(random, static_cast<Kind>(random.between(kRealm, kKinds - 1)));
    const std::lock_guard lock(mutex_);
    return dead_[kind].empty() ? 1 : dead_[kind][static_cast<size_t>(random.below(static_cast<int64_t>(dead_[kind].size())))];
  }
  FrequencyShape shape_of(uint64_t handle) {
    const std::lock_guard lock(mutex_);
    const auto found = shapes_.find(handle);
    return found == shapes_.end() ? FrequencyShape{8, 1, 0} : found->second;
  }

  // A queue that closes before everything was taken from it leaves its descriptor open: too many of those, and there are none left.
  void empty_queues() {
    const std::lock_guard lock(mutex_);
    for (const uint64_t queue : live_[kQueue]) empty_queue(queue);
  }

  void release_all() {
    for (const Kind kind : {kQueue, kGraph, kRecording, kEvent, kStream, kFrequencies, kMemory, kRealm}) {
      while (!live_[kind].empty()) release(kind, take(kind, 0));
      dead_[kind].clear();
    }
    shapes_.clear();
  }

 private:
  static constexpr size_t kMost = 20;

  uint64_t take(Kind kind, size_t i) {
    const uint64_t handle = live_[kind][i];
    live_[kind].erase(live_[kind].begin() + static_cast<std::ptrdiff_t>(i));
    dead_[kind].push_back(handle);
    if (dead_[kind].size() > 64) dead_[kind].erase(dead_[kind].begin(), dead_[kind].begin() + 32);
    return handle;
  }

  static void empty_queue(uint64_t queue) {
    rope_queue_args args{sizeof args, 0, 0, queue, 1, 0, 0};
    while (rope_queue_take(&args, nullptr) == ROPE_OK && args.ticket != 0) {
    }
  }

  // It may have gone with its realm. A queue goes in no other way.
  static void release(Kind kind, uint64_t handle) {
    rope_realm_args realm{sizeof realm, 0, handle};
    rope_stream_args stream{sizeof stream, 0, 0, 0, handle};
    rope_event_args event{sizeof event, 0, 0, 0, 0, handle, 0, 0};
    rope_graph_args recording{sizeof recording, 0, 0, 0, handle, 0, 0}, graph{sizeof graph, 0, 0, 0, 0, handle, 0};
    rope_memory_args memory{sizeof memory, 0, 0, 0, 0, 0, handle};
    rope_frequencies_args frequencies{};
    frequencies.size = sizeof frequencies;
    frequencies.frequencies = handle;
    switch (kind) {
      case kRealm: rope_realm_close(&realm, nullptr); break;
      case kStream: rope_stream_destroy(&stream, nullptr); break;
      case kRecording: rope_graph_cancel(&recording, nullptr); break;
      case kEvent: rope_event_destroy(&event, nullptr); break;
      case kGraph: rope_graph_destroy(&graph, nullptr); break;
      case kFrequencies: rope_frequencies_release(&frequencies, nullptr); break;
      case kQueue: empty_queue(handle); break;
      default: rope_memory_release(&memory, nullptr); break;
    }
  }

  std::mutex mutex_;
  std::vector<uint64_t> live_[kKinds], dead_[kKinds];
  std::map<uint64_t, FrequencyShape> shapes_;
};

#endif
