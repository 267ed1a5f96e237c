// The pipeline's kernel for what is common: rows of 16-byte chunks that one group of lanes holds in registers, a norm over each head before the
// rotation, pairs that keep their order, results of the inputs' type or float8. A block's layout, roles and protocol stand in pipeline_block.cuh.
// A warp has one task, of one or two rows for each group of lanes: they are on their way while the block prepares, then go through all steps at once.
#pragma once

#include "pipeline_block.cuh"

namespace rope {

constexpr int kSwiftBlocks = 4;  // of kPipelineThreads on a multiprocessor, at least: 64 registers

template <class T, int N>
struct HeldRows {
  static constexpr int kRows = kSwiftRows;
  using Real = RealOf<T>;

  const KernelPart& part;
  const int first_row;
  const Unit unit;
  const int index;  // of the lane's unit
  const bool there;
  const T* source[kRows];
  Chunk<T, N> a[kRows], b[kRows];

  __device__ __forceinline__ HeldRows(const PipelineKernelParams& p, const Task& task, bool there)
      : part(p.parts[task.part]), first_row(task.row), unit(unit_of<N>(p, p.parts[task.part], task.unit)), index(task.unit), there(there) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const RowPlace place = place_of(p, r);
      const Token t = token_at(p, (blockIdx.x << p.block_tokens) + place.token);
      source[r] = reinterpret_cast<const T*>(part.in + uint64_t{t.batch} * static_cast<uint32_t>(part.in_batch) +
                                             uint64_t{t.token} * static_cast<uint32_t>(part.in_token) +
                                             uint64_t{static_cast<uint32_t>(place.head)} * static_cast<uint32_t>(part.in_head));
      ptx::keep(source[r]);
    }
  }

  __device__ __forceinline__ RowPlace place_of(const PipelineKernelParams& p, int r) const {
    return place_of_row(p, part, first_row + (r << (5 - part.group)));
  }

  __device__ __forceinline__ void prefetch(const PipelineKernelParams& p) const {
    if (!there) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {  // a sector of 32 bytes by the lane that begins it
      if (r >= p.rows) break;
      if (unit.a * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(source[r] + unit.a);
      if (unit.b * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(source[r] + unit.b);
    }
    if (blockIdx.x == 0 && part.norm && part.weight != nullptr) {  // what all blocks read, once
      const int size = part.wide_weight ? 4 : sizeof(T);
      ptx::prefetch_global_l2(part.weight + unit.a * size);
      ptx::prefetch_global_l2(part.weight + unit.b * size);
    }
  }

  __device__ __forceinline__ void fetch(const PipelineKernelParams& p, char*) {
    if (!there) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= p.rows) break;
      a[r] = load<T, N>(source[r] + unit.a);
      b[r] = load<T, N>(source[r] + unit.b);
    }
  }

  __device__ __forceinline__ void finish(const PipelineKernelParams& p, const char* shared) {
    if (!there) return;
    Real inverse[kRows];
    if (part.norm) find_inverses(p, inverse);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= p.rows) break;
      finish_row(p, shared, r, inverse[r]);
    }
  }

 private:
  __device__ __forceinline__ void find_inverses(const PipelineKernelParams& p, Real (&inverse)[kRows]) {
    double sum[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      Real x[N], y[N];
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = widen(a[r].at[i]), y[i] = widen(b[r].at[i]);
      sum[r] = sum_of_squares(unit, x, y);
      if (r + 1 >= p.rows) break;
    }
#pragma unroll 1
    for (int by = (1 << part.group) / 2; by > 0; by /= 2) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], by);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) inverse[r] = inverse_root<Real>(part, sum[r]);
  }

  __device__ __forceinline__ void finish_row(const PipelineKernelParams& p, const char* shared, int r, Real inverse) {
    const RowPlace place = place_of(p, r);
    const TokenState& state = reinterpret_cast<const TokenState*>(shared + p.states_at)[place.token];
    char* const out = target_of(part, place, state);
    if (out == nullptr || !unit.has_a) return;
    const bool padding = state.verdict == kPass, rotates = unit.turns && state.turns;
    const bool norm = part.norm && !padding, scaled = part.scaled && !padding, touched = norm || scaled || part.quantised;
    if (!rotates && !touched && part.out_dtype == dtype_of<T>()) {  // as they are, bit for bit
      if (part.in_place) return;
      store(reinterpret_cast<T*>(out) + unit.a, a[r]);
      if (unit.has_b) store(reinterpret_cast<T*>(out) + unit.b, b[r]);
      return;
    }
    Real x[N], y[N];
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = widen(a[r].at[i]), y[i] = widen(b[r].at[i]);
    if constexpr (std::is_same_v<T, __half>) {
      if (!touched && !rotates) keep_nans(a[r], x), keep_nans(b[r], y);
    }
    if (norm) apply_norm<T>(part, inverse, 0, unit, x, y);
    if (rotates) {
      const char* const angles = shared + place.token * p.token_angles + index * static_cast<int>(sizeof(Real)) * (N / 2);
      if (p.in_interleaved) {
        turn<true>(p, angles, x, y);
      } else {
        turn<false>(p, angles, x, y);
      }
    }
    if (scaled) multiply(static_cast<Real>(state.scale), x, y);
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
};

template <class T, int N>
__global__ void __launch_bounds__(kPipelineThreads, kSwiftBlocks) pipeline_swift(const __grid_constant__ PipelineKernelParams p) {
  extern __shared__ __align__(16) char shared[];
  const int number = first_task_of(p);
  HeldRows<T, N> rows(p, task_of(p, min(number, p.tasks - 1)), number < p.tasks);
  begin_block<Where::ids, N, RealOf<T>>(p, shared, &rows);
  rows.finish(p, shared);
}

}  // namespace rope
