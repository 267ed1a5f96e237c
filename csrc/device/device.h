// A kind of device behind the C entry points of device_api.cpp: the CPU in cpu_device.cpp, CUDA in cuda_device.cpp.
#pragma once

#include <cstdint>
#include <memory>

#include "completion.h"
#include "stream.h"

namespace rope {

struct Event {
  uint16_t device = 0;
  virtual ~Event() = default;
};

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;

  virtual uint64_t allocate(uint64_t bytes, const StreamRef& stream) = 0;
  virtual uint64_t allocate_pinned(uint64_t bytes) = 0;
  virtual void release(uint64_t address, uint64_t bytes, int kind, const StreamRef& stream) = 0;
  virtual void trim() = 0;
  virtual void transfer(uint64_t target, uint64_t source, uint64_t bytes, const StreamRef& stream) = 0;

  virtual StreamRef create_stream() = 0;
  virtual void synchronize(const StreamRef& stream, uint64_t realm) = 0;  // throws the realm's fault
  virtual void order(const StreamRef& stream, const StreamRef& after) = 0;

  virtual std::shared_ptr<Event> record(const StreamRef& stream) = 0;
  virtual void wait(const StreamRef& stream, const Event& event) = 0;
  virtual void synchronize(const Event& event, uint64_t realm) = 0;
  virtual double elapsed_ms(const Event& start, const Event& end) = 0;

  virtual StreamRef begin_graph() = 0;
  virtual std::shared_ptr<Graph> end_graph(const StreamRef& stream) = 0;  // of a stream that records
  virtual void launch(const Graph& graph, const StreamRef& stream) = 0;

  // Posts the ticket when the stream's work so far, or the event where there is one, is done.
  virtual void notify(const StreamRef& stream, const std::shared_ptr<Event>& event, Wait wait) = 0;
  virtual void health(rope_health_args& args) = 0;
  // The realm that is named as working with the device gets its faults, until it closes.
  virtual void forget_realm(uint64_t realm) = 0;
};

// The backend of a device number. Throws ROPE_DEVICE, naming `argument`, where there is none.
DeviceBackend& backend_of(uint16_t device, const char* argument);

DeviceBackend& cpu_backend();
void cpu_info(rope_device_info_args& args);

// CUDA; without it they say so.
DeviceBackend& cuda_backend(int index, const char* argument);
void cuda_info(rope_device_info_args& args);
void cuda_forget_realm(uint64_t realm);

}  // namespace rope
