// Where a token goes in a paged cache, by a slot of its own or through its request's pages. Checked once for shape; what stands in the tables is
// compared with its limit for every token, on the CPU and on the device by the same function.
#pragma once

#include <cstdint>

#include "../core/inline.h"
#include "../rope/positions.h"

namespace rope {

struct Pages {
  Indices slots;   // [nnz], or the four below
  Indices indptr;  // [requests + 1], of ids
  Indices ids;     // [count], of pages
  Indices batch;   // [nnz]
  Indices places;  // [nnz]
  int64_t pages = 0;
  int64_t page_size = 0;
};

struct Slot {
  int64_t page;
  int64_t place;  // in it
};

// a / b and what is left, of numbers from 0. Those of 32 bits, as nearly all are, take a GPU a tenth of the time.
ROPE_INLINE Slot divide(int64_t a, int64_t b) {
  if (static_cast<uint64_t>(a | b) <= UINT32_MAX) {
    const uint32_t quotient = static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return {quotient, static_cast<uint32_t>(a) - quotient * static_cast<uint32_t>(b)};
  }
  return {a / b, a % b};
}

enum class Stored { yes, no, fault };

ROPE_INLINE int64_t entry_of(const Indices& indices, int64_t i) {
  const int64_t at = i * indices.stride;
  return indices.wide ? static_cast<const int64_t*>(indices.data)[at] : static_cast<const int32_t*>(indices.data)[at];
}

// What the tables say of a token, read first of all: on a GPU it takes a while.
struct Wanted {
  int64_t slot, request, place;
};

ROPE_INLINE Wanted wanted_of(const Pages& p, int64_t token) {
  if (p.slots.data != nullptr) return {entry_of(p.slots, token), 0, 0};
  return {0, entry_of(p.batch, token), entry_of(p.places, token)};
}

ROPE_INLINE Stored find_slot(const Pages& p, int64_t token, const Wanted& wanted, Slot* slot, rope_fault* fault) {
  if (p.slots.data != nullptr) {
    const int64_t value = wanted.slot, limit = p.pages * p.page_size;
    if (value == -1) return Stored::no;
    if (value < 0 || value >= limit) {
      *fault = {ROPE_FAULT_SLOT, 0, 0, token, value, limit};
      return Stored::fault;
    }
    *slot = divide(value, p.page_size);
    return Stored::yes;
  }
  const int64_t request = wanted.request, place = wanted.place, requests = p.indptr.count - 1;
  if (request == -1) return Stored::no;
  if (request < 0 || request >= requests) {
    *fault = {ROPE_FAULT_REQUEST, 0, request, token, request, requests};
    return Stored::fault;
  }
  const int64_t begin = entry_of(p.indptr, request), end = entry_of(p.indptr, request + 1);
  if (begin < 0 || begin > p.ids.count) {
    *fault = {ROPE_FAULT_PAGES, 0, request, request, begin, p.ids.count};
    return Stored::fault;
  }
  if (end < begin || end > p.ids.count) {
    *fault = {ROPE_FAULT_PAGES, 0, request, request + 1, end, p.ids.count};
    return Stored::fault;
  }
  // The division first: a place may be any 64-bit number.
  const Slot found = divide(place < 0 ? 0 : place, p.page_size);
  if (place < 0 || found.page >= end - begin) {
    *fault = {ROPE_FAULT_PLACE, 0, request, token, place, (end - begin) * p.page_size};
    return Stored::fault;
  }
  const int64_t id = entry_of(p.ids, begin + found.page);
  if (id < 0 || id >= p.pages) {
    *fault = {ROPE_FAULT_PAGE, 0, request, begin + found.page, id, p.pages};
    return Stored::fault;
  }
  *slot = {id, found.place};
  return Stored::yes;
}

}  // namespace rope
