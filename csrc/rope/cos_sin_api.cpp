// rope_cos_sin: its checks.
#include "../core/arguments.h"
#include "../device/stream.h"
#include "rotate.h"

namespace rope {
namespace {

void cos_sin(const rope_cos_sin_args& a) {
  require((a.flags & ~static_cast<uint32_t>(ROPE_INVERSE | ROPE_CONJUGATE)) == 0, "flags", "a sum of rope_rotate_flags", "something else");
  if (a.angles > ROPE_HF) fail(ROPE_ARGUMENT, "angles", text("rope_angles"), text("%u", a.angles));
  CosSinParams p;
  p.frequencies = find_frequencies(a.frequencies);
  const Frequencies& f = *p.frequencies;
  p.hf = a.angles == ROPE_HF;
  p.backward = ((a.flags & ROPE_INVERSE) != 0) != ((a.flags & ROPE_CONJUGATE) != 0);
  const Tensor ids = resolve(a.positions, "positions");
  if (ids.rank != (f.axes > 1 ? 2 : 1)) fail(ROPE_ARGUMENT, "positions", text(f.axes > 1 ? "[axes, n]" : "[n]"), shape_text(ids));
  p.grid = {1, ids.shape[ids.rank - 1], true};
  p.positions = check_positions(a.positions, {}, {}, 0, f.axes, p.grid, ids.device, "positions");
  const auto check_output = [&](const rope_tensor_ref& reference, const char* name) {
    const Tensor out = resolve(reference, name);
    require_dtype(out, name, {ROPE_FLOAT32});
    require_device(out, name, ids.device, "positions");
    if (f.heads > 0) {
      require_shape(out, name, {p.grid.tokens, f.heads, f.pairs}, "[n, heads, R/2]");
    } else {
      require_shape(out, name, {p.grid.tokens, f.pairs}, "[n, R/2]");
    }
    int64_t stride = 1;
    for (int i = out.rank - 1; i >= 0; --i) {
      require(out.shape[i] <= 1 || out.stride[i] == stride || out.empty(), name, "contiguous", "strided");
      stride *= out.shape[i];
    }
    if (overlap(out, ids)) fail(ROPE_ARGUMENT, name, text("memory apart from positions"), text("shared memory"));
    return out;
  };
  const Tensor cos = check_output(a.cos, "cos");
  const Tensor sin = check_output(a.sin, "sin");
  require(!overlap(cos, sin), "sin", "memory apart from cos", "shared memory");
  p.cos = reinterpret_cast<float*>(cos.data);
  p.sin = reinterpret_cast<float*>(sin.data);
  submit(ids.device, stream_of(a.stream, ids.device), "rope_cos_sin", cos_sin_cpu, ROPE_CUDA_LAUNCHER(cos_sin_cuda), p);
}

}  // namespace
}  // namespace rope

extern "C" int32_t rope_cos_sin(const rope_cos_sin_args* args, rope_error* error) {
  return rope::guard("rope_cos_sin", error, [&] { rope::cos_sin(rope::read_block(args)); });
}
