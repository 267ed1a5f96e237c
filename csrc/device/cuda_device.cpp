// CUDA as a device. Memory comes from a stream-ordered pool of the driver that keeps what is freed; one thread of each device waits for events in
// order and posts to completion queues (a host function would not be called after a sticky error). Nothing here reads device data.
#if defined(ROPE_HAVE_CUDA)

#include <dlfcn.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "cuda.h"

namespace rope {
namespace {

constexpr int kMaxDevices = 64;

// After these the context is lost, and with it all memory: only a new process helps.
bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorContextIsDestroyed: return true;
    default: return false;
  }
}

const char* name_of(uint32_t operation) {
  switch (static_cast<CudaOperation>(operation)) {
    case CudaOperation::rotate: return "rope_rotate";
    case CudaOperation::cos_sin: return "rope_cos_sin";
    case CudaOperation::shift: return "rope_shift";
    case CudaOperation::seq_lens: return "rope_seq_lens";
    case CudaOperation::batch_indices: return "rope_batch_indices";
    default: return "";
  }
}

// What was queued here comes before what the default stream is given next: the memory of a realm that ends is freed there.
struct CudaStream final : Stream {
  cudaStream_t heir = nullptr;  // the default stream
  ~CudaStream() override {
    if (queue == nullptr) return;
    cudaEvent_t done = nullptr;
    if (cudaEventCreateWithFlags(&done, cudaEventDisableTiming) == cudaSuccess) {
      if (cudaEventRecord(done, queue) == cudaSuccess) cudaStreamWaitEvent(heir, done, 0);
      cudaEventDestroy(done);
    }
    cudaStreamDestroy(queue);
  }
};

struct CudaEvent final : Event {
  cudaEvent_t event = nullptr;
  ~CudaEvent() override {
    if (event != nullptr) cudaEventDestroy(event);
  }
};

struct CudaGraph final : Graph {
  cudaGraphExec_t executable = nullptr;
  ~CudaGraph() override {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
  }
};

cudaEvent_t handle_of(const Event& event) { return static_cast<const CudaEvent&>(event).event; }

