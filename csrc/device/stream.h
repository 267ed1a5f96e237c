// Streams, and how a checked operation gets onto one. On the CPU a stream runs what it is given at once, or records it; on CUDA it is a queue of
// the driver, which records by itself. Stream 0 is the default stream of whatever device the tensors are on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "../core/status.h"

struct CUstream_st;

namespace rope {

inline uint16_t cuda_code(int index) { return static_cast<uint16_t>(ROPE_CUDA << 8 | index); }
inline bool is_cuda(uint16_t device) { return device >> 8 == ROPE_CUDA; }

struct GraphNode {
  const char* operation;
  std::function<rope_fault()> run;
};

// Recorded operations: nodes of the CPU, or what the driver made of them.
struct Graph {
  uint16_t device = 0;
  std::vector<GraphNode> nodes;
  uint64_t count = 0;
  std::vector<std::shared_ptr<const void>> kept;

  virtual ~Graph() = default;
};

struct Stream {
  uint16_t device = 0;
  CUstream_st* queue = nullptr;  // CUDA's
  std::mutex mutex;
  std::shared_ptr<Graph> recording;  // null: runs

  virtual ~Stream() = default;
};

using StreamRef = std::shared_ptr<Stream>;  // null: the default stream

// The stream of a handle; it must be of the tensors' device.
StreamRef stream_of(uint64_t handle, uint16_t device);

// Runs an operation on the CPU, or records it with a copy of its params. A fault it returns is thrown: the good rows have been written.
template <class Params>
void submit_cpu(const StreamRef& stream, const char* operation, rope_fault (*run)(const Params&), const Params& params) {
  if (stream) {
    const std::lock_guard lock(stream->mutex);
    if (stream->recording) {
      stream->recording->nodes.push_back({operation, [run, params] { return run(params); }});
      return;
    }
  }
  const rope_fault fault = run(params);
  if (fault.code != ROPE_FAULT_NONE) [[unlikely]]
    fail_fault(fault);
}

// What a kernel launch needs to know of its device.
struct CudaLaunch;

// Calls `launch` with the device made current and looks at what CUDA says afterwards.
void submit_cuda(uint16_t device, const StreamRef& stream, void (*launch)(const void* params, const CudaLaunch& launch),
                 const void* params);

#if defined(ROPE_HAVE_CUDA)
#define ROPE_CUDA_LAUNCHER(function) function
#else
#define ROPE_CUDA_LAUNCHER(function) nullptr
#endif

// The backend of the tensors' device. `run_cuda` only queues.
template <class Params>
void submit(uint16_t device, const StreamRef& stream, const char* operation, rope_fault (*run_cpu)(const Params&),
            std::type_identity_t<void (*)(const Params&, const CudaLaunch&)> run_cuda, const Params& params) {
  if (!is_cuda(device)) return submit_cpu(stream, operation, run_cpu, params);
  struct Call {
    void (*run)(const Params&, const CudaLaunch&);
    const Params& params;
  };
  const Call call{run_cuda, params};
  submit_cuda(
      device, stream,
      [](const void* opaque, const CudaLaunch& launch) {
        const Call& it = *static_cast<const Call*>(opaque);
        it.run(it.params, launch);
      },
      &call);
}

}  // namespace rope
