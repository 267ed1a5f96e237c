// The calls of pipeline_test.cpp: rope_rotate with everything that it does on the way, drawn at random.
#ifndef ROPE_TEST_PIPELINE_CALLS_H
#define ROPE_TEST_PIPELINE_CALLS_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "check.h"
#include "fuzz_memory.h"

// ---- elements --------------------------------------------------------------------------------------------------------------------------

struct Format {
  int exponent_bits, mantissa_bits;
  double largest;  // finite; 0: of no interest
};
inline const Format formats[] = {{11, 52, 0}, {8, 23, 0}, {5, 10, 0}, {8, 7, 0}, {4, 3, 448}, {5, 2, 57344}};

inline double decode(int dtype, const char* p) {
  if (dtype == ROPE_FLOAT64) return *reinterpret_cast<const double*>(p);
  if (dtype == ROPE_FLOAT32) return static_cast<double>(*reinterpret_cast<const float*>(p));
  const Format f = formats[dtype];
  const int bits = element_size(dtype) == 1 ? static_cast<uint8_t>(*p) : *reinterpret_cast<const uint16_t*>(p);
  const int mantissa = bits & ((1 << f.mantissa_bits) - 1), exponent = bits >> f.mantissa_bits & ((1 << f.exponent_bits) - 1);
  const int bias = (1 << (f.exponent_bits - 1)) - 1;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - f.mantissa_bits)
                                         : std::ldexp(mantissa + (1 << f.mantissa_bits), exponent - bias - f.mantissa_bits);
  return bits >> (f.mantissa_bits + f.exponent_bits) != 0 ? -magnitude : magnitude;
}

// Of a number that the dtype holds.
inline void encode(int dtype, char* p, double value) {
  if (dtype == ROPE_FLOAT64) {
    *reinterpret_cast<double*>(p) = value;
  } else if (dtype == ROPE_FLOAT32) {
    *reinterpret_cast<float*>(p) = static_cast<float>(value);
  } else if (value != 0) {
    const Format f = formats[dtype];
    int exponent;
    const int mantissa = static_cast<int>(std::ldexp(std::frexp(std::fabs(value), &exponent), f.mantissa_bits + 1));
    const int bias = (1 << (f.exponent_bits - 1)) - 1;
    const int sign = value < 0 ? 1 << (f.exponent_bits + f.mantissa_bits) : 0;
    *reinterpret_cast<uint16_t*>(p) =
        static_cast<uint16_t>(sign | (exponent - 1 + bias) << f.mantissa_bits | (mantissa & ((1 << f.mantissa_bits) - 1)));
  } else {
    *reinterpret_cast<uint16_t*>(p) = 0;
  }
}

// ---- tensors ---------------------------------------------------------------------------------------------------------------------------

// In memory of exactly its size, full of poison. `gap` elements lie between the rows of dimension `gap_at`.
class Block {
 public:
  Block() = default;
  Block(int dtype, const std::vector<int64_t>& shape, int gap_at = -1, int64_t gap = 0) {
    t = tensor(nullptr, dtype, 0, 0, 0, 0, 0);
    t.rank = static_cast<uint8_t>(shape.size());
    int64_t stride = 1, last = 0;
    bool empty = false;
    for (int i = t.rank - 1; i >= 0; --i) {
      t.shape[i] = shape[static_cast<size_t>(i)];
      t.stride[i] = stride;
      last += (t.shape[i] - 1) * stride;
      empty |= t.shape[i] == 0;
      stride *= t.shape[i];
      if (i == gap_at + 1) stride += gap;
    }
    bytes = empty ? 0 : static_cast<size_t>((last + 1) * element_size(t.dtype));
    data.reset(new char[bytes]);
    std::memset(data.get(), kPoison, bytes);
    t.data = rope_address(data.get());
    t.extent = bytes;
  }
  rope_tensor_ref reference() const { return data ? ref(&t) : no_tensor(); }
  char* at(int64_t element) const { return data.get() + element * element_size(t.dtype); }
  double value(int64_t element) const { return decode(t.dtype, at(element)); }
  int64_t integer(int64_t i) const {
    return t.dtype == ROPE_INT64 ? reinterpret_cast<int64_t*>(data.get())[i] : reinterpret_cast<int32_t*>(data.get())[i];
  }
  void set_integer(int64_t i, int64_t value) {
    if (t.dtype == ROPE_INT64) {
      reinterpret_cast<int64_t*>(data.get())[i] = value;
    } else {
      reinterpret_cast<int32_t*>(data.get())[i] = static_cast<int32_t>(value);
    }
  }
  // Small multiples of 1/64: every dtype holds them.
  void draw(Random& random) {
    for (size_t i = 0; i < bytes / static_cast<size_t>(element_size(t.dtype)); ++i) {
      encode(t.dtype, at(static_cast<int64_t>(i)), static_cast<double>(random.between(-127, 127)) / 64);
    }
  }

