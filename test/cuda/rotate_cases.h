// Random rotations and cosines on both devices: every dtype, pairing, kind of angle, source of positions and stride, with faults now and then.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>

#include "twin.h"

struct Faults {
  bool wanted = false;
  bool exact = false;  // at most one token or entry can be at fault, so both devices meet the same one
};

inline int64_t random_position() {
  switch (pick(0, 5)) {
    case 0: return -1;
    case 1: return pick(-50, 50);
    case 2: return pick(INT32_MIN, INT32_MAX);
    default: return pick(0, 200000);
  }
}

inline float random_float_position() {
  if (chance(10)) return NAN;
  return static_cast<float>(random_position()) + (chance(2) ? 0.37f : 0.0f);
}

inline void fill_positions(Twin* ids, int dtype, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == ROPE_FLOAT32) {
      ids->set(i, random_float_position());
    } else {
      ids->set_integer(i, random_position() * (dtype == ROPE_INT64 && chance(3) ? 100 : 1));
    }
  }
}

inline void put_fault(Twin* ids, int dtype, int64_t index) {
  if (dtype == ROPE_FLOAT32) ids->set(index, one_of({INFINITY, -INFINITY, 1e30f}));
  if (dtype == ROPE_INT64) ids->set(index, one_of({INT64_MAX, INT64_MIN, ROPE_MAX_POSITION + 1}));
}

inline uint64_t random_frequencies(int64_t rotary_dim, int64_t axes, int64_t heads) {
  rope_frequencies_args args;
  START(args);
  args.rotary_dim = rotary_dim;
  args.axes = axes;
  args.heads = heads;
  args.attention_factor = chance(4) ? 1.25 : 1;
  std::vector<double> custom;
  if (heads > 0 || axes > 1 || chance(4)) {
    custom.resize(static_cast<size_t>(axes * std::max<int64_t>(heads, 1) * rotary_dim / 2));
    for (double& frequency : custom) frequency = chance(4) ? 0 : std::exp(static_cast<double>(pick(-1000, 0)) / 100);
    args.rule = ROPE_RULE_CUSTOM;
    args.custom = reinterpret_cast<uint64_t>(custom.data());
    args.custom_count = custom.size();
  } else {
    args.rule = one_of({ROPE_RULE_DEFAULT, ROPE_RULE_LINEAR, ROPE_RULE_LLAMA3, ROPE_RULE_YARN, ROPE_RULE_PROPORTIONAL});
    args.theta = one_of({1e4, 5e5});
    args.factor = 8;
    args.low_freq_factor = 1;
    args.high_freq_factor = 4;
    args.original_max_position = 8192;
    args.partial = 0.25;
    if (chance(2)) args.attention_factor = 0;  // the rule's own
  }
  return create_frequencies(args);
}

// The call has been made on both devices: the same outcome, and the same fault.
inline void check_outcome(int32_t cpu, const rope_error& cpu_error, int32_t cuda, const Faults& faults) {
  CHECK(cuda == ROPE_OK);
  if (cuda != ROPE_OK) fprintf(stderr, "  %s must be %s, got %s\n", last_error.argument, last_error.expected, last_error.actual);
  const int32_t met = synchronize();
  CHECK(met == cpu);
  if (met != cpu) fprintf(stderr, "  CPU %d, CUDA %d: %s\n", cpu, met, last_error.actual);
  if (cpu != ROPE_FAULT || met != ROPE_FAULT) return;
  CHECK(strcmp(last_error.operation, cpu_error.operation) == 0);
  const rope_fault &a = cpu_error.fault, &b = last_error.fault;
  CHECK(a.code == b.code && a.limit == b.limit);
  if (!faults.exact && a.code != ROPE_FAULT_INDPTR) return;
  const bool equal = a.request == b.request && a.index == b.index && a.value == b.value;
  CHECK(equal);
  if (equal) return;
  for (const rope_fault& f : {a, b}) {
    fprintf(stderr, "  request %lld, index %lld, value %lld\n", static_cast<long long>(f.request), static_cast<long long>(f.index),
            static_cast<long long>(f.value));
  }
}

struct RotateCase {
  int dtype;
  bool odd;  // rows that do not lie on 16 bytes
  int64_t head_dim, batch, tokens;
  int rank;
  std::optional<Twin> in[2], out[2], ids, indptr, offsets;
  Blocks<rope_rotate_args> blocks;
  Faults faults;

