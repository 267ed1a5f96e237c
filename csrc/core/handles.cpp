#include "handles.h"

#include <mutex>
#include <unordered_map>
#include <vector>

#include "status.h"

namespace rope {
namespace {

// kind: bits 48-51, generation: bits 24-47, slot + 1: bits 0-23
constexpr uint64_t kSlotBits = 24, kMaxSlots = (1 << kSlotBits) - 2, kGenerationMask = (1 << 24) - 1;

struct Slot {
  std::shared_ptr<void> object;
  uint64_t realm = 0;
  uint32_t generation = 0;
  HandleKind kind{};
};

struct Registry {
  std::mutex mutex;
  std::vector<Slot> slots;
  std::vector<uint32_t> free;
  std::unordered_map<uint64_t, OwnedMemory> memory;
  ReleaseMemory release = nullptr;
  uint64_t handles = 0;
  uint64_t bytes = 0;
};

// Never destroyed: threads may still call while the process ends.
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

const char* kind_name(HandleKind kind) {
  switch (kind) {
    case HandleKind::realm: return "a live realm";
    case HandleKind::stream: return "a live stream";
    case HandleKind::event: return "a live event";
    case HandleKind::graph: return "a live graph";
    case HandleKind::queue: return "a live queue";
    case HandleKind::frequencies: return "live frequencies";
  }
  return "a live handle";
}

uint64_t encode(HandleKind kind, uint32_t generation, uint32_t slot) {
  return static_cast<uint64_t>(kind) << 48 | static_cast<uint64_t>(generation) << kSlotBits | (slot + 1);
}

// The slot a handle names, or nullptr. The mutex is held.
Slot* slot_of(Registry& r, HandleKind kind, uint64_t handle) {
  const uint64_t index = handle & ((1 << kSlotBits) - 1);
  if (index == 0 || index > r.slots.size()) return nullptr;
  Slot& slot = r.slots[index - 1];
  if (!slot.object || handle != encode(kind, slot.generation, static_cast<uint32_t>(index - 1)) || slot.kind != kind) return nullptr;
  return &slot;
}

std::shared_ptr<void> empty_slot(Registry& r, Slot& slot) {
  std::shared_ptr<void> object = std::move(slot.object);
  slot.object = nullptr;
  slot.generation = (slot.generation + 1) & kGenerationMask;
  r.free.push_back(static_cast<uint32_t>(&slot - r.slots.data()));
  --r.handles;
  return object;
}

[[noreturn]] void fail_handle(HandleKind kind, uint64_t handle, const char* argument) {
  fail(ROPE_DISPOSED, argument, kind_name(kind), handle == 0 ? "none" : "one that was released or never existed");
}

}  // namespace

uint64_t add_handle(HandleKind kind, std::shared_ptr<void> object, uint64_t realm) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  if (realm != 0 && slot_of(r, HandleKind::realm, realm) == nullptr) fail_handle(HandleKind::realm, realm, "realm");
  if (r.free.empty()) {
    if (r.slots.size() >= kMaxSlots) fail(ROPE_OUT_OF_MEMORY, "", "", "");
    r.slots.emplace_back();
    r.free.reserve(r.slots.capacity());
    r.free.push_back(static_cast<uint32_t>(r.slots.size() - 1));
  }
  const uint32_t index = r.free.back();
  r.free.pop_back();
  Slot& slot = r.slots[index];
  slot.object = std::move(object);
  slot.kind = kind;
  slot.realm = realm;
  ++r.handles;
  return encode(kind, slot.generation, index);
}

std::shared_ptr<void> find_handle(HandleKind kind, uint64_t handle, const char* argument) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const Slot* slot = slot_of(r, kind, handle);
  if (slot == nullptr) fail_handle(kind, handle, argument);
  return slot->object;
}

void remove_handle(HandleKind kind, uint64_t handle, const char* argument) {
  Registry& r = registry();
  std::shared_ptr<void> object;  // destroyed after the lock is released
  const std::lock_guard lock(r.mutex);
  Slot* slot = slot_of(r, kind, handle);
  if (slot == nullptr) fail_handle(kind, handle, argument);
  object = empty_slot(r, *slot);
}

uint64_t open_realm() { return add_handle(HandleKind::realm, std::make_shared<char>(), 0); }

void close_realm(uint64_t realm, const char* argument) {
  Registry& r = registry();
  std::vector<std::shared_ptr<void>> objects;
  std::vector<OwnedMemory> blocks;
  {
    const std::lock_guard lock(r.mutex);
    Slot* own = slot_of(r, HandleKind::realm, realm);
    if (own == nullptr) fail_handle(HandleKind::realm, realm, argument);
    // All memory first: from here on nothing can fail, so that no realm is closed by half.
    objects.reserve(r.handles);
    blocks.reserve(r.memory.size());
    objects.push_back(empty_slot(r, *own));
    for (Slot& slot : r.slots) {
      if (slot.object && slot.realm == realm) objects.push_back(empty_slot(r, slot));
    }
    for (auto block = r.memory.begin(); block != r.memory.end();) {
      if (block->second.realm != realm) {
        ++block;
        continue;
      }
      blocks.push_back(block->second);
      r.bytes -= block->second.bytes;
      block = r.memory.erase(block);
    }
  }
  objects.clear();  // streams and graphs first: their work may use the memory
  for (const OwnedMemory& memory : blocks) r.release(memory);
}

uint64_t live_handles() {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  return r.handles;
}

void add_memory(const OwnedMemory& memory) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  if (memory.realm != 0 && slot_of(r, HandleKind::realm, memory.realm) == nullptr) fail_handle(HandleKind::realm, memory.realm, "realm");
  r.memory.insert_or_assign(memory.address, memory);
  r.bytes += memory.bytes;
}

OwnedMemory remove_memory(uint64_t address, uint16_t device, const char* argument) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const auto block = r.memory.find(address);
  if (block == r.memory.end() || block->second.device != device) {
    fail(ROPE_DISPOSED, argument, "memory of rope_memory_allocate", "something else, or released already");
  }
  const OwnedMemory memory = block->second;
  r.bytes -= memory.bytes;
  r.memory.erase(block);
  return memory;
}

void set_release_memory(ReleaseMemory release) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  r.release = release;
}

uint64_t live_memory() {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  return r.bytes;
}

}  // namespace rope
