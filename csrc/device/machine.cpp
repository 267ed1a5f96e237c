#include "machine.h"

#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../core/status.h"

namespace rope {
namespace {

Isa detect_isa() {
  Isa isa = Isa::baseline;
#if defined(ROPE_HAVE_ISA_V3)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c")) {
    isa = Isa::v3;
  }
#endif
#if defined(ROPE_HAVE_ISA_V4)
  if (isa == Isa::v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd")) {
    isa = Isa::v4;
  }
#endif
  const char* const wish = std::getenv("ROPE_CPU_ISA");
  if (wish != nullptr && std::strcmp(wish, "baseline") == 0) return Isa::baseline;
  if (wish != nullptr && std::strcmp(wish, "v3") == 0 && isa == Isa::v4) return Isa::v3;
  return isa;
}

int count_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<int>(online) : 1;
}

void read_model(char* model, size_t capacity) {
  std::snprintf(model, capacity, "CPU");
  std::FILE* const file = std::fopen("/proc/cpuinfo", "r");
  if (file == nullptr) return;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    const char* const colon = std::strchr(line, ':');
    if (std::strncmp(line, "model name", 10) != 0 || colon == nullptr) continue;
    std::snprintf(model, capacity, "%.*s", static_cast<int>(std::strcspn(colon + 2, "\n")), colon + 2);
    break;
  }
  std::fclose(file);
}

Machine detect() {
  Machine machine{};
  machine.memory_bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  machine.cores = count_cores();
  machine.isa = detect_isa();
  char model[80];
  read_model(model, sizeof model);
  const char* const names[] = {"baseline", "x86-64-v3", "x86-64-v4"};
  std::snprintf(machine.description, sizeof machine.description, "%s, %d %s, %s", model, machine.cores,
                machine.cores == 1 ? "core" : "cores", names[static_cast<int>(machine.isa)]);
  return machine;
}

}  // namespace

const Machine& machine() {
  static const Machine instance = detect();
  return instance;
}

uint64_t free_memory() { return static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

void require_present(uint16_t device, const char* argument) {
  if (device == ROPE_CPU << 8) return;
  fail(ROPE_DEVICE, argument, text("cpu"), text("%s:%u", device >> 8 == ROPE_CUDA ? "cuda" : "unknown device", device & 255),
       "This librope was built without CUDA.");
}

}  // namespace rope
