// From a rule, or the caller's values, to the object: fixed-point turns, runs of pairs that stand still, and the cache in which equal ones meet.
#include "frequencies.h"

#include <cmath>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>

#include "../core/arguments.h"
#include "../core/handles.h"
#include "rules.h"

namespace rope {
namespace {

// 1 / (2 pi) in two parts, the second what the first leaves out: a product with both is right to the last of 64 bits behind the point.
constexpr Real kInverseTwoPi = 0xa2f9836e4e44152ap-66L, kInverseTwoPiRest = -0xf62a0b82b2c88fc9p-136L;
constexpr Real kMaxFrequency = 0x1p32L;  // radians per position: beyond it turns would lose bits behind the point
constexpr int64_t kMaxPairs = int64_t{1} << 20, kMaxAxes = 16, kMaxHeads = 65536;

void require_count(int64_t value, int64_t least, int64_t most, const char* argument) {
  if (value >= least && value <= most) return;
  fail(ROPE_ARGUMENT, argument, text("%lld to %lld", static_cast<long long>(least), static_cast<long long>(most)),
       text("%lld", static_cast<long long>(value)));
}

// ---- the object ----------------------------------------------------------------------------------------------------------------------

void set_frequency(Frequencies& f, int64_t index, Real radians, float inv_freq, const char* argument) {
  if (!(fabsl(radians) <= kMaxFrequency)) {
    fail(ROPE_ARGUMENT, argument, text("such that no frequency is beyond 2^32 radians per position"), text("a frequency of %Lg", radians));
  }
  const Real turns = radians * kInverseTwoPi;
  const Real rest = fmal(radians, kInverseTwoPi, -turns) + radians * kInverseTwoPiRest;
  const Real fraction = (turns - floorl(turns)) + rest;
  const Real scaled = roundl((fraction - floorl(fraction)) * 0x1p64L);
  const size_t i = static_cast<size_t>(index);
  f.turns[i] = scaled >= 0x1p64L ? 0 : static_cast<uint64_t>(scaled);
  f.turns_per_position[i] = static_cast<double>(turns);
  f.radians[i] = static_cast<double>(radians);
  f.inv_freq[i] = inv_freq;
}

bool is_still(const Frequencies& f, int64_t head, int64_t pair) {
  if (f.attention_factor != 1) return false;
  for (int64_t axis = 0; axis < f.axes; ++axis) {
    if (f.radians[static_cast<size_t>((axis * f.rows() + head) * f.pairs + pair)] != 0) return false;
  }
  return true;
}

void find_runs(Frequencies& f) {
  f.runs.resize(static_cast<size_t>(f.rows()));
  for (int64_t head = 0; head < f.rows(); ++head) {
    std::vector<PairRun>& runs = f.runs[static_cast<size_t>(head)];
    for (int64_t pair = 0; pair < f.pairs; ++pair) {
      const bool still = is_still(f, head, pair);
      if (runs.empty() || runs.back().still != still) runs.push_back({pair, pair, still});
      ++runs.back().end;
    }
  }
}

void check(rope_frequencies_args& a) {
  require_count(a.rotary_dim, 2, 2 * kMaxPairs, "rotary_dim");
  require(a.rotary_dim % 2 == 0, "rotary_dim", "even", text("%lld", static_cast<long long>(a.rotary_dim)).bytes,
          "Channels rotate in pairs.");
  if (a.axes == 0) a.axes = 1;
  require_count(a.axes, 1, kMaxAxes, "axes");
  if (a.attention_factor != 0) require_positive(a.attention_factor, "attention_factor");
  if (a.rule > ROPE_RULE_PROPORTIONAL) fail(ROPE_ARGUMENT, "rule", text("a rope_rule"), text("%u", a.rule));
  const int64_t pairs = a.rotary_dim / 2;
  if (a.axis_of_pair != 0) {
    require(a.heads == 0, "heads", "0 where axis_of_pair is given", "more");
    if (a.axis_of_pair_count != static_cast<uint64_t>(pairs)) {
      fail(ROPE_ARGUMENT, "axis_of_pair", text("one axis for each of the %lld pairs", static_cast<long long>(pairs)),
           text("%llu", static_cast<unsigned long long>(a.axis_of_pair_count)));
    }
  }
  if (a.rule == ROPE_RULE_CUSTOM) {
    require_count(a.heads, 0, kMaxHeads, "heads");
    require(a.custom != 0, "custom", "the address of the frequencies", "0");
    const int64_t wanted = a.axis_of_pair != 0 ? pairs : a.axes * (a.heads > 0 ? a.heads : 1) * pairs;
    if (a.custom_count != static_cast<uint64_t>(wanted)) {
      fail(ROPE_ARGUMENT, "custom", text("%lld frequencies", static_cast<long long>(wanted)),
           text("%llu", static_cast<unsigned long long>(a.custom_count)));
    }
    return;
  }
  require(a.heads == 0, "heads", "0 where a rule gives the frequencies", "more");
  require(a.axes == 1 || a.axis_of_pair != 0, "axis_of_pair", "given where a rule drives several axes", "absent");
  check_rule(a);
}

FrequenciesRef build(const rope_frequencies_args& a) {
  auto f = std::make_shared<Frequencies>();
  f->axes = a.axes;
  f->heads = a.heads;
  f->pairs = a.rotary_dim / 2;
  const Rule rule(a);
  f->attention_factor = rule.attention_factor;
  const size_t count = static_cast<size_t>(f->count());
  f->turns.resize(count);
  f->turns_per_position.resize(count);
  f->radians.resize(count);
  f->inv_freq.resize(count);
  const auto* const custom = reinterpret_cast<const double*>(a.custom);
  const auto* const axis_of_pair = reinterpret_cast<const int32_t*>(a.axis_of_pair);
  const auto value = [&](int64_t index, int64_t from, int64_t pair) {
    if (a.rule == ROPE_RULE_CUSTOM) return set_frequency(*f, index, custom[from], static_cast<float>(custom[from]), "custom");
    set_frequency(*f, index, rule.exact(pair), rule.hf(pair), a.rule == ROPE_RULE_LONGROPE ? "custom" : "theta");
  };
  if (axis_of_pair != nullptr) {
    for (int64_t pair = 0; pair < f->pairs; ++pair) {
      require_count(axis_of_pair[pair], 0, f->axes - 1, "axis_of_pair");
      value(axis_of_pair[pair] * f->pairs + pair, pair, pair);
    }
  } else {
    for (int64_t i = 0; i < f->count(); ++i) value(i, i, i % f->pairs);
  }
  find_runs(*f);
  return f;
}

// Everything the values depend on, as bytes.
std::string key_of(const rope_frequencies_args& a) {
  rope_frequencies_args plain = a;
  plain.size = 0;
  plain.realm = plain.frequencies = plain.custom = plain.axis_of_pair = 0;
  plain.chosen_attention_factor = 0;
  std::string key(reinterpret_cast<const char*>(&plain), sizeof plain);
  if (a.rule == ROPE_RULE_CUSTOM || a.rule == ROPE_RULE_LONGROPE)
    key.append(reinterpret_cast<const char*>(a.custom), a.custom_count * sizeof(double));
  if (a.axis_of_pair != 0) key.append(reinterpret_cast<const char*>(a.axis_of_pair), a.axis_of_pair_count * sizeof(int32_t));
  return key;
}

struct Cache {
  std::mutex mutex;
  std::unordered_map<std::string, std::weak_ptr<const Frequencies>> entries;
};

Cache& cache() {
  static Cache* const instance = new Cache;
  return *instance;
}

}  // namespace

FrequenciesRef make_frequencies(const rope_frequencies_args& given) {
  rope_frequencies_args args = given;
  check(args);
  const std::string key = key_of(args);
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  if (const auto found = c.entries.find(key); found != c.entries.end()) {
    if (FrequenciesRef alive = found->second.lock()) return alive;
  }
  FrequenciesRef made = build(args);
  std::erase_if(c.entries, [](const auto& entry) { return entry.second.expired(); });
  c.entries.insert_or_assign(key, made);
  return made;
}

FrequenciesRef find_frequencies(uint64_t handle) { return find_handle<const Frequencies>(HandleKind::frequencies, handle, "frequencies"); }

void check_slice(int64_t head_dim, int64_t rotary_offset, int64_t rotary_dim) {
  if (rotary_offset < 0 || rotary_offset > head_dim) {
    fail(ROPE_ARGUMENT, "rotary_offset", text("0 to the head dimension, %lld", static_cast<long long>(head_dim)),
         text("%lld", static_cast<long long>(rotary_offset)));
  }
  if (rotary_dim > head_dim - rotary_offset) {
    fail(ROPE_ARGUMENT, "rotary_dim",
         text("at most %lld, the head dimension %lld less the rotary offset %lld", static_cast<long long>(head_dim - rotary_offset),
              static_cast<long long>(head_dim), static_cast<long long>(rotary_offset)),
         text("%lld", static_cast<long long>(rotary_dim)));
  }
}

}  // namespace rope

