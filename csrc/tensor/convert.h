// Elements converted from one dtype to another: what rope_copy and rope_fill are made of on the CPU.
#pragma once

#include <cstdint>

#include "../core/dtypes.h"

namespace rope {

// Two-dimensional and strided. No element of the target is one of the source.
struct Plane {
  const char* source;  // [rows, columns]
  char* target;        // [rows, columns]
  int64_t rows;
  int64_t columns;
  int64_t source_row_stride;  // elements, as are all strides
  int64_t source_column_stride;
  int64_t target_row_stride;
  int64_t target_column_stride;
};

// target[row][column] = source[row][column]
void convert_plane(int source_dtype, int target_dtype, const Plane& plane);

// Converts `count` elements that follow one another. One table for each instruction set.
using ConvertRow = void (*)(const void* source, void* target, int64_t count);
struct ConvertRows {
  ConvertRow row[kDtypeCount][kDtypeCount];  // [source dtype][target dtype]
};
extern const ConvertRows convert_rows_baseline, convert_rows_v3, convert_rows_v4;

}  // namespace rope
