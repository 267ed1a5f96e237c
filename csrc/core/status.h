// How a call fails: inside the library by throwing a Failure, at the C border by a status and the caller's error record. guard() is the only
// place where one becomes the other; nothing else may let an exception reach C.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>

#include "../include/rope.h"

namespace rope {

// A printf into a fixed buffer, for the texts of errors.
struct Text {
  char bytes[256];
};
__attribute__((format(printf, 1, 2))) Text text(const char* format, ...);

struct Failure {
  int32_t status;
  rope_error detail;
};

// "<argument> must be <expected>, got <actual>. <advice>"
[[noreturn]] void fail(int32_t status, const char* argument, const char* expected, const char* actual, const char* advice = "");
[[noreturn]] inline void fail(int32_t status, const char* argument, const Text& expected, const Text& actual, const char* advice = "") {
  fail(status, argument, expected.bytes, actual.bytes, advice);
}
[[noreturn]] void fail_memory(uint64_t requested, uint64_t available);
// `operation`: which one met it, where that is not the call itself.
[[noreturn]] void fail_fault(const rope_fault& fault, const char* operation = "");

inline void require(bool condition, const char* argument, const char* expected, const char* actual, const char* advice = "") {
  if (!condition) [[unlikely]]
    fail(ROPE_ARGUMENT, argument, expected, actual, advice);
}

// Copies a failure into the caller's record, which may be absent or of an older, smaller layout.
void report(const Failure& failure, const char* operation, rope_error* error);
int32_t report_current_exception(const char* operation, rope_error* error);

template <class Body>
int32_t guard(const char* operation, rope_error* error, Body&& body) noexcept {
  try {
    body();
    return ROPE_OK;
  } catch (...) {
    return report_current_exception(operation, error);
  }
}

}  // namespace rope
