// How fast each pair turns: an immutable object made once from a rule or from the caller's values, shared by everything that uses the same one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../include/rope.h"

namespace rope {

// Pairs [begin, end); `still` ones have no frequency on any axis and pass through bit for bit.
struct PairRun {
  int64_t begin;
  int64_t end;
  bool still;
};

struct Frequencies {
  int64_t axes = 1;
  int64_t heads = 0;  // 0: all heads turn alike
  int64_t pairs = 0;
  double attention_factor = 1;
  // Each [axes][max(heads, 1)][pairs]:
  std::vector<uint64_t> turns;             // per position, times 2^64, whole turns dropped
  std::vector<double> turns_per_position;  // the same with whole turns, for fractional positions
  std::vector<double> radians;             // per position
  std::vector<float> inv_freq;             // radians per position as Hugging Face's float32 steps give them
  std::vector<std::vector<PairRun>> runs;  // [max(heads, 1)]

  // Tables that a backend made of these on its devices, under numbers of its own. They live as long as the frequencies.
  mutable std::mutex tables_mutex;
  mutable std::map<int, std::shared_ptr<const void>> tables;

  int64_t rows() const { return heads > 0 ? heads : 1; }
  int64_t count() const { return axes * rows() * pairs; }
};

using FrequenciesRef = std::shared_ptr<const Frequencies>;

FrequenciesRef make_frequencies(const rope_frequencies_args& args);
FrequenciesRef find_frequencies(uint64_t handle);
// Refuses channels [rotary_offset, rotary_offset + rotary_dim) that a head has not.
void check_slice(int64_t head_dim, int64_t rotary_offset, int64_t rotary_dim);

}  // namespace rope