class CudaDevice final : public DeviceBackend {
 public:
  explicit CudaDevice(int index) : index_(index) {
    cuda_check(cudaSetDevice(index), "cudaSetDevice");
    cuda_check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, index), "cudaDeviceGetAttribute");
    cuda_check(cudaGetDeviceCount(&gpus_), "cudaGetDeviceCount");
    int major = 0, minor = 0;
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "cudaDeviceGetAttribute");
    cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "cudaDeviceGetAttribute");
    capability_ = major * 10 + minor;
    cuda_check(cudaStreamCreateWithFlags(&default_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    cudaMemPoolProps props{};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = index;
    cuda_check(cudaMemPoolCreate(&pool_, &props), "cudaMemPoolCreate");
    uint64_t keep_all = UINT64_MAX;
    cuda_check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all), "cudaMemPoolSetAttribute");
    cuda_check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox_), sizeof *mailbox_, cudaHostAllocMapped | cudaHostAllocPortable),
               "cudaHostAlloc");
    *mailbox_ = {};
    cuda_check(cudaHostGetDevicePointer(reinterpret_cast<void**>(&device_mailbox_), mailbox_, 0), "cudaHostGetDevicePointer");
  }

  // Whose memory an address is; where there is but one GPU, nobody asks.
  static constexpr int kHost = -1;
  int gpu_of(const void* address) {
    if (gpus_ == 1) return kHost;
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, address), "cudaPointerGetAttributes");
    return attributes.type == cudaMemoryTypeDevice ? attributes.device : kHost;
  }

  // Makes the device current for this thread. Throws if it has failed.
  void enter() {
    if (failed_.load(std::memory_order_acquire)) fail_failed();
    check(cudaSetDevice(index_), "cudaSetDevice");
  }

  // cuda_check, and a lost context is remembered.
  void check(cudaError_t error, const char* call) {
    if (error == cudaSuccess) return;
    if (is_sticky(error)) {
      remember_failure(error);
      fail_failed();
    }
    cuda_check(error, call);
  }

  CudaLaunch launch_on(const StreamRef& stream) const {
    return {queue_of(stream), device_mailbox_, index_, multiprocessors_, capability_, records(stream) ? stream.get() : nullptr};
  }

  uint64_t allocate(uint64_t bytes, const StreamRef& stream) override {
    enter();
    const RelaxedCapture relaxed;
    const bool recording = records(stream);
    void* memory = nullptr;
    const cudaStream_t queue = recording ? default_stream_ : queue_of(stream);
    const cudaError_t error = cudaMallocFromPoolAsync(&memory, bytes, pool_, queue);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      fail_memory(bytes, free);
    }
    check(error, "cudaMallocFromPoolAsync");
    // A graph may run on any stream: what it was given while recording must be there for all of them.
    if (recording) check(cudaStreamSynchronize(default_stream_), "cudaStreamSynchronize");
    return reinterpret_cast<uint64_t>(memory);
  }

  uint64_t allocate_pinned(uint64_t bytes) override {
    enter();
    const RelaxedCapture relaxed;
    void* memory = nullptr;
    const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      fail_memory(bytes, 0);
    }
    check(error, "cudaHostAlloc");
    return reinterpret_cast<uint64_t>(memory);
  }

  void release(uint64_t address, uint64_t, int kind, const StreamRef& stream) override {
    enter();
    const RelaxedCapture relaxed;
    void* const memory = reinterpret_cast<void*>(address);
    if (kind == ROPE_MEMORY_PINNED) {
      finish_streams();  // a copy may be on its way
      return check(cudaFreeHost(memory), "cudaFreeHost");
    }
    check(cudaFreeAsync(memory, records(stream) ? default_stream_ : queue_of(stream)), "cudaFreeAsync");
  }

  void trim() override {
    enter();
    const RelaxedCapture relaxed;
    finish_streams();  // what other streams have still to free
    check(cudaMemPoolTrimTo(pool_, 0), "cudaMemPoolTrimTo");
  }

  void transfer(uint64_t target, uint64_t source, uint64_t bytes, const StreamRef& stream) override {
    require_running(stream, "Transfers cannot be recorded.");
    enter();
    void* const to = reinterpret_cast<void*>(target);
    const void* const from = reinterpret_cast<const void*>(source);
    const int to_gpu = gpu_of(to), from_gpu = gpu_of(from);
    if (to_gpu != from_gpu && to_gpu != kHost && from_gpu != kHost) {
      // A pool's memory is its own GPU's; the other form of copy would need access to it from the stream's.
      return check(cudaMemcpyPeerAsync(to, to_gpu, from, from_gpu, bytes, queue_of(stream)), "cudaMemcpyPeerAsync");
    }
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue_of(stream)), "cudaMemcpyAsync");
  }

  StreamRef create_stream() override {
    enter();
    StreamRef stream = make_stream();
    const std::lock_guard lock(streams_mutex_);
    std::erase_if(streams_, [](const std::weak_ptr<Stream>& other) { return other.expired(); });
    streams_.push_back(stream);
    return stream;
  }

  void synchronize(const StreamRef& stream, uint64_t realm) override {
    require_running(stream, "Waiting cannot be recorded.");
    enter();
    know_realm(realm);
    check(cudaStreamSynchronize(queue_of(stream)), "cudaStreamSynchronize");
    throw_fault(realm);
  }

  void order(const StreamRef& stream, const StreamRef& after) override {
    require_running(stream, "Order between streams cannot be recorded.");
    require_running(after, "Order between streams cannot be recorded.");
    enter();
    const RelaxedCapture relaxed;
    const cudaEvent_t event = take_event();
    check(cudaEventRecord(event, queue_of(after)), "cudaEventRecord");
    check(cudaStreamWaitEvent(queue_of(stream), event, 0), "cudaStreamWaitEvent");
    give_event(event);  // the wait has its own hold on what was recorded
  }

  std::shared_ptr<Event> record(const StreamRef& stream) override {
    require_running(stream, "Events cannot be recorded.");
    enter();
    auto event = std::make_shared<CudaEvent>();
    check(cudaEventCreateWithFlags(&event->event, cudaEventBlockingSync), "cudaEventCreate");
    check(cudaEventRecord(event->event, queue_of(stream)), "cudaEventRecord");
    return event;
  }

  void wait(const StreamRef& stream, const Event& event) override {
    require_running(stream, "Events cannot be recorded.");
    enter();
    check(cudaStreamWaitEvent(queue_of(stream), handle_of(event), 0), "cudaStreamWaitEvent");
  }

  void synchronize(const Event& event, uint64_t realm) override {
    enter();
    know_realm(realm);
    check(cudaEventSynchronize(handle_of(event)), "cudaEventSynchronize");
    throw_fault(realm);
  }

  double elapsed_ms(const Event& start, const Event& end) override {
    enter();
    check(cudaEventSynchronize(handle_of(start)), "cudaEventSynchronize");
    check(cudaEventSynchronize(handle_of(end)), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, handle_of(start), handle_of(end)), "cudaEventElapsedTime");
    return static_cast<double>(ms);
  }

  StreamRef begin_graph() override {
    enter();
    StreamRef stream = make_stream();
    check(cudaStreamBeginCapture(stream->queue, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    stream->recording = std::make_shared<CudaGraph>();
    return stream;
  }

  std::shared_ptr<Graph> end_graph(const StreamRef& stream) override {
    enter();
    auto graph = std::static_pointer_cast<CudaGraph>(stream->recording);
    {
      const std::lock_guard lock(stream->mutex);
      stream->recording = nullptr;
    }
    cudaGraph_t recorded = nullptr;
    check(cudaStreamEndCapture(stream->queue, &recorded), "cudaStreamEndCapture");
    size_t nodes = 0;
    cudaError_t error = cudaGraphGetNodes(recorded, nullptr, &nodes);
    graph->count = nodes;
    if (error == cudaSuccess) error = cudaGraphInstantiate(&graph->executable, recorded, 0);
    cudaGraphDestroy(recorded);
    check(error, "cudaGraphInstantiate");
    return graph;
  }

  void launch(const Graph& graph, const StreamRef& stream) override {
    require_running(stream, "A graph cannot be recorded into another.");
    enter();
    check(cudaGraphLaunch(static_cast<const CudaGraph&>(graph).executable, queue_of(stream)), "cudaGraphLaunch");
  }

  void notify(const StreamRef& stream, const std::shared_ptr<Event>& event, Wait wait) override {
    require_running(stream, "Waiting cannot be recorded.");
    enter();
    know_realm(wait.realm);
    Pending pending{event ? handle_of(*event) : take_event(), event, std::move(wait)};
    if (!event) check(cudaEventRecord(pending.handle, queue_of(stream)), "cudaEventRecord");
    pending.wait.queue->expect();
    const std::lock_guard lock(waiter_mutex_);
    waits_.push_back(std::move(pending));
    if (!waiter_started_) {
      std::thread([this] { serve_waits(); }).detach();
      waiter_started_ = true;
    }
    waiter_wake_.notify_one();
  }

  void health(rope_health_args& args) override {
    args.failed = failed_.load(std::memory_order_acquire) ? 1 : 0;
    if (args.failed != 0) std::snprintf(args.reason, sizeof args.reason, "%s", reason_);
    uint32_t operation = 0;
    know_realm(args.realm);
    args.fault = take_fault(args.realm, &args.first, &operation) ? 1 : 0;
    std::snprintf(args.operation, sizeof args.operation, "%s", name_of(operation));
  }

  void forget_realm(uint64_t realm) override {
    const std::lock_guard lock(fault_mutex_);
    realms_.erase(realm);
    faults_.erase(realm);
  }

 private:
  struct Pending {
    cudaEvent_t handle;
    std::shared_ptr<Event> owner;  // null: an event of ours
    Wait wait;
  };
  struct Fault {
    rope_fault fault;
    uint32_t operation;
  };

  StreamRef make_stream() {
    auto stream = std::make_shared<CudaStream>();
    stream->heir = default_stream_;
    check(cudaStreamCreateWithFlags(&stream->queue, cudaStreamNonBlocking), "cudaStreamCreate");
    return stream;
  }

  // Waits for everything that is queued. Stream by stream: cudaDeviceSynchronize would spoil what any thread is recording, whose streams are not
  // among these. What was queued on streams that are gone, the default stream waits for.
  void finish_streams() {
    std::vector<StreamRef> live;
    {
      const std::lock_guard lock(streams_mutex_);
      for (const std::weak_ptr<Stream>& stream : streams_) live.push_back(stream.lock());
    }
    for (const StreamRef& stream : live) {
      if (stream) check(cudaStreamSynchronize(stream->queue), "cudaStreamSynchronize");
    }
    check(cudaStreamSynchronize(default_stream_), "cudaStreamSynchronize");
  }

  cudaStream_t queue_of(const StreamRef& stream) const { return stream ? stream->queue : default_stream_; }

  static bool records(const StreamRef& stream) {
    if (!stream) return false;
    const std::lock_guard lock(stream->mutex);
    return stream->recording != nullptr;
  }
  static void require_running(const StreamRef& stream, const char* advice) {
    require(!records(stream), "stream", "a stream that is not recording a graph", "the stream of a recording", advice);
  }

  // ---- failure ---------------------------------------------------------------------------------------------------------------------

  void remember_failure(cudaError_t error) {
    const std::lock_guard lock(fault_mutex_);
    if (failed_.load(std::memory_order_relaxed)) return;
    std::snprintf(reason_, sizeof reason_, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
    failed_.store(true, std::memory_order_release);
  }
  [[noreturn]] void fail_failed() const {
    fail(ROPE_FATAL, "device", text("cuda:%d in working order", index_), text("failed (%s)", reason_),
         "Its memory is lost. Start the process again.");
  }

  // ---- faults ----------------------------------------------------------------------------------------------------------------------

  void know_realm(uint64_t realm) {
    const std::lock_guard lock(fault_mutex_);
    realms_.insert(realm);
  }

  // Moves what the mailbox holds to every realm, then takes this realm's.
  bool take_fault(uint64_t realm, rope_fault* fault, uint32_t* operation) {
    const std::lock_guard lock(fault_mutex_);
    if (__atomic_load_n(&mailbox_->state, __ATOMIC_ACQUIRE) == 2) {
      const Fault met{mailbox_->fault, mailbox_->operation};
      __atomic_store_n(&mailbox_->state, 0u, __ATOMIC_RELEASE);
      for (const uint64_t known : realms_) faults_.try_emplace(known, met);
    }
    const auto found = faults_.find(realm);
    if (found == faults_.end()) return false;
    *fault = found->second.fault;
    *operation = found->second.operation;
    faults_.erase(found);
    return true;
  }
  void throw_fault(uint64_t realm) {
    rope_fault fault;
    uint32_t operation;
    if (take_fault(realm, &fault, &operation)) fail_fault(fault, name_of(operation));
  }

  // ---- waiting ---------------------------------------------------------------------------------------------------------------------

  cudaEvent_t take_event() {
    {
      const std::lock_guard lock(event_mutex_);
      if (!events_.empty()) {
        const cudaEvent_t event = events_.back();
        events_.pop_back();
        return event;
      }
    }
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventBlockingSync | cudaEventDisableTiming), "cudaEventCreate");
    return event;
  }
  void give_event(cudaEvent_t event) {
    const std::lock_guard lock(event_mutex_);
    events_.push_back(event);
  }

  Failure outcome_of(const Pending& pending) noexcept {
    Failure failure{ROPE_OK, {}};
    try {
      check(cudaEventSynchronize(pending.handle), "cudaEventSynchronize");
      throw_fault(pending.wait.realm);
    } catch (const Failure& thrown) {
      failure = thrown;
    }
    return failure;
  }

  void serve_waits() {
    cudaSetDevice(index_);
    std::unique_lock lock(waiter_mutex_);
    for (;;) {
      waiter_wake_.wait(lock, [this] { return !waits_.empty(); });
      Pending pending = std::move(waits_.front());
      waits_.pop_front();
      lock.unlock();
      const Failure failure = outcome_of(pending);
      if (!pending.owner) give_event(pending.handle);
      pending.wait.queue->post({pending.wait.ticket, failure});
      pending = {};
      lock.lock();
    }
  }

  const int index_;
  int gpus_ = 1;  // of the machine
  int multiprocessors_ = 0;
  int capability_ = 0;
  cudaStream_t default_stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  CudaMailbox* mailbox_ = nullptr;
  CudaMailbox* device_mailbox_ = nullptr;

  std::mutex fault_mutex_;
  std::set<uint64_t> realms_;
  std::map<uint64_t, Fault> faults_;
  std::atomic<bool> failed_{false};
  char reason_[128] = {};

  std::mutex streams_mutex_;
  std::vector<std::weak_ptr<Stream>> streams_;  // that run, beside the default stream

  std::mutex event_mutex_;
  std::vector<cudaEvent_t> events_;

  std::mutex waiter_mutex_;
  std::condition_variable waiter_wake_;
  std::deque<Pending> waits_;
  bool waiter_started_ = false;
};

