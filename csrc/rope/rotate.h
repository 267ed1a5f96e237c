// The rotation, checked and ready to run: what rotate_api.cpp fills and every backend trusts.
#pragma once

#include <cstdint>

#include "frequencies.h"
#include "positions.h"

namespace rope {

struct CudaLaunch;

struct RotateTensor {
  const char* in = nullptr;                         // [batch, tokens, heads, head_dim]
  char* out = nullptr;                              // the same; may be `in`
  int64_t heads = 0;                                // 0: absent
  int64_t in_batch = 0, in_token = 0, in_head = 0;  // strides, elements
  int64_t out_batch = 0, out_token = 0, out_head = 0;
  bool in_place = false;
};

struct RotateParams {
  RotateTensor q, k;
  TokenGrid grid;
  int64_t head_dim;
  int64_t rotary_offset;  // channels [rotary_offset, rotary_offset + 2 * pairs) turn
  int dtype;
  int pairing;    // rope_pairing
  bool hf;        // angles as Hugging Face computes them
  bool inverse;   // undo interleaved_to_half
  bool backward;  // sin negated: inverse or conjugate, not both
  Positions positions;
  FrequenciesRef frequencies;
};

// The CPU returns the first fault; a kernel leaves it in the mailbox.
rope_fault rotate_cpu(const RotateParams& params);
void rotate_cuda(const RotateParams& params, const CudaLaunch& launch);

struct CosSinParams {
  float* cos;  // [tokens, rows, pairs]
  float* sin;
  TokenGrid grid;
  bool hf;
  bool backward;
  Positions positions;
  FrequenciesRef frequencies;
};

rope_fault cos_sin_cpu(const CosSinParams& params);
void cos_sin_cuda(const CosSinParams& params, const CudaLaunch& launch);

}  // namespace rope
