// Streams and graphs of the CPU. A stream runs what it is given at once; one that records keeps checked params instead, and a graph runs those
// again. Stream 0 is the default stream of whatever device the tensors are on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/status.h"

namespace rope {

struct GraphNode {
  const char* operation;
  std::function<rope_fault()> run;
};

struct Graph {
  uint16_t device = 0;
  std::vector<GraphNode> nodes;
};

struct Stream {
  uint16_t device = 0;
  std::mutex mutex;
  std::shared_ptr<Graph> recording;  // null: runs
};

using StreamRef = std::shared_ptr<Stream>;  // null: the default stream

// The stream of a handle; it must be of the tensors' device.
StreamRef stream_of(uint64_t handle, uint16_t device);

// Runs an operation now, or records it with a copy of its params. A fault it returns is thrown: the good rows have been written.
template <class Params>
void submit(const StreamRef& stream, const char* operation, rope_fault (*run)(const Params&), const Params& params) {
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

}  // namespace rope
