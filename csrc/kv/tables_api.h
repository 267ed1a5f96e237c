// Checks that the operations on page tables share.
#pragma once

#include "../core/arguments.h"
#include "../rope/positions.h"

namespace rope {

// int32 or int64 of rank 1, on the device of `like`; of `count` entries, `meaning` in words, unless that is negative.
Indices check_indices(const Tensor& tensor, const char* argument, int64_t count, const char* meaning, uint16_t device, const char* like);
// The same with at least one entry.
Indices check_table_indptr(const Tensor& tensor, const char* argument, uint16_t device, const char* like);
void require_memory_apart(const Tensor& written, const char* argument, const Tensor& other, const char* other_name);

}  // namespace rope
