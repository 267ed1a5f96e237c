// rope_shift: checks, then the backend.
#include "../core/dtypes.h"
#include "../device/stream.h"
#include "shift.h"
#include "tables_api.h"

namespace rope {
namespace {

Tensor check_cache(const rope_tensor_ref& reference) {
  const Tensor cache = resolve(reference, "cache");
  require_dtype(cache, "cache", {ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT32, ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2});
  if (cache.rank != 4) fail(ROPE_ARGUMENT, "cache", text("[pages, page_size, H, D]"), shape_text(cache));
  require(cache.shape[1] > 0, "cache", "a cache whose pages have places", "pages of size 0");
  require_last_stride(cache, "cache");
  require(!overlaps_itself(cache), "cache", "a tensor whose elements are apart", "one that holds an element twice");
  return cache;
}

void check_frequencies(const Frequencies& f, const Tensor& cache) {
  if (f.axes != 1) fail(ROPE_ARGUMENT, "frequencies", text("of one axis"), text("%lld axes", static_cast<long long>(f.axes)));
  if (f.heads > 0 && f.heads != cache.shape[2]) {
    fail(ROPE_ARGUMENT, "cache", text("a cache of %lld heads, as the frequencies have", static_cast<long long>(f.heads)),
         text("%lld heads", static_cast<long long>(cache.shape[2])));
  }
}

int32_t* check_owners(const Tensor& owners, const Tensor& cache) {
  require_dtype(owners, "owners", {ROPE_INT32});
  require_device(owners, "owners", cache.device, "cache");
  require_shape(owners, "owners", {cache.shape[0]}, "[pages]");
  require(owners.shape[0] <= 1 || owners.stride[0] == 1, "owners", "contiguous", "strided");
  return reinterpret_cast<int32_t*>(owners.data);
}

void shift(const rope_shift_args& a) {
  if ((a.flags & ~static_cast<uint32_t>(ROPE_CONJUGATE)) != 0)
    fail(ROPE_ARGUMENT, "flags", text("0 or ROPE_CONJUGATE"), text("%u", a.flags));
  if (a.pairing > ROPE_INTERLEAVED_TO_HALF) fail(ROPE_ARGUMENT, "pairing", text("a rope_pairing"), text("%u", a.pairing));
  if (a.angles > ROPE_HF) fail(ROPE_ARGUMENT, "angles", text("rope_angles"), text("%u", a.angles));

  ShiftParams p{};
  p.frequencies = find_frequencies(a.frequencies);
  const Tensor cache = check_cache(a.cache);
  check_frequencies(*p.frequencies, cache);
  check_slice(cache.shape[3], a.rotary_offset, 2 * p.frequencies->pairs);
  const Tensor indptr = resolve(a.page_indptr, "page_indptr"), ids = resolve(a.page_indices, "page_indices"),
               last = resolve(a.last_page_len, "last_page_len"), owners = resolve(a.owners, "owners");
  ShiftTable& t = p.table;
  t.table.indptr = check_table_indptr(indptr, "page_indptr", cache.device, "cache");
  const int64_t requests = t.table.indptr.count - 1;
  if (requests > INT32_MAX) {  // their numbers stand in owners
    fail(ROPE_ARGUMENT, "page_indptr", text("a table of at most %d requests", INT32_MAX), text("%lld", static_cast<long long>(requests)));
  }
  t.ids = check_indices(ids, "page_indices", cache.device, "cache");
  t.table.last_page_len = check_per_request(last, "last_page_len", requests, cache.device, "cache");
  t.table.entries = t.ids.count;
  t.table.page_size = cache.shape[1];
  t.pages = cache.shape[0];
  t.owners = check_owners(owners, cache);
  t.delta = a.delta;

  const auto require_apart = [&](const Tensor& table, const char* name) {
    require_memory_apart(cache, "cache", table, name);
    require_memory_apart(owners, "owners", table, name);
  };
  require_apart(indptr, "page_indptr");
  require_apart(ids, "page_indices");
  require_apart(last, "last_page_len");
  if (given(a.deltas)) {
    require(a.delta == 0, "delta", "absent where deltas are given", "both");
    const Tensor deltas = resolve(a.deltas, "deltas");
    t.deltas = check_per_request(deltas, "deltas", requests, cache.device, "cache");
    require_apart(deltas, "deltas");
  }
  require_memory_apart(owners, "owners", cache, "cache");

  p.cache = cache.data;
  p.heads = cache.shape[2];
  p.page_stride = cache.stride[0];
  p.place_stride = cache.stride[1];
  p.head_stride = cache.stride[2];
  p.head_dim = cache.shape[3];
  p.rotary_offset = a.rotary_offset;
  p.dtype = cache.dtype;
  p.interleaved = a.pairing == ROPE_INTERLEAVED;
  p.hf = a.angles == ROPE_HF;
  p.backward = (a.flags & ROPE_CONJUGATE) != 0;
  submit(cache.device, stream_of(a.stream, cache.device), "rope_shift", shift_cpu, ROPE_CUDA_LAUNCHER(shift_cuda), p);
}

}  // namespace
}  // namespace rope

extern "C" int32_t rope_shift(const rope_shift_args* args, rope_error* error) {
  return rope::guard("rope_shift", error, [&] { rope::shift(rope::read_block(args)); });
}
