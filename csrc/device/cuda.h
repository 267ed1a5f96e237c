// What CUDA backends of operations see of their device. Included by files that are compiled with the toolkit only.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/inline.h"
#include "../core/status.h"
#include "device.h"

namespace rope {

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
  int multiprocessors;
};

// Throws what a CUDA error means: ROPE_OUT_OF_MEMORY, ROPE_FATAL for what the device does not survive, ROPE_INTERNAL.
void cuda_check(cudaError_t error, const char* call);

#if defined(__CUDACC__)
// Called by a thread that met an index out of range; the first one is kept.
__device__ inline void report_fault(CudaMailbox* mailbox, CudaOperation operation, const rope_fault& fault) {
  if (atomicCAS_system(&mailbox->state, 0u, 1u) != 0) return;
  mailbox->operation = static_cast<uint32_t>(operation);
  mailbox->fault = fault;
  __threadfence_system();
  atomicExch_system(&mailbox->state, 2u);
}
#endif

}  // namespace rope
