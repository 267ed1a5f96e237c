// Everything a caller names by a number: streams, events, graphs, frequencies, completion queues, realms. A handle holds the slot, a generation and the kind, so a
// stale or forged one is recognised, and fits in 52 bits, so that JavaScript can hold it as a number. Each belongs to a realm and goes with it.
#pragma once

#include <cstdint>
#include <memory>

namespace rope {

enum class HandleKind : uint8_t { realm = 1, stream = 2, event = 3, graph = 4, frequencies = 5, queue = 6 };

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

// Memory a realm owns, given back with it by `release`.
struct OwnedMemory {
  uint64_t address;
  uint64_t bytes;
  uint64_t realm;
  uint16_t device;
  uint16_t kind;  // rope_memory_kind
};
using ReleaseMemory = void (*)(const OwnedMemory& memory);

void add_memory(const OwnedMemory& memory);
// Forgets a block and returns it: the caller gives it back.
OwnedMemory remove_memory(uint64_t address, uint16_t device, const char* argument);
uint64_t live_memory();
// Called once, before the first add_memory.
void set_release_memory(ReleaseMemory release);

}  // namespace rope