  rope_tensor t{};
  std::unique_ptr<char[]> data;
  size_t bytes = 0;
};

// ---- a call ----------------------------------------------------------------------------------------------------------------------------

enum { kQ, kK, kV, kQRest, kKRest, kCount };

struct Part {
  Block in, out, weight;
  int64_t heads = 0, width = 0;
  bool paged = false, turns = false;
  double factor = 0, eps = 0;
  int norm = 0;
};

struct Call {
  explicit Call(Random& source) : random(source) {
    dtype = random.one_of({ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32, ROPE_FLOAT64});
    ragged = random.chance(60);
    batch = ragged ? 1 : random.between(1, 3);
    tokens = random.chance(5) ? random.between(100, 400) : random.between(0, 9);
    draw_turning();
    draw_parts();
    draw_positions();
    if (paged) draw_pages();
    if (random.chance(30) && parts[kQ].heads > 0) {
      scale = ragged || random.chance(50) ? Block(ROPE_FLOAT32, {tokens}) : Block(ROPE_FLOAT32, {batch, tokens});
      scale.draw(random);
    }
    prefix = turns && random.chance(30) ? random.between(1, 5) : 0;
  }
  ~Call() {
    if (frequencies != 0) release_frequencies(frequencies);
  }
  Call(const Call&) = delete;

  std::vector<int64_t> shape(int64_t heads, int64_t width) const {
    return ragged ? std::vector<int64_t>{tokens, heads, width} : std::vector<int64_t>{batch, tokens, heads, width};
  }

  rope_rotate_args block() const {
    rope_rotate_args a;
    START(a);
    a.flags = turns ? flags : static_cast<uint32_t>(ROPE_STILL);
    a.pairing = static_cast<uint8_t>(pairing);
    a.angles = hf ? ROPE_HF : ROPE_EXACT;
    a.frequencies = frequencies;
    a.q = parts[kQ].in.reference(), a.q_out = parts[kQ].out.reference();
    a.k = parts[kK].in.reference(), a.k_out = parts[kK].out.reference();
    a.v = parts[kV].in.reference(), a.v_out = parts[kV].out.reference();
    a.q_rest = parts[kQRest].in.reference(), a.q_rest_out = parts[kQRest].out.reference();
    a.k_rest = parts[kKRest].in.reference(), a.k_rest_out = parts[kKRest].out.reference();
    a.positions = ids.reference(), a.indptr = indptr.reference(), a.offsets = offsets.reference();
    a.offset = start;
    a.rotary_offset = offset;
    a.cos = cos.reference(), a.sin = sin.reference();
    a.rotary_dim = full ? 2 * pairs : 0;
    a.prefix = prefix;
    a.q_norm = static_cast<uint8_t>(parts[kQ].norm), a.k_norm = static_cast<uint8_t>(parts[kK].norm);
    a.q_weight = parts[kQ].weight.reference(), a.k_weight = parts[kK].weight.reference();
    a.q_eps = parts[kQ].eps, a.k_eps = parts[kK].eps;
    a.q_scale = scale.reference();
    a.q_factor = parts[kQ].factor, a.k_factor = parts[kK].factor, a.v_factor = parts[kV].factor;
    a.slots = slots.reference();
    return a;
  }

