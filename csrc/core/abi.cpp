// What the library says about itself: its version, and the layout of every struct of rope.h as this build really has it. The table of names
// is made from the header by scripts/layouts.ts; the numbers are the compiler's.
#if defined(ROPE_HAVE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include <cstddef>
#include <cstring>
#include <string>

#include "arguments.h"
#include "status.h"

namespace rope {
namespace {

struct Layout {
  const char* structure;
  const char* field;  // nullptr: the struct itself
  size_t offset;
  size_t size;
};

struct Constant {
  const char* name;
  int64_t value;
};

#define ROPE_ABI_STRUCT(structure) {#structure, nullptr, 0, sizeof(structure)},
#define ROPE_ABI_FIELD(structure, field) {#structure, #field, offsetof(structure, field), sizeof(structure::field)},
#define ROPE_ABI_CONSTANT(name)
constexpr Layout layouts[] = {
#include "abi_table.inc"
};
#undef ROPE_ABI_STRUCT
#undef ROPE_ABI_FIELD
#undef ROPE_ABI_CONSTANT

#define ROPE_ABI_STRUCT(structure)
#define ROPE_ABI_FIELD(structure, field)
#define ROPE_ABI_CONSTANT(name) {#name, static_cast<int64_t>(name)},
constexpr Constant constants[] = {
#include "abi_table.inc"
};
#undef ROPE_ABI_STRUCT
#undef ROPE_ABI_FIELD
#undef ROPE_ABI_CONSTANT

#if defined(ROPE_HAVE_CUDA)
// What the library was built with: , "cuda": {"runtime": 13000, "architectures": ["80-real", ...]}
std::string cuda_json() {
  std::string json = text(", \"cuda\": {\"runtime\": %d, \"architectures\": [\"", CUDART_VERSION).bytes;
  for (const char* c = ROPE_CUDA_ARCHITECTURES; *c != 0; ++c) {
    if (*c == ',') {
      json += "\", \"";
    } else {
      json += *c;
    }
  }
  return json + "\"]}";
}
#else
std::string cuda_json() { return ""; }
#endif

// {"structs": {"rope_fault": {"size": 40, "fields": {"code": {"offset": 0, "size": 4}, ...}}, ...}, "constants": {"ROPE_OK": 0, ...}}
std::string abi_json() {
  std::string json = "{\"structs\": {";
  const char* between_structs = "";
  const char* between_fields = "";
  for (const Layout& layout : layouts) {
    if (layout.field == nullptr) {
      json += text("%s\"%s\": {\"size\": %zu, \"fields\": {", between_structs, layout.structure, layout.size).bytes;
      between_structs = "}}, ";
      between_fields = "";
    } else {
      json += text("%s\"%s\": {\"offset\": %zu, \"size\": %zu}", between_fields, layout.field, layout.offset, layout.size).bytes;
      between_fields = ", ";
    }
  }
  json += "}}}, \"constants\": {";
  const char* between_constants = "";
  for (const Constant& constant : constants) {
    json += text("%s\"%s\": %lld", between_constants, constant.name, static_cast<long long>(constant.value)).bytes;
    between_constants = ", ";
  }
  return json + "}" + cuda_json() + "}";
}

}  // namespace
}  // namespace rope

extern "C" int32_t rope_abi_version(void) { return ROPE_ABI_VERSION; }

extern "C" int32_t rope_version(void) { return ROPE_VERSION_MAJOR * 1000000 + ROPE_VERSION_MINOR * 1000 + ROPE_VERSION_PATCH; }

extern "C" uint64_t rope_address(const void* memory) { return reinterpret_cast<uintptr_t>(memory); }

extern "C" int32_t rope_abi(rope_abi_args* args, rope_error* error) {
  return rope::guard("rope_abi", error, [&] {
    rope_abi_args block = rope::read_block(args);
    rope::require(block.text != 0 || block.capacity == 0, "text", "the address of `capacity` bytes", "0",
                  "Pass capacity 0 to ask for the length only.");
    const std::string json = rope::abi_json();
    block.length = json.size();
    if (block.capacity != 0) {
      std::memcpy(reinterpret_cast<void*>(block.text), json.data(), block.capacity < json.size() ? block.capacity : json.size());
    }
    rope::write_block(args, block);
  });
}
