#include "status.h"

#include <exception>

namespace rope {
namespace {

template <size_t N>
void put(char (&target)[N], const char* source) {
  std::snprintf(target, N, "%s", source);
}

}  // namespace

Text text(const char* format, ...) {
  Text out;
  va_list values;
  va_start(values, format);
  std::vsnprintf(out.bytes, sizeof out.bytes, format, values);
  va_end(values);
  return out;
}

void fail(int32_t status, const char* argument, const char* expected, const char* actual, const char* advice) {
  Failure failure{status, {}};
  put(failure.detail.argument, argument);
  put(failure.detail.expected, expected);
  put(failure.detail.actual, actual);
  put(failure.detail.advice, advice);
  throw failure;
}

void fail_memory(uint64_t requested, uint64_t available) {
  Failure failure{ROPE_OUT_OF_MEMORY, {}};
  failure.detail.requested = requested;
  failure.detail.available = available;
  throw failure;
}

void fail_fault(const rope_fault& fault, const char* operation) {
  Failure failure{ROPE_FAULT, {}};
  put(failure.detail.operation, operation);
  failure.detail.fault = fault;
  throw failure;
}

void report(const Failure& failure, const char* operation, rope_error* error) {
  if (error == nullptr || error->size < offsetof(rope_error, operation)) return;
  rope_error record = failure.detail;
  record.size = error->size;
  record.status = failure.status;
  if (record.operation[0] == 0) put(record.operation, operation);
  std::memcpy(error, &record, error->size < sizeof record ? error->size : sizeof record);
}

int32_t report_current_exception(const char* operation, rope_error* error) {
  try {
    throw;
  } catch (const Failure& failure) {
    report(failure, operation, error);
    return failure.status;
  } catch (const std::bad_alloc&) {
    report({ROPE_OUT_OF_MEMORY, {}}, operation, error);
    return ROPE_OUT_OF_MEMORY;
  } catch (const std::exception& exception) {
    Failure failure{ROPE_INTERNAL, {}};
    put(failure.detail.actual, exception.what());
    report(failure, operation, error);
    return ROPE_INTERNAL;
  } catch (...) {
    report({ROPE_INTERNAL, {}}, operation, error);
    return ROPE_INTERNAL;
  }
}

}  // namespace rope
