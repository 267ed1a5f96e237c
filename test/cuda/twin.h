// Tensors that exist twice, on the CPU and on cuda:0, with the same bytes: what both devices make of them is compared.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "../c/check.h"

constexpr uint16_t kCuda = ROPE_CUDA << 8;

// ---- random numbers (splitmix64) ------------------------------------------------------------------------------------------------

inline uint64_t random_state = 1;

inline uint64_t random_bits() {
  uint64_t x = random_state += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

inline int64_t pick(int64_t low, int64_t high) { return low + static_cast<int64_t>(random_bits() % static_cast<uint64_t>(high - low + 1)); }
inline bool chance(int one_in) { return pick(1, one_in) == 1; }

template <class Value>
Value one_of(std::initializer_list<Value> list) {
  return *(list.begin() + pick(0, static_cast<int64_t>(list.size()) - 1));
}

// ---- the device's memory ----------------------------------------------------------------------------------------------------------

inline uint64_t allocate(uint64_t bytes, int kind = ROPE_MEMORY_DEVICE, uint64_t stream = 0) {
  rope_memory_args args;
  START(args);
  args.device = kCuda;
  args.kind = static_cast<uint16_t>(kind);
  args.stream = stream;
  args.bytes = bytes;
  CHECK_OK(rope_memory_allocate(&args, record()));
  return args.address;
}

inline void release(uint64_t address, uint64_t stream = 0) {
  rope_memory_args args;
  START(args);
  args.device = kCuda;
  args.stream = stream;
  args.address = address;
  CHECK_OK(rope_memory_release(&args, record()));
}

inline void transfer(uint64_t target, uint64_t source, uint64_t bytes, uint64_t stream = 0) {
  rope_transfer_args args;
  START(args);
  args.device = kCuda;
  args.stream = stream;
  args.source = source;
  args.target = target;
  args.bytes = bytes;
  CHECK_OK(rope_transfer(&args, record()));
}

inline int32_t synchronize(uint64_t stream = 0, uint64_t realm = 0) {
  rope_stream_args args;
  START(args);
  args.device = kCuda;
  args.realm = realm;
  args.stream = stream;
  return rope_stream_synchronize(&args, record());
}

// ---- elements ---------------------------------------------------------------------------------------------------------------------

// Writes a number as one of the rotation's dtypes; bfloat16 and float16 are cut off, which is as good as rounded here.
inline void put(char* to, int dtype, double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  if (dtype == ROPE_FLOAT64) memcpy(to, &value, 8);
  if (dtype == ROPE_FLOAT32) memcpy(to, &narrow, 4);
  if (dtype != ROPE_FLOAT16 && dtype != ROPE_BFLOAT16) return;
  const int exponent = static_cast<int>(bits >> 23 & 255) - 112;
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t half =
      exponent <= 0 ? sign : sign | (exponent >= 31 ? 0x7c00 : static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ff));
  const auto element = static_cast<uint16_t>(dtype == ROPE_BFLOAT16 ? bits >> 16 : std::isnan(narrow) ? 0x7e00 : half);
  memcpy(to, &element, 2);
}

// What may differ between the devices: nothing; the bits of NaNs, which each processor makes in its own way, and the last digits of
// float64, whose sines are the C library's on the CPU; and besides what follows from a sum in another order.
enum class Allowed { nothing, nans, rounding };

inline bool is_nan(uint64_t bits, int dtype) {
  switch (dtype) {
    case ROPE_FLOAT64: return (bits << 1) > UINT64_C(0x7ff0000000000000) << 1;
    case ROPE_FLOAT32: return (bits & 0x7fffffff) > 0x7f800000;
    case ROPE_FLOAT16: return (bits & 0x7fff) > 0x7c00;
    case ROPE_BFLOAT16: return (bits & 0x7fff) > 0x7f80;
    case ROPE_FLOAT8_E4M3FN: return (bits & 0x7f) == 0x7f;
    case ROPE_FLOAT8_E5M2: return (bits & 0x7f) > 0x7c;
    default: return false;
  }
}

inline bool same_element(const char* a, const char* b, int dtype, Allowed allowed = Allowed::nans) {
  const auto size = static_cast<size_t>(size_of_dtype(dtype));
  if (memcmp(a, b, size) == 0) return true;
  if (allowed == Allowed::nothing) return false;
  uint64_t x = 0, y = 0;
  memcpy(&x, a, size), memcpy(&y, b, size);
  if (is_nan(x, dtype) || is_nan(y, dtype)) return is_nan(x, dtype) && is_nan(y, dtype);
  if (dtype == ROPE_FLOAT64) {
    double first, second;
    memcpy(&first, a, size), memcpy(&second, b, size);
    return std::fabs(first - second) <= (allowed == Allowed::rounding ? 1e-12 : 4e-14) * (1 + std::fabs(first));
  }
  // Neighbours; of float32, in which the steps after the sum are taken, a few of them.
  return allowed == Allowed::rounding && dtype <= ROPE_FLOAT8_E5M2 && std::max(x, y) - std::min(x, y) <= (dtype == ROPE_FLOAT32 ? 4u : 1u);
}

// ---- the tensors ------------------------------------------------------------------------------------------------------------------

struct Layout {
  std::vector<int64_t> shape, stride;  // elements
  int64_t shift = 0;                   // elements from an aligned address

