// The CPU backend: tokens are split over the cores; each token's angles are computed once and used for all its heads.
#include "rotate_cpu.h"

#include <algorithm>
#include <cstring>

#include "../core/dtypes.h"
#include "../device/machine.h"
#include "rotate.h"

namespace rope {

extern const RotateRows rotate_rows_baseline, rotate_rows_v3, rotate_rows_v4;

const RotateRows& machine_rows() {
  switch (machine().isa) {
#if defined(ROPE_HAVE_ISA_V4)
    case Isa::v4: return rotate_rows_v4;
#endif
#if defined(ROPE_HAVE_ISA_V3)
    case Isa::v3: return rotate_rows_v3;
#endif
    default: return rotate_rows_baseline;
  }
}

AngleInput angle_input(const Frequencies& f, const TokenPosition& position, int64_t head, bool hf, bool backward) {
  const int64_t row = head * f.pairs;
  return {f.turns.data() + row,
          f.turns_per_position.data() + row,
          f.inv_freq.data() + row,
          f.rows() * f.pairs,
          f.axes,
          f.pairs,
          position.whole,
          position.fractional ? position.fraction : nullptr,
          position.rounded,
          f.attention_factor,
          hf,
          backward};
}

void copy_rows(const char* in, char* out, int64_t in_head, int64_t out_head, int64_t heads, int64_t bytes) {
  if (in_head == bytes && out_head == bytes) {
    bytes *= heads;
    heads = 1;
  }
  if (bytes == 0) return;
  for (int64_t head = 0; head < heads; ++head) std::memcpy(out + head * out_head, in + head * in_head, static_cast<size_t>(bytes));
}

// ---- turning ---------------------------------------------------------------------------------------------------------------------------

namespace {

int row_index(int dtype) {
  switch (dtype) {
    case ROPE_FLOAT16: return 0;
    case ROPE_BFLOAT16: return 1;
    case ROPE_FLOAT32: return 2;
    default: return 3;
  }
}

}  // namespace

Turning::Turning(int dtype, int64_t pairs, int pairing, bool inverse, bool full)
    : size_(dtype_size(dtype)), pairs_(pairs), permutes_(pairing == ROPE_INTERLEAVED_TO_HALF) {
  const RotateRows& rows = machine_rows();
  const PairFunctions& functions = full ? rows.full : rows.tied;
  const int index = row_index(dtype);
  spread_ = pairing == ROPE_INTERLEAVED && dtype != ROPE_FLOAT64;
  from_halves_ = pairing == ROPE_HALF || (permutes_ && inverse);
  to_halves_ = pairing == ROPE_HALF || (permutes_ && !inverse);
  function_ = (from_halves_ ? to_halves_ ? functions.half : functions.from_half
               : to_halves_ ? functions.to_half
                            : functions.interleaved)[index];
}

void Turning::turn(RowInput row, const std::vector<PairRun>& runs, bool in_place, char* aside) const {
  if (!permutes_ || !in_place) return turn_runs(row, runs, in_place && !permutes_);
  // interleaved_to_half reads at other places than it writes: the row is set aside first.
  const int64_t heads = row.heads;
  row.heads = 1;
  row.in = aside;
  for (int64_t i = 0; i < heads; ++i) {
    std::memcpy(aside, row.out, static_cast<size_t>(2 * pairs_ * size_));
    turn_runs(row, runs, false);
    row.out += row.out_head;
  }
}

void Turning::turn_runs(RowInput& row, const std::vector<PairRun>& runs, bool still_in_place) const {
  for (const PairRun& run : runs) {
    row.begin = run.begin;
    row.end = run.end;
    if (!run.still) {
      function_(row);
    } else if (!still_in_place) {
      copy_pairs(row);
    }
  }
}

// Pairs that do not turn, moved to where the pairing wants them.
void Turning::copy_pairs(const RowInput& row) const {
  const auto place = [&](bool halves, int64_t pair, int64_t member) {
    return (halves ? pair + member * pairs_ : 2 * pair + member) * size_;
  };
  for (int64_t head = 0; head < row.heads; ++head) {
    for (int64_t pair = row.begin; pair < row.end; ++pair) {
      for (int64_t member = 0; member < 2; ++member) {
        std::memcpy(row.out + head * row.out_head + place(to_halves_, pair, member),
                    row.in + head * row.in_head + place(from_halves_, pair, member), static_cast<size_t>(size_));
      }
    }
  }
}

// ---- the rotation ----------------------------------------------------------------------------------------------------------------------

namespace {

// One call's constants, and the work on one token.
class Rotation {
 public:
  explicit Rotation(const RotateParams& params)
      : p(params),
        f(*params.frequencies),
        rows(machine_rows()),
        turning(params.dtype, params.frequencies->pairs, params.pairing, params.inverse, false),
        size(dtype_size(params.dtype)),
        slice(2 * params.frequencies->pairs) {}

