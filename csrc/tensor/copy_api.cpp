// rope_copy: checks, then the backend.
#include "../core/arguments.h"
#include "../device/stream.h"
#include "copy.h"

namespace rope {
namespace {

void copy(const rope_copy_args& args) {
  const Tensor source = resolve(args.source, "source");
  const Tensor target = resolve(args.target, "target");
  require_device(target, "target", source.device, "source");
  if (!same_shape(source, target)) {
    fail(ROPE_ARGUMENT, "target", text("of the shape of source, %s", shape_text(source).bytes), shape_text(target));
  }
  require(!overlaps_itself(target), "target", "a tensor whose elements are all different memory", "one with overlapping strides",
          "Copy into a contiguous tensor.");
  const StreamRef stream = stream_of(args.stream, source.device);
  if (target.empty() || same_place(source, target)) return;
  require(!overlap(source, target), "target", "memory apart from source", "a tensor that shares elements with it",
          "Copy through a tensor of its own: target.copyFrom(source.clone()).");

  CopyParams params{};
  params.source = source.data;
  params.target = target.data;
  params.rank = source.rank;
  params.source_dtype = source.dtype;
  params.target_dtype = target.dtype;
  for (int i = 0; i < source.rank; ++i) {
    params.shape[i] = source.shape[i];
    params.source_stride[i] = source.stride[i];
    params.target_stride[i] = target.stride[i];
  }
  submit(source.device, stream, "rope_copy", copy_cpu, ROPE_CUDA_LAUNCHER(copy_cuda), params);
}

}  // namespace
}  // namespace rope

extern "C" int32_t rope_copy(const rope_copy_args* args, rope_error* error) {
  return rope::guard("rope_copy", error, [&] { rope::copy(rope::read_block(args)); });
}
