// The pipeline on CUDA: which kernel, of what shape. The kernel is in pipeline_kernel.cuh.
// All of this is the host's, and need not be read again for each architecture.
#if !defined(__CUDA_ARCH__)
#include "pipeline.h"

#include <algorithm>

#include "../core/dtypes.h"
#include "../core/status.h"
#include "angle_table.h"
#include "pipeline_launch.h"
#include "rotate.h"

namespace rope {
namespace {

static_assert(kParts == kPipelineParts);

constexpr int64_t kWarp = 32;
constexpr int64_t kMaxWarps = kPipelineThreads / kWarp;
constexpr int64_t kSharedBytes = 48 << 10;  // of a block, at most

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

PipelineKernel kernel_for(int dtype, PipelineForm form) {
  switch (dtype) {
    case ROPE_FLOAT64: return pipeline_float64();
    case ROPE_FLOAT32: return pipeline_float32(form);
    case ROPE_FLOAT16: return pipeline_float16(form);
    default: return pipeline_bfloat16(form);
  }
}

// One call on its way to the kernel's parameters.
class Plan {
 public:
  Plan(const PipelineParams& params, const CudaLaunch& launch)
      : p(params),
        launch(launch),
        tokens(p.grid.batch * p.grid.tokens),
        size(dtype_size(p.dtype)),
        real(p.dtype == ROPE_FLOAT64 ? 8 : 4),
        moves(p.pairing == ROPE_INTERLEAVED_TO_HALF) {}

  void run() {
    check_limits();
    wide = is_wide();
    n = wide ? kPipelineChunkBytes / size : 1;
    set_parts();
    if (wide && std::any_of(k.parts, k.parts + k.part_count, [&](const KernelPart& part) { return reorders(part) && part.rounds > 1; })) {
      wide = false;
      n = 1;
      set_parts();
    }
    set_angles();
    fast = is_fast();
    set_shape();
    set_shared();
    KernelShape shape;
    shape.grid = dim3(static_cast<unsigned>(ceil_div(tokens, int64_t{1} << k.block_tokens)), static_cast<unsigned>(grid_y));
    shape.block = dim3(static_cast<unsigned>(warps * kWarp));
    shape.shared = static_cast<size_t>(shared_bytes);
    shape.early = true;
    launch_kernel("pipeline_kernel",
                  kernel_for(p.dtype, fast   ? PipelineForm::fast
                                      : wide ? PipelineForm::wide
                                             : PipelineForm::narrow),
                  shape, launch, k);
  }

 private:
  static bool there(const Part& part) { return part.heads > 0 && part.width > 0; }
  bool reorders(const KernelPart& part) const { return moves && part.in_place && part.turning > 0; }
  bool by_heads() const { return p.frequencies != nullptr && p.frequencies->heads > 0; }

  void check_limits() const {
    constexpr int64_t kMaxHeads = int64_t{1} << 20, kMaxWidth = int64_t{1} << 26;
    constexpr const char* kNames[kParts] = {"q", "k", "v", "q_rest", "k_rest"};
    if (tokens >= kMaxTokens) {
      fail(ROPE_ARGUMENT, "q", text("fewer than 2^31 tokens on CUDA"), text("%lld", static_cast<long long>(tokens)),
           "Take slices of the tensor.");
    }
    for (int i = 0; i < kParts; ++i) {
      const Part& part = p.parts[i];
      if (part.heads > kMaxHeads) {
        fail(ROPE_ARGUMENT, kNames[i], text("a tensor of at most %lld heads on CUDA", static_cast<long long>(kMaxHeads)),
             text("%lld heads", static_cast<long long>(part.heads)));
      }
      if (part.width > kMaxWidth) {
        fail(ROPE_ARGUMENT, kNames[i], text("a tensor of at most %lld channels a head on CUDA", static_cast<long long>(kMaxWidth)),
             text("%lld", static_cast<long long>(part.width)));
      }
    }
  }

