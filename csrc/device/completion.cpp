#include "completion.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace rope {
namespace {

void raise_fd(int fd) {
  const uint64_t one = 1;
  while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

}  // namespace

CompletionQueue::CompletionQueue() : wake_fd_(eventfd(0, EFD_CLOEXEC)) {
  if (wake_fd_ < 0) fail(ROPE_OUT_OF_MEMORY, "", "", "");
}

CompletionQueue::~CompletionQueue() {
  // Somebody may still be about to read: the descriptor is left open then, for another file could take its number.
  raise_fd(wake_fd_);
  if (expected_ == 0) close(wake_fd_);
}

void CompletionQueue::expect() {
  const std::lock_guard lock(mutex_);
  ++expected_;
}

void CompletionQueue::post(Completion completion) {
  {
    const std::lock_guard lock(mutex_);
    done_.push_back(completion);
  }
  raise_fd(wake_fd_);
}

bool CompletionQueue::take(Completion* out) {
  const std::lock_guard lock(mutex_);
  if (done_.empty()) return false;
  *out = done_.front();
  done_.pop_front();
  --expected_;
  return true;
}

void CompletionQueue::wait() const {
  uint64_t count;
  while (read(wake_fd_, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

}  // namespace rope
