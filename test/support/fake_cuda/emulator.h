// What nvcc gives a kernel, for a host compiler: the .cu files of csrc are compiled as C++ with this in front (-include), and their kernels
// run on the thread of the stream, one block after another, each thread of a block a fiber; emulator.cpp has those. A kernel's blocks must not
// wait for one another. Dynamic shared memory is called `shared` and lies in the namespace rope.
#pragma once

// The toolkit's headers, as a host compiler sees them: the types, and float16 and bfloat16 in software.
#define cudaLaunchKernelEx cudaLaunchKernelEx_of_the_toolkit
#include <cuda_runtime.h>
#undef cudaLaunchKernelEx
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Before __noinline__ and its like mean something.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#define __CUDACC__
// The compiler may judge: with sanitizers, kernels of which all is inlined take minutes.
#undef __forceinline__
#define __forceinline__ inline
#undef __shared__
#define __shared__ thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __noinline__
#define __noinline__ __attribute__((noinline))

namespace fake_cuda {

using Site = std::source_location;

struct Votes {
  bool any, all;
  int count;
};
// Returns when all threads of the block that have not ended are at the same place; else the process ends.
Votes barrier(bool vote, const Site& site);

struct Lanes {
  uint64_t value;   // that the lane `from` gave
  uint32_t ballot;  // of the lanes whose value is not 0
};
// Returns when all lanes of the mask that have not ended are at the same place with the same mask; `from` must be one of them.
Lanes meet(uint32_t mask, uint64_t value, uint32_t from, const Site& site);

uint32_t lane();

// Runs `thread` for every thread of the grid, when it is the stream's turn.
cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread);

template <class T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class To, class From>
To bit_cast(From from) {
  return __builtin_bit_cast(To, from);
}

// The lane that another's value comes from: `wanted` where it is within the lane's group of `width`, else the lane itself.
inline uint32_t lane_within(int64_t wanted, int width) {
  const int64_t first = lane() / static_cast<uint32_t>(width) * static_cast<uint32_t>(width);
  return static_cast<uint32_t>(wanted >= first && wanted < first + width ? wanted : lane());
}

template <class T>
T shuffle(uint32_t mask, T value, uint32_t from, const Site& site) {
  const uint64_t bits = meet(mask, bits_of(value), from, site).value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace fake_cuda

// Of the fiber that runs.
extern thread_local constinit uint3 threadIdx, blockIdx;
extern thread_local constinit dim3 blockDim, gridDim;
#define warpSize 32

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  return fake_cuda::launch(*config, [kernel, params = std::tuple<Params...>(std::forward<Args>(args)...)] { std::apply(kernel, params); });
}

// ---- barriers, and what the lanes of a warp tell one another ------------------------------------------------------------------------

