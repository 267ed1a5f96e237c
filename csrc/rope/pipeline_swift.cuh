// The pipeline's kernel for what is common: rows of 16-byte chunks that one group of lanes holds in registers, a norm over each head before the
// rotation, pairs that keep their order, positions given one by one, results of the inputs' type or float8. A block's layout, roles and protocol
// stand in pipeline_block.cuh. A warp has one task: each group of its lanes has one set of a token's heads, all on their way while the block
// prepares; then they go through all steps together.
#pragma once

#include "pipeline_block.cuh"

namespace rope {

constexpr int kSwiftBlocks = 4;  // of kPipelineThreads on a multiprocessor, at least: 64 registers

template <class T, int N>
class HeldRows {
 public:
  __device__ __forceinline__ HeldRows(const PipelineKernelParams& p, int number) : task(task_of(p, number, 1)) {
    const KernelPart& part = p.parts[task.part];
    const Heads heads = find_heads(p, part, task.set);
    unit = packed(unit_of<N>(p, part, task.unit));
    const Token t = token_at(p, (blockIdx.x << p.block_tokens) + heads.token);
    const char* const first = part.in + uint64_t{t.token} * static_cast<uint32_t>(part.in_token) +
                              uint64_t{static_cast<uint32_t>(heads.first)} * static_cast<uint32_t>(part.in_head);
    source = p.batch > 1 ? first + uint64_t{t.batch} * static_cast<uint32_t>(part.in_batch) : first;
    ptx::keep(source);
  }

