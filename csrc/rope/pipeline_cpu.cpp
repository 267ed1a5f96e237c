// The pipeline on the CPU, token by token, its angles once for all heads. Rows that only turn or only move go straight from source to target,
// all heads at once; of the others as many at a time as stay in the first cache are widened to float32, or float64, worked on, and narrowed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "../tensor/convert.h"
#include "pipeline.h"
#include "rotate_cpu.h"

namespace rope {
namespace {

constexpr int64_t kBlockBytes = 8 << 10;

// What is to be done with a token.
struct Verdict {
  TokenPosition position;
  Slot slot;
  bool turns;
  bool padding;
  bool stored;  // in pages
  rope_fault fault;
};

class Pipeline {
 public:
  // Of the parts [begin, end).
  Pipeline(const PipelineParams& params, int begin, int end)
      : p(params),
        first_part(begin),
        last_part(end),
        rows(machine_rows()),
        full(params.table.cos != nullptr && params.table.full),
        angle_rows(params.frequencies != nullptr ? params.frequencies->rows() : 1),
        wide(params.dtype == ROPE_FLOAT64 ? ROPE_FLOAT64 : ROPE_FLOAT32),
        size(dtype_size(params.dtype)),
        wide_size(dtype_size(wide)),
        turning(params.dtype, params.pairs, params.pairing, params.inverse, full),
        turning_wide(wide, params.pairs, params.pairing, params.inverse, full),
        all_pairs{{0, params.pairs, false}} {
    for (int i = first_part; i < last_part; ++i) {
      const Part& part = p.parts[i];
      if (!there(part)) continue;
      any_turns |= part.turns;
      widen_weight(i);
    }
  }

  double bytes_per_token() const {
    double bytes = 0;
    for (int i = first_part; i < last_part; ++i) {
      bytes += static_cast<double>(p.parts[i].heads) * static_cast<double>(p.parts[i].width * size);
    }
    return bytes;
  }

  ScratchSize scratch_size() const {
    ScratchSize bytes{0, 0, 0};
    if (any_turns) {
      bytes.angles = angle_rows * p.pairs * (full ? 2 : 1);
      bytes.aside = std::max(turning.aside_bytes(), turning_wide.aside_bytes());
    }
    for (int i = first_part; i < last_part; ++i) {
      const Part& part = p.parts[i];
      // Nothing goes to a cache without pages, whose rows may be of any size.
      if (!there(part) || !staged(part, false) || (part.paged && p.pages.pages == 0)) continue;
      bytes.block = std::max(bytes.block, block_heads(part) * part.width * wide_size);
    }
    return bytes;
  }

  bool token(int64_t batch, int64_t token, int64_t request, Scratch& scratch) const {
    Verdict verdict;
    judge(batch, token, request, &verdict);
    if (verdict.fault.code != ROPE_FAULT_NONE) return false;
    const auto written = [&](const Part& part) { return there(part) && (!part.paged || verdict.stored); };
    bool angles = false;
    for (int i = first_part; i < last_part; ++i) angles |= verdict.turns && p.parts[i].turns && written(p.parts[i]);
    if (angles) find_angles(verdict.position, scratch);
    for (int i = first_part; i < last_part; ++i) {
      if (written(p.parts[i])) run(i, batch, token, verdict, scratch);
    }
    return true;
  }

  rope_fault fault_of(int64_t batch, int64_t token, int64_t request) const {
    Verdict verdict;
    judge(batch, token, request, &verdict);
    return verdict.fault;
  }

 private:
  static bool there(const Part& part) { return part.heads > 0 && part.width > 0; }

  // ---- the token -----------------------------------------------------------------------------------------------------------------------

