// The params of rope_shift: checked, trusted by the backends but for what stands in the tables.
//
// Three passes: every page is nobody's; every entry of the table claims its page for its request, or finds it claimed; every entry turns its
// page if that is its request's alone. So no page is turned twice, whatever the table says, and pages need no order.
#pragma once

#include <cstdint>

#include "../rope/frequencies.h"
#include "tables.h"

namespace rope {

struct CudaLaunch;

constexpr int32_t kNobody = -1, kShared = -2;  // in place of an owner

struct ShiftTable {
  PageTable table;
  Indices ids;     // [entries], of pages
  Indices deltas;  // [requests]; null: delta
  int64_t delta = 0;
  int64_t pages = 0;
  int32_t* owners = nullptr;  // [pages], the request that each page belongs to
};

struct ShiftParams {
  ShiftTable table;
  char* cache;  // [pages, page_size, heads, head_dim]
  int64_t heads;
  int64_t page_stride, place_stride, head_stride;  // elements
  int64_t head_dim;
  int64_t rotary_offset;
  int dtype;
  bool interleaved;  // pairs (2j, 2j + 1); else halves
  bool hf;           // angles as Hugging Face computes them
  bool backward;     // sin negated
  FrequenciesRef frequencies;
};

// How far a request's keys turn.
ROPE_INLINE bool read_delta(const ShiftTable& t, int64_t request, int64_t* delta, rope_fault* fault) {
  *delta = t.deltas.data != nullptr ? entry_of(t.deltas, request) : t.delta;
  if (*delta >= -ROPE_MAX_POSITION && *delta <= ROPE_MAX_POSITION) return true;
  *fault = {ROPE_FAULT_POSITION, 0, request, request, *delta, ROPE_MAX_POSITION};
  return false;
}

// What the entries of a request claim, and whether anything else is wrong with it: then its pages are claimed, but not turned.
ROPE_INLINE bool read_claims(const ShiftTable& t, int64_t request, PageRange* pages, rope_fault* fault) {
  if (!read_pages(t.table, request, pages, fault)) {
    *pages = {0, 0};
    return false;
  }
  int64_t last, delta;
  return read_last_page(t.table, request, *pages, &last, fault) && read_delta(t, request, &delta, fault);
}

ROPE_INLINE bool read_page(const ShiftTable& t, int64_t request, int64_t entry, int64_t* page, rope_fault* fault) {
  *page = entry_of(t.ids, entry);
  if (*page >= 0 && *page < t.pages) return true;
  *fault = {ROPE_FAULT_PAGE, 0, request, entry, *page, t.pages};
  return false;
}

ROPE_INLINE rope_fault shared_page(const ShiftTable& t, int64_t request, int64_t entry, int64_t page) {
  return {ROPE_FAULT_SHARED, 0, request, entry, page, t.pages};
}

struct Turn {
  int64_t page;
  int64_t places;  // the first of the page turn; 0: none do
  int64_t delta;
};

// What an entry has to turn, once all have claimed. No number is trusted, not even the owner: others may write to that memory meanwhile.
ROPE_INLINE Turn find_turn(const ShiftTable& t, int64_t entry) {
  constexpr Turn kNone{0, 0, 0};
  Turn turn;
  PageRange pages;
  rope_fault known;
  if (!read_page(t, 0, entry, &turn.page, &known)) return kNone;
  const int64_t request = t.owners[turn.page];
  if (request < 0 || request >= t.table.indptr.count - 1) return kNone;
  if (!read_pages(t.table, request, &pages, &known) || entry < pages.begin || entry >= pages.end) return kNone;
  if (!read_last_page(t.table, request, pages, &turn.places, &known) || !read_delta(t, request, &turn.delta, &known)) return kNone;
  if (turn.delta == 0) return kNone;
  if (entry < pages.end - 1) turn.places = t.table.page_size;
  return turn;
}

// A pair that its delta does not turn keeps its bits.
ROPE_INLINE bool stands_still(float cos, float sin) { return cos == 1.0f && sin == 0.0f; }

// The CPU returns the first fault; a kernel leaves one in the mailbox.
rope_fault shift_cpu(const ShiftParams& params);
void shift_cuda(const ShiftParams& params, const CudaLaunch& launch);

}  // namespace rope
