// From the caller's block to values that the backends may trust: blocks of any size, tensors by descriptor, overlap of strided memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "status.h"

namespace rope {

// The caller's block over zeros: fields beyond its size read as 0, fields beyond ours are not looked at. `least`: the end of a field that must
// be there, because a result that gets lost would be lost for good.
template <class Args>
Args read_block(const Args* args, size_t least = 8) {
  Args out{};
  if (args == nullptr) fail(ROPE_ARGUMENT, "args", "the address of an argument block", "NULL");
  // Every layout of every header ends at a multiple of 8; another size would cut an address in two.
  if (args->size < least || args->size % 8 != 0) {
    fail(ROPE_ARGUMENT, "size", text("a multiple of 8, at least %zu and usually %zu", least, sizeof out), text("%u", args->size));
  }
  std::memcpy(&out, args, args->size < sizeof out ? args->size : sizeof out);
  return out;
}

// Where a field of a block ends: what `size` must reach for a result there to arrive.
template <class Args, class Field>
size_t end_of(Field Args::*field) {
  const Args block{};
  return static_cast<size_t>(reinterpret_cast<const char*>(&(block.*field)) - reinterpret_cast<const char*>(&block)) + sizeof(Field);
}

// Hands results back in the caller's block, as far as it goes.
template <class Args>
void write_block(Args* args, const Args& values) {
  const uint32_t size = args->size;
  std::memcpy(args, &values, size < sizeof values ? size : sizeof values);
  args->size = size;
}

// A checked tensor: every element lies within its extent, aligned to its size.
struct Tensor {
  char* data = nullptr;
  int64_t shape[ROPE_MAX_RANK] = {};
  int64_t stride[ROPE_MAX_RANK] = {};  // elements
  int rank = 0;
  int dtype = 0;
  uint16_t device = 0;

  int64_t elements() const {
    int64_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[i];
    return count;
  }
  bool empty() const { return std::find(shape, shape + rank, 0) != shape + rank; }  // elements() of such shapes may overflow
};

inline bool given(const rope_tensor_ref& reference) { return reference.tensor != 0; }

// Reads and checks a descriptor; `argument` names it in errors. An absent one is an error.
Tensor resolve(const rope_tensor_ref& reference, const char* argument);

// "[2, 8, 64]"
Text shape_text(const Tensor& tensor);
bool same_shape(const Tensor& a, const Tensor& b);
// The same elements at the same places: memory, shape and the strides of every dimension longer than 1.
bool same_place(const Tensor& a, const Tensor& b);

void require_dtype(const Tensor& tensor, const char* argument, std::initializer_list<int> allowed);
void require_device(const Tensor& tensor, const char* argument, uint16_t device, const char* like);
// `meaning` is the shape in words: "[requests + 1]".
void require_shape(const Tensor& tensor, const char* argument, std::initializer_list<int64_t> wanted, const char* meaning);

// Rows whose elements lie side by side: a last stride of 1.
void require_last_stride(const Tensor& tensor, const char* argument);

// Whether two tensors share a byte. Exact for strided memory: interleaved slices of one packed tensor share none.
bool overlap(const Tensor& a, const Tensor& b);
// Whether two different indices of one tensor name the same element, as with a stride of 0.
bool overlaps_itself(const Tensor& tensor);

}  // namespace rope
