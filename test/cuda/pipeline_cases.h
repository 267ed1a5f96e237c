// Random calls of rope_rotate with all that it does besides turning, sound and hostile, on both devices: every byte of every tensor is
// compared.
#pragma once

#include <deque>

#include "kv_cases.h"

enum PipelinePart { kQ, kK, kV, kQRest, kKRest, kPipelineParts };

struct PipelineCase {
  struct Kept : Twin {
    using Twin::Twin;
    Allowed allowed = Allowed::nothing;
  };

  Blocks<rope_rotate_args> blocks;
  std::deque<Kept> twins;
  uint64_t frequencies = 0;

  int dtype = 0, rank = 3;
  bool special = false, wide = true, paged = false;
  bool common = false;  // nothing rare: CUDA has a kernel for that
  int64_t unit = 1;     // elements of 16 bytes where all rows lie on them, else 1
  int64_t batch = 1, tokens = 0, pages = 0, page_size = 1;
  bool turns = false, table = false, scaled = false;
  int64_t pairs = 0, head_dim = 0, axes = 1, angle_heads = 0, rows = 0;  // of the table
  int64_t heads[kPipelineParts] = {};
  double factors[3] = {};  // of q, k and v

  int hostile = 0;      // one entry in so many; 0: none
  int planted = 0;      // bad entries
  bool spread = false;  // one of them is several tokens'

  ~PipelineCase() {
    if (frequencies != 0) release_frequencies(frequencies);
  }

  Twin& add(int type, const Layout& layout, Allowed allowed = Allowed::nothing) {
    Kept& twin = twins.emplace_back(type, layout);
    twin.allowed = allowed;
    return twin;
  }
  Twin& add(rope_tensor_ref rope_rotate_args::*field, int type, const Layout& layout) {
    Twin& twin = add(type, layout);
    blocks.set(field, twin);
    return twin;
  }

  // ---- what is bad --------------------------------------------------------------------------------------------------------------------

  bool bad() {
    const bool yes = hostile > 0 && chance(hostile);
    planted += yes;
    return yes;
  }
  // Beyond 0 .. limit - 1 in any case, never -1.
  int64_t beyond(int type, int64_t limit) {
    if (type == ROPE_INT64 && chance(2)) return one_of<int64_t>({INT64_MAX, INT64_MIN, int64_t{1} << 40, limit + (int64_t{1} << 32)});
    return one_of<int64_t>({-2, INT32_MIN, INT32_MAX, limit});
  }

  // ---- angles -------------------------------------------------------------------------------------------------------------------------

  void make_turning() {
    turns = !chance(6);
    pairs = turns ? unit * pick(1, wide ? (chance(8) ? 40 : 8) : 24) : 0;
    const int64_t before = turns && chance(2) ? unit * pick(0, 3) : 0;
    head_dim = before + 2 * pairs + (chance(2) ? unit * pick(0, 4) : 0);
    if (head_dim == 0) head_dim = unit * pick(1, 8);
    blocks.set(&rope_rotate_args::pairing, static_cast<uint8_t>(pick(ROPE_HALF, common ? ROPE_INTERLEAVED : ROPE_INTERLEAVED_TO_HALF)));
    if (!turns) return blocks.set(&rope_rotate_args::flags, static_cast<uint32_t>(ROPE_STILL));
    blocks.set(&rope_rotate_args::rotary_offset, before);
    blocks.set(&rope_rotate_args::flags, static_cast<uint32_t>(chance(2) ? 0 : pick(0, 3)));
    if (!common && chance(3)) blocks.set(&rope_rotate_args::prefix, pick(1, 4));
    table = chance(3);
    if (table) return make_table();
    axes = !common && chance(5) ? pick(2, 4) : 1;
    angle_heads = !common && chance(6) ? pick(1, 6) : 0;
    frequencies = random_frequencies(2 * pairs, axes, angle_heads);
    blocks.set(&rope_rotate_args::frequencies, frequencies);
    blocks.set(&rope_rotate_args::angles, static_cast<uint8_t>(chance(3) ? ROPE_HF : ROPE_EXACT));
  }

  void make_table() {
    const int type = one_of({ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16}), kind = static_cast<int>(pick(0, common ? 1 : 2));
    const int64_t width = kind == 0 ? pairs : 2 * pairs;  // else both halves in one tensor, or a number for each channel
    rows = tokens + pick(1, 30);
    const auto layout = [&] { return Layout{{rows, width}, {width + (chance(2) ? pick(0, 3) : 0), 1}, chance(3) ? pick(0, 3) : 0}; };
    add(&rope_rotate_args::cos, type, layout()).set_numbers(false);
    if (kind == 1) return;
    add(&rope_rotate_args::sin, type, layout()).set_numbers(false);
    if (kind == 2) blocks.set(&rope_rotate_args::rotary_dim, 2 * pairs);
  }

