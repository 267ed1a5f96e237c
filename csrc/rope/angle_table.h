// Between the launchers of kernels that turn positions into angles and angle_table.cpp.
#pragma once

#include "angle_params.h"
#include "frequencies.h"

namespace rope {

// Fills a kernel's parameters, and sees to it that the table is on the device. Throws where the device's numbers would not do; `counted` has the tokens.
void set_angle_params(AngleParams* out, const Positions& positions, int64_t tokens, const char* counted, const FrequenciesRef& frequencies,
                      bool hf, bool backward, const CudaLaunch& launch);

}  // namespace rope
