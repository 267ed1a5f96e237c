// The whole pipeline, checked and ready to run: load, norm, rotate, norm, scale, quantise, store, of up to five tensors in one go. A rotation of q
// and k alone has a path of its own, rotate.h.
#pragma once

#include <cstdint>

#include "../kv/pages.h"
#include "frequencies.h"
#include "positions.h"

namespace rope {

struct CudaLaunch;

struct Norm {
  bool on = false;
  bool after = false;            // the rotation; else before it
  bool width = false;            // over all heads of a token; else over each
  bool unit_offset = false;      // times 1 + weight
  int weight_dtype = 0;          // float32 or the inputs' own
  const char* weight = nullptr;  // [D] or, over the width, [H * D]; null: none
  double eps = 0;
};

// Rows of one tensor: its heads, token by token.
struct Part {
  const char* in = nullptr;                            // [batch, tokens, heads, width]
  char* out = nullptr;                                 // the same, or of pages [pages, page_size, heads, width]; may be `in`
  int64_t heads = 0;                                   // 0: absent
  int64_t width = 0;                                   // channels of a head
  int64_t in_batch = 0, in_token = 0, in_head = 0;     // strides, elements
  int64_t out_batch = 0, out_token = 0, out_head = 0;  // of pages: from page to page, place to place, head to head
  int out_dtype = 0;
  bool in_place = false;
  bool paged = false;   // goes where `pages` says
  bool turns = false;   // has a rotary slice
  bool scaled = false;  // by row_scale
  double factor = 1;    // of float8
  Norm norm;
};

// cos and sin from memory. cos[row * cos_row + j], j the pair; full: the channel of the rotary slice as it is written.
struct AngleTable {
  const char* cos = nullptr;  // [rows, R/2] or [rows, R]; null: there is none
  const char* sin = nullptr;
  int64_t cos_row = 0, sin_row = 0;  // strides, elements
  int64_t rows = 0;
  int dtype = 0;
  bool full = false;
};

struct RowScale {
  const float* data = nullptr;  // [batch, tokens]; null: none
  int64_t batch_stride = 0, token_stride = 0;
};

enum PartIndex { kPartQ, kPartK, kPartV, kPartQRest, kPartKRest, kParts };

struct PipelineParams {
  Part parts[kParts];
  TokenGrid grid;
  int dtype = 0;       // of all inputs
  bool turns = false;  // anything does: positions, and frequencies or a table, are there
  int64_t rotary_offset = 0;
  int64_t pairs = 0;
  int pairing = 0;        // rope_pairing
  bool hf = false;        // angles as Hugging Face computes them
  bool inverse = false;   // undo interleaved_to_half
  bool backward = false;  // sin negated: inverse or conjugate, not both
  int64_t prefix = 0;     // tokens of a batch row or request that do not turn
  Positions positions;
  FrequenciesRef frequencies;  // null with a table
  AngleTable table;
  RowScale row_scale;  // of parts that are `scaled`
  bool paged = false;  // any part is
  Pages pages;
};

// What becomes of a token, in this order:
//   its position is out of range (of +-2^38, or of the table's rows), or its place in the pages is: nothing of it is written, a fault;
//   its position is padding: tensors get its rows as they are, converted and quantised, not normed and not scaled; pages nothing;
//   its slot or batch index is -1: pages get nothing, the rest as ever;
//   it belongs to the prefix, or to no request of indptr: all but the rotation.
// Arithmetic is float32 between load and store (float64 for float64 inputs), every product and sum rounded on its own, one rounding to the
// output's dtype at the end. A row's steps: y = x * (1 / sqrt(mean + eps)) * weight (the mean from a float64 sum, the inverse root rounded to the
// arithmetic's type, two products), the rotation, or the two the other way round; * row_scale; * factor. Pairs that stand still (rotate.h) keep
// what the step before made of them.
// The CPU returns the first fault; a kernel leaves it in the mailbox.
rope_fault pipeline_cpu(const PipelineParams& params);
void pipeline_cuda(const PipelineParams& params, const CudaLaunch& launch);

}  // namespace rope
