// What CUDA backends of operations see of their device beside cuda_launch.h: graphs and captures.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "cuda_launch.h"
#include "device.h"

namespace rope {

// What the recorded operations read beside tensors lives as long as their graph.
inline void keep_with_graph(const CudaLaunch& launch, std::shared_ptr<const void> object) {
  if (launch.recording == nullptr) return;
  const std::lock_guard lock(launch.recording->mutex);
  if (launch.recording->recording) launch.recording->recording->kept.push_back(std::move(object));
}

// Lets calls that a capture forbids, allocation above all, run while this thread records.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace rope
