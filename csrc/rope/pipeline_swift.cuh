// The pipeline's kernel for what is common: rows of 16-byte chunks that one group of lanes holds in registers, a norm over each head before the
// rotation, pairs that keep their order, positions given one by one, results of the inputs' type or float8. A block's layout, roles and protocol
// stand in pipeline_block.cuh. A warp has one task: each group of its lanes has one set of a token's heads, all on their way while the block
// prepares; then they go through all steps.
#pragma once

#include "pipeline_block.cuh"

namespace rope {

constexpr int kSwiftBlocks = 4;  // of kPipelineThreads on a multiprocessor, at least: 64 registers

template <class T, int N>
class HeldRows {
 public:
  __device__ __forceinline__ HeldRows(const PipelineKernelParams& p, int number)
      : task(task_of(p, min(number, p.tasks - 1), 1)), part(p.parts[task.part]), unit(unit_of<N>(p, part, task.unit)) {
    const SetPlace place = place_of_set(part, task.set);
    token = place.token;
    head = place.number * p.rows;
    there = number < p.tasks && place.exists;
    const Token t = token_at(p, (blockIdx.x << p.block_tokens) + token);
    const char* const first = part.in + uint64_t{t.token} * static_cast<uint32_t>(part.in_token) +
                              uint64_t{static_cast<uint32_t>(head)} * static_cast<uint32_t>(part.in_head);
    source = reinterpret_cast<const T*>(p.batch > 1 ? first + uint64_t{t.batch} * static_cast<uint32_t>(part.in_batch) : first);
    ptx::keep(source);
  }

  __device__ __forceinline__ void prefetch(const PipelineKernelParams& p) const {
#pragma unroll
    for (int r = 0; r < kSwiftRows; ++r) {  // a sector of 32 bytes by the lane that begins it
      if (!has(p, r)) break;
      if (unit.a * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(row(r) + unit.a);
      if (unit.b * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(row(r) + unit.b);
    }
    if (blockIdx.x == 0 && part.norm && part.weight != nullptr) {  // what all blocks read, once
      const int size = part.wide_weight ? 4 : sizeof(T);
      ptx::prefetch_global_l2(part.weight + unit.a * size);
      ptx::prefetch_global_l2(part.weight + unit.b * size);
    }
  }

  __device__ __forceinline__ void fetch(const PipelineKernelParams& p, const char*) {
#pragma unroll
    for (int r = 0; r < kSwiftRows; ++r) {
      if (r > 0 && !has(p, r)) break;
      a[r] = load<T, N>(row(r) + unit.a);
      b[r] = load<T, N>(row(r) + unit.b);
    }
  }

  __device__ __forceinline__ void finish(const PipelineKernelParams& p, const char* shared) {
    unit = unit_of<N>(p, part, anew(task.unit));  // again: no registers to spare for it meanwhile
    Real inverse[kSwiftRows] = {};
    if (part.norm) find_inverses(p, inverse);
    const TokenState& state = state_of(p, shared, token);
    const uint32_t flags = flags_of(state);
    char* const first = target_of(part, state);
    if (!there || first == nullptr || !unit.has_a) return;
    const char* const angles = shared + token * p.token_angles + task.unit * static_cast<int>(sizeof(Real)) * (N / 2);
    const bool rotates = unit.turns && (flags & kTurns) != 0;
    const Real scale = part.scaled && (flags & kPadding) == 0 ? static_cast<Real>(state.scale) : 1;
#pragma unroll
    for (int r = 0; r < kSwiftRows; ++r) {
      if (r > 0 && !has(p, r)) break;
      finish_row(p, angles, rotates, (flags & kPadding) != 0, scale, first + int64_t{head + r} * part.out_head, a[r], b[r], inverse[r]);
    }
  }

 private:
  using Real = RealOf<T>;

  __device__ __forceinline__ bool has(const PipelineKernelParams& p, int r) const { return r < p.rows && head + r < part.heads; }
  __device__ __forceinline__ const T* row(int r) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(source) + r * static_cast<uint32_t>(part.in_head));
  }

