// Between the launchers of kernels that turn positions into angles and angle_table.cpp.
#pragma once

#include "angle_params.h"
#include "frequencies.h"

namespace rope {

// Fills a kernel's parameters, and sees to it that the table is on the device: in `inline_table` where it fits. Throws where the device's
// numbers would not do; `counted` has the tokens.
void set_angle_params(AngleNumbers* out, char* inline_table, size_t inline_bytes, const Positions& positions, int64_t tokens,
                      const char* counted, const FrequenciesRef& frequencies, bool hf, bool backward, const CudaLaunch& launch);

template <size_t kBytes>
void set_angle_params(AngleParamsOf<kBytes>* out, const Positions& positions, int64_t tokens, const char* counted,
                      const FrequenciesRef& frequencies, bool hf, bool backward, const CudaLaunch& launch) {
  set_angle_params(out, out->inline_table, kBytes, positions, tokens, counted, frequencies, hf, backward, launch);
}

}  // namespace rope
