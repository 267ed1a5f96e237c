// Between the launcher of the pipeline and its kernels, which are compiled for one dtype at a time: pipeline_<dtype>.cu.
#pragma once

#include <cstdint>

#include "../kv/pages.h"
#include "angle_params.h"

namespace rope {

constexpr int kPipelineParts = 5;
constexpr int kPipelineChunkBytes = 16;
constexpr int kPipelineThreads = 256;         // of a block, at most
constexpr int kFastRows = 2;                  // that a lane holds in registers, at most
constexpr size_t kPipelineTableBytes = 2304;  // of frequencies that travel as parameters

// A part as the kernel sees it. A row is worked on by a group of 2^group lanes of a warp, each with a unit of two chunks at a time: both members
// of N pairs, or 2 N channels that pass through. A task is what a warp does at one go: `rows` rows for each of its groups.
struct KernelPart {
  const char* in;
  char* out;
  int64_t in_batch, in_token, in_head;     // strides, bytes
  int64_t out_batch, out_token, out_head;  // of pages: from page to page, place to place, head to head
  const char* weight;                      // of the norm, null: none
  double eps;
  double channels, channels_inverse;  // those that the norm's mean is over, 1 / channels
  double factor;                      // of float8
  int32_t heads;
  int32_t sets;           // of a token's heads: in the fast kernel as many in each as a lane holds, else one
  uint32_t sets_inverse;  // 2^31 / sets, rounded up; 0 where a block has one token
  int32_t last_set;       // of a block
  int32_t width;
  int32_t first_task;
  int32_t turning;  // units that turn; those after them pass through
  int32_t passing;  // chunks that pass through
  int32_t rounds;   // of a group, until it has had all units of a row
  uint8_t group;
  uint8_t out_dtype;
  bool norm, norm_after, norm_width, unit_offset;
  bool wide_weight;  // float32, or the inputs' own type
  bool scaled;
  bool quantised;  // by `factor`
  bool paged;
  bool in_place;
  bool aside;  // changes its order in place, and chunks are of one element: rows are set aside first
  bool float8;
  uint32_t stopping;  // flags of a token that keep it from being written
};

struct KernelTable {  // AngleTable in bytes
  const char* cos;    // null: there are frequencies
  const char* sin;
  int64_t cos_row, sin_row;
  int64_t rows;
  int32_t dtype;
  bool full;
  bool interleaved;  // channels, of a full one
  bool transposed;
  bool backward;
};

struct KernelScale {  // of whole rows
  const float* data;  // null: there is none
  int64_t batch_stride, token_stride;
};

// What a block has found out about one of its tokens, in shared memory.
struct alignas(16) TokenState {
  int64_t page, place;
  uint32_t batch, token;
  float scale;
  uint8_t verdict;  // Verdict. kPass: padding
  uint8_t stored;   // Stored
  uint8_t turns;
  uint8_t absent;  // beyond the last token
};
// The last four as a number: what keeps a token out of a tensor, and out of the pages.
constexpr uint32_t kPadding = 0x2, kTurns = 0x10000, kNotWritten = 0x1000201, kNotStored = 0x1000303;

// What follows from other numbers stands here too: the kernel has no registers to spare for it.
struct PipelineKernelParams {
  KernelPart parts[kPipelineParts];  // those that have something to do
  int32_t part_count;
  int32_t tasks;
  int32_t turning_tasks;  // the first of them: those of parts that turn
  int32_t block_tasks;    // from a block's first to that of the next along y: its warps, 0 with block_heads
  int32_t task_step;      // from a warp's task to its next
  uint32_t batch, tokens, all_tokens, last_token;
  int32_t block_tokens;  // log2
  int32_t rows;          // of a group in a task
  int32_t block_heads;   // frequencies for each head: how many heads a block has. 0: alike for all
  int32_t rotary_offset;
  int32_t pairs;
  int32_t in_step, in_second;    // from a unit's first chunk to the next unit's, and to its second chunk, as read
  int32_t out_step, out_second;  // and as written, elements
  int32_t entries;               // of cos, and of sin, for each token: 0 or the pairs of all heads that have their own
  // In shared memory, bytes:
  int32_t plane;         // of a token's cos, from there to its sin
  int32_t half_plane;    // from the first halves of the lanes' pairs to the second
  int32_t token_angles;  // from token to token
  int32_t head_angles;   // from head to head: 0 where they are alike
  int32_t rows_at;       // rows on their way,
  int32_t states_at;     // the tokens' states,
  int32_t sums_at;       // the sums of norms over the width,
  int32_t aside_at;      // rows that are set aside,
  int32_t aside_step;    // from warp to warp,
  int32_t aside_bytes;   // each so long
  uint32_t prefetching;  // blocks along x that prefetch: those that may be there before the kernel ahead is done
  bool turns;            // positions are read
  bool in_interleaved, out_interleaved;
  bool apart;       // interleaved rows that stay so are cut into halves too, so that neighbouring lanes read neighbouring chunks
  bool width_norm;  // of any part
  bool paged;
  int64_t prefix;
  KernelScale scale;
  Pages pages;
  KernelTable table;
  AngleParamsOf<kPipelineTableBytes> angles;
};
static_assert(sizeof(PipelineKernelParams) <= 4096);

using PipelineKernel = void (*)(PipelineKernelParams);

// narrow: chunks of one element, else of 16 bytes. fast: in registers, pipeline_fast.cuh says for what.
enum class PipelineForm { narrow, wide, fast };

PipelineKernel pipeline_float16(PipelineForm form);
PipelineKernel pipeline_bfloat16(PipelineForm form);
PipelineKernel pipeline_float32(PipelineForm form);
PipelineKernel pipeline_float64();

}  // namespace rope
