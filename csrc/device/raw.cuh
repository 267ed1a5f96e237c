// What one access moves: a type of 1 to 16 bytes that the hardware loads and stores at once, or two of 16.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace rope {

template <int kBytes>
struct RawOf;
template <>
struct RawOf<1> {
  using Type = uint8_t;
};
template <>
struct RawOf<2> {
  using Type = uint16_t;
};
template <>
struct RawOf<4> {
  using Type = uint32_t;
};
template <>
struct RawOf<8> {
  using Type = uint2;
};
template <>
struct RawOf<16> {
  using Type = uint4;
};
template <>
struct RawOf<32> {
  struct Type {
    uint4 low;
    uint4 high;
  };
};
template <int kBytes>
using Raw = typename RawOf<kBytes>::Type;

}  // namespace rope
