// operator new of these programs, which throws where there is no memory, as AddressSanitizer's does not, and can be told to fail. A
// sanitized librope.so has the C++ library in common with the program and so uses it too; the release build has its own.
#ifndef ROPE_TEST_ALLOCATION_H
#define ROPE_TEST_ALLOCATION_H

#include <cstdint>
#include <cstdlib>
#include <new>

// How many allocations of this thread still succeed; and whether then one fails, or all of them.
inline thread_local int64_t allocations_left = INT64_MAX;
inline thread_local bool all_fail_then = false;
inline thread_local int64_t allocations_failed = 0;

inline void* allocate(size_t bytes) noexcept {
  if (allocations_left-- <= 0) {
    if (!all_fail_then) allocations_left = INT64_MAX;
    ++allocations_failed;
    return nullptr;
  }
  return std::malloc(bytes);
}

// Not inlined: the compiler would complain about new's memory in free.
#define ROPE_TEST_NOINLINE __attribute__((noinline))

ROPE_TEST_NOINLINE void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
ROPE_TEST_NOINLINE void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
ROPE_TEST_NOINLINE void* operator new(size_t bytes) {
  if (void* const memory = allocate(bytes)) return memory;
  throw std::bad_alloc();
}
ROPE_TEST_NOINLINE void* operator new[](size_t bytes) { return operator new(bytes); }
ROPE_TEST_NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
ROPE_TEST_NOINLINE void operator delete[](void* memory) noexcept { std::free(memory); }
ROPE_TEST_NOINLINE void operator delete(void* memory, size_t) noexcept { std::free(memory); }
ROPE_TEST_NOINLINE void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
ROPE_TEST_NOINLINE void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
ROPE_TEST_NOINLINE void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

#endif