  // Whether every chunk lies on 16 bytes, or on as many as it has where it is written in a smaller type.
  bool is_wide() const {
    const int64_t count = kPipelineChunkBytes / size;
    if (size == 8) return false;
    for (const Part& part : p.parts) {
      if (!there(part)) continue;
      const int64_t out_size = dtype_size(part.out_dtype), out_bytes = std::min<int64_t>(kPipelineChunkBytes, count * out_size);
      const int64_t out_count = out_bytes / out_size;
      int64_t odd = part.width % count;
      if (part.turns && p.turns) odd |= (p.pairs | p.rotary_offset) % count;
      if (p.grid.batch > 1) odd |= part.in_batch % count;
      if (p.grid.tokens > 1) odd |= part.in_token % count;
      if (part.heads > 1) odd |= part.in_head % count | part.out_head % out_count;
      if (p.grid.batch > 1 || part.paged) odd |= part.out_batch % out_count;
      if (p.grid.tokens > 1 || part.paged) odd |= part.out_token % out_count;
      odd |= static_cast<int64_t>(reinterpret_cast<uintptr_t>(part.in) % kPipelineChunkBytes);
      odd |= static_cast<int64_t>(reinterpret_cast<uintptr_t>(part.out) % static_cast<uintptr_t>(out_bytes));
      if (part.norm.on) odd |= static_cast<int64_t>(reinterpret_cast<uintptr_t>(part.norm.weight) % kPipelineChunkBytes);
      if (odd != 0) return false;
    }
    return true;
  }

  // Whether the kernel for what is common does it.
  bool is_fast() const {
    const bool plain = p.positions.ids != nullptr && p.positions.dtype != ROPE_FLOAT32 && k.angles.axes == 1 && p.prefix == 0 &&
                       p.positions.indptr.data == nullptr;
    const bool ordinary =
        k.part_count > 0 && wide && (plain || !p.turns) && !moves && !by_heads() && !k.table.full && k.angles.still_at == 0;
    return ordinary && std::all_of(k.parts, k.parts + k.part_count, [&](const KernelPart& part) {
             const bool near = std::max({part.in_batch, part.in_token, part.in_head}) <= UINT32_MAX &&
                               std::min({part.in_batch, part.in_token, part.in_head}) >= 0;
             const bool type = part.out_dtype == p.dtype || part.out_dtype == ROPE_FLOAT8_E4M3FN;
             return near && type && part.rounds == 1 && part.heads <= 65536 && part.width <= 4096 &&
                    !(part.norm && (part.norm_after || part.norm_width));
           });
  }

  // Those that turn come first.
  void set_parts() {
    k.part_count = 0;
    for (const bool turning : {true, false}) {
      for (const Part& part : p.parts) {
        if (there(part) && (part.turns && p.turns) == turning) set_part(part, turning);
      }
    }
  }

  void set_part(const Part& part, bool turning) {
    const int64_t out_size = dtype_size(part.out_dtype);
    KernelPart& out = k.parts[k.part_count];
    out = {};
    out.in = part.in;
    out.out = part.out;
    out.in_batch = part.in_batch * size, out.in_token = part.in_token * size, out.in_head = part.in_head * size;
    out.out_batch = part.out_batch * out_size, out.out_token = part.out_token * out_size, out.out_head = part.out_head * out_size;
    out.norm = part.norm.on;
    out.norm_after = part.norm.after;
    out.norm_width = part.norm.width;
    out.unit_offset = part.norm.unit_offset;
    out.wide_weight = part.norm.weight_dtype == ROPE_FLOAT32;
    out.weight = part.norm.weight;
    out.eps = part.norm.eps;
    out.channels = static_cast<double>(part.norm.width ? part.heads * part.width : part.width);
    out.channels_inverse = 1 / out.channels;
    out.quantised = dtype_is_float8(part.out_dtype) && part.factor != 1;
    out.factor = part.factor;
    out.scaled = part.scaled && p.row_scale.data != nullptr;
    out.out_dtype = static_cast<uint8_t>(part.out_dtype);
    out.paged = part.paged;
    out.in_place = part.in_place;
    out.float8 = dtype_is_float8(part.out_dtype);
    out.stopping = part.paged ? kNotStored : kNotWritten;
    out.heads = static_cast<int32_t>(part.heads);
    out.width = static_cast<int32_t>(part.width);
    out.turning = turning ? static_cast<int32_t>(p.pairs / n) : 0;
    const bool touches = !part.in_place || out.norm || out.scaled;
    out.passing = touches ? static_cast<int32_t>((part.width - (turning ? 2 * p.pairs : 0)) / n) : 0;
    const int64_t units = out.turning + ceil_div(out.passing, 2);
    if (units == 0) return;
    while ((int64_t{1} << out.group) < std::min(units, kWarp)) ++out.group;
    out.rounds = static_cast<int32_t>(ceil_div(units, int64_t{1} << out.group));
    out.aside = !wide && reorders(out);
    ++k.part_count;
  }

