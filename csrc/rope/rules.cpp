// The rules, from Hugging Face's modeling_rope_utils.py and vLLM's ntk_scaling_rope.py. Where an exact rule would hang on the last bit of a double (the
// whole pairs at which YaRN's ramp ends), it takes the double that the models were trained with.
#include "rules.h"

#include <algorithm>
#include <cmath>

#include "../core/arguments.h"

namespace rope {
namespace {

constexpr Real kTwoPi = 6.283185307179586476925286766559005768L;

void require_not_negative(double value, const char* argument) {
  if (std::isfinite(value) && value >= 0) return;
  fail(ROPE_ARGUMENT, argument, text("a positive number, or 0 for none"), text("%g", value));
}

void require_more_channels(const rope_frequencies_args& a) {
  if (a.rotary_dim > 2) return;
  fail(ROPE_ARGUMENT, "rotary_dim", text("at least 4, for theta grows by a power of R / (R - 2)"),
       text("%lld", static_cast<long long>(a.rotary_dim)));
}

// `factor`, or what it is derived from.
void require_factor(const rope_frequencies_args& a) {
  if (a.factor != 0) return require_positive(a.factor, "factor");
  if (a.max_position != 0) return require_positive(a.max_position, "max_position");
  fail(ROPE_ARGUMENT, "factor", text("a positive number where there is no max_position to take it from"), text("0"));
}

double derived_factor(const rope_frequencies_args& a) { return a.factor != 0 ? a.factor : a.max_position / a.original_max_position; }

void check_llama3(const rope_frequencies_args& a) {
  require_positive(a.factor, "factor");
  require_positive(a.low_freq_factor, "low_freq_factor");
  require_positive(a.high_freq_factor, "high_freq_factor");
  require_positive(a.original_max_position, "original_max_position");
  if (a.low_freq_factor <= a.high_freq_factor) return;
  fail(ROPE_ARGUMENT, "low_freq_factor", text("at most high_freq_factor, %g", a.high_freq_factor), text("%g", a.low_freq_factor));
}

void check_dynamic(const rope_frequencies_args& a) {
  require_more_channels(a);
  if (a.alpha != 0) return require_positive(a.alpha, "alpha");
  require_positive(a.factor, "factor");
  require_positive(a.original_max_position, "original_max_position");
  require_not_negative(a.context_length, "context_length");
}

void check_yarn(const rope_frequencies_args& a) {
  if (a.theta <= 1) fail(ROPE_ARGUMENT, "theta", text("above 1 for this rule"), text("%g", a.theta));
  require_positive(a.original_max_position, "original_max_position");
  require_factor(a);
  require_not_negative(a.beta_fast, "beta_fast");
  require_not_negative(a.beta_slow, "beta_slow");
  require_not_negative(a.mscale, "mscale");
  require_not_negative(a.mscale_all_dim, "mscale_all_dim");
  if (a.no_truncate > 1) fail(ROPE_ARGUMENT, "no_truncate", text("0 or 1"), text("%u", a.no_truncate));
  const double fast = a.beta_fast != 0 ? a.beta_fast : 32, slow = a.beta_slow != 0 ? a.beta_slow : 1;
  if (fast < slow) fail(ROPE_ARGUMENT, "beta_fast", text("at least beta_slow, %g", slow), text("%g", fast));
}

void check_longrope(const rope_frequencies_args& a) {
  if (!(std::isfinite(a.original_max_position) && a.original_max_position > 1)) {
    fail(ROPE_ARGUMENT, "original_max_position", text("a number above 1"), text("%g", a.original_max_position));
  }
  require_factor(a);
  require_not_negative(a.context_length, "context_length");
  require_not_negative(a.short_mscale, "short_mscale");
  require_not_negative(a.long_mscale, "long_mscale");
  require(a.custom != 0, "custom", "the address of the divisors", "0");
  if (a.custom_count != static_cast<uint64_t>(a.rotary_dim)) {
    fail(ROPE_ARGUMENT, "custom",
         text("%lld divisors, those of short contexts and those of long ones", static_cast<long long>(a.rotary_dim)),
         text("%llu", static_cast<unsigned long long>(a.custom_count)));
  }
  const auto* const divisors = reinterpret_cast<const double*>(a.custom);
  for (uint64_t i = 0; i < a.custom_count; ++i) require_positive(divisors[i], "custom");
}

// The attention factor that YaRN's magnitude scale gives.
double magnitude(double factor, double scale) { return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1; }

double yarn_attention(const rope_frequencies_args& a, double factor) {
  if (a.mscale != 0 && a.mscale_all_dim != 0) return magnitude(factor, a.mscale) / magnitude(factor, a.mscale_all_dim);
  return magnitude(factor, 1);
}

double longrope_attention(const rope_frequencies_args& a, double factor, bool is_long) {
  const double own = is_long ? a.long_mscale : a.short_mscale;
  if (own != 0) return own;
  return factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(a.original_max_position));
}

// The pair that turns `turns` times within the original length.
double yarn_pair(const rope_frequencies_args& a, double turns) {
  return static_cast<double>(a.rotary_dim) * std::log(a.original_max_position / (turns * 2 * 3.141592653589793)) / (2 * std::log(a.theta));
}

}  // namespace

