// The part of the CUDA runtime that librope calls, made of threads: a stream is a thread with a queue, device memory is host memory that is
// poisoned when it is allocated and when it is freed, in the order of the stream; that of cudaMalloc ends at a page that nobody may touch.
// It is as strict as CUDA may be: what is written to the host is there when the stream has passed and not before, pageable memory is read
// at once and pinned memory late, a recording thread must not allocate or wait, and after a sticky error every call fails. The environment
// says how slow and how broken it is:
//   FAKE_CUDA_DELAY     microseconds that an operation takes at most, at random (0)
//   FAKE_CUDA_DEVICES   how many GPUs there are (1)
//   FAKE_CUDA_MEMORY    bytes of each (2^36; pages are taken when they are touched)
//   FAKE_CUDA_DRIVER    the driver's version (13000), 0: there is none
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace {

using Work = std::function<void()>;
using Clock = std::chrono::steady_clock;

uint64_t setting(const char* name, uint64_t absent) {
  const char* const value = std::getenv(name);
  return value == nullptr ? absent : std::strtoull(value, nullptr, 10);
}

// ---- failure -----------------------------------------------------------------------------------------------------------------------

std::atomic<cudaError_t> sticky{cudaSuccess};

// ---- streams, events, graphs -------------------------------------------------------------------------------------------------------

struct Mark {
  std::mutex mutex;
  std::condition_variable passed;
  bool done = false;
  Clock::time_point time;

  void pass() {
    const std::lock_guard lock(mutex);
    time = Clock::now();
    done = true;
    passed.notify_all();
  }
  cudaError_t wait() {
    std::unique_lock lock(mutex);
    while (!done && sticky == cudaSuccess) passed.wait_for(lock, std::chrono::milliseconds(1));
    return sticky;
  }
};

struct Recorded {
  std::vector<Work> nodes;
  std::atomic<bool> valid{true};
};

thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
thread_local std::shared_ptr<Recorded> recorded_here;
thread_local int device_here = 0;

// What a device has to do: its operations in the order they were queued, and its recordings.
struct Device {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t next = 0;
  std::set<uint64_t> queued;
  std::set<std::shared_ptr<Recorded>> recordings;

  uint64_t begin() {
    const std::lock_guard lock(mutex);
    queued.insert(next);
    return next++;
  }
  void end(uint64_t operation) {
    const std::lock_guard lock(mutex);
    queued.erase(operation);
    changed.notify_all();
  }
  // Waits for what is queued. That does not go together with recording, by whichever thread, and spoils it.
  cudaError_t finish() {
    std::unique_lock lock(mutex);
    for (const auto& recording : recordings) recording->valid = false;
    if (!recordings.empty()) return cudaErrorStreamCaptureUnsupported;
    return drain(lock);
  }
  // The same, and goes together with it.
  cudaError_t finish_what_runs() {
    std::unique_lock lock(mutex);
    return drain(lock);
  }

 private:
  cudaError_t drain(std::unique_lock<std::mutex>& lock) {
    const uint64_t end = next;
    while (!queued.empty() && *queued.begin() < end && sticky == cudaSuccess) changed.wait_for(lock, std::chrono::milliseconds(1));
    return sticky;
  }
};
Device& device_at(int index) {
  static Device* const all = new Device[64];  // never destroyed: streams go on while the process ends
  return all[index];
}

// What a thread that records may not do unless it says that it knows better.
bool forbidden() {
  if (recorded_here == nullptr || mode == cudaStreamCaptureModeRelaxed) return false;
  recorded_here->valid = false;
  return true;
}

}  // namespace

struct CUevent_st {
  std::shared_ptr<Mark> mark;
};
struct CUgraph_st {
  std::shared_ptr<Recorded> recorded;
};
struct CUgraphExec_st {
  std::shared_ptr<Recorded> recorded;
};

struct CUstream_st {
  struct Item {
    Work work;
    uint64_t number;
  };
  Device& device = device_at(device_here);
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Item> work;
  bool busy = false;
  bool closing = false;
  std::shared_ptr<Recorded> recording;

  CUstream_st() {
    std::thread([this] { serve(); }).detach();
  }