  void judge(int64_t batch, int64_t token, int64_t request, Verdict* out) const {
    const Indices& indptr = p.positions.indptr;
    const bool owned = indptr.data == nullptr || request >= 0;
    out->fault = {};
    out->padding = false;
    out->turns = p.turns && owned;
    if (out->turns && !place(batch, token, request, out)) return;
    if (token - (indptr.data != nullptr && owned ? indptr[request] : 0) < p.prefix || out->padding) out->turns = false;
    out->stored = false;
    if (p.paged) {
      const int64_t number = batch * p.grid.tokens + token;
      out->stored = find_slot(p.pages, number, wanted_of(p.pages, number), &out->slot, &out->fault) == Stored::yes && !out->padding;
    }
  }

  // False of a position out of range.
  bool place(int64_t batch, int64_t token, int64_t request, Verdict* out) const {
    TokenPosition& position = out->position;
    const int64_t axes = p.frequencies != nullptr ? p.frequencies->axes : 1;
    read_position(p.positions, axes, batch, token, request, &position);
    out->padding = position.padding;
    if (position.padding) return true;
    if (p.table.cos != nullptr) {
      const int64_t row = position.whole[0];
      if (row >= 0 && row < p.table.rows) return true;
      out->fault = {ROPE_FAULT_ROW, 0, request >= 0 ? request : batch, token, row, p.table.rows};
      return false;
    }
    if (position.fault) out->fault = position_fault(p.positions, axes, batch, token, request);
    return !position.fault;
  }

  // ---- angles --------------------------------------------------------------------------------------------------------------------------

  void find_angles(const TokenPosition& position, Scratch& scratch) const {
    if (p.table.cos != nullptr) return read_table(position.whole[0], scratch);
    for (int64_t head = 0; head < angle_rows; ++head) {
      char* const cos = scratch.cos + head * p.pairs * wide_size;
      char* const sin = scratch.sin + head * p.pairs * wide_size;
      const AngleInput input = angle_input(*p.frequencies, position, head, p.hf, p.backward);
      (wide == ROPE_FLOAT64 ? rows.angles_double : rows.angles)(input, cos, sin);
      if (turning.spread()) spread(cos, sin, head, scratch);
    }
  }

  void spread(const char* cos, const char* sin, int64_t head, Scratch& scratch) const {
    rows.spread(reinterpret_cast<const float*>(cos), reinterpret_cast<const float*>(sin), p.pairs, scratch.cos_spread + 2 * head * p.pairs,
                scratch.sin_spread + 2 * head * p.pairs);
  }

  void read_table(int64_t row, Scratch& scratch) const {
    const AngleTable& t = p.table;
    const int64_t width = full ? 2 * p.pairs : p.pairs, element = dtype_size(t.dtype);
    char* const cos = full && turning.spread() ? reinterpret_cast<char*>(scratch.cos_spread) : scratch.cos;
    char* const sin = full && turning.spread() ? reinterpret_cast<char*>(scratch.sin_spread) : scratch.sin;
    convert_plane(t.dtype, wide, {t.cos + row * t.cos_row * element, cos, 1, width, 0, 1, 0, 1});
    convert_plane(t.dtype, wide, {t.sin + row * t.sin_row * element, sin, 1, width, 0, 1, 0, 1});
    if (wide == ROPE_FLOAT64) {
      sign_table(reinterpret_cast<double*>(sin));
    } else {
      sign_table(reinterpret_cast<float*>(sin));
    }
    if (!full && turning.spread()) spread(cos, sin, 0, scratch);
  }

  // Sines as read -> as rotate_rows.h wants them.
  template <class Real>
  void sign_table(Real* sin) const {
    if (!full) {
      for (int64_t j = 0; p.backward && j < p.pairs; ++j) sin[j] = -sin[j];
      return;
    }
    const bool interleaved = p.pairing == ROPE_INTERLEAVED;
    const int64_t step = interleaved ? 2 : 1, partner = interleaved ? 1 : p.pairs;
    for (int64_t j = 0; j < p.pairs; ++j) {
      Real &first = sin[j * step], &second = sin[j * step + partner];
      if (p.inverse) std::swap(first, second);
      if (p.backward) {
        first = -first;
        second = -second;
      }
      if (interleaved) first = -first;
    }
  }

  // ---- a part's heads ------------------------------------------------------------------------------------------------------------------

