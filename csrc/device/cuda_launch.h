// What a kernel and its launcher see of their device. Light: every file with kernels is compiled with it for each architecture.
#pragma once

#include <cuda_runtime_api.h>

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

enum class CudaOperation : uint32_t { none, rotate, cos_sin };

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