  int64_t elements() const {  // from the first to the last
    int64_t last = 0;
    for (size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] == 0) return 0;
      last += (shape[i] - 1) * stride[i];
    }
    return last + 1;
  }
};

inline Layout contiguous(std::initializer_list<int64_t> shape) {
  Layout layout{shape, shape, 0};
  int64_t count = 1;
  for (size_t i = layout.shape.size(); i-- > 0;) layout.stride[i] = count, count *= layout.shape[i];
  return layout;
}

// Full of random bytes until told otherwise. `upload` makes the device's copy the same.
class Twin {
 public:
  Twin(int dtype, const Layout& layout) : dtype_(dtype), size_(size_of_dtype(dtype)) {
    bytes_ = static_cast<size_t>((layout.elements() + layout.shift) * size_);
    words_.resize(bytes_ / 8 + 16);
    for (uint64_t& word : words_) word = random_bits();
    device_ = allocate(words_.size() * 8);
    const uint64_t shift = static_cast<uint64_t>(layout.shift * size_);
    cpu.dtype = static_cast<uint8_t>(dtype);
    cpu.rank = static_cast<uint8_t>(layout.shape.size());
    cpu.generation = 7;
    for (size_t i = 0; i < layout.shape.size(); ++i) cpu.shape[i] = layout.shape[i], cpu.stride[i] = layout.stride[i];
    cpu.data = base() + shift;
    cpu.extent = bytes_ - shift;
    cuda = cpu;
    cuda.device = kCuda;
    cuda.data = device_ + shift;
  }
  ~Twin() { release(device_); }
  Twin(const Twin&) = delete;
  Twin& operator=(const Twin&) = delete;

  rope_tensor cpu{}, cuda{};

  char* at(int64_t element) { return reinterpret_cast<char*>(cpu.data) + element * size_; }
  template <class Value>
  void set(int64_t element, Value value) {
    memcpy(at(element), &value, sizeof value);
  }
  // An integer into a tensor of int32 or int64.
  void set_integer(int64_t element, int64_t value) {
    dtype_ == ROPE_INT64 ? set(element, value) : set(element, static_cast<int32_t>(value));
  }
  // Numbers in (-2, 2), and now and then what is special.
  void set_numbers(bool special = true) {
    for (int64_t i = 0; i * size_ < static_cast<int64_t>(cpu.extent); ++i) {
      double value = static_cast<double>(static_cast<int64_t>(random_bits())) * 0x1p-62;
      if (special && chance(128)) value = one_of<double>({INFINITY, -INFINITY, NAN, -0.0, 0.0, 1e-40, 1e-5});
      put(at(i), dtype_, value);
    }
  }
  void upload() {
    transfer(device_, base(), words_.size() * 8);
    CHECK_OK(synchronize());
  }
  // Whether the device's bytes are the CPU's, those around the tensor too.
  bool same(Allowed allowed = Allowed::nans) {
    std::vector<uint64_t> there(words_.size());
    transfer(reinterpret_cast<uint64_t>(there.data()), device_, there.size() * 8);
    CHECK_OK(synchronize());
    if (memcmp(there.data(), words_.data(), there.size() * 8) == 0) return true;
    const char *a = reinterpret_cast<const char*>(words_.data()), *b = reinterpret_cast<const char*>(there.data());
    for (size_t i = 0; i < there.size() * 8; i += static_cast<size_t>(size_)) {
      if (same_element(a + i, b + i, dtype_, allowed)) continue;
      fprintf(stderr, "  element %lld: CPU", static_cast<long long>(i / static_cast<size_t>(size_)) - (cpu.data - base()) / size_);
      for (int64_t j = size_; j-- > 0;)
        fprintf(stderr, "%s%02x", j == size_ - 1 ? " 0x" : "", static_cast<unsigned char>(a[i + static_cast<size_t>(j)]));
      for (int64_t j = size_; j-- > 0;)
        fprintf(stderr, "%s%02x", j == size_ - 1 ? ", CUDA 0x" : "", static_cast<unsigned char>(b[i + static_cast<size_t>(j)]));
      fprintf(stderr, "\n");
      return false;
    }
    return true;
  }

 private:
  uint64_t base() const { return reinterpret_cast<uint64_t>(words_.data()); }

  int dtype_;
  int64_t size_;
  size_t bytes_;
  std::vector<uint64_t> words_;
  uint64_t device_;
};

// A pair of blocks that differ in their tensors: on_cuda(args, &rope_rotate_args::q, twin) etc.
template <class Args>
struct Blocks {
  Args cpu, cuda;
  Blocks() { START(cpu), START(cuda); }
  void set(rope_tensor_ref Args::*field, const Twin& twin) {
    cpu.*field = ref(&twin.cpu);
    cuda.*field = ref(&twin.cuda);
  }
  template <class Value>
  void set(Value Args::*field, Value value) {
    cpu.*field = cuda.*field = value;
  }
};

inline uint64_t create_frequencies(rope_frequencies_args args) {
  CHECK_OK(rope_frequencies_create(&args, record()));
  return args.frequencies;
}

inline uint64_t create_frequencies(int64_t rotary_dim, double theta = 10000) {
  rope_frequencies_args args;
  START(args);
  args.rotary_dim = rotary_dim;
  args.theta = theta;
  return create_frequencies(args);
}