  Layout layout(int64_t heads) const {
    const int64_t pad = odd ? pick(0, 9) : 8 * pick(0, 2);
    int64_t token = heads * head_dim, head = head_dim;
    if (chance(3))
      token += 3 * head_dim + pad;  // a slice of a packed tensor
    else if (rank > 2 && chance(3))
      token = head_dim + pad, head = tokens * token;  // heads first
    Layout all{{batch, tokens, heads, head_dim}, {std::max(token * tokens, head * heads) + pad, token, head, 1}, odd ? pick(0, 7) : 0};
    if (rank == 4) return all;
    if (rank == 3) return {{tokens, heads, head_dim}, {token, head, 1}, all.shift};
    return {{tokens, heads * head_dim}, {token, 1}, all.shift};
  }

  void make_side(int side, int64_t heads, rope_tensor_ref rope_rotate_args::*from, rope_tensor_ref rope_rotate_args::*to) {
    if (heads == 0) return;
    in[side].emplace(dtype, layout(heads));
    in[side]->set_numbers();
    in[side]->upload();
    blocks.set(from, *in[side]);
    if (chance(2)) return blocks.set(to, *in[side]);
    out[side].emplace(dtype, layout(heads));
    out[side]->upload();
    blocks.set(to, *out[side]);
  }

  void make_ids(int64_t axes) {
    const int type = one_of({ROPE_INT32, ROPE_INT64, ROPE_FLOAT32});
    const int64_t stride = pick(1, 2), row = tokens * stride, axis = batch * row + 1;
    const bool shared = batch > 1 && chance(3);
    Layout layout{{}, {}, 0};
    if (axes > 1) layout.shape.push_back(axes), layout.stride.push_back(axis);
    if (rank == 4 && !shared) layout.shape.push_back(batch), layout.stride.push_back(row);
    layout.shape.push_back(tokens), layout.stride.push_back(stride);
    ids.emplace(type, layout);
    fill_positions(&*ids, type, layout.elements());
    faults.exact = !shared;
    if (faults.wanted)
      put_fault(&*ids, type,
                pick(0, axes - 1) * (axes > 1 ? axis : 0) + (shared ? 0 : pick(0, batch - 1) * row) + pick(0, tokens - 1) * stride);
    ids->upload();
    blocks.set(&rope_rotate_args::positions, *ids);
  }

  void make_offsets(int64_t count) {
    const int type = one_of({ROPE_INT32, ROPE_INT64});
    const int64_t stride = pick(1, 2);
    offsets.emplace(type, Layout{{count}, {stride}, 0});
    for (int64_t i = 0; i < count; ++i) offsets->set_integer(i * stride, pick(-100, 100000));
    if (faults.wanted && type == ROPE_INT64) {
      offsets->set_integer(pick(0, count - 1) * stride, one_of({ROPE_MAX_POSITION - 2, INT64_MAX - 1, INT64_MIN}));
    }
    offsets->upload();
    blocks.set(&rope_rotate_args::offsets, *offsets);
  }

  void make_requests() {
    const int64_t requests = chance(4) ? pick(100, 700) : pick(1, 6);
    std::vector<int64_t> entries(static_cast<size_t>(requests + 1));
    for (int64_t& entry : entries) entry = pick(0, tokens);
    std::sort(entries.begin(), entries.end());
    if (chance(2)) entries.front() = 0, entries.back() = tokens;
    if (faults.wanted) entries[static_cast<size_t>(pick(0, requests))] = one_of<int64_t>({-3, tokens + 5, 0});
    const int type = one_of({ROPE_INT32, ROPE_INT64});
    indptr.emplace(type, Layout{{requests + 1}, {1}, 0});
    for (int64_t i = 0; i <= requests; ++i) indptr->set_integer(i, entries[static_cast<size_t>(i)]);
    indptr->upload();
    blocks.set(&rope_rotate_args::indptr, *indptr);
    if (!chance(4)) make_offsets(requests);
  }

  void make_positions(int64_t axes) {
    faults.wanted = chance(5);
    const int64_t kind = axes > 1 ? 0 : pick(0, 3);
    if (kind <= 1) return make_ids(axes);
    if (kind == 2) return blocks.set(&rope_rotate_args::offset, pick(-100, 1000000));
    rank == 4 ? make_offsets(batch) : make_requests();
  }
};

