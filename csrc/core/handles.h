// Everything a caller names by a number: streams, events, graphs, frequencies, realms. A handle holds the slot, a generation and the kind, so a
// stale or forged one is recognised, and fits in 52 bits, so that JavaScript can hold it as a number. Each belongs to a realm and goes with it.
#pragma once

#include <cstdint>
#include <memory>

namespace rope {

enum class HandleKind : uint8_t { realm = 1, stream = 2, event = 3, graph = 4, frequencies = 5 };

// Registers an object for its realm (0: the process). Throws Failure if the realm is closed.
uint64_t add_handle(HandleKind kind, std::shared_ptr<void> object, uint64_t realm);
// The object, kept alive while the caller holds it. Throws ROPE_DISPOSED naming `argument`.
std::shared_ptr<void> find_handle(HandleKind kind, uint64_t handle, const char* argument);
void remove_handle(HandleKind kind, uint64_t handle, const char* argument);

template <class T>
std::shared_ptr<T> find_handle(HandleKind kind, uint64_t handle, const char* argument) {
  return std::static_pointer_cast<T>(find_handle(kind, handle, argument));
}

uint64_t open_realm();
void close_realm(uint64_t realm, const char* argument);
uint64_t live_handles();

// Memory a realm owns, released with it.
uint64_t allocate_memory(uint64_t bytes, uint64_t realm);
void release_memory(uint64_t address, const char* argument);
uint64_t live_memory();

}  // namespace rope
