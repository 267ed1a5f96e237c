// The CPU backend: tokens are split over the cores; each token's angles are computed once and used for all its heads.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>

#include "../core/dtypes.h"
#include "../device/cpu_threads.h"
#include "../device/machine.h"
#include "rotate.h"
#include "rotate_rows.h"

namespace rope {

extern const RotateRows rotate_rows_baseline, rotate_rows_v3, rotate_rows_v4;

namespace {

// A thread's share must be worth waking it: tens of microseconds of work.
constexpr int64_t kBytesPerChunk = 256 << 10;

const RotateRows& rows_of_machine() {
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

int row_index(int dtype) {
  switch (dtype) {
    case ROPE_FLOAT16: return 0;
    case ROPE_BFLOAT16: return 1;
    case ROPE_FLOAT32: return 2;
    default: return 3;
  }
}

// Scratch of one thread's share: the angles of a token, and a row where interleaved_to_half works in place.
class Scratch {
 public:
  Scratch(int64_t pairs, int64_t row_bytes) {
    const size_t table = static_cast<size_t>(pairs) * sizeof(double);
    const size_t bytes = 4 * table + static_cast<size_t>(row_bytes);
    char* base = fixed_;
    if (bytes > sizeof fixed_) {
      heap_.reset(new (std::nothrow) char[bytes]);
      base = heap_.get();
    }
    ok = base != nullptr;
    if (!ok) return;
    cos = base;
    sin = base + table;
    cos_spread = reinterpret_cast<float*>(base + 2 * table);
    sin_spread = reinterpret_cast<float*>(base + 3 * table);
    row = base + 4 * table;
  }

  bool ok;
  void* cos = nullptr;  // [pairs], float or double
  void* sin = nullptr;
  float* cos_spread = nullptr;  // [2 * pairs]
  float* sin_spread = nullptr;
  char* row = nullptr;

 private:
  std::unique_ptr<char[]> heap_;
  alignas(64) char fixed_[24 << 10];
};

// The smallest index that any thread met.
class First {
 public:
  void note(int64_t index) {
    int64_t known = index_.load(std::memory_order_relaxed);
    while (index < known && !index_.compare_exchange_weak(known, index, std::memory_order_relaxed)) {
    }
  }
  int64_t index() const { return index_.load(std::memory_order_relaxed); }
  static constexpr int64_t kNone = INT64_MAX;

 private:
  std::atomic<int64_t> index_{kNone};
};

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

// One call's constants, and the work on one token.
class Rotation {
 public:
  explicit Rotation(const RotateParams& params) : p(params), f(*params.frequencies), rows(rows_of_machine()) {
    size = dtype_size(p.dtype);
    slice = 2 * f.pairs;
    const int index = row_index(p.dtype);
    spread = p.pairing == ROPE_INTERLEAVED && p.dtype != ROPE_FLOAT64;
    switch (p.pairing) {
      case ROPE_HALF: turn = rows.half[index]; break;
      case ROPE_INTERLEAVED: turn = rows.interleaved[index]; break;
      default: turn = p.inverse ? rows.from_half[index] : rows.to_half[index]; permutes = true;
    }
  }

  void token(int64_t batch, int64_t token, int64_t request, Scratch& scratch, First& fault) const {
    TokenPosition position;
    read_position(p.positions, f.axes, batch, token, request, &position);
    if (position.fault) {
      fault.note(batch * p.grid.tokens + token);
      return;
    }
    for (const RotateTensor* side : {&p.q, &p.k}) {
      if (side->heads > 0) pass_by(*side, batch, token, position.padding);
    }
    if (position.padding) return;
    for (int64_t head = 0; head < f.rows(); ++head) {
      const AngleInput input = angle_input(f, position, head, p.hf, p.backward);
      (p.dtype == ROPE_FLOAT64 ? rows.angles_double : rows.angles)(input, scratch.cos, scratch.sin);
      if (spread) {
        rows.spread(static_cast<const float*>(scratch.cos), static_cast<const float*>(scratch.sin), f.pairs, scratch.cos_spread,
                    scratch.sin_spread);
      }
      for (const RotateTensor* side : {&p.q, &p.k}) {
        const int64_t heads = f.heads > 0 ? std::min<int64_t>(side->heads, 1) : side->heads;
        if (heads > 0) turn_heads(*side, batch, token, head, heads, scratch);
      }
    }
  }

  int64_t row_bytes() const { return permutes ? slice * size : 0; }

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
    const size_t before = static_cast<size_t>((whole ? p.head_dim : p.rotary_offset) * size);
    const size_t after = whole ? 0 : static_cast<size_t>((p.rotary_offset + slice) * size);
    const size_t end = whole ? 0 : static_cast<size_t>(p.head_dim * size);
    for (int64_t head = 0; head < t.heads; ++head) {
      const char* const in = source(t, batch, token, head);
      char* const out = target(t, batch, token, head);
      std::memcpy(out, in, before);
      std::memcpy(out + after, in + after, end - after);
    }
  }

  void turn_heads(const RotateTensor& t, int64_t batch, int64_t token, int64_t head, int64_t heads, Scratch& scratch) const {
    RowInput row{source(t, batch, token, head) + p.rotary_offset * size,
                 target(t, batch, token, head) + p.rotary_offset * size,
                 t.in_head * size,
                 t.out_head * size,
                 heads,
                 spread ? scratch.cos_spread : scratch.cos,
                 spread ? scratch.sin_spread : scratch.sin,
                 f.pairs,
                 0,
                 0};
    if (!permutes || !t.in_place) return turn_runs(row, head, t.in_place && !permutes);
    // interleaved_to_half reads at other places than it writes: the row is set aside first.
    row.heads = 1;
    row.in = scratch.row;
    for (int64_t i = 0; i < heads; ++i) {
      std::memcpy(scratch.row, row.out, static_cast<size_t>(slice * size));
      turn_runs(row, head, false);
      row.out += row.out_head;
    }
  }

  void turn_runs(RowInput& row, int64_t head, bool still_in_place) const {
    for (const PairRun& run : f.runs[static_cast<size_t>(head)]) {
      row.begin = run.begin;
      row.end = run.end;
      if (!run.still) {
        turn(row);
      } else if (!still_in_place) {
        copy_pairs(row);
      }
    }
  }

  // Pairs that do not turn, moved to where the pairing wants them.
  void copy_pairs(const RowInput& row) const {
    const auto place = [&](bool halves, int64_t pair, int64_t member) {
      return (halves ? pair + member * f.pairs : 2 * pair + member) * size;
    };
    const bool from_halves = p.pairing == ROPE_HALF || (permutes && p.inverse);
    const bool to_halves = p.pairing == ROPE_HALF || (permutes && !p.inverse);
    for (int64_t head = 0; head < row.heads; ++head) {
      for (int64_t pair = row.begin; pair < row.end; ++pair) {
        for (int64_t member = 0; member < 2; ++member) {
          std::memcpy(row.out + head * row.out_head + place(to_halves, pair, member),
                      row.in + head * row.in_head + place(from_halves, pair, member), static_cast<size_t>(size));
        }
      }
    }
  }

  const RotateParams& p;
  const Frequencies& f;
  const RotateRows& rows;
  RowFunction turn;
  int64_t size;
  int64_t slice;  // channels that turn
  bool spread = false;
  bool permutes = false;
};

rope_fault fault_of(const Positions& positions, int64_t axes, const TokenGrid& grid, int64_t index) {
  if (index == First::kNone) return {};
  const int64_t batch = index / grid.tokens, token = index % grid.tokens;
  const int64_t request = positions.indptr.data != nullptr ? request_of(positions.indptr, token) : -1;
  return position_fault(positions, axes, batch, token, request);
}

}  // namespace

rope_fault rotate_cpu(const RotateParams& p) {
  const Indices& indptr = p.positions.indptr;
  const bool ragged = indptr.data != nullptr;
  const rope_fault indptr_fault = ragged ? check_indptr(indptr, p.grid.tokens) : rope_fault{};
  const bool sound = indptr_fault.code == ROPE_FAULT_NONE;
  const int64_t heads = p.q.heads + p.k.heads;
  if (heads == 0 || p.grid.batch == 0 || p.grid.tokens == 0) return indptr_fault;
  const int64_t tokens = p.grid.batch * p.grid.tokens;
  const Rotation rotation(p);
  First fault;
  std::atomic<bool> out_of_memory{false};
  const int64_t bytes_per_token = std::max<int64_t>(1, heads * p.head_dim * dtype_size(p.dtype));
  parallel_for(tokens, (kBytesPerChunk + bytes_per_token - 1) / bytes_per_token, [&](int64_t begin, int64_t end) {
    Scratch scratch(p.frequencies->pairs, rotation.row_bytes());
    if (!scratch.ok) out_of_memory = true;
    for (int64_t i = begin; scratch.ok && i < end; ++i) {
      const int64_t batch = i / p.grid.tokens, token = i % p.grid.tokens;
      const int64_t request = !ragged ? -1 : sound ? request_of(indptr, token) : sound_request_of(indptr, p.grid.tokens, token);
      // Of a faulty indptr only the rows of its sound requests are written.
      if (sound || request >= 0) rotation.token(batch, token, request, scratch, fault);
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  if (!sound) return indptr_fault;
  return fault_of(p.positions, p.frequencies->axes, p.grid, fault.index());
}

rope_fault cos_sin_cpu(const CosSinParams& p) {
  const Frequencies& f = *p.frequencies;
  const RotateRows& rows = rows_of_machine();
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
  return fault_of(p.positions, f.axes, p.grid, fault.index());
}

}  // namespace rope
