// Where each token stands: ids from a tensor, a start per row or per request, or one start for all. Checked once, then read by the backends.
#pragma once

#include <cstdint>

#include "../include/rope.h"

namespace rope {

struct Tensor;

constexpr int64_t kMaxPositionAxes = 16;

// A checked vector of int32 or int64.
struct Indices {
  const void* data = nullptr;  // [count]
  int64_t stride = 0;
  int64_t count = 0;
  bool wide = false;

  int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i * stride] : static_cast<const int32_t*>(data)[i * stride];
  }
};

struct Positions {
  // ids: one per token
  const void* ids = nullptr;  // [axes, batch, tokens]
  int dtype = 0;              // int32, int64 or float32
  int64_t axis_stride = 0, batch_stride = 0, token_stride = 0;
  // or starts
  Indices indptr;   // [requests + 1], of tokens
  Indices offsets;  // [requests] with indptr, else [batch]
  int64_t offset = 0;
};

// The three forms of a rotation's tokens: [batch, tokens] with batch 1 where they are ragged.
struct TokenGrid {
  int64_t batch;
  int64_t tokens;
  bool ragged;  // rank 2 or 3: may carry indptr
};

// A vector of int32 or int64 on the device of `like`.
Indices check_indices(const Tensor& tensor, const char* argument, uint16_t device, const char* like);

// Checks positions, indptr, offsets and offset against the grid. `like` is the device they must be on.
Positions check_positions(const rope_tensor_ref& ids, const rope_tensor_ref& indptr, const rope_tensor_ref& offsets, int64_t offset,
                          int64_t axes, const TokenGrid& grid, uint16_t device, const char* like);

// One token's position on every axis, as whole + fraction.
struct TokenPosition {
  bool padding;     // passes through
  bool fault;       // out of range: not written
  bool fractional;  // any fraction is not 0
  int64_t whole[kMaxPositionAxes];
  double fraction[kMaxPositionAxes];
  float rounded[kMaxPositionAxes];  // as float32, Hugging Face's operand
};

// Reads token `token` of batch row `batch`. `request` is its request where the grid has indptr, -1 if no request owns it.
void read_position(const Positions& positions, int64_t axes, int64_t batch, int64_t token, int64_t request, TokenPosition* out);
// What to report of a token whose position is out of range.
rope_fault position_fault(const Positions& positions, int64_t axes, int64_t batch, int64_t token, int64_t request);

// The first entry of indptr that decreases, is negative or exceeds `tokens`.
rope_fault check_indptr(const Indices& indptr, int64_t tokens);
// The request that owns a token, -1 if none does. indptr must have passed check_indptr.
int64_t request_of(const Indices& indptr, int64_t token);
// The same for an indptr that has not: the first request within bounds that owns the token.
int64_t sound_request_of(const Indices& indptr, int64_t tokens, int64_t token);

}  // namespace rope