  void make_positions() {
    if (!turns) return;
    const int64_t kind = common || axes > 1 ? 0 : pick(0, 3);
    if (kind == 0) return make_ids();
    if (kind == 1 && rank < 4) return make_requests();
    if (kind == 2) return make_offsets(batch);
    blocks.set(&rope_rotate_args::offset, table ? pick(0, rows - tokens) : pick(-100, 1000000));
  }

  void make_ids() {
    const int type = !table && !common && chance(3) ? ROPE_FLOAT32 : integer_dtype();
    const bool shared = rank == 4 && chance(3);
    const int64_t stride = pick(1, 2), row = tokens * stride, axis = (shared ? 1 : batch) * row + 1;
    Layout layout{{}, {}, pick(0, 2)};
    if (axes > 1) layout.shape.push_back(axes), layout.stride.push_back(axis);
    if (rank == 4 && !shared) layout.shape.push_back(batch), layout.stride.push_back(row);
    layout.shape.push_back(tokens), layout.stride.push_back(stride);
    Twin& ids = add(&rope_rotate_args::positions, type, layout);
    if (!table) fill_positions(&ids, type, layout.elements());
    for (int64_t a = 0; a < axes; ++a) {
      for (int64_t i = 0; i < (shared ? 1 : batch) * tokens; ++i) {
        const int64_t at = a * axis + i * stride;
        if (table) ids.set_integer(at, chance(7) ? -1 : pick(0, rows - 1));
        if (!bad()) continue;
        table ? ids.set_integer(at, beyond(type, rows)) : put_fault(&ids, type, at);
        spread |= shared || axes > 1;
      }
    }
  }

  void make_offsets(int64_t count) {
    const int type = integer_dtype();
    Twin& offsets = add(&rope_rotate_args::offsets, type, vector_layout(count));
    for (int64_t i = 0; i < count; ++i) {
      int64_t value = table ? pick(0, rows - tokens) : pick(-100, 100000);
      if (bad()) value = beyond(type, rows), spread = true;
      offsets.set_integer(i * offsets.cpu.stride[0], value);
    }
  }

  // Not counted among the planted: of a bad indptr both devices find the same entry.
  void make_requests() {
    const int64_t requests = pick(0, 5);
    std::vector<int64_t> entries = rising(requests + 1, tokens);
    if (hostile > 0 && chance(2)) entries[static_cast<size_t>(pick(0, requests))] = one_of<int64_t>({-3, tokens + 5, tokens / 2, 0});
    Twin& indptr = add(&rope_rotate_args::indptr, integer_dtype(), vector_layout(requests + 1));
    for (int64_t i = 0; i <= requests; ++i) indptr.set_integer(i * indptr.cpu.stride[0], entries[static_cast<size_t>(i)]);
    if (requests > 0 && chance(2)) make_offsets(requests);
  }

  // ---- rows ---------------------------------------------------------------------------------------------------------------------------

  // [outer, inner, heads, width]: places by heads now and then, gaps in every dimension.
  Layout layout_of(int64_t outer, int64_t inner, int64_t count, int64_t width) const {
    const auto gap = [&](int one_in, int64_t most) { return chance(one_in) ? unit * pick(1, most) : 0; };
    int64_t head = width + gap(3, 3), token = head * count + gap(3, 5), group = token * inner + gap(2, 1);
    if (chance(6)) {
      token = width + gap(2, 1);
      head = token * inner;
      group = head * count + gap(2, 1);
    }
    return {{outer, inner, count, width}, {group, token, head, 1}, wide ? unit * pick(0, 1) : pick(0, 2)};
  }

  Layout tensor_layout(int64_t count, int64_t width) const {
    Layout out = layout_of(batch, tokens, count, width);
    if (rank == 2) return {{tokens, count * width}, {count * width + unit * pick(0, 2), 1}, out.shift};
    if (rank == 3) out.shape.erase(out.shape.begin()), out.stride.erase(out.stride.begin());
    return out;
  }

  void make_part(PipelinePart part, int64_t width, rope_tensor_ref rope_rotate_args::*from, rope_tensor_ref rope_rotate_args::*to) {
    const double factor = factors[part == kV ? 2 : part == kK || part == kKRest];
    const bool normed = norm_of(part) != 0, stored = paged && part != kQ && part != kQRest;
    const int own = stored && factor == 0 && !(common && chance(2))
                        ? one_of<int>({dtype, ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT8_E4M3FN})
                        : dtype;
    const int type = factor != 0 ? one_of({ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2}) : own;
    const bool moves_only = type == dtype && !normed && !(turns && part <= kK) && !(scaled && part == kQ);
    const Allowed allowed = normed ? Allowed::rounding : moves_only ? Allowed::nothing : Allowed::nans;
    const bool in_place = !stored && type == dtype && chance(2);
    Twin& in = add(dtype, tensor_layout(heads[part], width), in_place ? allowed : Allowed::nothing);
    in.set_numbers(special);
    blocks.set(from, in);
    if (in_place) return blocks.set(to, in);
    blocks.set(to, add(type, stored ? layout_of(pages, page_size, heads[part], width) : tensor_layout(heads[part], width), allowed));
  }

