// Checks that the operations on page tables share.
#pragma once

#include "../core/arguments.h"
#include "../rope/positions.h"

namespace rope {

// check_indices with an entry for each request.
Indices check_per_request(const Tensor& tensor, const char* argument, int64_t requests, uint16_t device, const char* like);
// check_indices with at least one entry.
Indices check_table_indptr(const Tensor& tensor, const char* argument, uint16_t device, const char* like);
void require_memory_apart(const Tensor& written, const char* argument, const Tensor& other, const char* other_name);

}  // namespace rope