  Random& random;
  int dtype, pairing = 0;
  bool ragged, turns = false, paged = false, full = false, joined = false, hf = false;
  int64_t batch, tokens;
  int64_t head_dim = 0, offset = 0, pairs = 0, axes = 1, angle_heads = 0, start = 0, prefix = 0, pages = 0, page_size = 0;
  uint32_t flags = 0;
  uint64_t frequencies = 0;
  double attention_factor = 1;
  std::vector<double> custom;
  Block cos, sin, ids, indptr, offsets, slots, scale;
  Part parts[kCount];

 private:
  void draw_turning() {
    const int kind = random.one_of({0, 0, 1, 2, 3, 4, 5});  // still, rule or frequencies of the caller, tables of three kinds
    head_dim = random.one_of({8, 20, 64, 66, 130, 520});    // of the widest a row of heads takes several blocks
    turns = kind > 0;
    pairing = static_cast<int>(random.below(3));
    if (!turns) return;
    offset = random.chance(50) ? 0 : random.below(head_dim - 1);
    pairs = random.chance(40) ? (head_dim - offset) / 2 : random.between(1, (head_dim - offset) / 2);
    flags = static_cast<uint32_t>(random.below(4));
    if (kind <= 2) {
      axes = kind == 1 && random.chance(40) ? 2 : 1;
      angle_heads = kind == 2 ? random.between(1, 3) : 0;
      for (int64_t i = 0; i < axes * std::max<int64_t>(1, angle_heads) * pairs; ++i) {
        custom.push_back(random.chance(20) ? 0 : static_cast<double>(random.below(1000)) / 997);
      }
      rope_frequencies_args args;
      START(args);
      args.rule = ROPE_RULE_CUSTOM;
      args.rotary_dim = 2 * pairs;
      args.axes = axes;
      args.heads = angle_heads;
      args.custom = rope_address(custom.data());
      args.custom_count = custom.size();
      args.attention_factor = attention_factor = random.chance(30) ? 1.25 : 1;
      CHECK_OK(rope_frequencies_create(&args, record()));
      frequencies = args.frequencies;
      hf = random.chance(30);
      return;
    }
    const int table_dtype = random.one_of({ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16});
    const int64_t rows = random.between(1, 30), gap = random.below(3), width = kind == 3 ? pairs : 2 * pairs;
    full = kind == 5;
    joined = kind == 4;
    cos = Block(table_dtype, {rows, width}, 0, gap);
    cos.draw(random);
    if (!joined) {
      sin = Block(table_dtype, {rows, width}, 0, random.below(3));
      sin.draw(random);
    }
  }

  void draw_parts() {
    paged = dtype != ROPE_FLOAT64 && random.chance(40);
    pages = random.between(1, 4);
    page_size = random.between(1, 4);
    const int present = random.one_of({1, 2, 3, 3, 3});  // q, k, both
    const int cache_dtype =
        random.chance(40) ? dtype : random.one_of({ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32, ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2});
    const double q_factor = random.chance(25) ? random.one_of({1.0, 0.5, 30.0, 1000.0}) : 0;
    const double k_factor = (paged ? cache_dtype : ROPE_FLOAT8_E5M2) > ROPE_BFLOAT16 && random.chance(25) ? random.one_of({1.0, 3.5}) : 0;
    if (present != 2) draw_part(kQ, angle_heads > 0 ? angle_heads : random.between(1, 5), head_dim, false, cache_dtype, q_factor);
    if (present != 1) draw_part(kK, angle_heads > 0 ? angle_heads : random.between(1, 3), head_dim, true, cache_dtype, k_factor);
    paged = paged && present != 1;
    if (present != 1 && random.chance(40)) draw_part(kV, parts[kK].heads, random.between(1, 40), true, cache_dtype, k_factor);
    if (present != 2 && random.chance(20)) draw_part(kQRest, parts[kQ].heads, random.between(1, 40), false, cache_dtype, q_factor);
    if (present != 1 && random.chance(20)) draw_part(kKRest, parts[kK].heads, random.between(1, 40), true, cache_dtype, k_factor);
    for (const int i : {kQ, kK}) {
      if (parts[i].heads > 0) draw_norm(parts[i]);
    }
  }

