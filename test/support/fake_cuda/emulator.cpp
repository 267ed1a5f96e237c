// Runs kernels: the blocks of a grid one after another, on the thread of the stream; the threads of a block as fibers, which change where they
// wait for one another. Every other block runs its threads from the last to the first, so that what only an order of threads makes right
// shows. A barrier that not all reach, and a shuffle from a lane that is not there, end the process with a sentence.
#include "emulator.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(ROPE_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#endif

namespace fake_cuda {

void submit(cudaStream_t stream, std::function<void()> work);
cudaError_t error();

}  // namespace fake_cuda

thread_local constinit uint3 threadIdx{}, blockIdx{};
thread_local constinit dim3 blockDim{}, gridDim{};

namespace rope {
constexpr size_t kSharedBytes = 227 << 10;  // as Hopper has it
alignas(1024) thread_local char shared[kSharedBytes];
}  // namespace rope

namespace fake_cuda {
namespace {

constexpr uint32_t kWarp = 32;

// ---- fibers -----------------------------------------------------------------------------------------------------------------------

// Where something stopped. The compiler's own jumps: those of the C library take a system call, or mind that the stack is another.
struct Context {
  void* jump[5];
  void* stack;  // for AddressSanitizer
  size_t stack_bytes;
  void* frames;
  void* tsan;
};

[[gnu::noipa, noreturn, gnu::no_sanitize("address")]] void jump_to(Context& to) { __builtin_longjmp(to.jump, 1); }

[[gnu::noipa, gnu::no_sanitize("address")]] void change_stacks(Context& from, Context& to) {
  if (__builtin_setjmp(from.jump) == 0) jump_to(to);
}

[[gnu::noipa, gnu::no_sanitize("address")]] void begin_on_stack(Context& from, const ucontext_t& to) {
  if (__builtin_setjmp(from.jump) == 0) setcontext(&to);
}

// What AddressSanitizer is told: memory, and changes of the stack. What is not allowed again stays forbidden to whoever has the memory next.
void allow([[maybe_unused]] const void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
#endif
}
void forbid([[maybe_unused]] const void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(memory, bytes);
#endif
}

template <class Change>
void change([[maybe_unused]] Context& from, [[maybe_unused]] Context& to, const Change& change) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.frames, to.stack, to.stack_bytes);
#endif
#if defined(ROPE_THREAD_SANITIZER)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  change();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.frames, nullptr, nullptr);
#endif
}

// What ThreadSanitizer is told: the threads of a block know of one another what they do before a barrier, or a meeting, and no more.
void before([[maybe_unused]] void* place) {
#if defined(ROPE_THREAD_SANITIZER)
  __tsan_release(place);
#endif
}
void after([[maybe_unused]] void* place) {
#if defined(ROPE_THREAD_SANITIZER)
  __tsan_acquire(place);
#endif
}

// A stack on which one thread of a block after another runs.
struct Fiber {
  static constexpr size_t kStack = 256 << 10;

  Fiber(Context& scheduler, const std::function<void()>*& thread) : scheduler(scheduler), thread(thread) {
    // Pages are taken when they are touched; the lowest may not be.
    memory = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
      std::perror("a fiber's stack");
      std::abort();
    }
    here.stack = memory + page;
    here.stack_bytes = kStack - page;
#if defined(ROPE_THREAD_SANITIZER)
    here.tsan = __tsan_create_fiber(0);
    scheduler.tsan = __tsan_get_current_fiber();
#endif
  }
  ~Fiber() {
    allow(memory, kStack);
#if defined(ROPE_THREAD_SANITIZER)
    __tsan_destroy_fiber(here.tsan);
#endif
    munmap(memory, kStack);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // From the scheduler: until the thread has ended (true) or waits.
  bool run() {
    ended = false;
    if (begun) {
      change(scheduler, here, [&] { change_stacks(scheduler, here); });
    } else {
      begun = true;
      ucontext_t context;
      getcontext(&context);
      context.uc_stack.ss_sp = here.stack;
      context.uc_stack.ss_size = here.stack_bytes;
      context.uc_link = nullptr;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&context, reinterpret_cast<void (*)()>(main), 2, static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
      change(scheduler, here, [&] { begin_on_stack(scheduler, context); });
    }
    return ended;
  }

  // From the thread: back to the scheduler.
  void wait() {
    change(here, scheduler, [&] { change_stacks(here, scheduler); });
  }

 private:
  static void main(unsigned high, unsigned low) {
    Fiber& self = *reinterpret_cast<Fiber*>(uintptr_t{high} << 32 | low);
#if defined(__SANITIZE_ADDRESS__)
    const void* stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
    self.scheduler.stack = const_cast<void*>(stack);
    self.scheduler.stack_bytes = bytes;
#endif
    for (;;) {
      after(&self.scheduler);
      (*self.thread)();
      before(&self.scheduler);
      self.ended = true;
      self.wait();
    }
  }

  Context& scheduler;
  const std::function<void()>*& thread;
  Context here{};
  char* memory;
  bool begun = false;
  bool ended = false;
};