void require_positive(double value, const char* argument) {
  if (std::isfinite(value) && value > 0) return;
  fail(ROPE_ARGUMENT, argument, text("a positive number"), text("%g", value));
}

void check_rule(const rope_frequencies_args& a) {
  require_positive(a.theta, "theta");
  switch (a.rule) {
    case ROPE_RULE_LINEAR: return require_positive(a.factor, "factor");
    case ROPE_RULE_LLAMA3: return check_llama3(a);
    case ROPE_RULE_DYNAMIC: return check_dynamic(a);
    case ROPE_RULE_NTK: require_positive(a.factor, "factor"); return require_not_negative(a.mixed_b, "mixed_b");
    case ROPE_RULE_YARN: return check_yarn(a);
    case ROPE_RULE_LONGROPE: return check_longrope(a);
    case ROPE_RULE_PROPORTIONAL:
      require_not_negative(a.factor, "factor");
      if (!(a.partial >= 0 && a.partial <= 1)) fail(ROPE_ARGUMENT, "partial", text("0 to 1"), text("%g", a.partial));
      return;
    default: return;
  }
}

Rule::Rule(const rope_frequencies_args& args) : a_(args), theta_(args.theta), theta_hf_(static_cast<float>(args.theta)) {
  const auto channels = static_cast<Real>(args.rotary_dim);
  switch (args.rule) {
    case ROPE_RULE_DYNAMIC: {
      const double growth = static_cast<double>(args.rotary_dim) / static_cast<double>(args.rotary_dim - 2);
      if (args.alpha != 0) {
        theta_ *= powl(args.alpha, channels / (channels - 2));
        theta_hf_ = static_cast<float>(args.theta * std::pow(args.alpha, growth));
      } else if (args.context_length > args.original_max_position) {
        theta_ *= powl(args.factor * static_cast<Real>(args.context_length) / args.original_max_position - (args.factor - Real{1}),
                       channels / (channels - 2));
        // There the length is a tensor, so everything after it is float32.
        const auto stretched = static_cast<float>(static_cast<float>(args.factor * args.context_length) / args.original_max_position);
        const auto base = static_cast<float>(stretched - (args.factor - 1));
        theta_hf_ = static_cast<float>(args.theta * static_cast<float>(std::pow(static_cast<double>(base), growth)));
      }
      break;
    }
    case ROPE_RULE_NTK:
      if (args.mixed_b != 0) break;
      theta_ *= args.factor;
      theta_hf_ = static_cast<float>(args.theta * args.factor);
      break;
    case ROPE_RULE_YARN: {
      factor_ = derived_factor(args);
      attention_factor = yarn_attention(args, factor_);
      double begin = yarn_pair(args, args.beta_fast != 0 ? args.beta_fast : 32),
             end = yarn_pair(args, args.beta_slow != 0 ? args.beta_slow : 1);
      if (args.no_truncate == 0) begin = std::floor(begin), end = std::ceil(end);
      ramp_begin_ = std::max(begin, 0.0);
      ramp_end_ = std::min(end, static_cast<double>(args.rotary_dim - 1));
      if (ramp_begin_ == ramp_end_) ramp_end_ += 0.001;
      break;
    }
    case ROPE_RULE_LONGROPE: {
      factor_ = derived_factor(args);
      const bool is_long = args.context_length > args.original_max_position;
      attention_factor = longrope_attention(args, factor_, is_long);
      divisors_ = reinterpret_cast<const double*>(args.custom) + (is_long ? args.rotary_dim / 2 : 0);
      break;
    }
    case ROPE_RULE_PROPORTIONAL:
      factor_ = args.factor != 0 ? args.factor : 1;
      turning_ = static_cast<int64_t>((args.partial != 0 ? args.partial : 1) * static_cast<double>(args.rotary_dim) / 2);
      break;
    default: break;
  }
  if (args.attention_factor != 0) attention_factor = args.attention_factor;
}

// ---- exact -------------------------------------------------------------------------------------------------------------------------