  // Queues work, or records it.
  void submit(Work item) {
    std::unique_lock lock(mutex);
    if (recording) return recording->nodes.push_back(std::move(item));
    changed.wait(lock, [this] { return work.size() < 1024; });
    work.push_back({std::move(item), device.begin()});
    changed.notify_all();
  }

  bool records() {
    const std::lock_guard lock(mutex);
    return recording != nullptr;
  }

  void finish() {
    std::unique_lock lock(mutex);
    while ((busy || !work.empty()) && sticky == cudaSuccess) changed.wait_for(lock, std::chrono::milliseconds(1));
  }

  void close() {
    const std::lock_guard lock(mutex);
    closing = true;
    changed.notify_all();
  }

 private:
  void serve() {
    static const uint64_t delay = setting("FAKE_CUDA_DELAY", 0);
    std::minstd_rand random(static_cast<unsigned>(reinterpret_cast<uintptr_t>(this) >> 4));
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return closing || !work.empty(); });
      if (work.empty()) break;
      Item item = std::move(work.front());
      work.pop_front();
      busy = true;
      lock.unlock();
      if (delay > 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % (delay + 1)));
      if (sticky == cudaSuccess) item.work();
      item.work = nullptr;
      device.end(item.number);
      lock.lock();
      busy = false;
      changed.notify_all();
    }
    lock.unlock();
    delete this;
  }
};

