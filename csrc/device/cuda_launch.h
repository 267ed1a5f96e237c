// What a kernel and its launcher see of their device. Light: every file with kernels is compiled with it for each architecture.
#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

#include "../include/rope.h"

namespace rope {

struct Stream;

// Where kernels leave the first index out of range that they meet: mapped pinned memory, one of each device. Reading it needs no call, so it
// costs nothing, and it works in replays of graphs. state: 0 empty, 1 being written, 2 full.
struct CudaMailbox {
  uint32_t state;
  uint32_t operation;  // CudaOperation
  rope_fault fault;
};

enum class CudaOperation : uint32_t { none, rotate, cos_sin, shift, seq_lens, batch_indices };

struct CudaLaunch {
  cudaStream_t stream;
  CudaMailbox* mailbox;  // as the device sees it
  int device;
  int multiprocessors;
  int capability;     // major * 10 + minor
  Stream* recording;  // null where it runs at once
};

// Throws what a CUDA error means: ROPE_OUT_OF_MEMORY, ROPE_FATAL for what the device does not survive, ROPE_INTERNAL.
void cuda_check(cudaError_t error, const char* call);

#if defined(__CUDACC__)
struct KernelShape {
  dim3 grid;
  dim3 block;
  size_t shared = 0;   // bytes of dynamic shared memory
  bool early = false;  // the kernel calls griddepcontrol_wait (ptx.cuh) before it touches what others write
};

// Launches a kernel; every launch goes through here. An early one may begin while the kernel ahead of it ends: on Hopper alone, whose code
// has the instruction that waits; what is compiled from portable code must not.
template <class... Params>
void launch_kernel(const char* name, void (*kernel)(Params...), const KernelShape& shape, const CudaLaunch& launch,
                   const std::type_identity_t<Params>&... params) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared;
  config.stream = launch.stream;
  config.attrs = &attribute;
  config.numAttrs = shape.early && launch.capability == 90 ? 1 : 0;
  cuda_check(cudaLaunchKernelEx(&config, kernel, params...), name);
}

// Called by a thread that met an index out of range; the first one is kept. A mailbox of null keeps none. The swap has the device's scope:
// machines whose host memory has no native atomics know no other, and no second device shares a mailbox.
__device__ __noinline__ static void report_fault(CudaMailbox* mailbox, CudaOperation operation, const rope_fault& fault) {
  if (mailbox == nullptr || atomicCAS(&mailbox->state, 0u, 1u) != 0) return;
  mailbox->operation = static_cast<uint32_t>(operation);
  mailbox->fault = fault;
  __threadfence_system();
  *const_cast<volatile uint32_t*>(&mailbox->state) = 2;
}
#endif

}  // namespace rope