  __device__ __forceinline__ void find_inverses(const PipelineKernelParams& p, Real (&inverse)[kSwiftRows]) const {
    double sum[kSwiftRows];
#pragma unroll
    for (int r = 0; r < kSwiftRows; ++r) {
      Real x[N], y[N];
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = widen(a[r].at[i]), y[i] = widen(b[r].at[i]);
      sum[r] = sum_of_squares(unit, x, y);
    }
#pragma unroll 1
    for (int by = (1 << part.group) / 2; by > 0; by /= 2) {
#pragma unroll
      for (int r = 0; r < kSwiftRows; ++r) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], by);
    }
#pragma unroll
    for (int r = 0; r < kSwiftRows; ++r) inverse[r] = inverse_root<Real>(part, sum[r]);
  }

  __device__ __forceinline__ void finish_row(const PipelineKernelParams& p, const char* angles, bool rotates, bool padding, Real scale,
                                             char* out, const Chunk<T, N>& a, const Chunk<T, N>& b, Real inverse) const {
    const bool norm = part.norm && !padding, scaled = part.scaled && !padding, touched = norm || scaled || part.quantised;
    if (!rotates && !touched && part.out_dtype == dtype_of<T>()) {  // as they are, bit for bit
      if (part.in_place) return;
      store(reinterpret_cast<T*>(out) + unit.a, a);
      if (unit.has_b) store(reinterpret_cast<T*>(out) + unit.b, b);
      return;
    }
    Real x[N], y[N];
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = widen(a.at[i]), y[i] = widen(b.at[i]);
    if constexpr (std::is_same_v<T, __half>) {
      if (!touched && !rotates) keep_nans(a, x), keep_nans(b, y);
    }
    if (norm) apply_norm<T>(part, inverse, 0, unit, x, y);
    if (rotates) {
      if (p.in_interleaved) {
        turn<true>(p, angles, x, y);
      } else {
        turn<false>(p, angles, x, y);
      }
    }
    if (scaled) multiply(scale, x, y);
    if (part.quantised) multiply(static_cast<Real>(part.factor), x, y);
    if (part.out_dtype == dtype_of<T>()) {
      store_as<T>(out, unit, x, y);
    } else if (part.out_dtype == ROPE_FLOAT8_E4M3FN) {
      store_as<E4m3>(out, unit, x, y);
    } else {
      store_as<E5m2>(out, unit, x, y);
    }
    if (!touched && !rotates) store_nans<T>(part.out_dtype, out, unit, x, y);
  }

  // Interleaved chunks hold the members of a pair side by side, N / 2 pairs each; halves one member each.
  template <bool interleaved>
  __device__ __forceinline__ static void turn(const PipelineKernelParams& p, const char* angles, Real (&x)[N], Real (&y)[N]) {
    stay_a_branch();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const char* const at = angles + half * p.half_plane;
      const Chunk<Real, N / 2> cos = load_shared<Real, N / 2>(at), sin = load_shared<Real, N / 2>(at + p.plane);
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        Real& first = interleaved ? (half == 0 ? x : y)[2 * i] : x[half * (N / 2) + i];
        Real& second = interleaved ? (half == 0 ? x : y)[2 * i + 1] : y[half * (N / 2) + i];
        const Real turned = first * cos.at[i] - second * sin.at[i];
        second = second * cos.at[i] + first * sin.at[i];
        first = turned;
      }
    }
  }

  const Task task;
  const KernelPart& part;
  Unit unit;
  int token;  // of the block's
  int head;   // the first of the lane's
  bool there;
  const T* source;  // its row
  Chunk<T, N> a[kSwiftRows], b[kSwiftRows];
};

template <class T, int N>
__global__ void __launch_bounds__(kPipelineThreads, kSwiftBlocks) pipeline_swift(const __grid_constant__ PipelineKernelParams p) {
  extern __shared__ __align__(16) char shared[];
  HeldRows<T, N> rows(p, first_task_of(p));
  begin_block<Where::ids, N, RealOf<T>>(p, shared, &rows);
  rows.finish(p, shared);
}

}  // namespace rope