inline void test_rotation(uint64_t seed) {
  random_state = seed;
  RotateCase c;
  c.dtype = one_of({ROPE_BFLOAT16, ROPE_BFLOAT16, ROPE_FLOAT16, ROPE_FLOAT32, ROPE_FLOAT64});
  c.odd = chance(3);
  int64_t rotary_dim;
  if (c.odd) {
    c.head_dim = pick(2, 200);
    rotary_dim = 2 * pick(1, c.head_dim / 2);
    c.blocks.set(&rope_rotate_args::rotary_offset, pick(0, c.head_dim - rotary_dim));
  } else {
    c.head_dim = one_of<int64_t>({64, 80, 96, 128, 128, 192, 256, 576, 1024});
    rotary_dim = chance(2) ? c.head_dim : 16 * pick(1, c.head_dim / 16);
    c.blocks.set(&rope_rotate_args::rotary_offset, 8 * pick(0, (c.head_dim - rotary_dim) / 8));
  }
  c.rank = static_cast<int>(pick(2, 4));
  c.batch = c.rank == 4 ? pick(1, 5) : 1;
  c.tokens = chance(2) ? pick(1, 5) : pick(1, 70);
  const bool per_head = chance(10);
  const int64_t axes = chance(5) ? pick(2, 4) : 1;
  const int64_t q_heads = pick(1, 40), k_heads = per_head ? one_of<int64_t>({0, q_heads}) : pick(0, 9);
  const uint64_t frequencies = random_frequencies(rotary_dim, axes, per_head ? q_heads : 0);
  c.blocks.set(&rope_rotate_args::frequencies, frequencies);
  c.blocks.set(&rope_rotate_args::pairing, static_cast<uint8_t>(pick(ROPE_HALF, ROPE_INTERLEAVED_TO_HALF)));
  c.blocks.set(&rope_rotate_args::angles, static_cast<uint8_t>(chance(3) ? ROPE_HF : ROPE_EXACT));
  c.blocks.set(&rope_rotate_args::flags, static_cast<uint32_t>(chance(2) ? 0 : pick(0, 3)));
  if (c.rank == 2) c.blocks.set(&rope_rotate_args::head_dim, c.head_dim);
  c.make_side(0, q_heads, &rope_rotate_args::q, &rope_rotate_args::q_out);
  c.make_side(1, k_heads, &rope_rotate_args::k, &rope_rotate_args::k_out);
  c.make_positions(axes);

  const int32_t on_cpu = rope_rotate(&c.blocks.cpu, record());
  const rope_error cpu_error = last_error;
  CHECK(on_cpu == ROPE_OK || on_cpu == ROPE_FAULT);
  if (on_cpu != ROPE_OK && on_cpu != ROPE_FAULT)
    fprintf(stderr, "  %s must be %s, got %s\n", last_error.argument, last_error.expected, last_error.actual);
  const int failed = checks_failed;
  check_outcome(on_cpu, cpu_error, rope_rotate(&c.blocks.cuda, record()), c.faults);
  for (const auto* twins : {&c.in, &c.out}) {
    for (const std::optional<Twin>& twin : *twins) {
      if (twin) CHECK(const_cast<Twin&>(*twin).same());
    }
  }
  if (checks_failed > failed) fprintf(stderr, "  rotation %llu\n", static_cast<unsigned long long>(seed));
  release_frequencies(frequencies);
}

inline void test_cos_sin(uint64_t seed) {
  random_state = seed;
  const int64_t axes = chance(3) ? pick(2, 4) : 1, heads = chance(3) ? pick(1, 5) : 0, pairs = one_of<int64_t>({1, 7, 32, 64, 250});
  const int64_t tokens = pick(1, 60);
  const int type = one_of({ROPE_INT32, ROPE_INT64, ROPE_FLOAT32});
  const uint64_t frequencies = random_frequencies(2 * pairs, axes, heads);
  const Layout layout = heads > 0 ? contiguous({tokens, heads, pairs}) : contiguous({tokens, pairs});
  Twin ids(type, axes > 1 ? contiguous({axes, tokens}) : contiguous({tokens})), cos(ROPE_FLOAT32, layout), sin(ROPE_FLOAT32, layout);
  fill_positions(&ids, type, axes * tokens);
  if (chance(4)) put_fault(&ids, type, pick(0, axes * tokens - 1));
  for (Twin* twin : {&ids, &cos, &sin}) twin->upload();
  Blocks<rope_cos_sin_args> blocks;
  blocks.set(&rope_cos_sin_args::frequencies, frequencies);
  blocks.set(&rope_cos_sin_args::angles, static_cast<uint8_t>(chance(2) ? ROPE_HF : ROPE_EXACT));
  blocks.set(&rope_cos_sin_args::flags, static_cast<uint32_t>(pick(0, 3)));
  blocks.set(&rope_cos_sin_args::positions, ids);
  blocks.set(&rope_cos_sin_args::cos, cos);
  blocks.set(&rope_cos_sin_args::sin, sin);
  const int32_t on_cpu = rope_cos_sin(&blocks.cpu, record());
  const rope_error cpu_error = last_error;
  const int failed = checks_failed;
  check_outcome(on_cpu, cpu_error, rope_cos_sin(&blocks.cuda, record()), {true, true});
  CHECK(cos.same(Allowed::nothing));
  CHECK(sin.same(Allowed::nothing));
  if (checks_failed > failed) fprintf(stderr, "  cos and sin %llu\n", static_cast<unsigned long long>(seed));
  release_frequencies(frequencies);
}
