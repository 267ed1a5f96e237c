// rope_seq_lens and rope_batch_indices as a C program sees them: what they compute, what they refuse, and what a hostile table leaves as it was.
#include "check.h"

// ---- rope_seq_lens --------------------------------------------------------------------------------------------------------

static void test_seq_lens(void) {
  // Requests of 2, 0 and 3 pages.
  static int32_t indptr[4] = {0, 2, 2, 5}, last[3] = {3, 0, 16};
  static int64_t wide[4] = {7, 9, 9, 12};
  int32_t* const out = (int32_t*)fenced(6 * sizeof(int32_t));
  rope_tensor p = vector(indptr, ROPE_INT32, 4), l = vector(last, ROPE_INT32, 3), o = vector(out, ROPE_INT32, 3);
  rope_seq_lens_args a;
  START(a);
  a.page_indptr = ref(&p);
  a.last_page_len = ref(&l);
  a.seq_lens = ref(&o);
  a.page_size = 16;
  CHECK_OK(rope_seq_lens(&a, record()));
  CHECK(out[0] == 19 && out[1] == 0 && out[2] == 48 && poisoned(out + 3, 3 * sizeof(int32_t)));
  // A table need not begin with 0; the result may have gaps, which stay.
  p = vector(wide, ROPE_INT64, 4);
  o.stride[0] = 2;
  o.extent = 20;
  memset(out, kPoison, 6 * sizeof(int32_t));
  CHECK_OK(rope_seq_lens(&a, record()));
  CHECK(out[0] == 19 && out[2] == 0 && out[4] == 48 && poisoned(out + 1, 4) && poisoned(out + 3, 4) && poisoned(out + 5, 4));
  CHECK(fences_whole(out, 6 * sizeof(int32_t)));

  // Each request that is wrong, beside ones that are right.
#define SEQ_LENS_FAULT(change, good, code, request, index, value, limit)                           \
  do {                                                                                             \
    wide[0] = 7, wide[1] = 9, wide[2] = 9, wide[3] = 12, last[0] = 3, last[1] = 0, last[2] = 16;   \
    a.page_size = 16;                                                                              \
    memset(out, kPoison, 6 * sizeof(int32_t));                                                     \
    change;                                                                                        \
    CHECK_ERROR(ROPE_FAULT, "", rope_seq_lens(&a, record()));                                      \
    CHECK_FAULT(code, request, index, value, limit);                                               \
    check(good, __FILE__, __LINE__, "good requests are written, bad ones not: " #change);          \
    CHECK(poisoned(out + 1, 4) && poisoned(out + 3, 4) && fences_whole(out, 6 * sizeof(int32_t))); \
  } while (0)
  SEQ_LENS_FAULT(last[0] = 17, poisoned(out, 4) && out[2] == 0 && out[4] == 48, ROPE_FAULT_LENGTH, 0, 0, 17, 16);
  SEQ_LENS_FAULT(last[0] = -1, poisoned(out, 4) && out[2] == 0 && out[4] == 48, ROPE_FAULT_LENGTH, 0, 0, -1, 16);
  SEQ_LENS_FAULT(last[2] = 0, out[0] == 19 && out[2] == 0 && poisoned(out + 4, 4), ROPE_FAULT_LENGTH, 2, 2, 0, 16);
  SEQ_LENS_FAULT(last[1] = 1, out[0] == 19 && poisoned(out + 2, 4) && out[4] == 48, ROPE_FAULT_LENGTH, 1, 1, 1, 16);
  SEQ_LENS_FAULT(wide[0] = -1, poisoned(out, 4) && out[2] == 0 && out[4] == 48, ROPE_FAULT_PAGES, 0, 0, -1, INT64_MAX);
  SEQ_LENS_FAULT(wide[0] = INT64_MIN, poisoned(out, 4) && out[2] == 0, ROPE_FAULT_PAGES, 0, 0, INT64_MIN, INT64_MAX);
  SEQ_LENS_FAULT(wide[1] = 6, poisoned(out, 4) && poisoned(out + 2, 4) && out[4] == 48, ROPE_FAULT_PAGES, 0, 1, 6, INT64_MAX);
  SEQ_LENS_FAULT(wide[3] = 8, out[0] == 19 && out[2] == 0 && poisoned(out + 4, 4), ROPE_FAULT_PAGES, 2, 3, 8, INT64_MAX);
  // Lengths beyond int32, and beyond any number.
  SEQ_LENS_FAULT(wide[3] = wide[2] + (INT64_C(1) << 27) + 1, poisoned(out + 4, 4), ROPE_FAULT_LENGTH, 2, 2, (INT64_C(1) << 31) + 16,
                 INT32_MAX);
  SEQ_LENS_FAULT(wide[3] = INT64_MAX, out[0] == 19 && poisoned(out + 4, 4), ROPE_FAULT_LENGTH, 2, 2, INT64_MAX, INT32_MAX);
  SEQ_LENS_FAULT(a.page_size = INT64_MAX, poisoned(out, 4) && out[2] == 0, ROPE_FAULT_LENGTH, 0, 0, INT64_MAX, INT32_MAX);
  a.page_size = 16;
  wide[3] = wide[2] + (INT64_C(1) << 27);
  last[2] = 15;
  CHECK_OK(rope_seq_lens(&a, record()));
  CHECK(out[4] == INT32_MAX);

  // No requests; and what is refused.
  p.shape[0] = 1;
  l.shape[0] = o.shape[0] = 0;
  CHECK_OK(rope_seq_lens(&a, record()));
  p.shape[0] = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "page_indptr", rope_seq_lens(&a, record()));
  p.shape[0] = 4;
  CHECK_ERROR(ROPE_ARGUMENT, "last_page_len", rope_seq_lens(&a, record()));
  l.shape[0] = 3;
  CHECK_ERROR(ROPE_ARGUMENT, "seq_lens", rope_seq_lens(&a, record()));
  o.shape[0] = 3;
  a.page_size = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "page_size", rope_seq_lens(&a, record()));
  a.page_size = 16;
  o.dtype = ROPE_INT64;
  CHECK_ERROR(ROPE_ARGUMENT, "seq_lens", rope_seq_lens(&a, record()));
  o.dtype = ROPE_INT32;
  o.data = l.data;
  CHECK_ERROR(ROPE_ARGUMENT, "seq_lens", rope_seq_lens(&a, record()));
  o.data = rope_address(out);
  o.stride[0] = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "seq_lens", rope_seq_lens(&a, record()));
  o.stride[0] = 2;
  l.dtype = ROPE_FLOAT32;
  CHECK_ERROR(ROPE_ARGUMENT, "last_page_len", rope_seq_lens(&a, record()));
  l.dtype = ROPE_INT32;
  l.device = ROPE_CUDA << 8;
  CHECK_ERROR(ROPE_DEVICE, "last_page_len", rope_seq_lens(&a, record()));
  a.last_page_len = no_tensor();
  CHECK_ERROR(ROPE_ARGUMENT, "last_page_len", rope_seq_lens(&a, record()));
  free_fenced(out);
}

