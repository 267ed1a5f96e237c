// How JavaScript learns that queued work is done without blocking its thread: a queue for each realm, filled by whoever sees the work end, and an
// eventfd that wakes its reader. No callbacks: each kind of them has a way to crash a runtime.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "../core/status.h"

namespace rope {

struct Completion {
  uint64_t ticket = 0;
  Failure failure{};  // status ROPE_OK where the work went well
};

class CompletionQueue {
 public:
  CompletionQueue();
  ~CompletionQueue();
  CompletionQueue(const CompletionQueue&) = delete;
  CompletionQueue& operator=(const CompletionQueue&) = delete;

  int wake_fd() const { return wake_fd_; }
  // A ticket will be posted.
  void expect();
  void post(Completion completion);
  // False if there is none.
  bool take(Completion* out);
  // Blocks until something was posted since the last wait, or the queue closes.
  void wait() const;

 private:
  int wake_fd_;
  std::mutex mutex_;
  std::deque<Completion> done_;
  int64_t expected_ = 0;
};

// One ticket and where it goes.
struct Wait {
  std::shared_ptr<CompletionQueue> queue;
  uint64_t ticket = 0;
  uint64_t realm = 0;
};

}  // namespace rope
