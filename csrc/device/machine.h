// What the CPU device is: its memory, its cores, the instruction set its loops are chosen for.
#pragma once

#include <cstdint>

namespace rope {

enum class Isa { baseline, v3, v4 };

struct Machine {
  uint64_t memory_bytes;
  int cores;  // that this process may run on
  Isa isa;
  char description[128];
};

// Found out once, at first use. ROPE_CPU_ISA=baseline|v3 in the environment holds the choice down, for tests and comparisons.
const Machine& machine();

// Refuses a device that this library does not have.
void require_present(uint16_t device, const char* argument);

// Bytes that nobody uses at the moment.
uint64_t free_memory();

}  // namespace rope