  void set_angles() {
    const bool halves_in = p.pairing == ROPE_HALF || (moves && p.inverse), halves_out = p.pairing == ROPE_HALF || (moves && !p.inverse);
    k.in_interleaved = !halves_in;
    k.out_interleaved = !halves_out;
    k.apart = wide && !halves_in && !halves_out;
    const auto set_order = [&](bool halves, int32_t* step, int32_t* second) {
      *step = static_cast<int32_t>(halves || k.apart ? n : 2 * n);
      *second = static_cast<int32_t>(halves || k.apart ? p.pairs : n);
    };
    set_order(halves_in, &k.in_step, &k.in_second);
    set_order(halves_out, &k.out_step, &k.out_second);
    k.turns = p.turns;
    k.rotary_offset = static_cast<int32_t>(p.rotary_offset);
    k.pairs = static_cast<int32_t>(p.pairs);
    k.prefix = p.prefix;
    k.batch = static_cast<uint32_t>(p.grid.batch);
    k.tokens = static_cast<uint32_t>(p.grid.tokens);
    k.all_tokens = static_cast<uint32_t>(tokens);
    k.last_token = static_cast<uint32_t>(tokens - 1);
    k.scale = {p.row_scale.data, p.row_scale.batch_stride, p.row_scale.token_stride};
    k.paged = p.paged;
    k.pages = p.pages;
    if (p.frequencies != nullptr) {
      set_angle_params(&k.angles, p.positions, tokens, "q", p.frequencies, p.hf, p.backward, launch);
      return;
    }
    AngleNumbers& numbers = k.angles;
    numbers = {};
    numbers.positions = p.positions;
    numbers.axes = 1;
    numbers.mailbox = launch.mailbox;
    const AngleTable& t = p.table;
    if (t.cos == nullptr) return;
    const int64_t element = dtype_size(t.dtype);
    k.table = {t.cos,   t.sin,  t.cos_row * element,           t.sin_row * element, t.rows,
               t.dtype, t.full, p.pairing == ROPE_INTERLEAVED, p.inverse,           p.backward};
  }

  // ---- the shape ---------------------------------------------------------------------------------------------------------------------

  int64_t sets_of_token(const KernelPart& part) const { return fast ? ceil_div(int64_t{part.heads}, k.rows) : part.heads; }
  int64_t sets_of_task(const KernelPart& part) const { return int64_t{fast ? 1 : k.rows} << (5 - part.group); }

  // Numbers the tasks of a block's tokens, or heads. Returns how many there are.
  int64_t number_tasks(int64_t block_tokens, int64_t block_heads) {
    int64_t tasks = 0;
    k.turning_tasks = 0;
    for (int i = 0; i < k.part_count; ++i) {
      KernelPart& part = k.parts[i];
      const int64_t of_token = sets_of_token(part);
      const int64_t sets = block_heads > 0 ? std::min<int64_t>(block_heads, of_token) : of_token * block_tokens;
      part.first_task = static_cast<int32_t>(tasks);
      part.sets = static_cast<int32_t>(of_token);
      part.last_set = static_cast<int32_t>(sets - 1);
      part.sets_inverse = block_tokens == 1 ? 0 : static_cast<uint32_t>(ceil_div(int64_t{1} << 31, of_token));
      tasks += ceil_div(sets, sets_of_task(part));
      if (part.turning > 0) k.turning_tasks = static_cast<int32_t>(tasks);
    }
    return tasks;
  }

