// Units of one or several elements between memory and registers: as they are, or as values that hold the elements exactly (floats, doubles
// or int64). A unit is loaded and stored by one access, of up to 16 bytes (two beyond that). The dtype of values is looked up at run time,
// once for all the units of a thread: every thread takes the same way, and one kernel serves all dtypes.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../device/raw.cuh"
#include "elements.h"

namespace rope {

template <int kFlight, class Unit>
__device__ __forceinline__ void load_raw(const char* source, const int64_t (&offset)[kFlight], const bool (&in)[kFlight],
                                         Unit (&units)[kFlight]) {
#pragma unroll
  for (int i = 0; i < kFlight; ++i) {
    if (in[i]) units[i] = *reinterpret_cast<const Unit*>(source + offset[i]);
  }
}

template <int kFlight, class Unit>
__device__ __forceinline__ void store_raw(char* target, const int64_t (&offset)[kFlight], const bool (&in)[kFlight],
                                          const Unit (&units)[kFlight]) {
#pragma unroll
  for (int i = 0; i < kFlight; ++i) {
    if (in[i]) *reinterpret_cast<Unit*>(target + offset[i]) = units[i];
  }
}

// ---- values ---------------------------------------------------------------------------------------------------------------------

template <class Value, int kUnit>
struct Values {
  Value at[kUnit];
};

template <class Element, class Value, int kUnit, int kFlight>
__device__ __forceinline__ void load_as(const char* source, const int64_t (&offset)[kFlight], const bool (&in)[kFlight],
                                        Values<Value, kUnit> (&units)[kFlight]) {
  using Bits = typename Element::Bits;
  Raw<kUnit * sizeof(Bits)> raw[kFlight]{};
  load_raw(source, offset, in, raw);
#pragma unroll
  for (int i = 0; i < kFlight; ++i) {
    Bits bits[kUnit];
    __builtin_memcpy(bits, &raw[i], sizeof bits);
#pragma unroll
    for (int j = 0; j < kUnit; ++j) units[i].at[j] = static_cast<Value>(Element::load(bits[j]));
  }
}

template <class Element, class Value, int kUnit, int kFlight>
__device__ __forceinline__ void store_as(char* target, const int64_t (&offset)[kFlight], const bool (&in)[kFlight],
                                         const Values<Value, kUnit> (&units)[kFlight]) {
  using Bits = typename Element::Bits;
  Raw<kUnit * sizeof(Bits)> raw[kFlight];
#pragma unroll
  for (int i = 0; i < kFlight; ++i) {
    Bits bits[kUnit];
#pragma unroll
    for (int j = 0; j < kUnit; ++j) bits[j] = Element::from(units[i].at[j]);
    __builtin_memcpy(&raw[i], bits, sizeof bits);
  }
  store_raw(target, offset, in, raw);
}

// float holds the elements of float32 and of all narrower dtypes, double float64's and int32's.
template <class Value, int kUnit, int kFlight>
__device__ __forceinline__ void load_units(int dtype, const char* source, const int64_t (&offset)[kFlight], const bool (&in)[kFlight],
                                           Values<Value, kUnit> (&units)[kFlight]) {
  if constexpr (std::is_same_v<Value, int64_t>) {
    load_as<Int64>(source, offset, in, units);
  } else if constexpr (std::is_same_v<Value, double>) {
    switch (dtype) {
      case ROPE_FLOAT64: return load_as<Float64>(source, offset, in, units);
      default: return load_as<Int32>(source, offset, in, units);
    }
  } else {
    switch (dtype) {
      case ROPE_FLOAT32: return load_as<Float32>(source, offset, in, units);
      case ROPE_FLOAT16: return load_as<Float16>(source, offset, in, units);
      case ROPE_BFLOAT16: return load_as<BFloat16>(source, offset, in, units);
      case ROPE_FLOAT8_E4M3FN: return load_as<Float8E4M3>(source, offset, in, units);
      case ROPE_FLOAT8_E5M2: return load_as<Float8E5M2>(source, offset, in, units);
      default: return load_as<UInt8>(source, offset, in, units);
    }
  }
}

template <class Value, int kUnit, int kFlight>
__device__ __forceinline__ void store_units(int dtype, char* target, const int64_t (&offset)[kFlight], const bool (&in)[kFlight],
                                            const Values<Value, kUnit> (&units)[kFlight]) {
  switch (dtype) {
    case ROPE_FLOAT64: return store_as<Float64>(target, offset, in, units);
    case ROPE_FLOAT32: return store_as<Float32>(target, offset, in, units);
    case ROPE_FLOAT16: return store_as<Float16>(target, offset, in, units);
    case ROPE_BFLOAT16: return store_as<BFloat16>(target, offset, in, units);
    case ROPE_FLOAT8_E4M3FN: return store_as<Float8E4M3>(target, offset, in, units);
    case ROPE_FLOAT8_E5M2: return store_as<Float8E5M2>(target, offset, in, units);
    case ROPE_INT64: return store_as<Int64>(target, offset, in, units);
    case ROPE_INT32: return store_as<Int32>(target, offset, in, units);
    default: return store_as<UInt8>(target, offset, in, units);
  }
}

}  // namespace rope