// ---- a block ----------------------------------------------------------------------------------------------------------------------

enum class State { fresh, ready, at_barrier, at_meeting, ended };

struct Thread {
  uint3 index;
  State state = State::fresh;
  Fiber* fiber = nullptr;
  Site site;
  bool vote = false;  // at a barrier
  uint32_t mask = 0;  // at a meeting
  uint32_t from = 0;
  uint64_t value = 0;
  Votes votes{};
  Lanes lanes{};
};

bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string name(const Thread& thread) {
  const uint3 &t = thread.index, &b = blockIdx;
  char text[200];
  std::snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", t.x, t.y, t.z, b.x, b.y, b.z);
  return text;
}

std::string doing(const Thread& thread) {
  if (thread.state == State::ended) return "has ended";
  const Site& site = thread.site;
  return std::string(thread.state == State::at_barrier ? "waits for its block" : "waits for lanes of its warp") + " at " +
         site.file_name() + ":" + std::to_string(site.line());
}

[[noreturn]] void stop(const std::string& sentence) {
  std::fprintf(stderr, "a kernel cannot go on: %s\n", sentence.c_str());
  std::abort();
}

class Block {
 public:
  ~Block() {
    for (Fiber* fiber : fibers) delete fiber;
  }

  void run(const std::function<void()>& work, bool backwards) {
    thread_main = &work;
    before(&scheduler);
    const dim3& size = blockDim;
    threads.assign(size_t{size.x} * size.y * size.z, Thread{});
    size_t i = 0;
    for (uint3 t{0, 0, 0}; t.z < size.z; ++t.z) {
      for (t.y = 0; t.y < size.y; ++t.y) {
        for (t.x = 0; t.x < size.x; ++t.x) threads[i++].index = t;
      }
    }
    for (size_t left = threads.size();;) {
      for (size_t n = 0; n < threads.size(); ++n) {
        Thread& thread = threads[backwards ? threads.size() - 1 - n : n];
        if (thread.state == State::fresh || thread.state == State::ready) left -= advance(thread);
      }
      if (left == 0) break;
      if (!release_barrier(left) && !release_meetings()) explain();
    }
    after(&scheduler);
  }

  Votes barrier(bool vote, const Site& site) {
    current->vote = vote;
    before(this);
    wait(State::at_barrier, site);
    after(this);
    return current->votes;
  }

  Lanes meet(uint32_t mask, uint64_t value, uint32_t from, const Site& site) {
    if ((mask >> lane() & 1) == 0)
      stop(name(*current) + " calls with a mask without itself at " + site.file_name() + ":" + std::to_string(site.line()));
    current->mask = mask;
    current->value = value;
    current->from = from;
    Thread* const warp = &threads[static_cast<size_t>(current - threads.data()) / kWarp * kWarp];
    before(warp);
    wait(State::at_meeting, site);
    after(warp);
    return current->lanes;
  }

  uint32_t lane() const { return static_cast<uint32_t>(current - threads.data()) % kWarp; }

 private:
  // Until the thread ends (1) or waits.
  size_t advance(Thread& thread) {
    if (thread.fiber == nullptr) {
      if (fibers.empty()) fibers.push_back(new Fiber(scheduler, thread_main));
      thread.fiber = fibers.back();
      fibers.pop_back();
    }
    current = &thread;
    threadIdx = thread.index;
    if (!thread.fiber->run()) return 0;
    thread.state = State::ended;
    fibers.push_back(thread.fiber);
    return 1;
  }

  void wait(State state, const Site& site) {
    current->state = state;
    current->site = site;
    current->fiber->wait();
  }

  bool release_barrier(size_t left) {
    const Thread* first = nullptr;
    Votes votes{false, true, 0};
    for (const Thread& thread : threads) {
      if (thread.state != State::at_barrier) continue;
      if (first == nullptr) first = &thread;
      if (!same(first->site, thread.site)) stop(name(*first) + " " + doing(*first) + ", " + name(thread) + " " + doing(thread));
      votes.any |= thread.vote, votes.all &= thread.vote, votes.count += thread.vote;
      --left;
    }
    if (left > 0) return false;
    for (Thread& thread : threads) {
      if (thread.state == State::ended) continue;
      thread.votes = votes;
      thread.state = State::ready;
    }
    return true;
  }

