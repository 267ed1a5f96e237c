// rope_rotate: the one place where the pipeline is checked. What only rotates q and k goes the short way, rotate.h, all else pipeline.h.
#include <cmath>

#include "../core/arguments.h"
#include "../core/dtypes.h"
#include "../device/stream.h"
#include "pipeline.h"
#include "rotate.h"

namespace rope {
namespace {

struct View {
  int64_t batch, tokens, heads, width;
  int64_t stride_batch, stride_token, stride_head;
};

struct Side {
  const char* name = "";
  const char* written = "";  // the argument that is written: q_out, or q where it is rotated in place
  Tensor in, out;
  View view{};
};

// What a call is made of, while it is checked.
struct Call {
  const rope_rotate_args& a;
  PipelineParams p;
  Side sides[kParts];
  const Side* first = nullptr;  // q, or k: the others are shaped like it

  bool has(int part) const { return sides[part].in.data != nullptr || sides[part].in.rank > 0; }
};

// The four forms of q and k as [batch, tokens, heads, width]. Of rank 2 they are [nnz, H * D]: head_dim says what D is, or heads what H is.
View view_of(const Tensor& t, int64_t head_dim, int64_t heads, const char* argument) {
  if (t.rank < 2 || t.rank > 4) fail(ROPE_ARGUMENT, argument, text("[B, S, H, D], [nnz, H, D] or [nnz, H * D]"), shape_text(t));
  const int last = t.rank - 1;
  require_last_stride(t, argument);
  if (t.rank == 2) {
    if (heads > 0) head_dim = t.shape[1] % heads == 0 ? t.shape[1] / heads : -1;
    if (head_dim < 0) fail(ROPE_ARGUMENT, argument, text("[nnz, %lld * D]", static_cast<long long>(heads)), shape_text(t));
    if (heads > 0 && head_dim == 0) return {1, t.shape[0], heads, 0, 0, t.stride[0], 0};
    require(head_dim > 0, "head_dim", text("given for a %s of rank 2", argument).bytes, "none", "[nnz, H * D] does not say what D is.");
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

// ---- tensors in and out ----------------------------------------------------------------------------------------------------------------

// The result is a tensor shaped as the input, of its dtype or, where a factor is given, float8.
void check_tensor_output(Side& side, Part& part, const char* out_name, int64_t head_dim, int64_t heads, double factor) {
  const Tensor &in = side.in, &out = side.out;
  if (factor != 0 ? !dtype_is_float8(out.dtype) : out.dtype != in.dtype) {
    fail(ROPE_ARGUMENT, out_name,
         factor != 0 ? text("float8 where a factor is given") : text("%s like %s", dtype_name(in.dtype), side.name),
         text("%s", dtype_name(out.dtype)));
  }
  require_device(out, out_name, in.device, side.name);
  if (!same_shape(in, out)) fail(ROPE_ARGUMENT, out_name, text("of shape %s like %s", shape_text(in).bytes, side.name), shape_text(out));
  const View to = view_of(out, head_dim, heads, out_name);
  part.out_batch = to.stride_batch;
  part.out_token = to.stride_token;
  part.out_head = to.stride_head;
  part.in_place = out.dtype == in.dtype && same_place(in, out);
}

// The result is a cache, [pages, page_size, H, D].
void check_cache_output(Call& c, Side& side, Part& part, const char* out_name) {
  const Tensor& out = side.out;
  if (side.in.dtype == ROPE_FLOAT64) require_dtype(side.in, side.name, {ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32});
  require_dtype(out, out_name, {ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32, ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2});
  require_device(out, out_name, side.in.device, side.name);
  if (out.rank != 4 || out.shape[2] != side.view.heads || out.shape[3] != side.view.width) {
    fail(ROPE_ARGUMENT, out_name,
         text("a cache of shape [pages, page_size, %lld, %lld], for %s", static_cast<long long>(side.view.heads),
              static_cast<long long>(side.view.width), side.name),
         shape_text(out));
  }
  require_last_stride(out, out_name);
  if (!c.p.paged) {
    c.p.pages.pages = out.shape[0];
    c.p.pages.page_size = out.shape[1];
    require(out.shape[1] > 0, out_name, "a cache whose pages have places", "pages of size 0");
  } else if (out.shape[0] != c.p.pages.pages || out.shape[1] != c.p.pages.page_size) {
    fail(ROPE_ARGUMENT, out_name,
         text("a cache of %lld pages of %lld, like k's", static_cast<long long>(c.p.pages.pages),
              static_cast<long long>(c.p.pages.page_size)),
         shape_text(out));
  }
  c.p.paged = part.paged = true;
  part.out_batch = out.stride[0];
  part.out_token = out.stride[1];
  part.out_head = out.stride[2];
}

// `like`: the part whose heads it shares, itself for q and k.
void check_part(Call& c, int index, int like, const rope_tensor_ref& in, const rope_tensor_ref& out, const char* name, const char* out_name,
                bool paged, double factor, const char* factor_name) {
  if (!given(in)) {
    require(!given(out), out_name, text("absent where %s is", name).bytes, "given");
    return;
  }
  Side& side = c.sides[index];
  Part& part = c.p.parts[index];
  side.name = name;
  side.in = resolve(in, name);
  side.out = resolve(out, out_name);
  require_dtype(side.in, name, {ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32, ROPE_FLOAT64});
  if (factor != 0 && !(factor > 0 && std::isfinite(static_cast<float>(factor)) && static_cast<float>(factor) > 0)) {
    fail(ROPE_ARGUMENT, factor_name, text("a positive float32"), text("%g", factor));
  }
  const bool further = like != index;
  if (further) {
    require(c.has(like), name, text("absent where %s is", like == kPartQ ? "q" : "k").bytes, "given");
    const Side& other = c.sides[like];
    side.view = view_of(side.in, 0, other.view.heads, name);
    if (side.in.rank != other.in.rank || side.view.batch != other.view.batch || side.view.tokens != other.view.tokens ||
        side.view.heads != other.view.heads) {
      fail(ROPE_ARGUMENT, name, text("shaped as %s, %s, but for the last dimension", other.name, shape_text(other.in).bytes),
           shape_text(side.in));
    }
  } else {
    side.view = view_of(side.in, c.a.head_dim, 0, name);
  }
  if (c.first == nullptr) {
    c.first = &side;
    c.p.grid = {side.view.batch, side.view.tokens, side.in.rank < 4};
    c.p.dtype = side.in.dtype;
  } else {
    const Side& first = *c.first;
    require_device(side.in, name, first.in.device, first.name);
    if (side.in.dtype != first.in.dtype) {
      fail(ROPE_ARGUMENT, name, text("%s like %s", dtype_name(first.in.dtype), first.name), text("%s", dtype_name(side.in.dtype)));
    }
    if (!further && (side.in.rank != first.in.rank || side.view.batch != first.view.batch || side.view.tokens != first.view.tokens ||
                     side.view.width != first.view.width)) {
      fail(ROPE_ARGUMENT, name, text("shaped as %s, %s, but for the number of heads", first.name, shape_text(first.in).bytes),
           shape_text(side.in));
    }
  }
  const View& view = side.view;
  part.in = side.in.data;
  part.out = side.out.data;
  part.heads = view.heads;
  part.width = view.width;
  part.in_batch = view.stride_batch;
  part.in_token = view.stride_token;
  part.in_head = view.stride_head;
  part.out_dtype = side.out.dtype;
  part.factor = factor == 0 ? 1 : factor;
  if (paged) {
    check_cache_output(c, side, part, out_name);
    if (factor != 0 && !dtype_is_float8(side.out.dtype)) {
      fail(ROPE_ARGUMENT, factor_name, text("absent for a cache that is not float8"),
           text("%g for %s", factor, dtype_name(side.out.dtype)));
    }
  } else {
    check_tensor_output(side, part, out_name, further ? 0 : c.a.head_dim, further ? view.heads : 0, factor);
  }
  side.written = part.in_place ? name : out_name;
  require(!overlaps_itself(side.out), side.written, "a tensor whose elements are apart", "one that holds an element twice");
  require(part.in_place || !overlap(side.in, side.out), out_name, "the input itself or memory apart from it",
          "memory that shares some elements", "In place is the same memory, shape and strides.");
}

// ---- angles ----------------------------------------------------------------------------------------------------------------------------

void check_frequency_heads(const Call& c) {
  const int64_t heads = c.p.frequencies->heads;
  if (heads == 0) return;
  for (const int index : {kPartQ, kPartK}) {
    const Side& side = c.sides[index];
    if (!c.has(index) || side.view.heads == heads) continue;
    fail(ROPE_ARGUMENT, side.name, text("a tensor of %lld heads, as the frequencies have", static_cast<long long>(heads)),
         text("%lld heads", static_cast<long long>(side.view.heads)));
  }
}

Tensor check_table_tensor(const Call& c, const rope_tensor_ref& reference, const char* name) {
  const Tensor t = resolve(reference, name);
  require_dtype(t, name, {ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16});
  require_device(t, name, c.first->in.device, c.first->name);
  if (t.rank != 2) fail(ROPE_ARGUMENT, name, text("of rank 2, a row for each position"), shape_text(t));
  require_last_stride(t, name);
  return t;
}

void check_table(Call& c) {
  AngleTable& table = c.p.table;
  require(c.a.frequencies == 0, "cos", "absent where frequencies are given", "both");
  const Tensor cos = check_table_tensor(c, c.a.cos, "cos");
  const int64_t width = cos.shape[1], wanted = c.a.rotary_dim;
  int64_t rotary_dim = wanted;
  table.cos = table.sin = cos.data;
  table.cos_row = table.sin_row = cos.stride[0];
  table.rows = cos.shape[0];
  table.dtype = cos.dtype;
  if (given(c.a.sin)) {
    const Tensor sin = check_table_tensor(c, c.a.sin, "sin");
    if (sin.dtype != cos.dtype || !same_shape(sin, cos)) {
      fail(ROPE_ARGUMENT, "sin", text("%s of shape %s like cos", dtype_name(cos.dtype), shape_text(cos).bytes),
           text("%s of shape %s", dtype_name(sin.dtype), shape_text(sin).bytes));
    }
    table.sin = sin.data;
    table.sin_row = sin.stride[0];
    if (wanted == 0) rotary_dim = 2 * width;
    table.full = rotary_dim == width;
    if (rotary_dim != width && rotary_dim != 2 * width) {
      fail(ROPE_ARGUMENT, "rotary_dim", text("twice the width of cos, or for full width that width, %lld", static_cast<long long>(width)),
           text("%lld", static_cast<long long>(rotary_dim)));
    }
  } else {
    if (wanted == 0) rotary_dim = width;
    if (rotary_dim != width) {
      fail(ROPE_ARGUMENT, "rotary_dim", text("the width of the cosines and sines, %lld", static_cast<long long>(width)),
           text("%lld", static_cast<long long>(rotary_dim)));
    }
    if (table.sin != nullptr) table.sin += rotary_dim / 2 * dtype_size(cos.dtype);
  }
  if (rotary_dim < 2 || rotary_dim % 2 != 0) {
    fail(ROPE_ARGUMENT, "cos", text("of an even number of channels, at least 2"), text("%lld", static_cast<long long>(rotary_dim)));
  }
  c.p.pairs = rotary_dim / 2;
  check_slice(c.first->view.width, c.p.rotary_offset, rotary_dim);
}

void check_turning(Call& c) {
  const rope_rotate_args& a = c.a;
  PipelineParams& p = c.p;
  p.turns = (a.flags & ROPE_STILL) == 0;
  if (!p.turns) {
    const bool none = a.frequencies == 0 && !given(a.cos) && !given(a.sin) && !given(a.positions) && !given(a.indptr) &&
                      !given(a.offsets) && a.offset == 0 && a.prefix == 0;
    require(none, "flags", "without ROPE_STILL where frequencies, a table or positions are given", "both");
    return;
  }
  int64_t axes = 1;
  if (given(a.cos) || given(a.sin)) {
    check_table(c);
  } else {
    p.frequencies = find_frequencies(a.frequencies);
    require(a.rotary_dim == 0, "rotary_dim", "absent where frequencies are given", "given", "It is theirs.");
    axes = p.frequencies->axes;
    p.pairs = p.frequencies->pairs;
    check_slice(c.first->view.width, p.rotary_offset, 2 * p.pairs);
    check_frequency_heads(c);
  }
  p.positions = check_positions(a.positions, a.indptr, a.offsets, a.offset, axes, p.grid, c.first->in.device, c.first->name);
  require(p.table.cos == nullptr || p.positions.ids == nullptr || p.positions.dtype != ROPE_FLOAT32, "positions",
          "int32 or int64, rows of the table", "float32");
  for (const int index : {kPartQ, kPartK}) p.parts[index].turns = c.has(index);
}

// ---- what is done beside turning -------------------------------------------------------------------------------------------------------

void check_norm(Call& c, int index, uint8_t flags, const rope_tensor_ref& weight, double eps, const char* name, const char* weight_name,
                const char* eps_name) {
  if (flags == 0) {
    require(!given(weight) && eps == 0, name, "ROPE_NORM where a weight or an eps is given", "0");
    return;
  }
  if (flags > 15 || (flags & ROPE_NORM) == 0) fail(ROPE_ARGUMENT, name, text("a sum of rope_norm_flags with ROPE_NORM"), text("%u", flags));
  require(c.has(index), name, "absent where its tensor is", "given");
  if (!(eps >= 0 && std::isfinite(eps))) fail(ROPE_ARGUMENT, eps_name, text("a finite number of at least 0"), text("%g", eps));
  const Side& side = c.sides[index];
  Norm& norm = c.p.parts[index].norm;
  norm.on = true;
  norm.after = (flags & ROPE_NORM_AFTER) != 0;
  norm.width = (flags & ROPE_NORM_WIDTH) != 0;
  norm.unit_offset = (flags & ROPE_NORM_UNIT_OFFSET) != 0;
  norm.eps = eps;
  if (!given(weight)) {
    require(!norm.unit_offset, weight_name, "given where 1 is added to it", "none");
    return;
  }
  const Tensor t = resolve(weight, weight_name);
  if (side.in.dtype == ROPE_FLOAT32) {
    require_dtype(t, weight_name, {ROPE_FLOAT32});
  } else {
    require_dtype(t, weight_name, {ROPE_FLOAT32, side.in.dtype});
  }
  require_device(t, weight_name, side.in.device, side.name);
  const int64_t wanted = norm.width ? side.view.heads * side.view.width : side.view.width;
  require_shape(t, weight_name, {wanted}, norm.width ? "[H * D]" : "[D]");
  require_last_stride(t, weight_name);
  norm.weight = t.data;
  norm.weight_dtype = t.dtype;
}

void check_row_scale(Call& c) {
  if (!given(c.a.q_scale)) return;
  require(c.has(kPartQ), "q_scale", "absent where q is", "given");
  const Tensor t = resolve(c.a.q_scale, "q_scale");
  require_dtype(t, "q_scale", {ROPE_FLOAT32});
  require_device(t, "q_scale", c.first->in.device, "q");
  const TokenGrid& grid = c.p.grid;
  RowScale& scale = c.p.row_scale;
  scale.data = reinterpret_cast<const float*>(t.data);
  if (t.rank == 2 && t.shape[0] == grid.batch && t.shape[1] == grid.tokens) {
    scale.batch_stride = t.stride[0];
    scale.token_stride = t.stride[1];
  } else if (t.rank == 1 && t.shape[0] == grid.tokens) {
    scale.token_stride = t.stride[0];
  } else {
    fail(ROPE_ARGUMENT, "q_scale",
         grid.ragged ? text("of shape [%lld]", static_cast<long long>(grid.tokens))
                     : text("of shape [%lld, %lld] or [%lld]", static_cast<long long>(grid.batch), static_cast<long long>(grid.tokens),
                            static_cast<long long>(grid.tokens)),
         shape_text(t), "One number for each token of q.");
  }
  c.p.parts[kPartQ].scaled = true;
}

Indices check_list(const Call& c, const rope_tensor_ref& reference, const char* name) {
  return check_indices(resolve(reference, name), name, c.first->in.device, c.first->name);
}

Indices check_per_token(const Call& c, const rope_tensor_ref& reference, const char* name) {
  const Indices indices = check_list(c, reference, name);
  const int64_t tokens = c.p.grid.batch * c.p.grid.tokens;
  if (indices.count != tokens) {
    fail(ROPE_ARGUMENT, name, text("[%lld], one for each token of %s", static_cast<long long>(tokens), c.first->name),
         text("[%lld]", static_cast<long long>(indices.count)));
  }
  return indices;
}

// Empty tensors may have no address; their Indices still say that they are there.
Indices present(Indices indices) {
  static const int64_t nothing[2] = {0, 0};
  if (indices.data == nullptr) indices.data = nothing;
  return indices;
}

void check_pages(Call& c) {
  const rope_rotate_args& a = c.a;
  Pages& pages = c.p.pages;
  if (given(a.slots)) {
    require(!given(a.page_indptr) && !given(a.page_indices) && !given(a.batch_indices) && !given(a.places), "slots",
            "the only one of slots and the page table", "both");
    pages.slots = present(check_per_token(c, a.slots, "slots"));
    return;
  }
  pages.indptr = check_list(c, a.page_indptr, "page_indptr");
  require(pages.indptr.count >= 1, "page_indptr", "at least one entry, a 0", "none");
  pages.ids = present(check_list(c, a.page_indices, "page_indices"));
  pages.batch = present(check_per_token(c, a.batch_indices, "batch_indices"));
  pages.places = present(check_per_token(c, a.places, "places"));
}

// ---- memory apart ----------------------------------------------------------------------------------------------------------------------

void check_apart(const Call& c) {
  const rope_rotate_args& a = c.a;
  for (int j = 1; j < kParts; ++j) {
    for (int i = 0; c.has(j) && i < j; ++i) {
      const Side &side = c.sides[j], &before = c.sides[i];
      if (!c.has(i) || !overlap(side.out, before.out)) continue;
      fail(ROPE_ARGUMENT, side.written,
           i == kPartQ ? text("memory apart from the rotated q") : text("memory apart from %s", before.written),
           text("memory that shares some elements"));
    }
  }
  for (int i = 0; i < kParts; ++i) {
    for (int j = 0; c.has(i) && j < kParts; ++j) {
      if (j == i || !c.has(j) || !overlap(c.sides[i].out, c.sides[j].in)) continue;
      fail(ROPE_ARGUMENT, c.sides[i].written, text("memory apart from %s", c.sides[j].name), text("memory that shares some elements"));
    }
  }
  for (int i = 0; i < kParts; ++i) {
    if (!c.has(i)) continue;
    const Side& side = c.sides[i];
    const auto require_apart = [&](const rope_tensor_ref& reference, const char* name) {
      if (!given(reference) || !overlap(side.out, resolve(reference, name))) return;
      fail(ROPE_ARGUMENT, side.written, text("memory apart from %s", name), text("shared memory"));
    };
    require_apart(a.positions, "positions");
    require_apart(a.indptr, "indptr");
    require_apart(a.offsets, "offsets");
    require_apart(a.cos, "cos");
    require_apart(a.sin, "sin");
    require_apart(a.q_weight, "q_weight");
    require_apart(a.k_weight, "k_weight");
    require_apart(a.q_scale, "q_scale");
    require_apart(a.slots, "slots");
    require_apart(a.page_indptr, "page_indptr");
    require_apart(a.page_indices, "page_indices");
    require_apart(a.batch_indices, "batch_indices");
    require_apart(a.places, "places");
  }
}

// ---- the call --------------------------------------------------------------------------------------------------------------------------

bool only_rotates(const Call& c) {
  const PipelineParams& p = c.p;
  if (p.frequencies == nullptr || p.prefix > 0 || p.paged || p.row_scale.data != nullptr) return false;
  for (int i = 0; i < kParts; ++i) {
    if (!c.has(i)) continue;
    if (i > kPartK || p.parts[i].norm.on || p.parts[i].out_dtype != p.dtype) return false;
  }
  return true;
}

RotateParams rotation_of(const PipelineParams& p, int64_t head_dim) {
  const auto side = [](const Part& part) -> RotateTensor {
    return {part.in,      part.out,       part.heads,     part.in_batch, part.in_token,
            part.in_head, part.out_batch, part.out_token, part.out_head, part.in_place};
  };
  return {side(p.parts[kPartQ]), side(p.parts[kPartK]), p.grid, head_dim, p.rotary_offset, p.dtype, p.pairing, p.hf, p.inverse, p.backward,
          p.positions,           p.frequencies};
}

void rotate(const rope_rotate_args& a) {
  constexpr uint32_t kFlags = ROPE_INVERSE | ROPE_CONJUGATE | ROPE_STILL;
  require((a.flags & ~kFlags) == 0, "flags", "a sum of rope_rotate_flags", "something else");
  if (a.pairing > ROPE_INTERLEAVED_TO_HALF) fail(ROPE_ARGUMENT, "pairing", text("a rope_pairing"), text("%u", a.pairing));
  if (a.angles > ROPE_HF) fail(ROPE_ARGUMENT, "angles", text("rope_angles"), text("%u", a.angles));
  if (a.head_dim < 0) fail(ROPE_ARGUMENT, "head_dim", text("0 or more"), text("%lld", static_cast<long long>(a.head_dim)));
  if (a.rotary_dim < 0) fail(ROPE_ARGUMENT, "rotary_dim", text("0 or more"), text("%lld", static_cast<long long>(a.rotary_dim)));
  if (a.prefix < 0) fail(ROPE_ARGUMENT, "prefix", text("0 or more"), text("%lld", static_cast<long long>(a.prefix)));

  Call c{a, {}, {}, nullptr};
  PipelineParams& p = c.p;
  const bool paged = given(a.slots) || given(a.page_indptr) || given(a.page_indices) || given(a.batch_indices) || given(a.places);
  if (!given(a.q) && !given(a.k)) resolve(a.q, "q");  // says that it is absent
  check_part(c, kPartQ, kPartQ, a.q, a.q_out, "q", "q_out", false, a.q_factor, "q_factor");
  check_part(c, kPartK, kPartK, a.k, a.k_out, "k", "k_out", paged, a.k_factor, "k_factor");
  check_part(c, kPartV, kPartK, a.v, a.v_out, "v", "v_out", paged, a.v_factor, "v_factor");
  check_part(c, kPartQRest, kPartQ, a.q_rest, a.q_rest_out, "q_rest", "q_rest_out", false, a.q_factor, "q_factor");
  check_part(c, kPartKRest, kPartK, a.k_rest, a.k_rest_out, "k_rest", "k_rest_out", paged, a.k_factor, "k_factor");
  p.rotary_offset = a.rotary_offset;
  p.pairing = a.pairing;
  p.hf = a.angles == ROPE_HF;
  p.inverse = (a.flags & ROPE_INVERSE) != 0;
  p.backward = p.inverse != ((a.flags & ROPE_CONJUGATE) != 0);
  p.prefix = a.prefix;
  check_turning(c);
  check_norm(c, kPartQ, a.q_norm, a.q_weight, a.q_eps, "q_norm", "q_weight", "q_eps");
  check_norm(c, kPartK, a.k_norm, a.k_weight, a.k_eps, "k_norm", "k_weight", "k_eps");
  check_row_scale(c);
  if (paged) {
    require(c.has(kPartK), "k", "given where it goes to pages", "none");
    check_pages(c);
  }
  check_apart(c);
  const uint16_t device = c.first->in.device;
  const StreamRef stream = stream_of(a.stream, device);
  if (only_rotates(c)) {
    const RotateParams rotation = rotation_of(p, c.first->view.width);
    return submit(device, stream, "rope_rotate", rotate_cpu, ROPE_CUDA_LAUNCHER(rotate_cuda), rotation);
  }
  submit(device, stream, "rope_rotate", pipeline_cpu, ROPE_CUDA_LAUNCHER(pipeline_cuda), p);
}

}  // namespace
}  // namespace rope

extern "C" int32_t rope_rotate(const rope_rotate_args* args, rope_error* error) {
  return rope::guard("rope_rotate", error, [&] { rope::rotate(rope::read_block(args)); });
}