  int64_t angle_bytes(int64_t block_heads) const {
    const int64_t arrays = k.table.full ? 4 : 2;
    return k.part_count > 0 && k.parts[0].turning > 0 ? arrays * p.pairs * std::max<int64_t>(block_heads, 1) * real : 0;
  }

  // By the rows there are for each multiprocessor. Few: as many warps as can be, one row at a time. More: two, so that more is on its way.
  // Several tokens in a block where they fill no block alone.
  void set_shape() {
    constexpr int64_t kWarpsWanted = 6, kStepsForTwo = 19;
    int64_t steps = 0, most_heads = 1;
    k.width_norm = false;
    for (int i = 0; i < k.part_count; ++i) {
      const KernelPart& part = k.parts[i];
      steps += ceil_div(int64_t{part.heads} << part.group, kWarp);
      most_heads = std::max<int64_t>(most_heads, part.heads);
      k.width_norm |= part.norm && part.norm_width;
    }
    k.rows = steps > 1 && (!fast || most_heads > 1) && tokens * steps >= kStepsForTwo * launch.multiprocessors ? 2 : 1;
    int64_t block_tokens = 1, block_heads = 0;
    k.block_tokens = 0;
    if (by_heads() && k.part_count > 0) {
      block_heads = k.width_norm ? most_heads : std::min(most_heads, sets_of_task(k.parts[0]));
      while (!k.width_norm && block_heads > 1 &&
             (number_tasks(1, block_heads) > kMaxWarps || angle_bytes(block_heads) > kSharedBytes / 2)) {
        block_heads = ceil_div(block_heads, 2);
      }
    }
    while (block_heads == 0 && !k.width_norm && k.part_count > 0 && block_tokens < 16 &&
           tokens >= 8 * launch.multiprocessors * block_tokens && number_tasks(2 * block_tokens, 0) <= kWarpsWanted &&
           2 * block_tokens * angle_bytes(0) <= kSharedBytes / 2) {
      block_tokens *= 2;
      ++k.block_tokens;
    }
    const int64_t tasks = number_tasks(block_tokens, block_heads);
    k.tasks = static_cast<int32_t>(tasks);
    k.block_heads = static_cast<int32_t>(block_heads);
    if (block_heads > 0) {
      grid_y = ceil_div(most_heads, block_heads);
      warps = std::clamp<int64_t>(tasks, 1, kMaxWarps);
      if (grid_y > kMaxGrid) {
        fail(ROPE_ARGUMENT, "q",
             text("a tensor of at most %lld heads on CUDA, where each has frequencies of its own", static_cast<long long>(kMaxGrid)),
             text("%lld heads", static_cast<long long>(most_heads)));
      }
    } else {
      // A norm over the width: one block has all rows of the token.
      grid_y = k.width_norm || tasks <= kMaxWarps ? 1 : ceil_div(tasks, kWarpsWanted);
      warps = std::clamp<int64_t>(ceil_div(tasks, grid_y), 1, kMaxWarps);
    }
  }

  // A block's memory does not hold what one warp needs.
  [[noreturn]] void fail_shared(int64_t fixed, int64_t warp_bytes, int64_t aside, int64_t groups) const {
    const int64_t angles = angle_bytes(k.block_heads), pairs = p.pairs * std::max<int64_t>(k.block_heads, 1);
    const int64_t others = fixed + warp_bytes - aside * groups - angles;
    if (others + angles > kSharedBytes) {
      const auto most = static_cast<long long>((kSharedBytes - others) / (angles / pairs));
      if (k.block_heads > 1) {
        fail(ROPE_ARGUMENT, "frequencies", text("at most %lld numbers on CUDA, where a norm is over all heads", most),
             text("%lld", static_cast<long long>(pairs)));
      }
      fail(ROPE_ARGUMENT, "rotary_dim", text("at most %lld on CUDA, where more is done than to rotate", 2 * most),
           text("%lld", static_cast<long long>(2 * pairs)));
    }
    fail(ROPE_ARGUMENT, "pairing",
         text("one that keeps its order where q or k is rotated in place and a head has more than %lld channels",
              static_cast<long long>((kSharedBytes - others - angles) / groups / size)),
         text("interleaved_to_half with %lld", static_cast<long long>(aside / size)),
         "A block of the GPU holds no such head; use an output.");
  }

