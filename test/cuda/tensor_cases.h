// Random copies and fills on both devices: every dtype to every other, any strides, bit for bit.
#pragma once

#include <algorithm>
#include <numeric>

#include "twin.h"

// Up to four dimensions in any order of memory, with gaps now and then.
inline Layout random_layout(const std::vector<int64_t>& shape, bool may_repeat) {
  Layout layout{shape, std::vector<int64_t>(shape.size()), chance(3) ? pick(0, 7) : 0};
  std::vector<size_t> by_size(shape.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  if (chance(2)) std::reverse(by_size.begin(), by_size.end());
  if (chance(3)) std::swap(by_size.front(), by_size.back());
  int64_t stride = chance(8) ? 2 : 1;
  for (size_t i = by_size.size(); i-- > 0;) {
    const size_t dimension = by_size[i];
    layout.stride[dimension] = stride;
    stride = stride * shape[dimension] + (chance(4) ? pick(1, 9) : 0);
    if (may_repeat && chance(10)) layout.stride[dimension] = 0;
  }
  return layout;
}

inline std::vector<int64_t> random_shape() {
  std::vector<int64_t> shape(static_cast<size_t>(pick(1, 4)));
  int64_t room = chance(10) ? 200000 : 5000;
  for (int64_t& length : shape) {
    length = chance(40) ? 0 : pick(1, std::min<int64_t>(room, one_of<int64_t>({3, 16, 70, 5000})));
    room /= std::max<int64_t>(length, 1);
  }
  return shape;
}

inline void test_copy(uint64_t seed) {
  random_state = seed;
  const int from = static_cast<int>(pick(ROPE_FLOAT64, ROPE_UINT8)),
            to = chance(3) ? from : static_cast<int>(pick(ROPE_FLOAT64, ROPE_UINT8));
  const std::vector<int64_t> shape = random_shape();
  Twin source(from, random_layout(shape, true)), target(to, random_layout(shape, false));
  // Random bytes are mostly large numbers: others are wanted too.
  const bool floating = from <= ROPE_BFLOAT16;
  if (floating && chance(2)) source.set_numbers();
  if (floating && chance(4)) {
    for (int64_t i = 0; i * size_of_dtype(from) < static_cast<int64_t>(source.cpu.extent); ++i) {
      put(source.at(i), from, static_cast<double>(pick(-600, 600)) * one_of({1.0, 0.5, 0x1p-20, 200.0}));
    }
  }
  source.upload();
  target.upload();
  Blocks<rope_copy_args> blocks;
  blocks.set(&rope_copy_args::source, source);
  blocks.set(&rope_copy_args::target, target);
  const int failed = checks_failed;
  CHECK_OK(rope_copy(&blocks.cpu, record()));
  CHECK_OK(rope_copy(&blocks.cuda, record()));
  CHECK(target.same(Allowed::nothing));
  if (checks_failed > failed) fprintf(stderr, "  copy %llu, dtype %d to %d\n", static_cast<unsigned long long>(seed), from, to);
}

inline void test_fill(uint64_t seed) {
  random_state = seed;
  const int dtype = static_cast<int>(pick(ROPE_FLOAT64, ROPE_UINT8));
  Twin target(dtype, random_layout(random_shape(), false));
  target.upload();
  Blocks<rope_fill_args> blocks;
  const bool integer = dtype >= ROPE_INT64;
  blocks.set(&rope_fill_args::kind, static_cast<uint32_t>(pick(ROPE_FILL_CONSTANT, integer ? ROPE_FILL_ARANGE : ROPE_FILL_NORMAL)));
  blocks.set(&rope_fill_args::start, one_of({0.0, 3.0, -1.5, 1e9, 0.1}));
  blocks.set(&rope_fill_args::step, one_of({1.0, -2.0, 0.37}));
  blocks.set(&rope_fill_args::seed, random_bits());
  blocks.set(&rope_fill_args::target, target);
  const int failed = checks_failed;
  const int32_t on_cpu = rope_fill(&blocks.cpu, record());
  CHECK(rope_fill(&blocks.cuda, record()) == on_cpu);
  CHECK(target.same(Allowed::nothing));
  if (checks_failed > failed)
    fprintf(stderr, "  fill %llu, dtype %d, kind %u\n", static_cast<unsigned long long>(seed), dtype, blocks.cpu.kind);
}