  uint8_t norm_of(PipelinePart part) const { return part == kQ ? blocks.cpu.q_norm : part == kK ? blocks.cpu.k_norm : 0; }

  void make_norm(PipelinePart part, uint8_t rope_rotate_args::*flags, rope_tensor_ref rope_rotate_args::*weight,
                 double rope_rotate_args::*eps) {
    if (heads[part] == 0 || chance(2)) return;
    int norm = ROPE_NORM;
    if (!common) norm |= (chance(3) ? ROPE_NORM_AFTER : 0) | (chance(3) ? ROPE_NORM_WIDTH : 0);
    if (!chance(4)) {
      if (chance(3)) norm |= ROPE_NORM_UNIT_OFFSET;
      const int64_t count = head_dim * ((norm & ROPE_NORM_WIDTH) != 0 ? heads[part] : 1);
      add(weight, chance(2) ? ROPE_FLOAT32 : dtype, Layout{{count}, {1}, chance(8) ? 1 : 0}).set_numbers(false);
    }
    blocks.set(flags, static_cast<uint8_t>(norm));
    blocks.set(eps, one_of({1e-6, 1e-5, 0.0}));
  }

  void make_parts(bool many) {
    const int64_t most = many ? 3 : chance(5) ? 40 : 6, which = pick(0, 7);  // 0: q alone, 1: k alone
    heads[kQ] = which == 1 ? 0 : angle_heads > 0 ? angle_heads : pick(1, most);
    heads[kK] = which == 0 ? 0 : angle_heads > 0 ? angle_heads : pick(1, 5);
    if (heads[kK] > 0 && chance(2)) heads[kV] = heads[kK];
    if (heads[kQ] > 0 && chance(4)) heads[kQRest] = heads[kQ];
    if (heads[kK] > 0 && chance(4)) heads[kKRest] = heads[kK];
    paged = heads[kK] > 0 && dtype != ROPE_FLOAT64 && chance(2);
    page_size = pick(1, 5);
    pages = (batch * tokens + page_size - 1) / page_size + pick(0, 3);
    for (double& factor : factors) factor = chance(4) ? one_of({0.5, 1.0, 2.0, 3.7, 100.0}) : 0;
    if (heads[kQ] == 0) factors[0] = 0;
    make_norm(kQ, &rope_rotate_args::q_norm, &rope_rotate_args::q_weight, &rope_rotate_args::q_eps);
    make_norm(kK, &rope_rotate_args::k_norm, &rope_rotate_args::k_weight, &rope_rotate_args::k_eps);
    if (heads[kQ] > 0 && chance(3)) {
      scaled = true;
      Layout layout{{tokens}, {pick(1, 2)}, pick(0, 1)};
      if (rank == 4 && chance(2)) layout = contiguous({batch, tokens});
      add(&rope_rotate_args::q_scale, ROPE_FLOAT32, layout).set_numbers(false);
    }
    blocks.set(&rope_rotate_args::q_factor, factors[0]);
    blocks.set(&rope_rotate_args::k_factor, factors[1]);
    blocks.set(&rope_rotate_args::v_factor, factors[2]);
    if (rank == 2) blocks.set(&rope_rotate_args::head_dim, head_dim);
    using Args = rope_rotate_args;
    if (heads[kQ] > 0) make_part(kQ, head_dim, &Args::q, &Args::q_out);
    if (heads[kK] > 0) make_part(kK, head_dim, &Args::k, &Args::k_out);
    if (heads[kV] > 0) make_part(kV, unit * pick(1, 20), &Args::v, &Args::v_out);
    if (heads[kQRest] > 0) make_part(kQRest, unit * pick(1, !many && chance(4) ? 100 : 9), &Args::q_rest, &Args::q_rest_out);
    if (heads[kKRest] > 0) make_part(kKRest, unit * pick(1, 9), &Args::k_rest, &Args::k_rest_out);
  }

  // ---- pages: no two tokens go to one place ---------------------------------------------------------------------------------------------

  static std::vector<int64_t> shuffled(int64_t count) {
    std::vector<int64_t> out(static_cast<size_t>(count));
    for (size_t i = 0; i < out.size(); ++i) {
      const auto other = static_cast<size_t>(pick(0, static_cast<int64_t>(i)));
      out[i] = out[other];
      out[other] = static_cast<int64_t>(i);
    }
    return out;
  }

