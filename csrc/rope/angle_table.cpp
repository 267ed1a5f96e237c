// The frequencies as kernels read them, and their copies on devices. A copy is made when it is first needed, also while a graph is recorded,
// and freed with the frequencies; graphs hold on to those that they read.
#if defined(ROPE_HAVE_CUDA)

#include "angle_table.h"

#include <cstring>

#include "../core/dtypes.h"
#include "../device/cuda.h"

namespace rope {
namespace {

bool any_still(const Frequencies& f) {
  for (const auto& runs : f.runs) {
    for (const PairRun& run : runs) {
      if (run.still) return true;
    }
  }
  return false;
}

// Bytes of the three parts of a table.
struct Parts {
  size_t turns, turns_per_position, still;
  size_t bytes() const { return turns + turns_per_position + still; }
};

Parts parts_of(const Frequencies& f, bool with_fractions) {
  const size_t turns = static_cast<size_t>(f.count()) * sizeof(uint64_t);
  const size_t still = any_still(f) ? static_cast<size_t>((f.rows() * f.pairs + 31) / 32) * sizeof(uint32_t) : 0;
  return {turns, with_fractions ? turns : 0, still};
}

void write_table(const Frequencies& f, const Parts& parts, bool hf, char* out) {
  for (size_t i = 0; i < f.turns.size(); ++i) {
    const uint64_t entry = hf ? float_bits(f.inv_freq[i]) : f.turns[i];
    std::memcpy(out + i * sizeof entry, &entry, sizeof entry);
  }
  out += parts.turns;
  std::memcpy(out, f.turns_per_position.data(), parts.turns_per_position);
  out += parts.turns_per_position;
  if (parts.still == 0) return;
  std::memset(out, 0, parts.still);
  for (int64_t row = 0; row < f.rows(); ++row) {
    for (const PairRun& run : f.runs[static_cast<size_t>(row)]) {
      for (int64_t bit = row * f.pairs + run.begin; run.still && bit < row * f.pairs + run.end; ++bit) {
        out[bit / 8] = static_cast<char>(out[bit / 8] | 1 << (bit % 8));  // little-endian
      }
    }
  }
}

// cudaFree waits for the kernels that may still read it.
void free_table(const void* table) {
  const RelaxedCapture relaxed;
  cudaFree(const_cast<void*>(table));
}

std::shared_ptr<const void> copy_to_device(const std::vector<char>& table) {
  const RelaxedCapture relaxed;
  void* memory = nullptr;
  cuda_check(cudaMalloc(&memory, table.size()), "cudaMalloc");
  std::shared_ptr<const void> copy(static_cast<const void*>(memory), free_table);
  // Its own stream: the legacy one would wait for the streams of others.
  cudaStream_t stream = nullptr;
  cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  cudaError_t error = cudaMemcpyAsync(memory, table.data(), table.size(), cudaMemcpyHostToDevice, stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  cuda_check(error, "cudaMemcpyAsync");
  return copy;
}

std::shared_ptr<const void> table_on_device(const Frequencies& f, const Parts& parts, bool hf, int device) {
  const int number = device * 4 + (hf ? 2 : 0) + (parts.turns_per_position > 0 ? 1 : 0);
  const std::lock_guard lock(f.tables_mutex);
  std::shared_ptr<const void>& known = f.tables[number];
  if (!known) {
    std::vector<char> table(parts.bytes());
    write_table(f, parts, hf, table.data());
    known = copy_to_device(table);
  }
  return known;
}

}  // namespace

void set_angle_params(AngleNumbers* out, char* inline_table, size_t inline_bytes, const Positions& positions, int64_t tokens,
                      const char* counted, const FrequenciesRef& frequencies, bool hf, bool backward, const CudaLaunch& launch) {
  const Frequencies& f = *frequencies;
  if (tokens > kMaxTokens) {
    fail(ROPE_ARGUMENT, counted, text("at most 2^31 tokens on CUDA"), text("%lld", static_cast<long long>(tokens)),
         "Rotate slices of the tensor.");
  }
  if (f.count() > kMaxFrequencies) {
    fail(ROPE_ARGUMENT, "frequencies", text("at most 2^26 numbers on CUDA"), text("%lld", static_cast<long long>(f.count())));
  }
  out->positions = positions;
  out->hf = hf;
  out->fractional = positions.ids != nullptr && positions.dtype == ROPE_FLOAT32;
  const Parts parts = parts_of(f, out->fractional && !hf);
  out->axes = static_cast<int32_t>(f.axes);
  out->axis_stride = static_cast<int32_t>(f.rows() * f.pairs);
  out->still_at = parts.still > 0 ? static_cast<int32_t>(parts.turns + parts.turns_per_position) : 0;
  out->cos_factor_double = f.attention_factor;
  out->sin_factor_double = backward ? -f.attention_factor : f.attention_factor;
  out->cos_factor = static_cast<float>(out->cos_factor_double);
  out->sin_factor = static_cast<float>(out->sin_factor_double);
  out->mailbox = launch.mailbox;
  out->table = nullptr;
  if (parts.bytes() <= inline_bytes) return write_table(f, parts, hf, inline_table);
  const std::shared_ptr<const void> table = table_on_device(f, parts, hf, launch.device);
  out->table = static_cast<const char*>(table.get());
  keep_with_graph(launch, table);
}

}  // namespace rope

#endif
