// The frequency rules, each twice: in long double for `exact` angles, and in Hugging Face's own order of float32 steps for `hf`.
#pragma once

#include <cstdint>

#include "../include/rope.h"

namespace rope {

using Real = long double;

void require_positive(double value, const char* argument);

// The numbers of a rule, those it has no use for aside. The rotary dimension has been checked.
void check_rule(const rope_frequencies_args& args);

// A checked rule, with what all its pairs share worked out. The caller's values (ROPE_RULE_CUSTOM) have no rule but the attention factor.
class Rule {
 public:
  explicit Rule(const rope_frequencies_args& args);

  Real exact(int64_t pair) const;  // radians per position
  float hf(int64_t pair) const;    // inv_freq of modeling_rope_utils.py

  double attention_factor = 1;

 private:
  Real llama3(Real frequency) const;
  float llama3_hf(float frequency) const;
  Real yarn(int64_t pair, Real frequency) const;
  float yarn_hf(int64_t pair, float power) const;
  Real ntk_divisor(int64_t pair) const;
  float ntk_divisor_hf(int64_t pair) const;

  const rope_frequencies_args& a_;
  double factor_ = 1;  // YARN, LONGROPE, PROPORTIONAL: as given or derived
  Real theta_ = 0;     // after DYNAMIC and NTK
  float theta_hf_ = 0;
  const double* divisors_ = nullptr;      // LONGROPE: those of the context's length
  double ramp_begin_ = 0, ramp_end_ = 0;  // YARN, in pairs
  int64_t turning_ = 0;                   // PROPORTIONAL: the pairs that turn
};

}  // namespace rope
