// All cores for large calls, none woken for small ones. One pool for the process, started by the first large call; a call that finds it busy
// with another's (two Workers at once) runs on its own thread alone.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace rope {

// Calls body(context, begin, end) over [0, count) in chunks of at least `grain`, on several threads if there is more than one chunk.
// The body must not throw.
void parallel_for(int64_t count, int64_t grain, void (*body)(void* context, int64_t begin, int64_t end), void* context);

template <class Body>
void parallel_for(int64_t count, int64_t grain, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  parallel_for(
      count, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<Plain*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

}  // namespace rope
