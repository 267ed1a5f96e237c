// Where each token stands, read on the device: the counterpart of positions.cpp, with the same verdicts.
#pragma once

#include "angle_params.h"

namespace rope {

enum Verdict { kRotate, kSkip, kPass };  // of a token: turns, is out of range, is padding. Of several axes the largest counts

struct Token {
  uint32_t batch, token;
  int64_t request;  // -1 where no request owns it, or there are none
};

struct Place {  // on one axis
  int64_t whole;
  float fraction;
  float rounded;  // to float32, Hugging Face's operand
};

// An int32 or int64 on its way: no branch before it, and nothing looks at it until it is asked for, so that several travel at once.
struct Loading {
  int32_t low, high;

  __device__ __forceinline__ int64_t value(bool wide) const {
    return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(wide ? high : low >> 31)) << 32 | static_cast<uint32_t>(low));
  }
};

__device__ __forceinline__ Loading begin_load(const void* from, bool wide) {
  const int32_t* const words = static_cast<const int32_t*>(from);
  return {words[0], words[wide ? 1 : 0]};
}

__device__ __forceinline__ int64_t load_integer(const void* from, bool wide) { return begin_load(from, wide).value(wide); }

__device__ __forceinline__ Loading begin_load(const Indices& indices, int64_t i) {
  return begin_load(static_cast<const char*>(indices.data) + i * indices.stride * (indices.wide ? 8 : 4), indices.wide);
}

__device__ __forceinline__ int64_t load_index(const Indices& indices, int64_t i) { return begin_load(indices, i).value(indices.wide); }

// The check of indptr, shared out over a block's threads: entry `thread`, set on its way long before it is looked at, and for the rare
// indptr longer than a block every `threads`-th after it.
struct IndptrCheck {
  uint32_t index;
  Loading entry, before;
};

__device__ __forceinline__ IndptrCheck begin_check(const Indices& indptr, int thread) {
  const uint32_t index = static_cast<uint32_t>(min(static_cast<int64_t>(thread), indptr.count - 1));
  return {index, begin_load(indptr, index), begin_load(indptr, index == 0 ? 0 : index - 1)};
}

__device__ __forceinline__ bool is_disordered(const Indices& indptr, int64_t tokens, const IndptrCheck& first, int threads) {
  const int64_t entry = first.entry.value(indptr.wide), before = first.before.value(indptr.wide);
  bool any = entry < (first.index > 0 ? before : 0) || entry > tokens;
#pragma unroll 1
  for (int64_t i = int64_t{first.index} + threads; i < indptr.count; i += threads) {
    const int64_t entry = load_index(indptr, i);
    any |= entry < load_index(indptr, i - 1) || entry > tokens;
  }
  return any;
}

__device__ __noinline__ static void report_indptr(const Indices& indptr, int64_t tokens, CudaMailbox* mailbox) {
  int64_t before = 0;
  for (int64_t i = 0; i < indptr.count; ++i) {
    const int64_t entry = load_index(indptr, i);
    if (entry < before || entry > tokens) {
      return report_fault(mailbox, CudaOperation::rotate, {ROPE_FAULT_INDPTR, 0, i > 0 ? i - 1 : 0, i, entry, tokens});
    }
    before = entry;
  }
}

// The request that owns a token of a disordered indptr, sound_request_of of positions.cpp. Slow, and rarely needed.
__device__ __forceinline__ int64_t find_sound_request(const Indices& indptr, int64_t tokens, int64_t token) {
#pragma unroll 1
  for (int64_t request = 0; request + 1 < indptr.count; ++request) {
    const int64_t begin = load_index(indptr, request), end = load_index(indptr, request + 1);
    if (0 <= begin && begin <= token && token < end && end <= tokens) return request;
  }
  return -1;
}

__device__ __forceinline__ int64_t saturated_sum(int64_t start, int64_t more) {  // more >= 0
  const int64_t sum = static_cast<int64_t>(static_cast<uint64_t>(start) + static_cast<uint64_t>(more));
  return sum < start ? INT64_MAX : sum;
}