// ---- which devices there are -------------------------------------------------------------------------------------------------------

// Never destroyed: threads may still wait in them while the process ends.
struct Devices {
  std::mutex mutex;  // of whoever opens one
  std::atomic<CudaDevice*> open[kMaxDevices] = {};
};

Devices& devices() {
  static Devices* const instance = new Devices;
  return *instance;
}

bool driver_is_there() {
  static const bool there = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
  return there;
}

// How many devices work. Throws where there is no driver, or one that is no use.
int count_devices(const char* argument, int wanted) {
  const Text name = text("cuda:%d", wanted);
  if (!driver_is_there()) {
    fail(ROPE_DEVICE, argument, "a device of this machine", name.bytes,
         "There is no NVIDIA driver (libcuda.so.1): install it, or use the CPU.");
  }
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice) count = 0;
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    fail(ROPE_DEVICE, "driver", text("one that serves CUDA %d.%d", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10),
         driver == 0 ? text("one that does not work") : text("one for CUDA %d.%d", driver / 1000, driver % 1000 / 10),
         "Install a newer NVIDIA driver, or use the CPU.");
  }
  if (error != cudaSuccess && error != cudaErrorNoDevice) {
    fail(ROPE_DEVICE, "driver", "one that works", cudaGetErrorString(error),
         "nvidia-smi may say more of the NVIDIA driver; or use the CPU.");
  }
  if (wanted >= count) {
    fail(ROPE_DEVICE, argument,
         count == 0   ? text("cpu, for this machine has no GPU")
         : count == 1 ? text("cuda:0, the only GPU of this machine")
                      : text("cuda:0 to cuda:%d", count - 1),
         name, "Device.list() names the devices there are.");
  }
  return count;
}