  void draw_part(int index, int64_t heads, int64_t width, bool to_pages, int cache_dtype, double factor) {
    Part& part = parts[index];
    part.heads = heads;
    part.width = width;
    part.turns = index <= kK;
    part.paged = to_pages && paged;
    part.factor = factor;
    const int token_at = ragged ? 0 : 1;
    part.in = Block(dtype, shape(heads, width), token_at, random.below(4));
    part.in.draw(random);
    if (!part.paged) {
      part.out = Block(factor == 0 ? dtype : random.one_of({ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2}), shape(heads, width), token_at,
                       random.below(4));
      return;
    }
    part.out = Block(cache_dtype, {pages, page_size, heads, width}, 0, random.below(3));
    if (random.chance(50)) {  // heads before places
      part.out.t.stride[1] = width;
      part.out.t.stride[2] = page_size * width;
    }
  }

  void draw_norm(Part& part) {
    if (random.chance(50)) return;
    part.norm = ROPE_NORM | static_cast<int>(random.below(4)) << 1;
    part.eps = random.one_of({1e-6, 0.25});
    if (random.chance(30)) return;
    part.norm |= random.chance(50) ? ROPE_NORM_UNIT_OFFSET : 0;
    part.weight =
        Block(random.chance(50) ? dtype : ROPE_FLOAT32, {(part.norm & ROPE_NORM_WIDTH) != 0 ? part.heads * part.width : part.width});
    part.weight.draw(random);
  }

  void draw_positions() {
    if (!turns) return;
    const int form = axes > 1 ? 0 : static_cast<int>(random.below(4));
    const int index_dtype = random.one_of({ROPE_INT32, ROPE_INT64});
    const int64_t limit = cos.data ? cos.t.shape[0] : 900, low = cos.data ? 0 : -900;
    const auto far = [&] { return random.one_of({limit, limit + 1, int64_t{-2}, int64_t{1} << 20}); };
    if (form == 0) {
      std::vector<int64_t> lengths = ragged ? std::vector<int64_t>{tokens} : std::vector<int64_t>{batch, tokens};
      if (axes > 1) lengths.insert(lengths.begin(), axes);
      ids = Block(index_dtype, lengths);
      for (int64_t i = 0; i < axes * batch * tokens; ++i) {
        ids.set_integer(i, random.chance(15) ? -1 : random.chance(3) ? far() : random.between(low, limit - 1));
        if (!cos.data && index_dtype == ROPE_INT64 && random.chance(2)) ids.set_integer(i, ROPE_MAX_POSITION + 1);
      }
    } else if (form == 1 && ragged) {
      const int64_t requests = random.between(0, 4);
      indptr = Block(index_dtype, {requests + 1});
      for (int64_t i = 0, at = 0; i <= requests; ++i) {
        at = std::min(tokens, at + random.below(tokens + 1) / 2);
        indptr.set_integer(i, random.chance(4) ? random.between(-1, tokens + 1) : at);
      }
      if (random.chance(50)) offsets = Block(index_dtype, {requests});
    } else if (form == 2) {
      offsets = Block(index_dtype, {batch});
    } else {
      start = random.chance(5) ? far() : random.below(cos.data ? std::max<int64_t>(1, limit - tokens) : limit);
    }
    for (int64_t i = 0; offsets.data && i < offsets.t.shape[0]; ++i) offsets.set_integer(i, random.chance(5) ? far() : random.below(limit));
  }

  // Every token a place of its own, none, or a bad one.
  void draw_pages() {
    slots = Block(random.one_of({ROPE_INT32, ROPE_INT64}), {batch * tokens});
    std::vector<int64_t> places;
    for (int64_t i = 0; i < pages * page_size; ++i) places.push_back(i);
    for (int64_t i = 0; i < batch * tokens; ++i) {
      int64_t slot = random.chance(4) ? pages * page_size + random.below(2) : random.chance(2) ? -2 : -1;
      if (slot == -1 && !places.empty() && random.chance(85)) {
        const size_t at = static_cast<size_t>(random.below(static_cast<int64_t>(places.size())));
        slot = places[at];
        places.erase(places.begin() + static_cast<std::ptrdiff_t>(at));
      }
      slots.set_integer(i, slot);
    }
  }
};

#endif