// Where a token stands without ids; false if no request owns it. A sum beyond 64 bits stays at the end of them.
__device__ __forceinline__ bool derived_position(const Positions& p, Token* t, int64_t* position) {
  int64_t start = p.offset, begin = 0;
  if (p.indptr.data != nullptr) {
    // A single request is read at one go, others are searched for. Where there are no offsets, something else is read and not used.
    int64_t low = 0, high = p.indptr.count - 1;
    const bool has_offsets = p.offsets.data != nullptr && high > 0;
    const Loading first = begin_load(p.indptr, low), last = begin_load(p.indptr, high);
    const Loading offset = begin_load(has_offsets ? p.offsets.data : p.indptr.data, has_offsets ? p.offsets.wide : p.indptr.wide);
    begin = first.value(p.indptr.wide);
    if (has_offsets) start = offset.value(p.offsets.wide);
    if (t->token < begin || t->token >= last.value(p.indptr.wide)) return false;
    if (high > 1) {
#pragma unroll 1
      while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (load_index(p.indptr, middle) <= t->token ? low : high) = middle;
      }
      begin = load_index(p.indptr, low);
      if (p.offsets.data != nullptr) start = load_index(p.offsets, low);
    }
    t->request = low;
  } else if (p.offsets.data != nullptr) {
    start = load_index(p.offsets, t->batch);
  }
  *position = saturated_sum(start, t->token - begin);
  return true;
}

__device__ __forceinline__ bool out_of_range(int64_t position) { return position > ROPE_MAX_POSITION || position < -ROPE_MAX_POSITION; }

__device__ __forceinline__ const char* id_of(const Positions& p, int axis, const Token& t) {
  const int64_t index = axis * p.axis_stride + t.batch * p.batch_stride + t.token * p.token_stride;
  return static_cast<const char*>(p.ids) + index * (p.dtype == ROPE_INT64 ? 8 : 4);
}

__device__ __forceinline__ Verdict place_whole(Place* place) {
  place->rounded = static_cast<float>(place->whole);
  return out_of_range(place->whole) ? kSkip : kRotate;
}

// `id`: where the token's id on this axis stands, if there are ids.
template <Where where>
__device__ __forceinline__ Verdict read_place(const Positions& p, int axes, const char* id, Token* t, Place* out) {
  if (where == Where::derived || (where == Where::any && p.ids == nullptr)) {
    *out = {};
    if (!derived_position(p, t, &out->whole)) return kPass;
  } else if (where == Where::any && p.dtype == ROPE_FLOAT32) {
    const float position = *reinterpret_cast<const float*>(id);
    const float whole = rintf(position);
    *out = {static_cast<int64_t>(whole), position - whole, position};
    return position != position ? kPass : fabsf(position) > static_cast<float>(ROPE_MAX_POSITION) ? kSkip : kRotate;
  } else {
    *out = {load_integer(id, p.dtype == ROPE_INT64), 0, 0};
    if ((where != Where::any || axes == 1) && out->whole == -1) return kPass;
  }
  return place_whole(out);
}

// Where indptr is out of order: the token's place in its first sound request.
__device__ __forceinline__ Verdict read_sound_place(const Positions& positions, int64_t tokens, Token* t, Place* out) {
  t->request = find_sound_request(positions.indptr, tokens, t->token);
  if (t->request < 0) return kSkip;
  const int64_t start = positions.offsets.data != nullptr ? load_index(positions.offsets, t->request) : positions.offset;
  out->whole = saturated_sum(start, t->token - load_index(positions.indptr, t->request));
  out->rounded = static_cast<float>(out->whole);
  return out_of_range(out->whole) ? kSkip : kRotate;
}

__device__ __noinline__ static void report_position(const Positions& p, int axes, Token t, CudaOperation operation, CudaMailbox* mailbox) {
  int64_t value = 0;
  for (int axis = 0; axis < axes; ++axis) {
    if (p.ids == nullptr) {
      derived_position(p, &t, &value);
    } else if (p.dtype == ROPE_FLOAT32) {
      value = __double2ll_rz(*reinterpret_cast<const float*>(id_of(p, axis, t)));  // saturates
    } else {
      value = load_integer(id_of(p, axis, t), p.dtype == ROPE_INT64);
    }
    if (out_of_range(value)) break;
  }
  const int64_t request = t.request >= 0 ? t.request : t.batch;
  report_fault(mailbox, operation, {ROPE_FAULT_POSITION, 0, request, t.token, value, ROPE_MAX_POSITION});
}

}  // namespace rope