using namespace rope;

extern "C" {

int32_t rope_frequencies_create(rope_frequencies_args* block, rope_error* error) {
  return guard("rope_frequencies_create", error, [&] {
    rope_frequencies_args args = read_block(block, end_of(&rope_frequencies_args::frequencies));
    const FrequenciesRef made = make_frequencies(args);
    args.frequencies = add_handle(HandleKind::frequencies, std::const_pointer_cast<Frequencies>(made), args.realm);
    args.chosen_attention_factor = made->attention_factor;
    write_block(block, args);
  });
}

int32_t rope_frequencies_read(const rope_frequencies_read_args* block, rope_error* error) {
  return guard("rope_frequencies_read", error, [&] {
    const rope_frequencies_read_args args = read_block(block);
    const FrequenciesRef f = find_frequencies(args.frequencies);
    if (args.count != static_cast<uint64_t>(f->count())) {
      fail(ROPE_ARGUMENT, "count", text("%lld, the number of frequencies", static_cast<long long>(f->count())),
           text("%llu", static_cast<unsigned long long>(args.count)));
    }
    if (args.exact != 0) std::memcpy(reinterpret_cast<void*>(args.exact), f->radians.data(), f->radians.size() * sizeof(double));
    if (args.inv_freq != 0) std::memcpy(reinterpret_cast<void*>(args.inv_freq), f->inv_freq.data(), f->inv_freq.size() * sizeof(float));
  });
}

int32_t rope_frequencies_release(const rope_frequencies_args* block, rope_error* error) {
  return guard("rope_frequencies_release", error,
               [&] { remove_handle(HandleKind::frequencies, read_block(block).frequencies, "frequencies"); });
}

}  // extern "C"
