// rope_shift on the CPU: one thread claims the pages, then all turn them, by the row loops of the rotation. Float8 is widened to float32 for
// it, a place at a time, and rounded back.
#include "shift.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#include "../core/dtypes.h"
#include "../rope/rotate_cpu.h"
#include "../tensor/convert.h"

namespace rope {
namespace {

// ---- claims -----------------------------------------------------------------------------------------------------------------------------

// Returns the first fault; entries from *used on belong to no request.
rope_fault claim_pages(const ShiftTable& t, int64_t* used) {
  rope_fault first{};
  const auto note = [&](const rope_fault& fault) {
    if (first.code == ROPE_FAULT_NONE) first = fault;
  };
  std::fill(t.owners, t.owners + t.pages, kNobody);
  *used = 0;
  for (int64_t request = 0; request + 1 < t.table.indptr.count; ++request) {
    PageRange pages;
    rope_fault fault;
    if (!read_claims(t, request, &pages, &fault)) note(fault);
    for (int64_t entry = pages.begin; entry < pages.end; ++entry) {
      int64_t page;
      if (!read_page(t, request, entry, &page, &fault)) {
        note(fault);
      } else if (t.owners[page] == kNobody) {
        t.owners[page] = static_cast<int32_t>(request);
      } else {
        t.owners[page] = kShared;
        note(shared_page(t, request, entry, page));
      }
    }
    *used = std::max(*used, pages.end);
  }
  return first;
}

// ---- turning ----------------------------------------------------------------------------------------------------------------------------

// One thread's angles, of the delta it met last, and its scratch.
class Turner {
 public:
  explicit Turner(const ShiftParams& params)
      : p(params),
        f(*params.frequencies),
        size(dtype_size(params.dtype)),
        width(2 * f.pairs),
        float8(size == 1),
        turning(float8 ? ROPE_FLOAT32 : params.dtype, f.pairs, params.interleaved ? ROPE_INTERLEAVED : ROPE_HALF, false, false),
        runs(static_cast<size_t>(f.rows())) {
    const size_t angles = static_cast<size_t>(f.rows() * f.pairs);
    cos.resize(angles);
    sin.resize(angles);
    if (turning.spread()) {
      cos_spread.resize(2 * angles);
      sin_spread.resize(2 * angles);
    }
    if (float8) widened.resize(static_cast<size_t>(p.heads * width));
  }

  // The angles of a delta, and which pairs they turn. The attention factor was applied when the keys were cached.
  void set_delta(int64_t wanted) {
    if (wanted == delta) return;
    delta = wanted;
    TokenPosition position{};
    position.whole[0] = delta;
    position.rounded[0] = static_cast<float>(delta);
    for (int64_t row = 0; row < f.rows(); ++row) {
      const int64_t at = row * f.pairs;
      AngleInput input = angle_input(f, position, row, p.hf, p.backward);
      input.attention_factor = 1;
      machine_rows().angles(input, cos.data() + at, sin.data() + at);
      if (turning.spread()) {
        machine_rows().spread(cos.data() + at, sin.data() + at, f.pairs, cos_spread.data() + 2 * at, sin_spread.data() + 2 * at);
      }
      std::vector<PairRun>& found = runs[static_cast<size_t>(row)];
      found.clear();
      for (int64_t pair = 0; pair < f.pairs; ++pair) {
        const bool still = stands_still(cos[static_cast<size_t>(at + pair)], sin[static_cast<size_t>(at + pair)]);
        if (found.empty() || found.back().still != still) found.push_back({pair, pair, still});
        ++found.back().end;
      }
    }
  }

  // All heads of one place; `slice` is the rotary slice of the first.
  void turn(char* slice) {
    if (!float8) return turn_rows(slice, p.head_stride * size);
    char* const wide = reinterpret_cast<char*>(widened.data());
    convert_plane(p.dtype, ROPE_FLOAT32, {slice, wide, p.heads, width, p.head_stride, 1, width, 1});
    turn_rows(wide, width * dtype_size(ROPE_FLOAT32));
    for (int64_t row = 0; row < f.rows(); ++row) {
      for (const PairRun& run : runs[static_cast<size_t>(row)]) {
        if (run.still) continue;
        if (p.interleaved) {
          narrow(slice, row, 2 * run.begin, 2 * run.end);
        } else {
          narrow(slice, row, run.begin, run.end);
          narrow(slice, row, f.pairs + run.begin, f.pairs + run.end);
        }
      }
    }
  }

 private:
  int64_t heads_alike() const { return f.heads > 0 ? 1 : p.heads; }

  void turn_rows(char* slice, int64_t head_bytes) const {
    for (int64_t row = 0; row < f.rows(); ++row) {
      const int64_t at = row * f.pairs;
      const float* const c = turning.spread() ? cos_spread.data() + 2 * at : cos.data() + at;
      const float* const s = turning.spread() ? sin_spread.data() + 2 * at : sin.data() + at;
      char* const first = slice + row * head_bytes;
      turning.turn({first, first, head_bytes, head_bytes, heads_alike(), c, s, f.pairs, 0, 0}, runs[static_cast<size_t>(row)], true,
                   nullptr);
    }
  }

  // Channels [begin, end) of the slice, back to float8.
  void narrow(char* slice, int64_t row, int64_t begin, int64_t end) const {
    const float* const from = widened.data() + row * width + begin;
    convert_plane(
        ROPE_FLOAT32, p.dtype,
        {reinterpret_cast<const char*>(from), slice + row * p.head_stride + begin, heads_alike(), end - begin, width, 1, p.head_stride, 1});
  }

  const ShiftParams& p;
  const Frequencies& f;
  const int64_t size;
  const int64_t width;  // of the slice
  const bool float8;
  const Turning turning;
  int64_t delta = 0;
  std::vector<std::vector<PairRun>> runs;     // [rows]
  std::vector<float> cos, sin;                // [rows, pairs]
  std::vector<float> cos_spread, sin_spread;  // [rows, 2 * pairs]
  std::vector<float> widened;                 // [heads, width]
};

void turn_pages(const ShiftParams& p, int64_t entries) {
  const int64_t size = dtype_size(p.dtype), page_size = p.table.table.page_size;
  // Large pages are cut into parts, so that all threads have some of few.
  constexpr int64_t kMostParts = 1 << 16;
  const int64_t place_bytes = p.heads * 2 * p.frequencies->pairs * size;
  const int64_t part_places = std::clamp(kBytesPerChunk / place_bytes, (page_size + kMostParts - 1) / kMostParts, page_size);
  const int64_t parts = (page_size + part_places - 1) / part_places;
  const int64_t grain = std::max<int64_t>(1, kBytesPerChunk / (part_places * place_bytes));
  std::atomic<bool> out_of_memory{false};
  parallel_for(entries * parts, grain, [&](int64_t begin, int64_t end) {
    try {
      Turner turner(p);
      for (int64_t i = begin; i < end; ++i) {
        const Turn turn = find_turn(p.table, i / parts);
        const int64_t first = i % parts * part_places, last = std::min(first + part_places, turn.places);
        if (first >= last) continue;
        turner.set_delta(turn.delta);
        char* const page = p.cache + (turn.page * p.page_stride + p.rotary_offset) * size;
        for (int64_t place = first; place < last; ++place) turner.turn(page + place * p.place_stride * size);
      }
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace

rope_fault shift_cpu(const ShiftParams& p) {
  int64_t used = 0;
  const rope_fault fault = claim_pages(p.table, &used);
  if (p.heads > 0 && p.table.pages > 0) turn_pages(p, used);
  return fault;
}

}  // namespace rope
