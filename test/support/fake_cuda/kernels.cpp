// The CUDA backends of the operations: those of the CPU, run by the thread of a stream. A fault goes into the mailbox.
#include <atomic>
#include <functional>

#include "../../../csrc/device/cuda.h"
#include "../../../csrc/kv/shift.h"
#include "../../../csrc/kv/tables.h"
#include "../../../csrc/rope/pipeline.h"
#include "../../../csrc/rope/rotate.h"
#include "../../../csrc/tensor/copy.h"
#include "../../../csrc/tensor/fill.h"

namespace fake_cuda {
void submit(cudaStream_t stream, std::function<void()> work);
}

namespace rope {
namespace {

template <class Params>
void queue(const Params& params, const CudaLaunch& launch, rope_fault (*run)(const Params&), CudaOperation operation) {
  CudaMailbox* const mailbox = launch.mailbox;
  fake_cuda::submit(launch.stream, [params, mailbox, run, operation] {
    const rope_fault fault = run(params);
    uint32_t empty = 0;
    if (fault.code == ROPE_FAULT_NONE || !std::atomic_ref(mailbox->state).compare_exchange_strong(empty, 1u)) return;
    mailbox->operation = static_cast<uint32_t>(operation);
    mailbox->fault = fault;
    std::atomic_ref(mailbox->state).store(2u, std::memory_order_release);
  });
}

}  // namespace

void copy_cuda(const CopyParams& params, const CudaLaunch& launch) { queue(params, launch, copy_cpu, CudaOperation::none); }
void fill_cuda(const FillParams& params, const CudaLaunch& launch) { queue(params, launch, fill_cpu, CudaOperation::none); }
void rotate_cuda(const RotateParams& params, const CudaLaunch& launch) { queue(params, launch, rotate_cpu, CudaOperation::rotate); }
void pipeline_cuda(const PipelineParams& params, const CudaLaunch& launch) { queue(params, launch, pipeline_cpu, CudaOperation::rotate); }
void cos_sin_cuda(const CosSinParams& params, const CudaLaunch& launch) { queue(params, launch, cos_sin_cpu, CudaOperation::cos_sin); }
void shift_cuda(const ShiftParams& params, const CudaLaunch& launch) { queue(params, launch, shift_cpu, CudaOperation::shift); }
void seq_lens_cuda(const SeqLensParams& params, const CudaLaunch& launch) { queue(params, launch, seq_lens_cpu, CudaOperation::seq_lens); }
void batch_indices_cuda(const BatchIndicesParams& params, const CudaLaunch& launch) {
  queue(params, launch, batch_indices_cpu, CudaOperation::batch_indices);
}

}  // namespace rope