  // Whether rows are worked on in scratch memory.
  bool staged(const Part& part, bool padding) const { return part.out_dtype != p.dtype || (!padding && (part.norm.on || part.scaled)); }

  // How many are there at a time.
  int64_t block_heads(const Part& part) const {
    if (part.norm.on && part.norm.width) return part.heads;
    return std::clamp<int64_t>(kBlockBytes / (part.width * wide_size), 1, part.heads);
  }

  void run(int index, int64_t batch, int64_t token, const Verdict& verdict, Scratch& scratch) const {
    const Part& part = p.parts[index];
    const int64_t out_size = dtype_size(part.out_dtype);
    const char* const in = part.in + (batch * part.in_batch + token * part.in_token) * size;
    const int64_t row = part.paged ? verdict.slot.page * part.out_batch + verdict.slot.place * part.out_token
                                   : batch * part.out_batch + token * part.out_token;
    char* const out = part.out + row * out_size;
    const bool turns = part.turns && verdict.turns;
    if (staged(part, verdict.padding)) {
      stage(index, in, out, batch, token, turns, verdict.padding, scratch);
    } else if (turns) {
      turn_straight(part, in, out, scratch);
    } else if (!part.in_place) {
      copy_rows(in, out, part.in_head * size, part.out_head * size, part.heads, part.width * size);
    }
  }

  void turn_straight(const Part& part, const char* in, char* out, Scratch& scratch) const {
    const int64_t in_head = part.in_head * size, out_head = part.out_head * size;
    const int64_t begin = p.rotary_offset * size, end = begin + 2 * p.pairs * size;
    if (!part.in_place) {
      copy_rows(in, out, in_head, out_head, part.heads, begin);
      copy_rows(in + end, out + end, in_head, out_head, part.heads, part.width * size - end);
    }
    turn(turning, in + begin, out + begin, in_head, out_head, 0, part.heads, part.in_place, scratch);
  }

  void stage(int index, const char* in, char* out, int64_t batch, int64_t token, bool turns, bool padding, Scratch& scratch) const {
    const Part& part = p.parts[index];
    const Norm& norm = part.norm;
    const bool norms = norm.on && !padding;
    const int64_t row_bytes = part.width * wide_size, out_size = dtype_size(part.out_dtype), block = block_heads(part);
    char* const first = scratch.rows;
    for (int64_t head = 0; head < part.heads; head += block) {
      const int64_t heads = std::min(block, part.heads - head);
      convert_plane(p.dtype, wide, {in + head * part.in_head * size, first, heads, part.width, part.in_head, 1, part.width, 1});
      if (norms && !norm.after) apply_norm(index, first, heads);
      if (turns) {
        char* const slice = first + p.rotary_offset * wide_size;
        turn(turning_wide, slice, slice, row_bytes, row_bytes, head, heads, true, scratch);
      }
      if (norms && norm.after) apply_norm(index, first, heads);
      if (part.scaled && !padding) {
        const RowScale& scale = p.row_scale;
        multiply(first, heads * part.width, static_cast<double>(scale.data[batch * scale.batch_stride + token * scale.token_stride]));
      }
      if (part.factor != 1) multiply(first, heads * part.width, part.factor);
      convert_plane(wide, part.out_dtype,
                    {first, out + head * part.out_head * out_size, heads, part.width, part.width, 1, part.out_head, 1});
    }
  }