Real Rule::exact(int64_t pair) const {
  const Real plain = powl(theta_, -2 * static_cast<Real>(pair) / static_cast<Real>(a_.rotary_dim));
  switch (a_.rule) {
    case ROPE_RULE_LINEAR: return plain / a_.factor;
    case ROPE_RULE_LLAMA3: return llama3(plain);
    case ROPE_RULE_NTK: return plain / ntk_divisor(pair);
    case ROPE_RULE_YARN: return yarn(pair, plain);
    case ROPE_RULE_LONGROPE: return plain / divisors_[pair];
    case ROPE_RULE_PROPORTIONAL: return pair < turning_ ? plain / factor_ : 0;
    default: return plain;
  }
}

// Long wavelengths are stretched by `factor`, short ones kept, a linear ramp between (Llama 3.1).
Real Rule::llama3(Real frequency) const {
  const Real wavelength = kTwoPi / frequency;
  if (wavelength > a_.original_max_position / static_cast<Real>(a_.low_freq_factor)) return frequency / a_.factor;
  if (wavelength < a_.original_max_position / static_cast<Real>(a_.high_freq_factor) || a_.low_freq_factor == a_.high_freq_factor)
    return frequency;
  const Real ramp =
      (a_.original_max_position / wavelength - a_.low_freq_factor) / (static_cast<Real>(a_.high_freq_factor) - a_.low_freq_factor);
  return (1 - ramp) * frequency / a_.factor + ramp * frequency;
}

// The same by turns within the original length, and with a ramp that is linear in the pair.
Real Rule::yarn(int64_t pair, Real frequency) const {
  const Real place = (static_cast<Real>(pair) - ramp_begin_) / (static_cast<Real>(ramp_end_) - ramp_begin_);
  const Real stretched = std::min(std::max(place, Real{0}), Real{1});
  return frequency / factor_ * stretched + frequency * (1 - stretched);
}

Real Rule::ntk_divisor(int64_t pair) const {
  const Real pairs = static_cast<Real>(a_.rotary_dim) / 2;
  if (a_.mixed_b == 0) return powl(a_.factor, 1 / pairs);
  return expl(logl(a_.factor) / powl(pairs, a_.mixed_b) * powl(static_cast<Real>(pair + 1), a_.mixed_b));
}

// ---- Hugging Face's float32 steps ----------------------------------------------------------------------------------------------------

float Rule::hf(int64_t pair) const {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(a_.rotary_dim);
  const auto power = static_cast<float>(std::pow(static_cast<double>(theta_hf_), static_cast<double>(exponent)));
  const float plain = 1.0f / power;
  switch (a_.rule) {
    case ROPE_RULE_LINEAR: return plain / static_cast<float>(a_.factor);
    case ROPE_RULE_LLAMA3: return llama3_hf(plain);
    case ROPE_RULE_NTK: return plain / ntk_divisor_hf(pair);
    case ROPE_RULE_YARN: return yarn_hf(pair, power);
    case ROPE_RULE_LONGROPE: return 1.0f / (static_cast<float>(divisors_[pair]) * power);
    case ROPE_RULE_PROPORTIONAL: return pair < turning_ ? plain / static_cast<float>(factor_) : 0;
    default: return plain;
  }
}

float Rule::llama3_hf(float frequency) const {
  const float wavelength = static_cast<float>(static_cast<double>(kTwoPi)) * (1.0f / frequency);
  const bool slow = wavelength > a_.original_max_position / a_.low_freq_factor;
  const float factor = static_cast<float>(a_.factor);
  if (slow) return frequency / factor;
  if (wavelength < a_.original_max_position / a_.high_freq_factor || a_.low_freq_factor == a_.high_freq_factor) return frequency;
  const float turns = static_cast<float>(static_cast<double>(1.0f / wavelength) * a_.original_max_position);
  const float ramp = static_cast<float>(turns - a_.low_freq_factor) / static_cast<float>(a_.high_freq_factor - a_.low_freq_factor);
  return (1.0f - ramp) * frequency / factor + ramp * frequency;
}

float Rule::yarn_hf(int64_t pair, float power) const {
  const float place = (static_cast<float>(pair) - static_cast<float>(ramp_begin_)) / static_cast<float>(ramp_end_ - ramp_begin_);
  const float kept = 1.0f - std::min(std::max(place, 0.0f), 1.0f);
  return 1.0f / (static_cast<float>(factor_) * power) * (1.0f - kept) + 1.0f / power * kept;
}

float Rule::ntk_divisor_hf(int64_t pair) const {
  const double pairs = static_cast<double>(a_.rotary_dim) / 2;
  if (a_.mixed_b == 0) return static_cast<float>(std::pow(a_.factor, 1 / pairs));
  const auto slope = static_cast<float>(std::log(a_.factor) / std::pow(pairs, a_.mixed_b));
  const auto power = static_cast<float>(std::pow(static_cast<double>(pair + 1), static_cast<double>(static_cast<float>(a_.mixed_b))));
  return static_cast<float>(std::exp(static_cast<double>(slope * power)));
}

}  // namespace rope