  // Of each entry its value, or one beyond the limit, or, with `may_miss`, -1.
  void make_entries(rope_tensor_ref rope_rotate_args::*field, const std::vector<int64_t>& values, int64_t limit, bool may_miss,
                    bool of_several) {
    const int type = integer_dtype();
    Twin& twin = add(field, type, vector_layout(static_cast<int64_t>(values.size())));
    for (size_t i = 0; i < values.size(); ++i) {
      int64_t value = may_miss && chance(7) ? -1 : values[i];
      if (bad()) value = beyond(type, limit), spread |= of_several;
      twin.set_integer(static_cast<int64_t>(i) * twin.cpu.stride[0], value);
    }
  }

  void make_pages() {
    if (!paged) return;
    using Args = rope_rotate_args;
    const int64_t count = batch * tokens;
    if (chance(2)) {
      std::vector<int64_t> slots = shuffled(pages * page_size);
      slots.resize(static_cast<size_t>(count));
      return make_entries(&Args::slots, slots, pages * page_size, true, false);
    }
    // Each request has the pages between two cuts, and each token is the next of one that has room.
    const int64_t requests = pick(1, 4);
    std::vector<int64_t> cuts, owner, places, filled(static_cast<size_t>(requests));
    for (int64_t i = 0; i <= requests; ++i) cuts.push_back(i == 0 ? 0 : i == requests ? pages : pick(0, pages));
    std::sort(cuts.begin(), cuts.end());
    for (int64_t i = 0; i < count; ++i) {
      auto r = static_cast<size_t>(pick(0, requests - 1));
      while (filled[r] == (cuts[r + 1] - cuts[r]) * page_size) r = (r + 1) % static_cast<size_t>(requests);
      owner.push_back(static_cast<int64_t>(r));
      places.push_back(filled[r]++);
    }
    make_entries(&Args::page_indptr, cuts, pages + 1, false, true);
    make_entries(&Args::page_indices, shuffled(pages), pages, false, true);
    make_entries(&Args::batch_indices, owner, requests, true, false);
    make_entries(&Args::places, places, pages * page_size, false, false);
  }
};

// A fault is the same where there can be one only. Of several CUDA may meet any, but of a bad indptr the CPU's.
inline void check_pipeline_fault(const rope_fault& cpu, const rope_fault& cuda, bool one) {
  const bool holds = memcmp(&cpu, &cuda, sizeof cpu) == 0 || (!one && cpu.code != ROPE_FAULT_INDPTR && cuda.code != ROPE_FAULT_INDPTR);
  CHECK(holds);
  if (holds) return;
  for (const rope_fault& f : {cpu, cuda}) {
    fprintf(stderr, "  fault %u: request %lld, index %lld, value %lld, limit %lld\n", f.code, static_cast<long long>(f.request),
            static_cast<long long>(f.index), static_cast<long long>(f.value), static_cast<long long>(f.limit));
  }
}

// `multiprocessors`: how many the device has. Its kernel takes another shape where there is more for each of them.
inline void test_pipeline(uint64_t seed, int64_t multiprocessors) {
  random_state = seed;
  PipelineCase c;
  c.dtype = one_of({ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32, ROPE_FLOAT64});
  c.rank = static_cast<int>(pick(1, 6));
  c.rank = c.rank == 1 ? 2 : c.rank > 3 ? 4 : 3;
  c.common = chance(3);
  c.wide = c.common || !chance(4);
  c.unit = c.wide ? 16 / size_of_dtype(c.dtype) : 1;
  c.special = chance(3);
  c.hostile = chance(3) ? one_of({9, 100}) : 0;
  const bool many = chance(8);
  c.batch = c.rank == 4 ? pick(1, 3) : 1;
  c.tokens = many ? pick(8 * multiprocessors, 20 * multiprocessors) / c.batch : pick(chance(20) ? 0 : 1, chance(4) ? 40 : 9);
  c.make_turning();
  c.make_parts(many);
  c.make_positions();
  c.make_pages();
  for (PipelineCase::Kept& twin : c.twins) twin.upload();

  const int failed = checks_failed;
  const int32_t on_cpu = rope_rotate(&c.blocks.cpu, record());
  const rope_error cpu_error = last_error;
  check_table_outcome(on_cpu, cpu_error, rope_rotate(&c.blocks.cuda, record()));
  if (on_cpu == ROPE_FAULT && last_error.status == ROPE_FAULT) {
    check_pipeline_fault(cpu_error.fault, last_error.fault, c.planted == 1 && !c.spread);
  }
  for (PipelineCase::Kept& twin : c.twins) CHECK(twin.same(twin.allowed));
  if (checks_failed > failed) fprintf(stderr, "  pipeline %llu\n", static_cast<unsigned long long>(seed));
}