  void set_shared() {
    const int64_t block_tokens = int64_t{1} << k.block_tokens, heads = std::max<int64_t>(k.block_heads, 1);
    const int64_t token_angles = angle_bytes(k.block_heads);
    k.entries = static_cast<int32_t>(token_angles > 0 ? p.pairs * heads : 0);
    k.plane = static_cast<int32_t>(k.entries * real);
    k.half_plane = static_cast<int32_t>(p.pairs / 2 * real);
    k.head_angles = static_cast<int32_t>(k.block_heads > 0 ? p.pairs * real : 0);
    const int64_t fixed = block_tokens * (token_angles + static_cast<int64_t>(sizeof(TokenState))) + kParts * kMaxWarps * 8;
    int64_t aside = 0, groups = 1;
    for (int i = 0; i < k.part_count; ++i) {
      const KernelPart& part = k.parts[i];
      if (!part.aside) continue;
      aside = std::max(aside, ceil_div(part.width * size, 16) * 16);
      groups = std::max<int64_t>(groups, kWarp >> part.group);
    }
    const int64_t warp_bytes = aside * groups + (wide && !fast ? k.rows * 2 * kWarp * kPipelineChunkBytes : 0);
    if (fixed + warp_bytes > kSharedBytes) fail_shared(fixed, warp_bytes, aside, groups);
    if (warps * warp_bytes > kSharedBytes - fixed) {
      warps = (kSharedBytes - fixed) / warp_bytes;
      if (k.block_heads == 0 && !k.width_norm) grid_y = ceil_div(k.tasks, warps);
    }
    grid_y = std::min(grid_y, kMaxGrid);
    k.block_tasks = static_cast<int32_t>(k.block_heads > 0 ? 0 : warps);
    k.task_step = static_cast<int32_t>(k.block_heads > 0 ? warps : warps * grid_y);
    k.prefetching = static_cast<uint32_t>(std::max<int64_t>(1, 1024 * launch.multiprocessors / (grid_y * warps * kWarp)));

    k.token_angles = static_cast<int32_t>(token_angles);
    int64_t at = block_tokens * token_angles;
    const auto place = [&](int64_t bytes) {
      at = ceil_div(at, 16) * 16;
      const int64_t begin = at;
      at += bytes;
      return static_cast<int32_t>(begin);
    };
    k.rows_at = place(wide && !fast ? warps * k.rows * 2 * kWarp * kPipelineChunkBytes : 0);
    k.states_at = place(block_tokens * static_cast<int64_t>(sizeof(TokenState)));
    k.sums_at = place(k.width_norm ? kParts * kMaxWarps * 8 : 0);
    k.aside_at = place(warps * groups * aside);
    k.aside_step = static_cast<int32_t>(groups * aside);
    k.aside_bytes = static_cast<int32_t>(aside);
    shared_bytes = at;
  }

  static constexpr int64_t kMaxGrid = 65535;

  const PipelineParams& p;
  const CudaLaunch& launch;
  const int64_t tokens;
  const int64_t size;  // of an element
  const int64_t real;  // of what is computed with
  const bool moves;    // pairs change their order
  PipelineKernelParams k{};
  bool wide = false;  // chunks are of 16 bytes
  bool fast = false;
  int64_t n = 1;  // elements of a chunk
  int64_t warps = 1, grid_y = 1, shared_bytes = 0;
};

}  // namespace

void pipeline_cuda(const PipelineParams& p, const CudaLaunch& launch) {
  const bool any = std::any_of(p.parts, p.parts + kParts, [](const Part& part) { return part.heads > 0 && part.width > 0; });
  if (any && p.grid.batch > 0 && p.grid.tokens > 0) return Plan(p, launch).run();
  RotateParams nothing{};  // but an indptr to look at, maybe
  nothing.grid = p.grid;
  nothing.positions = p.positions;
  rotate_cuda(nothing, launch);
}

}  // namespace rope
#endif