  __device__ __forceinline__ void prefetch(const PipelineKernelParams& p) const {
    const KernelPart& part = p.parts[task.part];
    const Heads heads = find_heads(p, part, task.set);
    const uint32_t at_a = first_chunk(), at_b = second_chunk();
#pragma unroll
    for (int r = 0; r < kSwiftRows; ++r) {  // a sector of 32 bytes by the lane that begins it
      if (r >= heads.count) break;
      if (at_a * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(row(part, r) + at_a);
      if (at_b * sizeof(T) % 32 == 0) ptx::prefetch_global_l2(row(part, r) + at_b);
    }
    if (blockIdx.x == 0 && part.norm && part.weight != nullptr) {  // what all blocks read, once
      const int size = part.wide_weight ? 4 : sizeof(T);
      ptx::prefetch_global_l2(part.weight + at_a * size);
      ptx::prefetch_global_l2(part.weight + at_b * size);
    }
  }

  // A lane without a row of its own reads the first of its set's, or another's, and writes nothing.
  __device__ __forceinline__ void fetch(const PipelineKernelParams& p, const char*) {
    const KernelPart& part = p.parts[task.part];
    const Heads heads = find_heads(p, part, task.set);
#pragma unroll
    for (int r = 0; r < kSwiftRows; ++r) {
      if (r > 0 && r >= heads.count) break;
      a[r] = load<uint32_t, 4>(reinterpret_cast<const uint32_t*>(row(part, r) + first_chunk()));
      b[r] = load<uint32_t, 4>(reinterpret_cast<const uint32_t*>(row(part, r) + second_chunk()));
    }
  }

  __device__ __forceinline__ void finish(const PipelineKernelParams& p, const char* shared) {
    if (p.rows == 1) {
      finish_rows<1>(p, shared);
    } else {
      finish_rows<kSwiftRows>(p, shared);
    }
  }

 private:
  using Real = RealOf<T>;
  static constexpr int kHalf = N / 2;

  struct Heads {  // of a lane
    int token;    // of the block's
    int first, count;
  };

  __device__ __forceinline__ Heads find_heads(const PipelineKernelParams& p, const KernelPart& part, int set) const {
    const SetPlace place = place_of_set(part, set);
    const int first = place.number * p.rows;
    return {place.token, first, place.exists ? min(p.rows, part.heads - first) : 0};
  }

  // A lane's unit in one register: its chunks begin before channel 8192.
  static constexpr uint32_t kMask = 8191, kUnitTurns = 1u << 29, kHasA = 1u << 30, kHasB = 1u << 31;
  __device__ __forceinline__ static uint32_t packed(const Unit& unit) {
    return static_cast<uint32_t>(unit.a) | static_cast<uint32_t>(unit.b) << 13 | (unit.turns ? kUnitTurns : 0) | (unit.has_a ? kHasA : 0) |
           (unit.has_b ? kHasB : 0);
  }
  __device__ __forceinline__ uint32_t first_chunk() const { return unit & kMask; }
  __device__ __forceinline__ uint32_t second_chunk() const { return unit >> 13 & kMask; }

  __device__ __forceinline__ const T* row(const KernelPart& part, int r) const {
    return reinterpret_cast<const T*>(source + r * static_cast<uint32_t>(part.in_head));
  }

  template <int Count>
  __device__ __forceinline__ void finish_rows(const PipelineKernelParams& p, const char* shared) {
    const KernelPart& part = p.parts[anew(task.part)];  // all this again: there are no registers to keep it in
    const Heads heads = find_heads(p, part, anew(task.set));
    const bool norm = part.norm;
    Real inverse[Count] = {};
    if (norm) find_inverses(part, inverse);
    const TokenState& state = state_of(p, shared, heads.token);
    const uint32_t flags = flags_of(state);
    if (heads.count == 0 || (unit & kHasA) == 0 || (flags & (part.paged ? kNotStored : kNotWritten)) != 0) return;
    char* out = first_target_of(part, state) + int64_t{heads.first} * part.out_head;
    const bool padding = (flags & kPadding) != 0, rotates = (unit & kUnitTurns) != 0 && (flags & kTurns) != 0;
    const bool own = part.out_dtype == dtype_of<T>(), touched = ((norm || part.scaled) && !padding) || part.quantised;
    const Unit at{false, true, (unit & kHasB) != 0, static_cast<int>(first_chunk()), static_cast<int>(second_chunk())};
    const bool passes = !touched && !rotates;
    if (passes && own) {  // as they are, bit for bit
      if (part.in_place) return;
#pragma unroll
      for (int r = 0; r < Count; ++r, out += part.out_head) {
        if (r > 0 && r >= heads.count) return;
        store(reinterpret_cast<T*>(out) + at.a, chunk_of<T>(a[r]));
        if (at.has_b) store(reinterpret_cast<T*>(out) + at.b, chunk_of<T>(b[r]));
      }
      return;
    }

    const char* const angles = shared + heads.token * p.token_angles + task.unit * static_cast<int>(sizeof(Real)) * kHalf;
    bool any_nan = false;  // of those that pass: it keeps its sign
#pragma unroll
    for (int r = 0; r < Count; ++r, out += part.out_head) {
      if (r > 0 && r >= heads.count) break;
      Words to_a, to_b;
      // Half of each chunk at a time: with few registers.
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Real x[kHalf], y[kHalf];
        widen(half_of(a[r], half), x), widen(half_of(b[r], half), y);
        if (passes) any_nan |= has_nan(x) || has_nan(y);
        if (norm && !padding) apply_norm<T>(part, inverse[r], 0, {false, true, at.has_b, at.a + half * kHalf, at.b + half * kHalf}, x, y);
        if (rotates) {
          if (p.in_interleaved) {
            turn_interleaved(p, angles, half, x, y);
          } else {
            turn_halves(p, angles, half, x, y);
          }
        }
        if (part.scaled && !padding) multiply(static_cast<Real>(state.scale), x, y);
        if (part.quantised) multiply(static_cast<Real>(part.factor), x, y);
        if (own) {
          keep<T>(half, x, y, &to_a, &to_b);
        } else if (part.out_dtype == ROPE_FLOAT8_E4M3FN) {
          keep<E4m3>(half, x, y, &to_a, &to_b);
        } else {
          keep<E5m2>(half, x, y, &to_a, &to_b);
        }
      }
      if (own) {
        store(reinterpret_cast<T*>(out) + at.a, chunk_of<T>(to_a));
        if (at.has_b) store(reinterpret_cast<T*>(out) + at.b, chunk_of<T>(to_b));
      } else {
        store(reinterpret_cast<E4m3*>(out) + at.a, chunk_of<E4m3>(to_a));
        if (at.has_b) store(reinterpret_cast<E4m3*>(out) + at.b, chunk_of<E4m3>(to_b));
      }
    }
    if (any_nan) pass_nans(p, shared);
  }

  __device__ __forceinline__ static bool has_nan(const Real (&x)[kHalf]) {
    bool any = false;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) any |= x[i] != x[i];
    return any;
  }

  // Rare, so that it finds and reads the rows again: those who call it need no registers for it.
  __device__ __noinline__ static void pass_nans(const PipelineKernelParams& p, const char* shared) {
    const HeldRows rows(p, first_task_of(p));
    const KernelPart& part = p.parts[rows.task.part];
    const Heads heads = rows.find_heads(p, part, rows.task.set);
    char* out = first_target_of(part, state_of(p, shared, heads.token)) + int64_t{heads.first} * part.out_head;
    for (int r = 0; r < heads.count; ++r, out += part.out_head) {
      for (int i = 0; i < ((rows.unit & kHasB) != 0 ? 2 * N : N); ++i) {
        const int channel = static_cast<int>(i < N ? rows.first_chunk() : rows.second_chunk()) + i % N;
        const T element = rows.row(part, r)[channel];
        float x = widen(element);
        if constexpr (std::is_same_v<T, __half>) keep_nan(element, &x);
        if (x != x) store_nan<T>(x, part.out_dtype, out, channel);
      }
    }
  }

