// How long the requests of a page table are, and which request tokens that are appended belong to: rope_seq_lens and rope_batch_indices. The
// functions that read a request's entries are those of both devices; every number is compared with its limit before it is used.
#pragma once

#include <cstdint>

#include "pages.h"

namespace rope {

struct CudaLaunch;

// ---- requests of a page table -----------------------------------------------------------------------------------------------------------

struct PageTable {
  Indices indptr;         // [requests + 1]
  Indices last_page_len;  // [requests]
  int64_t entries = 0;    // how far indptr may go; INT64_MAX where there are no page ids to count
  int64_t page_size = 0;
};

struct PageRange {  // of a request: entries [begin, end)
  int64_t begin;
  int64_t end;
};

// False, and what to report, where indptr is out of order at this request.
ROPE_INLINE bool read_pages(const PageTable& t, int64_t request, PageRange* pages, rope_fault* fault) {
  const int64_t begin = entry_of(t.indptr, request), end = entry_of(t.indptr, request + 1);
  *pages = {begin, end};
  if (begin >= 0 && begin <= end && end <= t.entries) return true;
  const bool first = begin < 0 || begin > t.entries;
  *fault = {ROPE_FAULT_PAGES, 0, request, first ? request : request + 1, first ? begin : end, t.entries};
  return false;
}

// The places of the last page: 1 to page_size, 0 exactly where there are no pages.
ROPE_INLINE bool read_last_page(const PageTable& t, int64_t request, const PageRange& pages, int64_t* places, rope_fault* fault) {
  *places = entry_of(t.last_page_len, request);
  if (pages.begin == pages.end ? *places == 0 : *places >= 1 && *places <= t.page_size) return true;
  *fault = {ROPE_FAULT_LENGTH, 0, request, request, *places, t.page_size};
  return false;
}

// ---- rope_seq_lens ------------------------------------------------------------------------------------------------------------------------

struct SeqLensParams {
  PageTable table;
  int32_t* seq_lens;  // [requests]
  int64_t stride;     // elements
};

ROPE_INLINE bool find_seq_len(const PageTable& t, int64_t request, int32_t* length, rope_fault* fault) {
  PageRange pages;
  int64_t last;
  if (!read_pages(t, request, &pages, fault) || !read_last_page(t, request, pages, &last, fault)) return false;
  const int64_t full = pages.end > pages.begin ? pages.end - pages.begin - 1 : 0;
  // Division, because the product may not fit. last <= page_size, so what is reported fits if the product of full + 1 does.
  if (last > INT32_MAX || full > (INT32_MAX - last) / t.page_size) {
    const int64_t value = full < INT64_MAX / t.page_size ? full * t.page_size + last : INT64_MAX;
    *fault = {ROPE_FAULT_LENGTH, 0, request, request, value, INT32_MAX};
    return false;
  }
  *length = static_cast<int32_t>(full * t.page_size + last);
  return true;
}

// Good requests are written. The CPU returns the first fault; a kernel leaves one in the mailbox.
rope_fault seq_lens_cpu(const SeqLensParams& params);
void seq_lens_cuda(const SeqLensParams& params, const CudaLaunch& launch);

// ---- rope_batch_indices ---------------------------------------------------------------------------------------------------------------------

struct BatchIndicesParams {
  Indices indptr;          // [requests + 1], of tokens
  Indices seq_lens;        // [requests]
  int32_t* batch_indices;  // [tokens]
  int32_t* places;         // [tokens]
  int64_t batch_stride;    // elements
  int64_t place_stride;
  int64_t tokens;
};

// Whether a request that is `length` long can end with the tokens [begin, end), with places that int32 holds.
ROPE_INLINE bool check_length(int64_t request, int64_t begin, int64_t end, int64_t length, rope_fault* fault) {
  constexpr int64_t kMost = int64_t{1} << 31;
  const int64_t appended = end - begin;
  if (length >= appended && (length <= kMost || appended == 0)) return true;
  *fault = {ROPE_FAULT_LENGTH, 0, request, request, length, length < appended ? appended : kMost};
  return false;
}

// Tokens of a request that is too short stay as they are, and where indptr is out of order those that no sound request owns.
rope_fault batch_indices_cpu(const BatchIndicesParams& params);
void batch_indices_cuda(const BatchIndicesParams& params, const CudaLaunch& launch);

}  // namespace rope