  bool release_meetings() {
    bool released = false;
    for (size_t i = 0; i < threads.size(); ++i) {
      if (threads[i].state == State::at_meeting) released |= release_meeting(threads[i], i / kWarp * kWarp);
    }
    return released;
  }

  // Those that meet `one`, if all are there.
  bool release_meeting(const Thread& one, size_t warp) {
    const uint32_t mask = one.mask;
    const Site site = one.site;
    uint32_t there = 0, ballot = 0;
    for (uint32_t lane = 0; lane < kWarp && warp + lane < threads.size(); ++lane) {
      const Thread& other = threads[warp + lane];
      if ((mask >> lane & 1) == 0 || other.state == State::ended) continue;
      if (other.state != State::at_meeting || other.mask != mask || !same(other.site, site)) return false;
      there |= 1u << lane;
      ballot |= (other.value != 0 ? 1u : 0u) << lane;
    }
    for (uint32_t lane = 0; lane < kWarp; ++lane) {
      if ((there >> lane & 1) == 0) continue;
      Thread& other = threads[warp + lane];
      if (other.from >= kWarp || (there >> other.from & 1) == 0) {
        stop(name(other) + " " + doing(other) + " and reads from lane " + std::to_string(other.from) + ", which is not there");
      }
      other.lanes = {threads[warp + other.from].value, ballot};
      other.state = State::ready;
    }
    return true;
  }

  // Nobody can go on.
  [[noreturn]] void explain() const {
    for (size_t i = 0; i < threads.size(); ++i) {
      const Thread& one = threads[i];
      if (one.state == State::ended) continue;
      for (size_t j = 0; j < threads.size(); ++j) {
        const Thread& other = threads[j];
        const bool missed = one.state == State::at_barrier
                                ? other.state == State::at_meeting
                                : j / kWarp == i / kWarp && (one.mask >> j % kWarp & 1) != 0 && other.state != State::ended &&
                                      (other.state != State::at_meeting || other.mask != one.mask || !same(other.site, one.site));
        if (missed) stop(name(one) + " " + doing(one) + ", " + name(other) + " " + doing(other));
      }
    }
    stop("no thread can");
  }

  std::vector<Thread> threads;
  std::vector<Fiber*> fibers;  // those that no thread uses
  Context scheduler{};
  const std::function<void()>* thread_main = nullptr;
  Thread* current = nullptr;
};

// One for each stream's thread.
Block& this_block() {
  static thread_local Block block;
  return block;
}

void run_grid(const dim3& blocks, const dim3& threads, size_t shared_bytes, const std::function<void()>& thread) {
  char* const shared = rope::shared;
  forbid(shared + shared_bytes, rope::kSharedBytes - shared_bytes);
  Block& block = this_block();
  blockDim = threads;
  gridDim = blocks;
  bool backwards = false;
  for (uint3 b{0, 0, 0}; b.z < blocks.z; ++b.z) {
    for (b.y = 0; b.y < blocks.y; ++b.y) {
      for (b.x = 0; b.x < blocks.x; ++b.x) {
        blockIdx = b;
        std::memset(shared, 0xcb, shared_bytes);
        block.run(thread, backwards);
        backwards = !backwards;
      }
    }
  }
  allow(shared, rope::kSharedBytes);
}

}  // namespace

Votes barrier(bool vote, const Site& site) { return this_block().barrier(vote, site); }
Lanes meet(uint32_t mask, uint64_t value, uint32_t from, const Site& site) { return this_block().meet(mask, value, from, site); }
uint32_t lane() { return this_block().lane(); }

cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> thread) {
  const dim3 &blocks = config.gridDim, &threads = config.blockDim;
  const uint64_t together = uint64_t{threads.x} * threads.y * threads.z;
  if (together == 0 || together > 1024 || threads.z > 64) return cudaErrorInvalidConfiguration;
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > INT32_MAX || blocks.y > 65535 || blocks.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  if (config.dynamicSmemBytes > rope::kSharedBytes) return cudaErrorInvalidValue;
  if (error() != cudaSuccess) return error();
  submit(config.stream,
         [blocks, threads, bytes = config.dynamicSmemBytes, thread = std::move(thread)] { run_grid(blocks, threads, bytes, thread); });
  return cudaSuccess;
}

}  // namespace fake_cuda

#if defined(ROPE_THREAD_SANITIZER)
// What is volatile in a kernel is written when all before it has been written, as report_fault does it.
extern "C" void __tsan_volatile_write4(void* at) { __tsan_release(at); }
#endif
