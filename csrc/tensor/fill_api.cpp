// rope_fill: checks, then the backend.
#include <cmath>

#include "../core/arguments.h"
#include "../core/dtypes.h"
#include "../device/stream.h"
#include "fill.h"

namespace rope {
namespace {

bool is_int64(double value) { return value >= -0x1p63 && value < 0x1p63 && std::trunc(value) == value; }

// Sums of two integers into an integer dtype are exact, where float64 would round beyond 2^53. Others are converted as rope_copy does.
void choose_arange(const Tensor& target, FillParams& params) {
  params.kind = FillKind::arange;
  if (!dtype_is_integer(target.dtype) || target.empty() || !is_int64(params.start) || !is_int64(params.step)) return;
  params.integer_start = static_cast<int64_t>(params.start);
  params.integer_step = static_cast<int64_t>(params.step);
  int64_t way, end;
  const bool overflows =
      __builtin_mul_overflow(params.integer_step, target.elements() - 1, &way) || __builtin_add_overflow(params.integer_start, way, &end);
  if (!overflows) params.kind = FillKind::integer_arange;
}

void fill(const rope_fill_args& args) {
  const Tensor target = resolve(args.target, "target");
  require(!overlaps_itself(target), "target", "a tensor whose elements are all different memory", "one with overlapping strides",
          "Fill a contiguous tensor.");
  FillParams params{};
  params.start = args.start;
  params.step = args.step;
  params.seed = args.seed;
  switch (args.kind) {
    case ROPE_FILL_CONSTANT: params.kind = FillKind::constant; break;
    case ROPE_FILL_ARANGE: choose_arange(target, params); break;
    case ROPE_FILL_NORMAL:
      params.kind = FillKind::normal;
      require(!dtype_is_integer(target.dtype), "target", "a tensor of floats", dtype_name(target.dtype),
              "Fill a float tensor and convert it.");
      break;
    default: fail(ROPE_ARGUMENT, "kind", text("0 (constant), 1 (arange) or 2 (normal)"), text("%u", args.kind));
  }
  const StreamRef stream = stream_of(args.stream, target.device);
  if (target.empty()) return;

  params.target = target.data;
  params.rank = target.rank;
  params.dtype = target.dtype;
  for (int i = 0; i < target.rank; ++i) {
    params.shape[i] = target.shape[i];
    params.target_stride[i] = target.stride[i];
  }
  submit(stream, "rope_fill", fill_cpu, params);
}

}  // namespace
}  // namespace rope

extern "C" int32_t rope_fill(const rope_fill_args* args, rope_error* error) {
  return rope::guard("rope_fill", error, [&] { rope::fill(rope::read_block(args)); });
}