  bool token(int64_t batch, int64_t token, int64_t request, Scratch& scratch) const {
    TokenPosition position;
    read_position(p.positions, f.axes, batch, token, request, &position);
    if (position.fault) return false;
    for (const RotateTensor* side : {&p.q, &p.k}) {
      if (side->heads > 0) pass_by(*side, batch, token, position.padding);
    }
    if (position.padding) return true;
    for (int64_t head = 0; head < f.rows(); ++head) {
      const AngleInput input = angle_input(f, position, head, p.hf, p.backward);
      (p.dtype == ROPE_FLOAT64 ? rows.angles_double : rows.angles)(input, scratch.cos, scratch.sin);
      if (turning.spread()) {
        rows.spread(reinterpret_cast<const float*>(scratch.cos), reinterpret_cast<const float*>(scratch.sin), f.pairs, scratch.cos_spread,
                    scratch.sin_spread);
      }
      for (const RotateTensor* side : {&p.q, &p.k}) {
        const int64_t heads = f.heads > 0 ? std::min<int64_t>(side->heads, 1) : side->heads;
        if (heads > 0) turn_heads(*side, batch, token, head, heads, scratch);
      }
    }
    return true;
  }

  rope_fault fault_of(int64_t batch, int64_t token, int64_t request) const {
    return position_fault(p.positions, f.axes, batch, token, request);
  }

  double bytes_per_token() const { return static_cast<double>((p.q.heads + p.k.heads) * p.head_dim * size); }
  ScratchSize scratch_size() const { return {f.pairs, turning.aside_bytes(), 0}; }

 private:
  const char* source(const RotateTensor& t, int64_t batch, int64_t token, int64_t head) const {
    return t.in + (batch * t.in_batch + token * t.in_token + head * t.in_head) * size;
  }
  char* target(const RotateTensor& t, int64_t batch, int64_t token, int64_t head) const {
    return t.out + (batch * t.out_batch + token * t.out_token + head * t.out_head) * size;
  }

  // Channels outside the slice, and whole rows of padding.
  void pass_by(const RotateTensor& t, int64_t batch, int64_t token, bool whole) const {
    if (t.in_place || (!whole && slice == p.head_dim)) return;
    const char* const in = source(t, batch, token, 0);
    char* const out = target(t, batch, token, 0);
    const int64_t in_head = t.in_head * size, out_head = t.out_head * size;
    const int64_t before = whole ? p.head_dim : p.rotary_offset, after = before + slice;
    copy_rows(in, out, in_head, out_head, t.heads, before * size);
    if (!whole) copy_rows(in + after * size, out + after * size, in_head, out_head, t.heads, (p.head_dim - after) * size);
  }

  void turn_heads(const RotateTensor& t, int64_t batch, int64_t token, int64_t head, int64_t heads, Scratch& scratch) const {
    const bool spread = turning.spread();
    const RowInput row{source(t, batch, token, head) + p.rotary_offset * size,
                       target(t, batch, token, head) + p.rotary_offset * size,
                       t.in_head * size,
                       t.out_head * size,
                       heads,
                       spread ? static_cast<const void*>(scratch.cos_spread) : scratch.cos,
                       spread ? static_cast<const void*>(scratch.sin_spread) : scratch.sin,
                       f.pairs,
                       0,
                       0};
    turning.turn(row, f.runs[static_cast<size_t>(head)], t.in_place, scratch.aside);
  }

  const RotateParams& p;
  const Frequencies& f;
  const RotateRows& rows;
  const Turning turning;
  const int64_t size;
  const int64_t slice;  // channels that turn
};

}  // namespace

rope_fault rotate_cpu(const RotateParams& p) { return run_tokens(Rotation(p), p.grid, p.positions.indptr); }

rope_fault cos_sin_cpu(const CosSinParams& p) {
  const Frequencies& f = *p.frequencies;
  const RotateRows& rows = machine_rows();
  First fault;
  const int64_t width = f.rows() * f.pairs;
  parallel_for(p.grid.tokens, std::max<int64_t>(1, kBytesPerChunk / (8 * width)), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      float* const cos = p.cos + token * width;
      float* const sin = p.sin + token * width;
      TokenPosition position;
      read_position(p.positions, f.axes, 0, token, -1, &position);
      if (position.fault) {
        fault.note(token);
      } else if (position.padding) {
        std::fill(cos, cos + width, 1.0f);
        std::fill(sin, sin + width, 0.0f);
      } else {
        for (int64_t head = 0; head < f.rows(); ++head) {
          rows.angles(angle_input(f, position, head, p.hf, p.backward), cos + head * f.pairs, sin + head * f.pairs);
        }
      }
    }
  });
  return fault.index() == First::kNone ? rope_fault{} : position_fault(p.positions, f.axes, 0, fault.index(), -1);
}

}  // namespace rope