  void turn(const Turning& how, const char* in, char* out, int64_t in_head, int64_t out_head, int64_t head, int64_t heads, bool in_place,
            Scratch& scratch) const {
    const bool spread = how.spread();
    RowInput row{in,
                 out,
                 in_head,
                 out_head,
                 heads,
                 spread ? static_cast<const void*>(scratch.cos_spread) : scratch.cos,
                 spread ? static_cast<const void*>(scratch.sin_spread) : scratch.sin,
                 p.pairs,
                 0,
                 0};
    if (angle_rows == 1) {
      how.turn(row, p.frequencies != nullptr ? p.frequencies->runs[0] : all_pairs, in_place, scratch.aside);
      return;
    }
    const int64_t stride = p.pairs * (spread ? 2 * static_cast<int64_t>(sizeof(float)) : wide_size);
    row.heads = 1;
    row.cos = static_cast<const char*>(row.cos) + head * stride;
    row.sin = static_cast<const char*>(row.sin) + head * stride;
    for (int64_t i = head; i < head + heads; ++i) {
      how.turn(row, p.frequencies->runs[static_cast<size_t>(i)], in_place, scratch.aside);
      row.in += in_head;
      row.out += out_head;
      row.cos = static_cast<const char*>(row.cos) + stride;
      row.sin = static_cast<const char*>(row.sin) + stride;
    }
  }

  // ---- norm and scales -----------------------------------------------------------------------------------------------------------------

  int kind() const { return wide == ROPE_FLOAT64 ? 1 : 0; }

  void multiply(char* values, int64_t count, double factor) const { rows.scale[kind()](values, count, factor, nullptr); }

  // Weights as the arithmetic wants them, once for the call.
  void widen_weight(int index) {
    const Part& part = p.parts[index];
    const Norm& norm = part.norm;
    if (!norm.on || norm.weight == nullptr) return;
    const int64_t count = norm.width ? part.heads * part.width : part.width;
    std::unique_ptr<char[]>& weight = weights[index];
    weight.reset(new char[static_cast<size_t>(count * wide_size)]);
    convert_plane(norm.weight_dtype, wide, {norm.weight, weight.get(), 1, count, 0, 1, 0, 1});
    for (int64_t i = 0; norm.unit_offset && i < count; ++i) {
      if (wide == ROPE_FLOAT64) {
        reinterpret_cast<double*>(weight.get())[i] += 1;
      } else {
        reinterpret_cast<float*>(weight.get())[i] += 1;
      }
    }
  }

  // Over the width the block holds all heads.
  void apply_norm(int index, char* first, int64_t heads) const {
    const Part& part = p.parts[index];
    const bool over_width = part.norm.width;
    const int64_t row_bytes = part.width * wide_size;
    const char* const weight = weights[index].get();
    double inverse = over_width ? inverse_root(first, heads, part) : 0;
    for (int64_t head = 0; head < heads; ++head) {
      char* const row = first + head * row_bytes;
      if (!over_width) inverse = inverse_root(row, 1, part);
      rows.scale[kind()](row, part.width, inverse, weight == nullptr || !over_width ? weight : weight + head * row_bytes);
    }
  }

  // 1 / sqrt(mean + eps). The order of the sum is part of the result: eight sums by channel, then these by twos.
  double inverse_root(const char* first, int64_t heads, const Part& part) const {
    double s[kPartialSums] = {};
    for (int64_t head = 0; head < heads; ++head) rows.squares[kind()](first + head * part.width * wide_size, part.width, s);
    const double sum = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    return 1 / std::sqrt(sum / static_cast<double>(heads * part.width) + part.norm.eps);
  }

  const PipelineParams& p;
  const int first_part, last_part;
  const RotateRows& rows;
  const bool full;           // a table of full width
  const int64_t angle_rows;  // heads with angles of their own; 1: all share them
  const int wide;            // the arithmetic's dtype
  const int64_t size, wide_size;
  const Turning turning, turning_wide;
  const std::vector<PairRun> all_pairs;  // of a table
  bool any_turns = false;
  std::unique_ptr<char[]> weights[kParts];
};

}  // namespace

// What does not turn goes after what does: with more tensors at a time memory is a third slower.
rope_fault pipeline_cpu(const PipelineParams& p) {
  const rope_fault first = run_tokens(Pipeline(p, kPartQ, kPartV), p.grid, p.positions.indptr);
  const rope_fault second = run_tokens(Pipeline(p, kPartV, kParts), p.grid, p.positions.indptr);
  return first.code != ROPE_FAULT_NONE ? first : second;
}

}  // namespace rope
