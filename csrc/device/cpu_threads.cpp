#include "cpu_threads.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "machine.h"

namespace rope {
namespace {

struct Work {
  void (*body)(void*, int64_t, int64_t);
  void* context;
  int64_t count;
  int64_t chunk;
};

// The caller publishes Work under the mutex and raises `epoch`; every worker takes chunks until none are left, and the last to finish wakes
// the caller. `owner` admits one call at a time.
struct Pool {
  std::mutex owner;
  std::mutex mutex;
  std::condition_variable start, done;
  Work work{};
  std::atomic<int64_t> next{0};
  uint64_t epoch = 0;
  int running = 0;
  int workers = 0;
  pid_t process = 0;

  void take_chunks(const Work& w) {
    for (;;) {
      const int64_t begin = next.fetch_add(w.chunk, std::memory_order_relaxed);
      if (begin >= w.count) return;
      w.body(w.context, begin, std::min(begin + w.chunk, w.count));
    }
  }

  void serve() {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      start.wait(lock, [&] { return epoch != seen; });
      seen = epoch;
      const Work w = work;
      lock.unlock();
      take_chunks(w);
      lock.lock();
      if (--running == 0) done.notify_one();
    }
  }

  // Threads that could not be started are done without.
  void start_workers(int wanted) {
    process = getpid();
    for (; workers < wanted; ++workers) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (...) {
        return;
      }
    }
  }
};

// Never destroyed: its threads wait in it while the process ends.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  const int cores = machine().cores;
  Pool& p = pool();
  std::unique_lock owner(p.owner, std::defer_lock);
  if (count <= grain || cores == 1 || !owner.try_lock()) return body(context, 0, count);
  if (p.workers == 0) p.start_workers(cores - 1);
  // After a fork the threads are not there.
  if (p.workers == 0 || p.process != getpid()) return body(context, 0, count);
  // A few chunks per thread even out what the threads manage.
  const int64_t threads = p.workers + 1;
  const Work work{body, context, count, std::max(grain, (count + threads * 4 - 1) / (threads * 4))};
  {
    const std::lock_guard lock(p.mutex);
    p.work = work;
    p.next.store(0, std::memory_order_relaxed);
    p.running = p.workers;
    ++p.epoch;
  }
  p.start.notify_all();
  p.take_chunks(work);
  std::unique_lock lock(p.mutex);
  p.done.wait(lock, [&] { return p.running == 0; });
}

}  // namespace rope
