// rope_shift, rope_seq_lens and rope_batch_indices: random tables, sound and hostile, on both devices.
#pragma once

#include "rotate_cases.h"

// The same status and operation. Of several faults the CPU reports the first, CUDA any.
inline void check_table_outcome(int32_t cpu, const rope_error& cpu_error, int32_t cuda) {
  CHECK(cpu == ROPE_OK || cpu == ROPE_FAULT);
  if (cpu != ROPE_OK && cpu != ROPE_FAULT)
    fprintf(stderr, "  %s must be %s, got %s\n", cpu_error.argument, cpu_error.expected, cpu_error.actual);
  CHECK(cuda == ROPE_OK);
  const int32_t met = synchronize();
  CHECK(met == cpu);
  if (cpu == ROPE_FAULT && met == ROPE_FAULT) CHECK(strcmp(last_error.operation, cpu_error.operation) == 0);
}

inline int64_t hostile_number() {
  return one_of<int64_t>({-1, 0, 1, 2, 5, 100000, INT32_MAX, INT32_MIN, int64_t{1} << 40, INT64_MAX, INT64_MIN});
}

// A vector of int32 or int64 on both devices, now and then with hostile numbers among them.
inline void fill_integers(Twin* twin, const std::vector<int64_t>& values, int one_in) {
  const bool bad = chance(one_in);
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t stride = twin->cpu.stride[0] * static_cast<int64_t>(i);
    twin->set_integer(stride, bad && chance(6) ? hostile_number() : values[i]);
  }
}

inline Layout vector_layout(int64_t count) {
  const int64_t stride = chance(4) ? pick(2, 3) : 1;
  return {{count}, {stride}, pick(0, 2)};
}

inline std::vector<int64_t> rising(int64_t count, int64_t most) {
  std::vector<int64_t> values;
  int64_t next = chance(3) ? pick(0, most) : 0;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(next);
    const int64_t rest = most - next;
    next += pick(0, chance(3) ? rest : std::min<int64_t>(rest, 6));
  }
  return values;
}

inline int integer_dtype() { return chance(2) ? ROPE_INT32 : ROPE_INT64; }

inline std::vector<int64_t> last_page_lens(const std::vector<int64_t>& indptr, int64_t page_size) {
  std::vector<int64_t> last;
  for (size_t i = 1; i < indptr.size(); ++i) last.push_back(indptr[i] == indptr[i - 1] ? 0 : pick(1, page_size));
  return last;
}

inline void test_shift(uint64_t seed) {
  random_state = seed;
  const int dtype = one_of({ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2});
  const bool odd = chance(3);  // rows that do not lie on 16 bytes
  const int64_t pages = pick(1, 40), page_size = one_of<int64_t>({1, 3, 16, 64}), heads = pick(1, 4);
  const int64_t unit = odd ? 1 : 16, pairs = chance(12) ? 1040 : odd ? pick(1, 70) : unit * pick(1, 5), offset = unit * pick(0, 2);
  const int64_t width = 2 * pairs + offset + unit * pick(0, 2), requests = pick(0, 12), entries = pick(0, 40);
  Layout layout = contiguous({pages, page_size, heads, width});
  if (chance(2)) {  // heads before places
    layout.stride[1] = width;
    layout.stride[2] = page_size * width;
  }
  if (chance(3)) layout.stride[0] += unit * pick(1, 2);
  layout.shift = unit * pick(0, 1);

  const std::vector<int64_t> indptr = rising(requests + 1, entries);
  std::vector<int64_t> ids, deltas;
  const int64_t first = pick(0, pages - 1);
  for (int64_t i = 0; i < entries; ++i) ids.push_back(chance(60) ? pick(0, pages - 1) : (first + i) % pages);
  for (int64_t i = 0; i < requests; ++i) deltas.push_back(chance(8) ? 0 : pick(-100000, 100000));
  Twin cache(dtype, layout), owners(ROPE_INT32, contiguous({pages})), indptr_twin(integer_dtype(), vector_layout(requests + 1)),
      ids_twin(integer_dtype(), vector_layout(entries)), last(integer_dtype(), vector_layout(requests)),
      deltas_twin(integer_dtype(), vector_layout(requests));
  cache.set_numbers();
  for (int64_t i = 0; size_of_dtype(dtype) == 1 && i < static_cast<int64_t>(cache.cpu.extent); ++i) {
    const auto code = static_cast<uint8_t>(random_bits());  // no NaN: each processor makes its own
    const bool special = dtype == ROPE_FLOAT8_E5M2 ? (code & 0x7c) == 0x7c : (code & 0x7f) == 0x7f;
    cache.set(i, static_cast<uint8_t>(special ? code ^ 0x40 : code));
  }
  fill_integers(&indptr_twin, indptr, 5);
  fill_integers(&ids_twin, ids, 5);
  fill_integers(&last, last_page_lens(indptr, page_size), 8);
  fill_integers(&deltas_twin, deltas, 8);
  for (Twin* twin : {&cache, &owners, &indptr_twin, &ids_twin, &last, &deltas_twin}) twin->upload();

  const uint64_t frequencies = random_frequencies(2 * pairs, 1, chance(3) ? heads : 0);
  Blocks<rope_shift_args> blocks;
  blocks.set(&rope_shift_args::frequencies, frequencies);
  blocks.set(&rope_shift_args::cache, cache);
  blocks.set(&rope_shift_args::owners, owners);
  blocks.set(&rope_shift_args::page_indptr, indptr_twin);
  blocks.set(&rope_shift_args::page_indices, ids_twin);
  blocks.set(&rope_shift_args::last_page_len, last);
  blocks.set(&rope_shift_args::rotary_offset, offset);
  blocks.set(&rope_shift_args::pairing, static_cast<uint8_t>(pick(ROPE_HALF, ROPE_INTERLEAVED_TO_HALF)));
  blocks.set(&rope_shift_args::angles, static_cast<uint8_t>(chance(3) ? ROPE_HF : ROPE_EXACT));
  if (chance(3)) blocks.set(&rope_shift_args::flags, static_cast<uint32_t>(ROPE_CONJUGATE));
  if (chance(3)) {
    blocks.set(&rope_shift_args::delta, chance(8) ? hostile_number() : pick(-3000, 3000));
  } else {
    blocks.set(&rope_shift_args::deltas, deltas_twin);
  }
  const int32_t on_cpu = rope_shift(&blocks.cpu, record());
  const rope_error cpu_error = last_error;
  const int failed = checks_failed;
  check_table_outcome(on_cpu, cpu_error, rope_shift(&blocks.cuda, record()));
  CHECK(cache.same());
  CHECK(owners.same(Allowed::nothing));
  if (checks_failed > failed) fprintf(stderr, "  shift %llu\n", static_cast<unsigned long long>(seed));
  release_frequencies(frequencies);
}

