#include "positions.h"

#include <cmath>
#include <limits>

#include "../core/arguments.h"

namespace rope {
namespace {

// The ids' tail after the axis: [nnz], [B, S], or [S] shared by the rows.
void place_ids(Positions* out, const Tensor& ids, int64_t axes, const TokenGrid& grid) {
  const int lead = axes > 1 ? 1 : 0;
  const int rank = ids.rank - lead;
  const auto expected = [&] {
    Text tail = grid.ragged ? text("[%lld]", static_cast<long long>(grid.tokens))
                            : text("[%lld, %lld] or [%lld]", static_cast<long long>(grid.batch), static_cast<long long>(grid.tokens),
                                   static_cast<long long>(grid.tokens));
    if (axes > 1) tail = text("%lld axes of %s", static_cast<long long>(axes), tail.bytes);
    fail(ROPE_ARGUMENT, "positions", text("of shape %s", tail.bytes), shape_text(ids), "One position for each token of q.");
  };
  if (rank < 1 || rank > 2 || (lead == 1 && ids.shape[0] != axes)) expected();
  const int64_t* const shape = ids.shape + lead;
  const int64_t* const stride = ids.stride + lead;
  out->axis_stride = lead == 1 ? ids.stride[0] : 0;
  if (rank == 2) {
    if (shape[0] != grid.batch || shape[1] != grid.tokens) expected();
    out->batch_stride = stride[0];
    out->token_stride = stride[1];
  } else if (shape[0] == grid.tokens) {
    out->token_stride = stride[0];
  } else if (!grid.ragged && grid.batch > 0 && shape[0] / grid.batch == grid.tokens && shape[0] % grid.batch == 0) {
    out->batch_stride = grid.tokens * stride[0];
    out->token_stride = stride[0];
  } else {
    expected();
  }
  out->ids = ids.data;
  out->dtype = ids.dtype;
}

bool out_of_range(int64_t position) { return position > ROPE_MAX_POSITION || position < -ROPE_MAX_POSITION; }

void put_whole(TokenPosition* out, int64_t axis, int64_t position) {
  out->whole[axis] = position;
  out->fraction[axis] = 0;
  out->rounded[axis] = static_cast<float>(position);
  out->fault |= out_of_range(position);
}

// Saturates, so that an infinite or enormous float can stand in a fault record.
int64_t saturate(double position) {
  if (position >= 0x1p63) return std::numeric_limits<int64_t>::max();
  if (position < -0x1p63) return std::numeric_limits<int64_t>::min();
  return static_cast<int64_t>(position);
}

int64_t id_index(const Positions& p, int64_t axis, int64_t batch, int64_t token) {
  return axis * p.axis_stride + batch * p.batch_stride + token * p.token_stride;
}

// Where the token stands without ids; requests and offsets are within 64 bits, their sum may not be.
int64_t derived_position(const Positions& p, int64_t batch, int64_t token, int64_t request) {
  int64_t start = p.offset, position;
  if (p.offsets.data != nullptr) start = p.offsets[p.indptr.data != nullptr ? request : batch];
  if (p.indptr.data != nullptr) token -= p.indptr[request];
  if (__builtin_add_overflow(start, token, &position)) return std::numeric_limits<int64_t>::max();
  return position;
}

}  // namespace

Indices check_indices(const Tensor& tensor, const char* argument, uint16_t device, const char* like) {
  require_dtype(tensor, argument, {ROPE_INT32, ROPE_INT64});
  require_device(tensor, argument, device, like);
  if (tensor.rank != 1) fail(ROPE_ARGUMENT, argument, text("of rank 1"), shape_text(tensor));
  return {tensor.data, tensor.stride[0], tensor.shape[0], tensor.dtype == ROPE_INT64};
}

Positions check_positions(const rope_tensor_ref& ids, const rope_tensor_ref& indptr, const rope_tensor_ref& offsets, int64_t offset,
                          int64_t axes, const TokenGrid& grid, uint16_t device, const char* like) {
  Positions out;
  if (given(ids)) {
    require(!given(indptr) && !given(offsets) && offset == 0, "positions", "the only one of positions, offset, indptr and offsets",
            "several of them");
    const Tensor tensor = resolve(ids, "positions");
    require_dtype(tensor, "positions", {ROPE_INT32, ROPE_INT64, ROPE_FLOAT32});
    require_device(tensor, "positions", device, like);
    place_ids(&out, tensor, axes, grid);
    return out;
  }
  if (axes > 1) fail(ROPE_ARGUMENT, "positions", text("given where there are %lld axes", static_cast<long long>(axes)), text("none"));
  if (given(indptr) || given(offsets)) {
    require(offset == 0, "offset", "absent where offsets or indptr are given", "both");
  }
  if (given(indptr)) {
    require(grid.ragged, "indptr", "absent for q of rank 4", "given", "Ragged requests lie end to end: q [nnz, H, D].");
    out.indptr = check_indices(resolve(indptr, "indptr"), "indptr", device, like);
    require(out.indptr.count >= 1, "indptr", "at least one entry, a 0", "none");
  }
  if (given(offsets)) {
    out.offsets = check_indices(resolve(offsets, "offsets"), "offsets", device, like);
    const int64_t wanted = given(indptr) ? out.indptr.count - 1 : grid.batch;
    if (out.offsets.count != wanted) {
      fail(ROPE_ARGUMENT, "offsets",
           text("one start for each %s, %lld", given(indptr) ? "request of indptr" : "batch row", static_cast<long long>(wanted)),
           text("%lld", static_cast<long long>(out.offsets.count)));
    }
  }
  out.offset = offset;
  return out;
}

void read_position(const Positions& p, int64_t axes, int64_t batch, int64_t token, int64_t request, TokenPosition* out) {
  out->padding = out->fault = out->fractional = false;
  if (p.ids == nullptr) {
    if (p.indptr.data != nullptr && request < 0) {
      out->padding = true;
      return;
    }
    put_whole(out, 0, derived_position(p, batch, token, request));
    return;
  }
  for (int64_t axis = 0; axis < axes; ++axis) {
    const int64_t index = id_index(p, axis, batch, token);
    if (p.dtype == ROPE_FLOAT32) {
      const float position = static_cast<const float*>(p.ids)[index];
      if (std::isnan(position)) {
        out->padding = true;
      } else if (std::fabs(position) > static_cast<float>(ROPE_MAX_POSITION)) {
        out->fault = true;
      } else {
        const double whole = std::nearbyint(static_cast<double>(position));
        out->whole[axis] = static_cast<int64_t>(whole);
        out->fraction[axis] = static_cast<double>(position) - whole;
        out->rounded[axis] = position;
        out->fractional |= out->fraction[axis] != 0;
      }
    } else {
      const int64_t position =
          p.dtype == ROPE_INT64 ? static_cast<const int64_t*>(p.ids)[index] : static_cast<const int32_t*>(p.ids)[index];
      put_whole(out, axis, position);
      out->padding |= axes == 1 && position == -1;
    }
  }
  if (out->padding) out->fault = false;
}

rope_fault position_fault(const Positions& p, int64_t axes, int64_t batch, int64_t token, int64_t request) {
  rope_fault fault{ROPE_FAULT_POSITION, 0, request >= 0 ? request : batch, token, 0, ROPE_MAX_POSITION};
  if (p.ids == nullptr) {
    fault.value = derived_position(p, batch, token, request);
    return fault;
  }
  for (int64_t axis = 0; axis < axes; ++axis) {
    const int64_t index = id_index(p, axis, batch, token);
    const int64_t position = p.dtype == ROPE_FLOAT32 ? saturate(static_cast<const float*>(p.ids)[index])
                             : p.dtype == ROPE_INT64 ? static_cast<const int64_t*>(p.ids)[index]
                                                     : static_cast<const int32_t*>(p.ids)[index];
    fault.value = position;
    if (out_of_range(position)) break;
  }
  return fault;
}

rope_fault check_indptr(const Indices& indptr, int64_t tokens) {
  int64_t before = 0;
  for (int64_t i = 0; i < indptr.count; ++i) {
    const int64_t entry = indptr[i];
    if (entry < before || entry > tokens) return {ROPE_FAULT_INDPTR, 0, i > 0 ? i - 1 : 0, i, entry, tokens};
    before = entry;
  }
  return {};
}

int64_t sound_request_of(const Indices& indptr, int64_t tokens, int64_t token) {
  for (int64_t request = 0; request + 1 < indptr.count; ++request) {
    const int64_t begin = indptr[request], end = indptr[request + 1];
    if (0 <= begin && begin <= token && token < end && end <= tokens) return request;
  }
  return -1;
}

int64_t request_of(const Indices& indptr, int64_t token) {
  int64_t low = 0, high = indptr.count - 1;
  if (token < indptr[low] || token >= indptr[high]) return -1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (indptr[middle] <= token ? low : high) = middle;
  }
  return low;
}

}  // namespace rope
