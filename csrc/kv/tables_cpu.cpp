// rope_seq_lens and rope_batch_indices on the CPU: request after request, on one thread; a token costs no more than writing it.
#include <algorithm>

#include "tables.h"

namespace rope {

rope_fault seq_lens_cpu(const SeqLensParams& p) {
  rope_fault first{};
  for (int64_t request = 0; request + 1 < p.table.indptr.count; ++request) {
    rope_fault fault{};
    int32_t length = 0;
    if (find_seq_len(p.table, request, &length, &fault)) {
      p.seq_lens[request * p.stride] = length;
    } else if (first.code == ROPE_FAULT_NONE) {
      first = fault;
    }
  }
  return first;
}

namespace {

void put(const BatchIndicesParams& p, int64_t token, int64_t request, int64_t place) {
  p.batch_indices[token * p.batch_stride] = static_cast<int32_t>(request);
  p.places[token * p.place_stride] = static_cast<int32_t>(place);
}

rope_fault in_order(const BatchIndicesParams& p) {
  rope_fault first{};
  const int64_t requests = p.indptr.count - 1;
  // What has been checked may be written by another thread meanwhile: whatever it is, it stays within the tokens.
  const auto entry = [&](int64_t i, int64_t least) { return std::clamp(p.indptr[i], least, p.tokens); };
  int64_t token = 0, end = entry(0, 0);
  for (; token < end; ++token) put(p, token, -1, -1);
  for (int64_t request = 0; request < requests; ++request) {
    const int64_t begin = token, length = p.seq_lens[request];
    end = entry(request + 1, begin);
    rope_fault fault{};
    if (check_length(request, begin, end, length, &fault)) {
      for (; token < end; ++token) put(p, token, request, length - end + token);
    } else if (first.code == ROPE_FAULT_NONE) {
      first = fault;
    }
    token = end;
  }
  for (; token < p.tokens; ++token) put(p, token, -1, -1);
  return first;
}

// Only the tokens of sound requests.
void out_of_order(const BatchIndicesParams& p) {
  for (int64_t token = 0; token < p.tokens; ++token) {
    const int64_t request = sound_request_of(p.indptr, p.tokens, token);
    if (request < 0) continue;
    const int64_t from = p.indptr[request], to = p.indptr[request + 1], length = p.seq_lens[request];
    rope_fault fault{};
    if (check_length(request, from, to, length, &fault)) put(p, token, request, length - to + token);
  }
}

}  // namespace

rope_fault batch_indices_cpu(const BatchIndicesParams& p) {
  const rope_fault fault = check_indptr(p.indptr, p.tokens);
  if (fault.code == ROPE_FAULT_NONE) return in_order(p);
  out_of_order(p);
  return fault;
}

}  // namespace rope
