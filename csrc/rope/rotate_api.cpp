// rope_rotate: the one place where a rotation is checked.
#include <algorithm>

#include "../core/arguments.h"
#include "../core/dtypes.h"
#include "../device/stream.h"
#include "rotate.h"

namespace rope {
namespace {

struct View {
  int64_t batch, tokens, heads, head_dim;
  int64_t stride_batch, stride_token, stride_head;
};

// The four forms of q and k as [batch, tokens, heads, head_dim].
View view_of(const Tensor& t, int64_t head_dim, const char* argument) {
  if (t.rank < 2 || t.rank > 4) fail(ROPE_ARGUMENT, argument, text("[B, S, H, D], [nnz, H, D] or [nnz, H * D]"), shape_text(t));
  const int last = t.rank - 1;
  if (t.shape[last] > 1 && t.stride[last] != 1) {
    fail(ROPE_ARGUMENT, argument, text("contiguous in its last dimension"),
         text("a last stride of %lld", static_cast<long long>(t.stride[last])), "Use contiguous().");
  }
  if (t.rank == 2) {
    require(head_dim > 0, "head_dim", "given for a q of rank 2", "none", "[nnz, H * D] does not say what D is.");
    if (t.shape[1] % head_dim != 0) {
      fail(ROPE_ARGUMENT, argument, text("[nnz, H * %lld]", static_cast<long long>(head_dim)), shape_text(t));
    }
    return {1, t.shape[0], t.shape[1] / head_dim, head_dim, 0, t.stride[0], head_dim};
  }
  if (head_dim > 0 && head_dim != t.shape[last]) {
    fail(ROPE_ARGUMENT, "head_dim", text("the last dimension of %s, %lld", argument, static_cast<long long>(t.shape[last])),
         text("%lld", static_cast<long long>(head_dim)));
  }
  if (t.rank == 3) return {1, t.shape[0], t.shape[1], t.shape[2], 0, t.stride[0], t.stride[1]};
  return {t.shape[0], t.shape[1], t.shape[2], t.shape[3], t.stride[0], t.stride[1], t.stride[2]};
}

struct Side {
  const char* written;  // the argument that is written: q_out, or q where it is rotated in place
  Tensor in, out;
  RotateTensor params;
  View view;
};

Side check_side(const rope_tensor_ref& in, const rope_tensor_ref& out, const char* in_name, const char* out_name, int64_t head_dim) {
  Side side;
  side.in = resolve(in, in_name);
  side.out = resolve(out, out_name);
  require_dtype(side.in, in_name, {ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32, ROPE_FLOAT64});
  if (side.out.dtype != side.in.dtype) {
    fail(ROPE_ARGUMENT, out_name, text("%s like %s", dtype_name(side.in.dtype), in_name), text("%s", dtype_name(side.out.dtype)));
  }
  require_device(side.out, out_name, side.in.device, in_name);
  if (!same_shape(side.in, side.out)) {
    fail(ROPE_ARGUMENT, out_name, text("of shape %s like %s", shape_text(side.in).bytes, in_name), shape_text(side.out));
  }
  side.view = view_of(side.in, head_dim, in_name);
  const View to = view_of(side.out, head_dim, out_name);
  side.params = {side.in.data,          side.out.data,   side.view.heads, side.view.stride_batch, side.view.stride_token,
                 side.view.stride_head, to.stride_batch, to.stride_token, to.stride_head,         same_place(side.in, side.out)};
  side.written = side.params.in_place ? in_name : out_name;
  require(!overlaps_itself(side.out), side.written, "a tensor whose elements are apart", "one that holds an element twice");
  require(side.params.in_place || !overlap(side.in, side.out), out_name, "the input itself or memory apart from it",
          "memory that shares some elements", "In place is the same memory, shape and strides.");
  return side;
}

void require_apart(const Tensor& written, const char* argument, const rope_tensor_ref& other, const char* other_name) {
  if (!given(other)) return;
  if (overlap(written, resolve(other, other_name)))
    fail(ROPE_ARGUMENT, argument, text("memory apart from %s", other_name), text("shared memory"));
}

void check_frequencies(const RotateParams& p, const Side& q, const Side* k) {
  const Frequencies& f = *p.frequencies;
  const int64_t rotary_dim = 2 * f.pairs;
  if (p.rotary_offset < 0 || p.rotary_offset > p.head_dim) {
    fail(ROPE_ARGUMENT, "rotary_offset", text("0 to the head dimension, %lld", static_cast<long long>(p.head_dim)),
         text("%lld", static_cast<long long>(p.rotary_offset)));
  }
  if (rotary_dim > p.head_dim - p.rotary_offset) {
    fail(ROPE_ARGUMENT, "rotary_dim",
         text("at most %lld, the head dimension %lld less the rotary offset %lld", static_cast<long long>(p.head_dim - p.rotary_offset),
              static_cast<long long>(p.head_dim), static_cast<long long>(p.rotary_offset)),
         text("%lld", static_cast<long long>(rotary_dim)));
  }
  if (f.heads == 0) return;
  const auto match = [&](const Side& side, const char* name) {
    if (side.view.heads == f.heads) return;
    fail(ROPE_ARGUMENT, name, text("a tensor of %lld heads, as the frequencies have", static_cast<long long>(f.heads)),
         text("%lld heads", static_cast<long long>(side.view.heads)));
  };
  match(q, "q");
  if (k != nullptr) match(*k, "k");
}

void rotate(const rope_rotate_args& a) {
  require((a.flags & ~static_cast<uint32_t>(ROPE_INVERSE | ROPE_CONJUGATE)) == 0, "flags", "a sum of rope_rotate_flags", "something else");
  if (a.pairing > ROPE_INTERLEAVED_TO_HALF) fail(ROPE_ARGUMENT, "pairing", text("a rope_pairing"), text("%u", a.pairing));
  if (a.angles > ROPE_HF) fail(ROPE_ARGUMENT, "angles", text("rope_angles"), text("%u", a.angles));
  if (a.head_dim < 0) fail(ROPE_ARGUMENT, "head_dim", text("0 or more"), text("%lld", static_cast<long long>(a.head_dim)));

  RotateParams p;
  p.frequencies = find_frequencies(a.frequencies);
  const Side q = check_side(a.q, a.q_out, "q", "q_out", a.head_dim);
  p.q = q.params;
  p.grid = {q.view.batch, q.view.tokens, q.in.rank < 4};
  p.head_dim = q.view.head_dim;
  p.rotary_offset = a.rotary_offset;
  p.dtype = q.in.dtype;
  p.pairing = a.pairing;
  p.hf = a.angles == ROPE_HF;
  p.inverse = (a.flags & ROPE_INVERSE) != 0;
  p.backward = p.inverse != ((a.flags & ROPE_CONJUGATE) != 0);

  Side k;
  const bool has_k = given(a.k);
  if (has_k) {
    k = check_side(a.k, a.k_out, "k", "k_out", a.head_dim);
    p.k = k.params;
    require_device(k.in, "k", q.in.device, "q");
    if (k.in.dtype != q.in.dtype) fail(ROPE_ARGUMENT, "k", text("%s like q", dtype_name(q.in.dtype)), text("%s", dtype_name(k.in.dtype)));
    if (k.in.rank != q.in.rank || k.view.batch != q.view.batch || k.view.tokens != q.view.tokens || k.view.head_dim != q.view.head_dim) {
      fail(ROPE_ARGUMENT, "k", text("shaped as q, %s, but for the number of heads", shape_text(q.in).bytes), shape_text(k.in));
    }
    require(!overlap(q.out, k.out), k.written, "memory apart from the rotated q", "memory that shares some elements");
    require(!overlap(q.out, k.in), q.written, "memory apart from k", "memory that shares some elements");
    require(!overlap(k.out, q.in), k.written, "memory apart from q", "memory that shares some elements");
  } else {
    require(!given(a.k_out), "k_out", "absent where k is", "given");
  }
  check_frequencies(p, q, has_k ? &k : nullptr);
  p.positions = check_positions(a.positions, a.indptr, a.offsets, a.offset, p.frequencies->axes, p.grid, q.in.device, "q");
  const auto require_written_apart = [&](const Side& side) {
    require_apart(side.out, side.written, a.positions, "positions");
    require_apart(side.out, side.written, a.indptr, "indptr");
    require_apart(side.out, side.written, a.offsets, "offsets");
  };
  require_written_apart(q);
  if (has_k) require_written_apart(k);
  submit(q.in.device, stream_of(a.stream, q.in.device), "rope_rotate", rotate_cpu, ROPE_CUDA_LAUNCHER(rotate_cuda), p);
}

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
    require_apart(out, name, a.positions, "positions");
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

extern "C" {

int32_t rope_rotate(const rope_rotate_args* args, rope_error* error) {
  return rope::guard("rope_rotate", error, [&] { rope::rotate(rope::read_block(args)); });
}

int32_t rope_cos_sin(const rope_cos_sin_args* args, rope_error* error) {
  return rope::guard("rope_cos_sin", error, [&] { rope::cos_sin(rope::read_block(args)); });
}

}  // extern "C"