  // A chunk as it came or goes. Its elements are taken apart where they are needed: two would need two registers.
  using Words = Chunk<uint32_t, 4>;

  __device__ __forceinline__ static Chunk<T, kHalf> half_of(const Words& words, int half) {
    uint32_t two[2] = {anew(words.at[2 * half]), anew(words.at[2 * half + 1])};
    Chunk<T, kHalf> part;
    memcpy(&part, two, sizeof part);
    return part;
  }

  template <class Out>
  __device__ __forceinline__ static Chunk<Out, N> chunk_of(const Words& words) {
    Chunk<Out, N> chunk;
    memcpy(&chunk, &words, sizeof chunk);
    return chunk;
  }

  template <class Out>
  __device__ __forceinline__ static void keep(int half, const Real (&x)[kHalf], const Real (&y)[kHalf], Words* to_a, Words* to_b) {
    const Chunk<Out, kHalf> of_x = narrow<Out, kHalf>(x), of_y = narrow<Out, kHalf>(y);
    memcpy(reinterpret_cast<char*>(to_a) + half * sizeof of_x, &of_x, sizeof of_x);
    memcpy(reinterpret_cast<char*>(to_b) + half * sizeof of_y, &of_y, sizeof of_y);
  }

  template <int Count>
  __device__ __forceinline__ void find_inverses(const KernelPart& part, Real (&inverse)[Count]) const {
    const Unit at{false, (unit & kHasA) != 0, (unit & kHasB) != 0, 0, 0};
    double sum[Count];
#pragma unroll
    for (int r = 0; r < Count; ++r) {
      sum[r] = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Real x[kHalf], y[kHalf];
        widen(half_of(a[r], half), x), widen(half_of(b[r], half), y);
        sum[r] += sum_of_squares(at, x, y);
      }
    }
#pragma unroll 1
    for (int by = (1 << part.group) / 2; by > 0; by /= 2) {
#pragma unroll
      for (int r = 0; r < Count; ++r) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], by);
    }
#pragma unroll
    for (int r = 0; r < Count; ++r) inverse[r] = inverse_root<Real>(part, sum[r]);
  }

  __device__ __forceinline__ static void turn(Real cos, Real sin, Real* x, Real* y) {
    const Real turned = *x * cos - *y * sin;
    *y = *y * cos + *x * sin;
    *x = turned;
  }

  // A member of a pair in each chunk.
  __device__ __forceinline__ static void turn_halves(const PipelineKernelParams& p, const char* angles, int half, Real (&x)[kHalf],
                                                     Real (&y)[kHalf]) {
    stay_a_branch();
    angles += half * p.half_plane;
    const Chunk<Real, kHalf> cos = load_shared<Real, kHalf>(angles), sin = load_shared<Real, kHalf>(angles + p.plane);
#pragma unroll
    for (int i = 0; i < kHalf; ++i) turn(cos.at[i], sin.at[i], &x[i], &y[i]);
  }

  // The members of a pair side by side, kHalf pairs in each chunk.
  __device__ __forceinline__ static void turn_interleaved(const PipelineKernelParams& p, const char* angles, int half, Real (&x)[kHalf],
                                                          Real (&y)[kHalf]) {
    stay_a_branch();
    constexpr int kPairs = kHalf / 2;
    angles += half * kPairs * static_cast<int>(sizeof(Real));
    const Chunk<Real, kPairs> x_cos = load_shared<Real, kPairs>(angles), x_sin = load_shared<Real, kPairs>(angles + p.plane),
                              y_cos = load_shared<Real, kPairs>(angles + p.half_plane),
                              y_sin = load_shared<Real, kPairs>(angles + p.half_plane + p.plane);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      turn(x_cos.at[i], x_sin.at[i], &x[2 * i], &x[2 * i + 1]);
      turn(y_cos.at[i], y_sin.at[i], &y[2 * i], &y[2 * i + 1]);
    }
  }

  const Task task;
  uint32_t unit;       // packed
  const char* source;  // the first row
  Words a[kSwiftRows], b[kSwiftRows];
};

template <class T, int N>
__global__ void __launch_bounds__(kPipelineThreads, kSwiftBlocks) pipeline_swift(const __grid_constant__ PipelineKernelParams p) {
  extern __shared__ __align__(16) char shared[];
  HeldRows<T, N> rows(p, first_task_of(p));
  begin_block<Where::ids, N, RealOf<T>>(p, shared, &rows);
  rows.finish(p, shared);
}

}  // namespace rope