CudaDevice& device_at(int index, const char* argument) {
  Devices& d = devices();
  if (index < kMaxDevices) {
    if (CudaDevice* const device = d.open[index].load(std::memory_order_acquire)) return *device;
  }
  const std::lock_guard lock(d.mutex);
  count_devices(argument, index);
  require(index < kMaxDevices, argument, "cuda:0 to cuda:63", "a higher number");
  if (d.open[index].load(std::memory_order_relaxed) == nullptr) d.open[index].store(new CudaDevice(index), std::memory_order_release);
  return *d.open[index].load(std::memory_order_relaxed);
}

}  // namespace

void cuda_check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) fail_memory(0, 0);
  fail(is_sticky(error) ? ROPE_FATAL : ROPE_INTERNAL, "", text("success of %s", call),
       text("%s: %s", cudaGetErrorName(error), cudaGetErrorString(error)));
}

DeviceBackend& cuda_backend(int index, const char* argument) { return device_at(index, argument); }

void cuda_info(rope_device_info_args& args) {
  const int index = args.device & 255;
  args.count = static_cast<uint32_t>(count_devices("device", index));
  cudaDeviceProp props;
  cuda_check(cudaGetDeviceProperties(&props, index), "cudaGetDeviceProperties");
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  args.memory_bytes = props.totalGlobalMem;
  args.cores = static_cast<uint32_t>(props.multiProcessorCount);
  args.capability = static_cast<uint32_t>(props.major * 10 + props.minor);
  args.cuda_runtime = static_cast<uint32_t>(runtime);
  args.cuda_driver = static_cast<uint32_t>(driver);
  args.usable = args.capability >= 80 ? 1 : 0;
  std::snprintf(args.description, sizeof args.description, "%.127s", props.name);
}

void cuda_forget_realm(uint64_t realm) {
  Devices& d = devices();
  for (const std::atomic<CudaDevice*>& open : d.open) {
    if (CudaDevice* const device = open.load(std::memory_order_acquire)) device->forget_realm(realm);
  }
}

void submit_cuda(uint16_t device, const StreamRef& stream, void (*launch)(const void*, const CudaLaunch&), const void* params) {
  CudaDevice& target = device_at(device & 255, "device");
  target.enter();
  launch(params, target.launch_on(stream));
  target.check(cudaGetLastError(), "the launch");
}

}  // namespace rope

#endif