// ---- rope_batch_indices ---------------------------------------------------------------------------------------------------

enum { kTokens = 8 };

static int is_token(const int32_t* batch, const int32_t* places, int token, int32_t request, int32_t place) {
  return batch[token] == request && places[2 * token] == place;
}

static void test_batch_indices(void) {
  // Tokens 1, 2 of request 0, none of request 1, 3 to 5 of request 2; 0, 6 and 7 of none.
  static int64_t indptr[4] = {1, 3, 3, 6};
  static int32_t narrow[4] = {0, 2, 4, 8}, lengths32[3] = {2, 2, 4};
  static int64_t lengths[3] = {10, 5, 3};
  const size_t batch_bytes = kTokens * sizeof(int32_t), place_bytes = 2 * kTokens * sizeof(int32_t);
  int32_t* const batch = (int32_t*)fenced(batch_bytes);
  int32_t* const places = (int32_t*)fenced(place_bytes);  // every other one
  rope_tensor ip = vector(indptr, ROPE_INT64, 4), l = vector(lengths, ROPE_INT64, 3), b = vector(batch, ROPE_INT32, kTokens);
  rope_tensor q = vector(places, ROPE_INT32, kTokens);
  rope_batch_indices_args a;
  int token, gaps = 1;
  q.stride[0] = 2;
  q.extent = place_bytes;
  START(a);
  a.indptr = ref(&ip);
  a.seq_lens = ref(&l);
  a.batch_indices = ref(&b);
  a.places = ref(&q);
  CHECK_OK(rope_batch_indices(&a, record()));
  CHECK(is_token(batch, places, 0, -1, -1) && is_token(batch, places, 6, -1, -1) && is_token(batch, places, 7, -1, -1));
  CHECK(is_token(batch, places, 1, 0, 8) && is_token(batch, places, 2, 0, 9));
  CHECK(is_token(batch, places, 3, 2, 0) && is_token(batch, places, 4, 2, 1) && is_token(batch, places, 5, 2, 2));
  for (token = 0; token < kTokens; ++token) gaps &= poisoned(places + 2 * token + 1, 4);
  CHECK(gaps && fences_whole(batch, batch_bytes) && fences_whole(places, place_bytes));
  ip = vector(narrow, ROPE_INT32, 4);
  l = vector(lengths32, ROPE_INT32, 3);
  CHECK_OK(rope_batch_indices(&a, record()));
  CHECK(is_token(batch, places, 0, 0, 0) && is_token(batch, places, 3, 1, 1) && is_token(batch, places, 4, 2, 0));
  CHECK(is_token(batch, places, 7, 2, 3));
  ip = vector(indptr, ROPE_INT64, 4);
  l = vector(lengths, ROPE_INT64, 3);

#define BATCH_FAULT(change, good, code, request, index, value, limit)                                        \
  do {                                                                                                       \
    indptr[0] = 1, indptr[1] = 3, indptr[2] = 3, indptr[3] = 6, lengths[0] = 10, lengths[1] = 5;             \
    lengths[2] = 3;                                                                                          \
    memset(batch, kPoison, batch_bytes);                                                                     \
    memset(places, kPoison, place_bytes);                                                                    \
    change;                                                                                                  \
    CHECK_ERROR(ROPE_FAULT, "", rope_batch_indices(&a, record()));                                           \
    CHECK_FAULT(code, request, index, value, limit);                                                         \
    check(good, __FILE__, __LINE__, "tokens of good requests are written, those of bad ones not: " #change); \
    CHECK(fences_whole(batch, batch_bytes) && fences_whole(places, place_bytes));                            \
  } while (0)
  // Request 2 is too short for its tokens, or too long; request 0 is right all the same.
  BATCH_FAULT(lengths[2] = 2, is_token(batch, places, 2, 0, 9) && poisoned(batch + 3, 12) && is_token(batch, places, 7, -1, -1),
              ROPE_FAULT_LENGTH, 2, 2, 2, 3);
  BATCH_FAULT(lengths[2] = -1, is_token(batch, places, 2, 0, 9) && poisoned(batch + 3, 12), ROPE_FAULT_LENGTH, 2, 2, -1, 3);
  BATCH_FAULT(lengths[2] = INT64_MIN, is_token(batch, places, 2, 0, 9) && poisoned(batch + 3, 12), ROPE_FAULT_LENGTH, 2, 2, INT64_MIN, 3);
  BATCH_FAULT(lengths[2] = (INT64_C(1) << 31) + 1, is_token(batch, places, 2, 0, 9) && poisoned(batch + 3, 12), ROPE_FAULT_LENGTH, 2, 2,
              (INT64_C(1) << 31) + 1, INT64_C(1) << 31);
  BATCH_FAULT(lengths[2] = INT64_MAX, is_token(batch, places, 2, 0, 9) && poisoned(batch + 3, 12), ROPE_FAULT_LENGTH, 2, 2, INT64_MAX,
              INT64_C(1) << 31);
  // A request without tokens cannot be shorter than nothing.
  BATCH_FAULT(lengths[1] = -1, is_token(batch, places, 2, 0, 9) && is_token(batch, places, 5, 2, 2), ROPE_FAULT_LENGTH, 1, 1, -1, 0);
  // Of an indptr out of order only the tokens of its sound requests are written.
  BATCH_FAULT(indptr[3] = 2, is_token(batch, places, 1, 0, 8) && poisoned(batch, 4) && poisoned(batch + 3, 20), ROPE_FAULT_INDPTR, 2, 3, 2,
              kTokens);
  BATCH_FAULT(indptr[3] = kTokens + 1, is_token(batch, places, 1, 0, 8) && poisoned(batch, 4) && poisoned(batch + 3, 20), ROPE_FAULT_INDPTR,
              2, 3, kTokens + 1, kTokens);
  BATCH_FAULT(indptr[0] = -1, poisoned(batch, 12) && is_token(batch, places, 3, 2, 0) && poisoned(batch + 6, 8), ROPE_FAULT_INDPTR, 0, 0,
              -1, kTokens);
  BATCH_FAULT(indptr[0] = INT64_MAX, poisoned(batch, 12) && is_token(batch, places, 3, 2, 0), ROPE_FAULT_INDPTR, 0, 0, INT64_MAX, kTokens);
  BATCH_FAULT(indptr[1] = 7; lengths[2] = 2, is_token(batch, places, 1, 0, 4) && is_token(batch, places, 6, 0, 9) && poisoned(batch + 7, 4),
                             ROPE_FAULT_INDPTR, 1, 2, 3, kTokens);
  // The last place that int32 holds, and any length where no token needs a place.
  indptr[0] = 1, indptr[1] = 3, indptr[2] = 3, indptr[3] = 6;
  lengths[0] = 2, lengths[1] = INT64_MAX, lengths[2] = INT64_C(1) << 31;
  CHECK_OK(rope_batch_indices(&a, record()));
  CHECK(is_token(batch, places, 1, 0, 0) && is_token(batch, places, 5, 2, INT32_MAX));

  // No tokens, no requests; and what is refused.
  indptr[1] = indptr[3] = 1;
  indptr[2] = 1;
  b.shape[0] = q.shape[0] = 0;
  CHECK_ERROR(ROPE_FAULT, "", rope_batch_indices(&a, record()));
  CHECK_FAULT(ROPE_FAULT_INDPTR, 0, 0, 1, 0);
  indptr[0] = indptr[1] = indptr[2] = indptr[3] = 0;
  CHECK_OK(rope_batch_indices(&a, record()));
  ip.shape[0] = 1;
  l.shape[0] = 0;
  b.shape[0] = q.shape[0] = kTokens;
  CHECK_OK(rope_batch_indices(&a, record()));
  CHECK(is_token(batch, places, 0, -1, -1) && is_token(batch, places, 7, -1, -1));
  ip.shape[0] = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "indptr", rope_batch_indices(&a, record()));
  ip.shape[0] = 4;
  CHECK_ERROR(ROPE_ARGUMENT, "seq_lens", rope_batch_indices(&a, record()));
  l.shape[0] = 3;
  q.shape[0] = kTokens - 1;
  CHECK_ERROR(ROPE_ARGUMENT, "places", rope_batch_indices(&a, record()));
  q.shape[0] = kTokens;
  q.dtype = ROPE_INT64;
  CHECK_ERROR(ROPE_ARGUMENT, "places", rope_batch_indices(&a, record()));
  q = b;
  a.places = ref(&q);
  CHECK_ERROR(ROPE_ARGUMENT, "places", rope_batch_indices(&a, record()));
  b.data = ip.data;
  b.shape[0] = q.shape[0] = 4;
  CHECK_ERROR(ROPE_ARGUMENT, "batch_indices", rope_batch_indices(&a, record()));
  b.device = ROPE_CUDA << 8;
  CHECK_ERROR(ROPE_DEVICE, "batch_indices", rope_batch_indices(&a, record()));
  free_fenced(batch);
  free_fenced(places);
}

int main(void) {
  test_seq_lens();
  test_batch_indices();
  return finish("kv_tables_test");
}