inline void __syncthreads(fake_cuda::Site site = fake_cuda::Site::current()) { fake_cuda::barrier(false, site); }
inline int __syncthreads_or(int vote, fake_cuda::Site site = fake_cuda::Site::current()) { return fake_cuda::barrier(vote != 0, site).any; }
inline int __syncthreads_and(int vote, fake_cuda::Site site = fake_cuda::Site::current()) {
  return fake_cuda::barrier(vote != 0, site).all;
}
inline int __syncthreads_count(int vote, fake_cuda::Site site = fake_cuda::Site::current()) {
  return fake_cuda::barrier(vote != 0, site).count;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, fake_cuda::Site site = fake_cuda::Site::current()) {
  fake_cuda::meet(mask, 0, fake_cuda::lane(), site);
}
inline unsigned __ballot_sync(unsigned mask, int vote, fake_cuda::Site site = fake_cuda::Site::current()) {
  return fake_cuda::meet(mask, vote != 0, fake_cuda::lane(), site).ballot;
}
inline int __any_sync(unsigned mask, int vote, fake_cuda::Site site = fake_cuda::Site::current()) {
  return __ballot_sync(mask, vote, site) != 0;
}
inline int __all_sync(unsigned mask, int vote, fake_cuda::Site site = fake_cuda::Site::current()) {
  return __ballot_sync(mask, vote == 0, site) == 0;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, fake_cuda::Site site = fake_cuda::Site::current()) {
  return fake_cuda::shuffle(mask, value, fake_cuda::lane() / width * width + static_cast<uint32_t>(from) % width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32, fake_cuda::Site site = fake_cuda::Site::current()) {
  // As the hardware has it: groups before one's own may be read, those after it not.
  const int64_t from = fake_cuda::lane() ^ static_cast<uint32_t>(by);
  return fake_cuda::shuffle(mask, value, from < fake_cuda::lane() ? static_cast<uint32_t>(from) : fake_cuda::lane_within(from, width),
                            site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, fake_cuda::Site site = fake_cuda::Site::current()) {
  return fake_cuda::shuffle(mask, value, fake_cuda::lane_within(int64_t{fake_cuda::lane()} + by, width), site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, fake_cuda::Site site = fake_cuda::Site::current()) {
  return fake_cuda::shuffle(mask, value, fake_cuda::lane_within(int64_t{fake_cuda::lane()} - by, width), site);
}

// ---- memory that several threads use: those of other streams and of the host among them ------------------------------------------

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }

namespace fake_cuda {
// The types that CUDA has an atomic operation for; no conversion leads from one to another.
template <class T, class... Types>
concept OneOf = (std::is_same_v<T, Types> || ...);
template <class T>
concept Atomic = OneOf<T, int, unsigned, unsigned long long>;

// Replaces a value by what `change` makes of it, and gives back the value.
template <class T, class Change>
T update(T* at, const Change& change) {
  std::atomic_ref<T> value(*at);
  T old = value.load();
  while (!value.compare_exchange_weak(old, change(old))) {
  }
  return old;
}
}  // namespace fake_cuda

template <fake_cuda::Atomic T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  std::atomic_ref(*at).compare_exchange_strong(expected, value);
  return expected;
}
template <fake_cuda::OneOf<int, unsigned, unsigned long long, float> T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return std::atomic_ref(*at).exchange(value);
}
template <fake_cuda::OneOf<int, unsigned, unsigned long long, float, double> T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return fake_cuda::update(at, [value](T old) { return old + value; });
}
template <fake_cuda::Atomic T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return fake_cuda::update(at, [value](T old) { return std::min(old, value); });
}
template <fake_cuda::Atomic T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return fake_cuda::update(at, [value](T old) { return std::max(old, value); });
}
template <fake_cuda::Atomic T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return std::atomic_ref(*at).fetch_or(value);
}
template <fake_cuda::Atomic T>
T atomicAnd(T* at, std::type_identity_t<T> value) {
  return std::atomic_ref(*at).fetch_and(value);
}

template <class T>
T __ldg(const T* at) {
  return *at;
}

// ---- numbers -----------------------------------------------------------------------------------------------------------------------

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return std::min<std::common_type_t<A, B>>(a, b);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return std::max<std::common_type_t<A, B>>(a, b);
}

inline unsigned __float_as_uint(float x) { return fake_cuda::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return fake_cuda::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return fake_cuda::bit_cast<float>(x); }
inline float __int_as_float(int x) { return fake_cuda::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return fake_cuda::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return fake_cuda::bit_cast<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(fake_cuda::bit_cast<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(fake_cuda::bit_cast<uint64_t>(x)); }
inline double __hiloint2double(int high, int low) {
  return fake_cuda::bit_cast<double>(static_cast<uint64_t>(static_cast<unsigned>(high)) << 32 | static_cast<unsigned>(low));
}
inline long long __double2ll_rz(double x) {
  if (x != x) return std::numeric_limits<long long>::min();
  return x >= 0x1p63   ? std::numeric_limits<long long>::max()
         : x < -0x1p63 ? std::numeric_limits<long long>::min()
                       : static_cast<long long>(x);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