namespace {

// ---- memory ------------------------------------------------------------------------------------------------------------------------

constexpr size_t kLarge = size_t{1} << 20;  // beyond: straight from the kernel, not poisoned

struct Region {
  size_t bytes;
  bool pinned;
  int device;  // whose it is, unless it is pinned
};
// Never destroyed: streams go on while the process ends.
std::mutex& memory_mutex = *new std::mutex;
std::map<uintptr_t, Region>& regions = *new std::map<uintptr_t, Region>;
std::deque<void*>& quarantine = *new std::deque<void*>;
size_t in_use = 0;

const size_t total_memory = setting("FAKE_CUDA_MEMORY", uint64_t{1} << 36);

void* take(size_t bytes) {
  if (bytes < kLarge) return std::aligned_alloc(512, (bytes + 511) & ~size_t{511});
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

// Small blocks are kept for a while, so that whoever still uses them finds poison and not another's data.
void give(void* memory, size_t bytes) {
  if (bytes >= kLarge) {
    munmap(memory, bytes);
    return;
  }
  std::memset(memory, 0xdd, bytes);
  const std::lock_guard lock(memory_mutex);
  quarantine.push_back(memory);
  if (quarantine.size() < 1000) return;
  std::free(quarantine.front());
  quarantine.pop_front();
}

// Memory whose end is a page that nobody may touch. Up to 7 bytes lie between, so that it begins where a number of 8 bytes may; they, and
// what is left of its first page, must be as they were when it is given back.
const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
constexpr unsigned char kSlack = 0x5c;

struct Pages {
  unsigned char *begin, *end;  // of those that may be touched
};
Pages pages_of(void* memory, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  return {reinterpret_cast<unsigned char*>(address / page * page),
          reinterpret_cast<unsigned char*>((address + bytes + page - 1) / page * page)};
}

void* take_guarded(size_t bytes) {
  const size_t usable = (bytes + page - 1) / page * page;
  void* const begin = mmap(nullptr, usable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (begin == MAP_FAILED) return nullptr;
  unsigned char* const end = static_cast<unsigned char*>(begin) + usable;
  mprotect(end, page, PROT_NONE);
  unsigned char* const memory = static_cast<unsigned char*>(begin) + (usable - bytes) / 8 * 8;
  std::fill(static_cast<unsigned char*>(begin), memory, kSlack);
  std::fill(memory + bytes, end, kSlack);
  if (bytes < kLarge) std::memset(memory, 0xcb, bytes);
  return memory;
}

void give_guarded(void* memory, size_t bytes) {
  const Pages pages = pages_of(memory, bytes);
  auto* const first = static_cast<unsigned char*>(memory);
  const auto is_slack = [](unsigned char byte) { return byte == kSlack; };
  if (!std::all_of(pages.begin, first, is_slack) || !std::all_of(first + bytes, pages.end, is_slack)) {
    std::fprintf(stderr, "cudaFree: something was written around an allocation of %zu bytes\n", bytes);
    std::abort();
  }
  munmap(pages.begin, static_cast<size_t>(pages.end - pages.begin) + page);
}

// Counts bytes as taken, if there are so many.
bool reserve(size_t bytes) {
  const std::lock_guard lock(memory_mutex);
  if (bytes > total_memory - in_use) return false;
  in_use += bytes;
  return true;
}

// The region of an address; pageable memory is in none.
const Region* region_of(const void* memory) {
  const std::lock_guard lock(memory_mutex);
  const auto address = reinterpret_cast<uintptr_t>(memory);
  auto region = regions.upper_bound(address);
  if (region == regions.begin()) return nullptr;
  --region;
  return address < region->first + region->second.bytes ? &region->second : nullptr;
}

// Whether it is memory of another device than the current one, to which that has no access.
bool is_foreign(const void* memory) {
  const Region* const region = region_of(memory);
  return region != nullptr && !region->pinned && region->device != device_here;
}

cudaError_t answer() { return sticky; }

int driver() { return static_cast<int>(setting("FAKE_CUDA_DRIVER", 13000)); }

}  // namespace

namespace fake_cuda {
void submit(cudaStream_t stream, Work work) { stream->submit(std::move(work)); }
cudaError_t error() { return sticky; }
}  // namespace fake_cuda

extern "C" {

// librope looks for the driver before it calls the runtime.
void* dlopen(const char* file, int flags) {
  if (std::strcmp(file, "libcuda.so.1") == 0) return driver() == 0 ? nullptr : reinterpret_cast<void*>(1);
  return reinterpret_cast<void* (*)(const char*, int)>(dlsym(RTLD_NEXT, "dlopen"))(file, flags);
}

// For tests: what a kernel that traps does to the device, a moment from now.
__attribute__((visibility("default"))) int trap(int) {
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    sticky = cudaErrorLaunchFailure;
  }).detach();
  return 0;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (driver() < CUDART_VERSION) return cudaErrorInsufficientDriver;
  *count = static_cast<int>(setting("FAKE_CUDA_DEVICES", 1));
  return *count == 0 ? cudaErrorNoDevice : answer();
}
cudaError_t cudaSetDevice(int device) {
  device_here = device;
  return answer();
}
cudaError_t cudaDeviceSynchronize() { return device_at(device_here).finish(); }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver();
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* props, int) {
  *props = {};
  std::snprintf(props->name, sizeof props->name, "a GPU made of threads");
  props->totalGlobalMem = total_memory;
  props->major = 9;
  props->multiProcessorCount = 2;
  return answer();
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : attribute == cudaDevAttrComputeCapabilityMinor ? 0 : 2;
  return answer();
}
cudaError_t cudaGetLastError() { return answer(); }
const char* cudaGetErrorName(cudaError_t error) { return error == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "an error"; }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaErrorLaunchFailure ? "a kernel trapped" : "of the fake runtime"; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (sticky == cudaSuccess) *stream = new CUstream_st;
  return answer();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream->records()) {
    const std::lock_guard lock(stream->device.mutex);
    stream->device.recordings.erase(stream->recording);
  }
  stream->close();
  return answer();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  stream->finish();
  return answer();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  stream->submit([mark = event->mark] { mark->wait(); });
  return answer();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (sticky == cudaSuccess) *event = new CUevent_st{std::make_shared<Mark>()};
  return answer();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return answer();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->mark = std::make_shared<Mark>();
  stream->submit([mark = event->mark] { mark->pass(); });
  return answer();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  return event->mark->wait();
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  *ms = std::chrono::duration<float, std::milli>(end->mark->time - start->mark->time).count();
  return answer();
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* other) {
  std::swap(mode, *other);
  return answer();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::scoped_lock lock(stream->mutex, stream->device.mutex);
  recorded_here = stream->recording = std::make_shared<Recorded>();
  stream->device.recordings.insert(recorded_here);
  return answer();
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::scoped_lock lock(stream->mutex, stream->device.mutex);
  const std::shared_ptr<Recorded> recorded = std::move(stream->recording);
  stream->recording = nullptr;
  stream->device.recordings.erase(recorded);
  if (recorded != recorded_here) return cudaErrorStreamCaptureWrongThread;
  recorded_here = nullptr;
  if (!recorded->valid) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st{recorded};
  return answer();
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = graph->recorded->nodes.size();
  return answer();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->recorded};
  return answer();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return answer();
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  stream->submit([recorded = executable->recorded] {
    for (const Work& node : recorded->nodes) node();
  });
  return answer();
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return answer();
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  *pool = nullptr;
  return answer();
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return answer(); }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return forbidden() ? cudaErrorStreamCaptureUnsupported : answer(); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(memory_mutex);
  *free = total_memory - in_use;
  *total = total_memory;
  return answer();
}
cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes, cudaMemPool_t, cudaStream_t stream) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  if (!reserve(bytes)) return cudaErrorMemoryAllocation;
  *memory = take(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(memory_mutex);
  regions[reinterpret_cast<uintptr_t>(*memory)] = {bytes, false, device_here};
  if (bytes < kLarge) stream->submit([address = *memory, bytes] { std::memset(address, 0xcb, bytes); });
  return answer();
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  stream->submit([memory] {
    size_t bytes;
    {
      const std::lock_guard lock(memory_mutex);
      const auto region = regions.find(reinterpret_cast<uintptr_t>(memory));
      bytes = region->second.bytes;
      in_use -= bytes;
      regions.erase(region);
    }
    give(memory, bytes);
  });
  return answer();
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  *memory = nullptr;
  if (bytes == 0) return answer();
  if (!reserve(bytes)) return cudaErrorMemoryAllocation;
  *memory = take_guarded(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(memory_mutex);
  regions[reinterpret_cast<uintptr_t>(*memory)] = {bytes, false, device_here};
  return answer();
}
cudaError_t cudaFree(void* memory) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  const cudaError_t error = device_at(device_here).finish_what_runs();
  if (memory == nullptr) return error;
  const std::lock_guard lock(memory_mutex);
  const auto region = regions.find(reinterpret_cast<uintptr_t>(memory));
  if (region == regions.end()) return cudaErrorInvalidValue;
  give_guarded(memory, region->second.bytes);
  in_use -= region->second.bytes;
  regions.erase(region);
  return error;
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  *memory = take(bytes);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(memory_mutex);
  regions[reinterpret_cast<uintptr_t>(*memory)] = {bytes, true, 0};
  return answer();
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return answer();
}
cudaError_t cudaFreeHost(void* memory) {
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  size_t bytes;
  {
    const std::lock_guard lock(memory_mutex);
    const auto region = regions.find(reinterpret_cast<uintptr_t>(memory));
    bytes = region->second.bytes;
    regions.erase(region);
  }
  give(memory, bytes);
  return answer();
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (stream->records() && kind != cudaMemcpyDeviceToDevice) return cudaErrorStreamCaptureUnsupported;
  if (is_foreign(target) || is_foreign(source)) return cudaErrorInvalidValue;
  if (region_of(source) != nullptr) {
    stream->submit([target, source, bytes] { std::memcpy(target, source, bytes); });
  } else {
    const auto* const first = static_cast<const char*>(source);
    stream->submit(
        [target, copy = std::make_shared<std::vector<char>>(first, first + bytes)] { std::memcpy(target, copy->data(), copy->size()); });
  }
  return answer();
}

cudaError_t cudaMemcpyPeerAsync(void* target, int target_device, const void* source, int source_device, size_t bytes, cudaStream_t stream) {
  if (stream->records()) return cudaErrorStreamCaptureUnsupported;
  const Region *const to = region_of(target), *const from = region_of(source);
  const auto is_of = [](const Region* region, int device) { return region != nullptr && !region->pinned && region->device == device; };
  if (!is_of(to, target_device) || !is_of(from, source_device)) return cudaErrorInvalidValue;
  stream->submit([target, source, bytes] { std::memcpy(target, source, bytes); });
  return answer();
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  const Region* const region = region_of(address);
  *attributes = {};
  attributes->type = region == nullptr ? cudaMemoryTypeUnregistered : region->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->device = region == nullptr ? -2 : region->device;
  return answer();
}

}  // extern "C"