inline void test_seq_lens(uint64_t seed) {
  random_state = seed;
  const int64_t requests = pick(0, 700), page_size = chance(10) ? INT64_MAX : pick(1, 64);
  const std::vector<int64_t> indptr = rising(requests + 1, 3000);
  Twin indptr_twin(integer_dtype(), vector_layout(requests + 1)), last(integer_dtype(), vector_layout(requests)),
      lengths(ROPE_INT32, vector_layout(requests));
  fill_integers(&indptr_twin, indptr, 3);
  fill_integers(&last, last_page_lens(indptr, page_size), 3);
  for (Twin* twin : {&indptr_twin, &last, &lengths}) twin->upload();
  Blocks<rope_seq_lens_args> blocks;
  blocks.set(&rope_seq_lens_args::page_indptr, indptr_twin);
  blocks.set(&rope_seq_lens_args::last_page_len, last);
  blocks.set(&rope_seq_lens_args::seq_lens, lengths);
  blocks.set(&rope_seq_lens_args::page_size, page_size);
  const int32_t on_cpu = rope_seq_lens(&blocks.cpu, record());
  const rope_error cpu_error = last_error;
  const int failed = checks_failed;
  check_table_outcome(on_cpu, cpu_error, rope_seq_lens(&blocks.cuda, record()));
  CHECK(lengths.same(Allowed::nothing));
  if (checks_failed > failed) fprintf(stderr, "  seq_lens %llu\n", static_cast<unsigned long long>(seed));
}

inline void test_batch_indices(uint64_t seed) {
  random_state = seed;
  const int64_t requests = chance(3) ? pick(0, 700) : pick(0, 12), tokens = pick(0, 2000);
  const std::vector<int64_t> indptr = rising(requests + 1, tokens);
  std::vector<int64_t> lengths;
  for (size_t i = 1; i < indptr.size(); ++i) lengths.push_back(indptr[i] - indptr[i - 1] + pick(0, 5000));
  Twin indptr_twin(integer_dtype(), vector_layout(requests + 1)), lengths_twin(integer_dtype(), vector_layout(requests)),
      batch(ROPE_INT32, vector_layout(tokens)), places(ROPE_INT32, vector_layout(tokens));
  fill_integers(&indptr_twin, indptr, 3);
  fill_integers(&lengths_twin, lengths, 3);
  for (Twin* twin : {&indptr_twin, &lengths_twin, &batch, &places}) twin->upload();
  Blocks<rope_batch_indices_args> blocks;
  blocks.set(&rope_batch_indices_args::indptr, indptr_twin);
  blocks.set(&rope_batch_indices_args::seq_lens, lengths_twin);
  blocks.set(&rope_batch_indices_args::batch_indices, batch);
  blocks.set(&rope_batch_indices_args::places, places);
  const int32_t on_cpu = rope_batch_indices(&blocks.cpu, record());
  const rope_error cpu_error = last_error;
  const int failed = checks_failed;
  check_table_outcome(on_cpu, cpu_error, rope_batch_indices(&blocks.cuda, record()));
  CHECK(batch.same(Allowed::nothing));
  CHECK(places.same(Allowed::nothing));
  if (checks_failed > failed) fprintf(stderr, "  batch_indices %llu\n", static_cast<unsigned long long>(seed));
}
