// The CPU as a device: everything is done when its call returns, so that waiting is for nothing and order is given.
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstring>

#include "device.h"
#include "machine.h"

namespace rope {
namespace {

struct CpuEvent : Event {
  std::chrono::steady_clock::time_point time = std::chrono::steady_clock::now();
};

class CpuDevice final : public DeviceBackend {
 public:
  // Pages straight from the kernel: zeroed, committed when touched, given back at once.
  uint64_t allocate(uint64_t bytes, const StreamRef&) override {
    if (bytes > machine().memory_bytes) fail_memory(bytes, free_memory());
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail_memory(bytes, free_memory());
    return reinterpret_cast<uint64_t>(memory);
  }
  uint64_t allocate_pinned(uint64_t) override { fail(ROPE_ARGUMENT, "kind", "device memory", "pinned memory, which only CUDA has"); }
  void release(uint64_t address, uint64_t bytes, int, const StreamRef&) override { munmap(reinterpret_cast<void*>(address), bytes); }
  void trim() override {}
  void transfer(uint64_t target, uint64_t source, uint64_t bytes, const StreamRef& stream) override {
    require_running(stream, "Transfers cannot be recorded.");
    std::memmove(reinterpret_cast<void*>(target), reinterpret_cast<const void*>(source), bytes);
  }

  StreamRef create_stream() override { return std::make_shared<Stream>(); }
  void synchronize(const StreamRef& stream, uint64_t) override { require_running(stream, "Waiting cannot be recorded."); }
  void order(const StreamRef& stream, const StreamRef& after) override {
    require_running(stream, "Order between streams cannot be recorded.");
    require_running(after, "Order between streams cannot be recorded.");
  }

  std::shared_ptr<Event> record(const StreamRef& stream) override {
    require_running(stream, "Events cannot be recorded.");
    return std::make_shared<CpuEvent>();
  }
  void wait(const StreamRef& stream, const Event&) override { require_running(stream, "Events cannot be recorded."); }
  void synchronize(const Event&, uint64_t) override {}
  double elapsed_ms(const Event& start, const Event& end) override {
    const auto time = static_cast<const CpuEvent&>(end).time - static_cast<const CpuEvent&>(start).time;
    return std::chrono::duration<double, std::milli>(time).count();
  }

  StreamRef begin_graph() override {
    auto stream = std::make_shared<Stream>();
    stream->recording = std::make_shared<Graph>();
    return stream;
  }
  std::shared_ptr<Graph> end_graph(const StreamRef& stream) override {
    const std::lock_guard lock(stream->mutex);
    std::shared_ptr<Graph> graph = std::move(stream->recording);
    stream->recording = nullptr;
    graph->count = graph->nodes.size();
    return graph;
  }
  // Runs all nodes and throws the first fault at the end.
  void launch(const Graph& graph, const StreamRef& stream) override {
    require_running(stream, "A graph cannot be recorded into another.");
    rope_fault first{};
    const char* operation = "";
    for (const GraphNode& node : graph.nodes) {
      const rope_fault fault = node.run();
      if (fault.code == ROPE_FAULT_NONE || first.code != ROPE_FAULT_NONE) continue;
      first = fault;
      operation = node.operation;
    }
    if (first.code != ROPE_FAULT_NONE) fail_fault(first, operation);
  }

  void notify(const StreamRef& stream, const std::shared_ptr<Event>&, Wait wait) override {
    require_running(stream, "Waiting cannot be recorded.");
    wait.queue->expect();
    wait.queue->post({wait.ticket, {}});
  }
  void health(rope_health_args&) override {}
  void forget_realm(uint64_t) override {}

 private:
  static void require_running(const StreamRef& stream, const char* advice) {
    if (!stream) return;
    const std::lock_guard lock(stream->mutex);
    require(!stream->recording, "stream", "a stream that is not recording a graph", "the stream of a recording", advice);
  }
};

}  // namespace

DeviceBackend& cpu_backend() {
  static CpuDevice* const instance = new CpuDevice;
  return *instance;
}

void cpu_info(rope_device_info_args& args) {
  args.memory_bytes = machine().memory_bytes;
  args.cores = static_cast<uint32_t>(machine().cores);
  args.usable = 1;
  args.count = 1;
  std::snprintf(args.description, sizeof args.description, "%s", machine().description);
}

DeviceBackend& backend_of(uint16_t device, const char* argument) {
  if (device == ROPE_CPU << 8) return cpu_backend();
  if (is_cuda(device)) return cuda_backend(device & 255, argument);
  fail(ROPE_DEVICE, argument, text("a device of librope"), text("device number %u", device));
}

#if !defined(ROPE_HAVE_CUDA)
namespace {

[[noreturn]] void fail_without_cuda(const char* argument, int index) {
  fail(ROPE_DEVICE, argument, text("cpu"), text("cuda:%d", index),
       "This librope was built without CUDA: build it on a machine with nvcc (CUDA 13), or use the CPU.");
}

}  // namespace

DeviceBackend& cuda_backend(int index, const char* argument) { fail_without_cuda(argument, index); }
void cuda_info(rope_device_info_args& args) { fail_without_cuda("device", args.device & 255); }
void cuda_forget_realm(uint64_t) {}
void submit_cuda(uint16_t device, const StreamRef&, void (*)(const void*, const CudaLaunch&), const void*) {
  fail_without_cuda("device", device & 255);
}
#endif

}  // namespace rope
