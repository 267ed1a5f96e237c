// rope_seq_lens and rope_batch_indices: checks, then the backend.
#include "tables_api.h"

#include "../device/stream.h"
#include "tables.h"

namespace rope {

Indices check_per_request(const Tensor& tensor, const char* argument, int64_t requests, uint16_t device, const char* like) {
  const Indices indices = check_indices(tensor, argument, device, like);
  require_shape(tensor, argument, {requests}, "[requests]");
  return indices;
}

Indices check_table_indptr(const Tensor& tensor, const char* argument, uint16_t device, const char* like) {
  const Indices indptr = check_indices(tensor, argument, device, like);
  require(indptr.count >= 1, argument, "at least one entry, a 0", "none");
  return indptr;
}

void require_memory_apart(const Tensor& written, const char* argument, const Tensor& other, const char* other_name) {
  if (overlap(written, other)) fail(ROPE_ARGUMENT, argument, text("memory apart from %s", other_name), text("shared memory"));
}

namespace {

// A vector of int32 that is written.
Tensor check_result(const rope_tensor_ref& reference, const char* argument, uint16_t device, const char* like) {
  const Tensor tensor = resolve(reference, argument);
  require_dtype(tensor, argument, {ROPE_INT32});
  require_device(tensor, argument, device, like);
  if (tensor.rank != 1) fail(ROPE_ARGUMENT, argument, text("of rank 1"), shape_text(tensor));
  require(!overlaps_itself(tensor), argument, "a tensor whose elements are apart", "one that holds an element twice");
  return tensor;
}

void seq_lens(const rope_seq_lens_args& a) {
  const Tensor indptr = resolve(a.page_indptr, "page_indptr"), last = resolve(a.last_page_len, "last_page_len");
  SeqLensParams p{};
  p.table.indptr = check_table_indptr(indptr, "page_indptr", indptr.device, "page_indptr");
  const int64_t requests = p.table.indptr.count - 1;
  p.table.last_page_len = check_per_request(last, "last_page_len", requests, indptr.device, "page_indptr");
  p.table.entries = INT64_MAX;
  p.table.page_size = a.page_size;
  if (a.page_size < 1) fail(ROPE_ARGUMENT, "page_size", text("1 or more"), text("%lld", static_cast<long long>(a.page_size)));
  const Tensor out = check_result(a.seq_lens, "seq_lens", indptr.device, "page_indptr");
  require_shape(out, "seq_lens", {requests}, "[requests]");
  require_memory_apart(out, "seq_lens", indptr, "page_indptr");
  require_memory_apart(out, "seq_lens", last, "last_page_len");
  p.seq_lens = reinterpret_cast<int32_t*>(out.data);
  p.stride = out.stride[0];
  submit(indptr.device, stream_of(a.stream, indptr.device), "rope_seq_lens", seq_lens_cpu, ROPE_CUDA_LAUNCHER(seq_lens_cuda), p);
}

void batch_indices(const rope_batch_indices_args& a) {
  const Tensor indptr = resolve(a.indptr, "indptr"), lengths = resolve(a.seq_lens, "seq_lens");
  BatchIndicesParams p{};
  p.indptr = check_table_indptr(indptr, "indptr", indptr.device, "indptr");
  p.seq_lens = check_per_request(lengths, "seq_lens", p.indptr.count - 1, indptr.device, "indptr");
  const Tensor batch = check_result(a.batch_indices, "batch_indices", indptr.device, "indptr");
  const Tensor places = check_result(a.places, "places", indptr.device, "indptr");
  require_shape(places, "places", {batch.shape[0]}, "[nnz], as batch_indices");
  for (const Tensor* out : {&batch, &places}) {
    const char* const name = out == &batch ? "batch_indices" : "places";
    require_memory_apart(*out, name, indptr, "indptr");
    require_memory_apart(*out, name, lengths, "seq_lens");
  }
  require_memory_apart(places, "places", batch, "batch_indices");
  p.batch_indices = reinterpret_cast<int32_t*>(batch.data);
  p.places = reinterpret_cast<int32_t*>(places.data);
  p.batch_stride = batch.stride[0];
  p.place_stride = places.stride[0];
  p.tokens = batch.shape[0];
  submit(indptr.device, stream_of(a.stream, indptr.device), "rope_batch_indices", batch_indices_cpu, ROPE_CUDA_LAUNCHER(batch_indices_cuda),
         p);
}

}  // namespace
}  // namespace rope

extern "C" {

int32_t rope_seq_lens(const rope_seq_lens_args* args, rope_error* error) {
  return rope::guard("rope_seq_lens", error, [&] { rope::seq_lens(rope::read_block(args)); });
}

int32_t rope_batch_indices(const rope_batch_indices_args* args, rope_error* error) {
  return rope::guard("rope_batch_indices", error, [&] { rope::batch_indices(rope::read_block(args)); });
}

}  // extern "C"
