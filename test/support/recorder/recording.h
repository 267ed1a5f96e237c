// Calls as they lie in a file: the block, the descriptors and frequencies it refers to, and the memory that the descriptors cover, before
// and after. recorder.cpp writes them while tests run on the CPU, test/cuda/replay.cpp makes the same calls on a GPU.
#pragma once

#include <rope.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace recording {

// ---- operations -------------------------------------------------------------------------------------------------------------------

// What a GPU makes of the same bytes: the same bits; or, as test/cuda/twin.h allows, NaNs of its own and other last digits of float64.
enum class Result { exact, close };

// Every operation that takes tensors, what its result is like, the tensors that it writes, and those of them that it reads before; it reads the
// others of its block.
#define RECORDED_OPERATIONS(X)                                         \
  X(rope_copy, exact, "target", "")                                    \
  X(rope_fill, exact, "target", "")                                    \
  X(rope_rotate, close, "q_out k_out v_out q_rest_out k_rest_out", "") \
  X(rope_cos_sin, exact, "cos sin", "")                                \
  X(rope_shift, exact, "cache owners", "cache")                        \
  X(rope_seq_lens, exact, "seq_lens", "")                              \
  X(rope_batch_indices, exact, "batch_indices places", "")

struct Operation {
  std::string_view name;
  std::string_view block;
  size_t block_bytes;
  int32_t (*call)(const void* block, rope_error* error);
  Result result;
  std::string_view written;  // fields of the block
  std::string_view updated;  // of these, what is read too

  constexpr bool writes(std::string_view field) const { return lists(written, field); }
  constexpr bool updates(std::string_view field) const { return lists(updated, field); }

  static constexpr bool lists(std::string_view names, std::string_view field) {
    for (std::string_view rest = names; !rest.empty();) {
      const size_t end = std::min(rest.find(' '), rest.size());
      if (rest.substr(0, end) == field) return true;
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return false;
  }
};

#define RECORDED_OPERATION(name, result, written, updated)                                                   \
  {#name,                                                                                                    \
   #name "_args",                                                                                            \
   sizeof(name##_args),                                                                                      \
   [](const void* block, rope_error* error) { return name(static_cast<const name##_args*>(block), error); }, \
   Result::result,                                                                                           \
   written,                                                                                                  \
   updated},
inline constexpr Operation kOperations[] = {RECORDED_OPERATIONS(RECORDED_OPERATION)};
#undef RECORDED_OPERATION

// The fields of all structs of rope.h.
struct Field {
  std::string_view structure;
  std::string_view name;
  size_t offset;
  size_t bytes;
  bool tensor;  // a rope_tensor_ref
};

#define ROPE_ABI_STRUCT(structure)
#define ROPE_ABI_CONSTANT(name)
#define ROPE_ABI_FIELD(structure, field) \
  {#structure, #field, offsetof(structure, field), sizeof(structure::field), std::is_same_v<decltype(structure::field), rope_tensor_ref>},
inline constexpr Field kFields[] = {
#include "../../../csrc/core/abi_table.inc"
};
#undef ROPE_ABI_STRUCT
#undef ROPE_ABI_CONSTANT
#undef ROPE_ABI_FIELD

// No operation is forgotten, and none writes what its block has not got.
constexpr bool operations_are_whole() {
  for (const Field& field : kFields) {
    bool known = !field.tensor;
    for (const Operation& operation : kOperations) known |= operation.block == field.structure;
    if (!known) return false;
  }
  for (const Operation& operation : kOperations) {
    size_t letters = 0;
    for (const Field& field : kFields) {
      if (field.tensor && field.structure == operation.block && operation.writes(field.name)) letters += field.name.size() + 1;
    }
    if (letters != operation.written.size() + 1) return false;
  }
  return true;
}
static_assert(operations_are_whole(), "RECORDED_OPERATIONS must list every operation of rope.h that takes tensors, and what it writes");

// Calls visit(field) for each field of an operation's block.
template <class Visit>
void for_each_field(const Operation& operation, const Visit& visit) {
  for (const Field& field : kFields) {
    if (field.structure == operation.block) visit(field);
  }
}

// ---- calls ------------------------------------------------------------------------------------------------------------------------

struct TensorArgument {
  uint64_t offset;  // of the reference in the block
  rope_tensor tensor;
};

// Memory that tensors cover, one region where they overlap.
struct Region {
  uint64_t address;
  std::vector<uint8_t> before;
  std::vector<uint8_t> after;  // empty where nothing is written
};

struct Call {
  char operation[32]{};
  std::vector<uint8_t> block;
  std::vector<TensorArgument> tensors;
  rope_frequencies_args frequencies{};  // how they were created; size 0 where there are none
  std::vector<double> custom;
  std::vector<int32_t> axis_of_pair;
  rope_error outcome{};  // status and, on failure, the record
  std::vector<Region> regions;
};

inline uint64_t size_of(const rope_tensor& tensor) {
  constexpr uint64_t sizes[] = {8, 4, 2, 2, 1, 1, 8, 4, 1};
  return sizes[tensor.dtype];
}

// ---- the file ---------------------------------------------------------------------------------------------------------------------

struct Heading {
  char magic[12] = "rope calls";
  uint32_t abi = ROPE_ABI_VERSION;
  bool operator==(const Heading&) const = default;
};

class Writer {
 public:
  std::vector<char> bytes;

  template <class Value>
  void operator()(const Value& value) {
    append(&value, sizeof value);
  }
  template <class Item>
  void operator()(const std::vector<Item>& items) {
    (*this)(static_cast<uint64_t>(items.size()));
    append(items.data(), items.size() * sizeof(Item));
  }

 private:
  void append(const void* from, size_t size) {
    const char* const first = static_cast<const char*>(from);
    bytes.insert(bytes.end(), first, first + size);
  }
};

class Reader {
 public:
  explicit Reader(std::vector<char> bytes) : bytes_(std::move(bytes)) {}

  bool at_end() const { return at_ == bytes_.size(); }

  template <class Value>
  void operator()(Value& value) {
    take(&value, sizeof value);
  }
  template <class Item>
  void operator()(std::vector<Item>& items) {
    uint64_t count;
    (*this)(count);
    if (count > (bytes_.size() - at_) / sizeof(Item)) fail();
    items.resize(count);
    take(items.data(), count * sizeof(Item));
  }

  [[noreturn]] static void fail() { throw std::runtime_error("not a recording of this version of rope.h, or a damaged one"); }

 private:
  void take(void* to, size_t size) {
    if (size > bytes_.size() - at_) fail();
    if (size > 0) std::memcpy(to, bytes_.data() + at_, size);
    at_ += size;
  }

  std::vector<char> bytes_;
  size_t at_ = 0;
};

// Writes a call, or reads one.
template <class Archive>
void pass(Archive& archive, Call& call) {
  archive(call.operation);
  archive(call.block);
  archive(call.tensors);
  archive(call.frequencies);
  archive(call.custom);
  archive(call.axis_of_pair);
  archive(call.outcome);
  uint64_t regions = call.regions.size();
  archive(regions);
  if (regions > call.tensors.size()) Reader::fail();
  call.regions.resize(regions);
  for (Region& region : call.regions) {
    archive(region.address);
    archive(region.before);
    archive(region.after);
  }
}

}  // namespace recording
