// rope_shift as a C program sees it: what it computes, what it refuses, and which rows a hostile table leaves as they were.
#include <math.h>

#include "check.h"

static uint64_t next_random(void) {
  static uint64_t state = 12345;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 33;
}
static int64_t below(int64_t n) { return (int64_t)(next_random() % (uint64_t)n); }

// A cache [6, 4, 2, 12] of float32 of which channels 2 to 9 turn, and a table of up to 4 requests and 8 entries.
enum {
  kPages = 6,
  kPageSize = 4,
  kHeads = 2,
  kWidth = 12,
  kOffset = 2,
  kPairs = 4,
  kRequests = 4,
  kEntries = 8,
  kRow = kHeads * kWidth,
  kPage = kPageSize * kRow,
  kCache = kPages * kPage,
  // a longer one
  kLong = 40,
  kPairsOfLong = 18,
  kLongCache = kPages * kPageSize * kHeads * kLong
};
static float *cache, before[kCache];
static int32_t *owners, *ids;
static int64_t *indptr, *last, *deltas;
static rope_tensor cache_tensor, owners_tensor, indptr_tensor, ids_tensor, last_tensor, deltas_tensor;
static uint64_t frequencies;

static uint64_t create(int64_t rotary_dim, int64_t axes, int64_t heads, const double* custom, int64_t count, double attention_factor) {
  rope_frequencies_args args;
  START(args);
  args.rotary_dim = rotary_dim;
  args.theta = 10000;
  args.axes = axes;
  args.heads = heads;
  args.attention_factor = attention_factor;
  if (custom != NULL) {
    args.rule = ROPE_RULE_CUSTOM;
    args.custom = rope_address(custom);
    args.custom_count = (uint64_t)count;
  }
  CHECK_OK(rope_frequencies_create(&args, record()));
  return args.frequencies;
}

// Requests of pages {4, 1}, {}, {0}, {5, 2}; page 3 is nobody's. They hold 7, 0, 1 and 8 places.
static rope_shift_args start_shift(void) {
  static const int64_t first_indptr[kRequests + 1] = {0, 2, 2, 3, 5}, first_last[kRequests] = {3, 0, 1, 4};
  static const int64_t first_deltas[kRequests] = {5, 1, -1000, 70000};
  static const int32_t first_ids[kEntries] = {4, 1, 0, 5, 2, -1, 4, 4};  // the last three are not used
  rope_shift_args a;
  int i;
  for (i = 0; i < kCache; ++i) cache[i] = before[i] = (float)below(4096) / 2048 - 1;
  memset(owners, kPoison, kPages * sizeof(int32_t));
  memcpy(indptr, first_indptr, sizeof first_indptr);
  memcpy(last, first_last, sizeof first_last);
  memcpy(deltas, first_deltas, sizeof first_deltas);
  memcpy(ids, first_ids, sizeof first_ids);
  cache_tensor = tensor(cache, ROPE_FLOAT32, 4, kPages, kPageSize, kHeads, kWidth);
  owners_tensor = vector(owners, ROPE_INT32, kPages);
  indptr_tensor = vector(indptr, ROPE_INT64, kRequests + 1);
  ids_tensor = vector(ids, ROPE_INT32, kEntries);
  last_tensor = vector(last, ROPE_INT64, kRequests);
  deltas_tensor = vector(deltas, ROPE_INT64, kRequests);
  START(a);
  a.frequencies = frequencies;
  a.cache = ref(&cache_tensor);
  a.page_indptr = ref(&indptr_tensor);
  a.page_indices = ref(&ids_tensor);
  a.last_page_len = ref(&last_tensor);
  a.deltas = ref(&deltas_tensor);
  a.owners = ref(&owners_tensor);
  a.rotary_offset = kOffset;
  return a;
}

static int all_fences_whole(void) {
  return fences_whole(cache, kCache * sizeof(float)) && fences_whole(owners, kPages * sizeof(int32_t)) &&
         fences_whole(ids, kEntries * sizeof(int32_t)) && fences_whole(indptr, (kRequests + 1) * sizeof(int64_t)) &&
         fences_whole(last, kRequests * sizeof(int64_t)) && fences_whole(deltas, kRequests * sizeof(int64_t));
}

// Which fault a table has first, and what becomes of the cache: the same rules, told naively.
typedef struct Model {
  rope_fault fault;
  int64_t delta[kPages];   // by which a page turns
  int64_t places[kPages];  // how many of its places
} Model;

static Model make_model(void) {
  Model m;
  int uses[kPages] = {0}, sound[kRequests], pass, request, page;
  int64_t entry;
  memset(&m, 0, sizeof m);
#define NOTE(code_, index_, value_, limit_)                               \
  do {                                                                    \
    const rope_fault fault = {code_, 0, request, index_, value_, limit_}; \
    if (m.fault.code == ROPE_FAULT_NONE) m.fault = fault;                 \
  } while (0)
  for (pass = 0; pass < 2; ++pass) {
    for (request = 0; request < kRequests; ++request) {
      const int64_t begin = indptr[request], end = indptr[request + 1], delta = deltas[request];
      if (pass == 0) {
        sound[request] = 0;
        if (begin < 0 || begin > kEntries) {
          NOTE(ROPE_FAULT_PAGES, request, begin, kEntries);
        } else if (end < begin || end > kEntries) {
          NOTE(ROPE_FAULT_PAGES, request + 1, end, kEntries);
        } else {
          sound[request] = 1;
          if (begin == end ? last[request] != 0 : last[request] < 1 || last[request] > kPageSize) {
            NOTE(ROPE_FAULT_LENGTH, request, last[request], kPageSize);
            sound[request] = 2;
          } else if (delta > ROPE_MAX_POSITION || delta < -ROPE_MAX_POSITION) {
            NOTE(ROPE_FAULT_POSITION, request, delta, ROPE_MAX_POSITION);
            sound[request] = 2;
          }
        }
      }
      if (sound[request] == 0) continue;
      for (entry = begin; entry < end; ++entry) {
        if (ids[entry] < 0 || ids[entry] >= kPages) {
          if (pass == 0) NOTE(ROPE_FAULT_PAGE, entry, ids[entry], kPages);
        } else if (pass == 0 && ++uses[ids[entry]] > 1) {
          NOTE(ROPE_FAULT_SHARED, entry, ids[entry], kPages);
        } else if (pass == 1 && uses[ids[entry]] == 1 && sound[request] == 1) {
          m.delta[ids[entry]] = delta;
          m.places[ids[entry]] = kPageSize;
          if (entry == end - 1) m.places[ids[entry]] = last[request];
        }
      }
    }
  }
#undef NOTE
  for (page = 0; page < kPages; ++page) {
    if (m.delta[page] == 0) m.places[page] = 0;
  }
  return m;
}

// Every row against a rotation in float64; what does not turn bit for bit.
static void check_cache(const Model* m, int pairing, int sign, int line) {
  int page, place, head, j, same = 1;
  double worst = 0;
  for (page = 0; page < kPages; ++page) {
    for (place = 0; place < kPageSize; ++place) {
      for (head = 0; head < kHeads; ++head) {
        const int at = page * kPage + place * kRow + head * kWidth;
        const float *const x = before + at + kOffset, *const y = cache + at + kOffset;
        if (place >= m->places[page]) {
          same &= memcmp(before + at, cache + at, kWidth * sizeof(float)) == 0;
          continue;
        }
        same &= memcmp(before + at, cache + at, kOffset * sizeof(float)) == 0;
        same &= memcmp(x + 2 * kPairs, y + 2 * kPairs, (kWidth - kOffset - 2 * kPairs) * sizeof(float)) == 0;
        for (j = 0; j < kPairs; ++j) {
          const int first = pairing == ROPE_INTERLEAVED ? 2 * j : j, second = pairing == ROPE_INTERLEAVED ? 2 * j + 1 : j + kPairs;
          const double angle = sign * (double)m->delta[page] * pow(10000, -2.0 * j / (2 * kPairs)), c = cos(angle), s = sin(angle);
          worst = fmax(worst, fabs(y[first] - (x[first] * c - x[second] * s)) + fabs(y[second] - (x[second] * c + x[first] * s)));
        }
      }
    }
  }
  check(same, __FILE__, line, "what does not turn keeps its bits");
  check(worst < 1e-5, __FILE__, line, "what turns is near a rotation in float64");
  check(all_fences_whole(), __FILE__, line, "nothing is written beyond the tensors");
}

static void check_shift(rope_shift_args* a, int pairing, int sign, int line) {
  const Model m = make_model();
  const int32_t status = rope_shift(a, record());
  const rope_fault f = m.fault;
  check(status == (f.code == ROPE_FAULT_NONE ? ROPE_OK : ROPE_FAULT), __FILE__, line, "the status is that of the table");
  if (status == ROPE_FAULT) check_fault_is(f.code, f.request, f.index, f.value, f.limit, __FILE__, line);
  check_cache(&m, pairing, sign, line);
}

static void test_shift(void) {
  int pairing, sign, i, near = 1;
  for (pairing = ROPE_HALF; pairing <= ROPE_INTERLEAVED_TO_HALF; ++pairing) {
    for (sign = -1; sign <= 1; sign += 2) {
      rope_shift_args a = start_shift();
      a.pairing = (uint8_t)pairing;
      if (sign < 0) a.flags = ROPE_CONJUGATE;
      check_shift(&a, pairing, sign, __LINE__);
      CHECK(owners[0] == 2 && owners[1] == 0 && owners[2] == 3 && owners[3] == -1 && owners[4] == 0 && owners[5] == 3);
      // Back again.
      a.flags ^= ROPE_CONJUGATE;
      CHECK_OK(rope_shift(&a, record()));
      for (i = 0; i < kCache; ++i) near &= fabs(cache[i] - before[i]) < 1e-6;
      CHECK(near);
    }
  }
  {
    // One delta for all requests; the largest there may be.
    rope_shift_args a = start_shift();
    a.deltas = no_tensor();
    a.delta = deltas[0] = deltas[1] = deltas[2] = deltas[3] = -12345;
    check_shift(&a, ROPE_HALF, 1, __LINE__);
    a = start_shift();
    deltas[0] = ROPE_MAX_POSITION;
    deltas[3] = -ROPE_MAX_POSITION;
    check_shift(&a, ROPE_HALF, 1, __LINE__);
    // Where nothing moves, nothing is written.
    a = start_shift();
    a.deltas = no_tensor();
    cache[0] = before[0] = NAN;
    memset(deltas, 0, kRequests * sizeof(int64_t));
    check_shift(&a, ROPE_HALF, 1, __LINE__);
    // No requests, no pages, no heads.
    a = start_shift();
    indptr_tensor.shape[0] = 1;
    last_tensor.shape[0] = deltas_tensor.shape[0] = 0;
    CHECK_OK(rope_shift(&a, record()));
    CHECK(owners[0] == -1 && memcmp(cache, before, sizeof before) == 0);
    a = start_shift();
    cache_tensor.shape[2] = 0;
    CHECK_OK(rope_shift(&a, record()));
    a = start_shift();
    cache_tensor.shape[0] = owners_tensor.shape[0] = 0;
    CHECK_ERROR(ROPE_FAULT, "", rope_shift(&a, record()));
    CHECK_FAULT(ROPE_FAULT_PAGE, 0, 0, 4, 0);
    CHECK(memcmp(cache, before, sizeof before) == 0 && poisoned(owners, kPages * sizeof(int32_t)));
  }
}

// One thing after the other is wrong with the table.
static void test_shift_faults(void) {
#define SHIFT_FAULT(change, code, request, index, value, limit) \
  do {                                                          \
    rope_shift_args a = start_shift();                          \
    change;                                                     \
    check_shift(&a, ROPE_HALF, 1, __LINE__);                    \
    CHECK_FAULT(code, request, index, value, limit);            \
    CHECK(memcmp(cache, before, sizeof before) != 0);           \
  } while (0)
  SHIFT_FAULT(indptr[0] = -1, ROPE_FAULT_PAGES, 0, 0, -1, kEntries);
  SHIFT_FAULT(indptr[1] = 3, ROPE_FAULT_PAGES, 1, 2, 2, kEntries);  // request 2 claims an entry of request 0 again
  SHIFT_FAULT(indptr[2] = INT64_MAX, ROPE_FAULT_PAGES, 1, 2, INT64_MAX, kEntries);
  SHIFT_FAULT(indptr[2] = INT64_MIN, ROPE_FAULT_PAGES, 1, 2, INT64_MIN, kEntries);
  SHIFT_FAULT(indptr[4] = kEntries + 1, ROPE_FAULT_PAGES, 3, 4, kEntries + 1, kEntries);
  SHIFT_FAULT(last[0] = 0, ROPE_FAULT_LENGTH, 0, 0, 0, kPageSize);
  SHIFT_FAULT(last[0] = kPageSize + 1, ROPE_FAULT_LENGTH, 0, 0, kPageSize + 1, kPageSize);
  SHIFT_FAULT(last[1] = 1, ROPE_FAULT_LENGTH, 1, 1, 1, kPageSize);
  SHIFT_FAULT(last[3] = INT64_MIN, ROPE_FAULT_LENGTH, 3, 3, INT64_MIN, kPageSize);
  SHIFT_FAULT(deltas[2] = ROPE_MAX_POSITION + 1, ROPE_FAULT_POSITION, 2, 2, ROPE_MAX_POSITION + 1, ROPE_MAX_POSITION);
  SHIFT_FAULT(deltas[1] = INT64_MIN, ROPE_FAULT_POSITION, 1, 1, INT64_MIN, ROPE_MAX_POSITION);
  SHIFT_FAULT(ids[1] = -1, ROPE_FAULT_PAGE, 0, 1, -1, kPages);
  SHIFT_FAULT(ids[1] = kPages, ROPE_FAULT_PAGE, 0, 1, kPages, kPages);
  SHIFT_FAULT(ids[4] = INT32_MIN, ROPE_FAULT_PAGE, 3, 4, INT32_MIN, kPages);
  SHIFT_FAULT(ids[4] = INT32_MAX, ROPE_FAULT_PAGE, 3, 4, INT32_MAX, kPages);
  SHIFT_FAULT(ids[1] = 4, ROPE_FAULT_SHARED, 0, 1, 4, kPages);  // within a request
  SHIFT_FAULT(ids[2] = 4, ROPE_FAULT_SHARED, 2, 2, 4, kPages);  // of two
  SHIFT_FAULT(ids[2] = 4; deltas[2] = 0, ROPE_FAULT_SHARED, 2, 2, 4, kPages);
  SHIFT_FAULT(ids[2] = ids[3] = 1; last[0] = 9, ROPE_FAULT_LENGTH, 0, 0, 9, kPageSize);  // claimed by a request that does not turn
  {
    rope_shift_args a = start_shift();
    a.deltas = no_tensor();
    a.delta = -ROPE_MAX_POSITION - 1;
    CHECK_ERROR(ROPE_FAULT, "", rope_shift(&a, record()));
    CHECK_FAULT(ROPE_FAULT_POSITION, 0, 0, a.delta, ROPE_MAX_POSITION);
    CHECK(memcmp(cache, before, sizeof before) == 0 && all_fences_whole());
  }
}

// Random tables against the model, most of them wrong somewhere.
static void test_random_tables(void) {
  static const int64_t odd[] = {-1, 0, 1, kPageSize, kPageSize + 1, kEntries, kEntries + 1, INT64_MIN, INT64_MAX, INT64_C(1) << 32};
  int round, i, failed = checks_failed;
  for (round = 0; round < 1000 && checks_failed == failed; ++round) {
    rope_shift_args a = start_shift();
    const int pairing = (int)below(3);
    int64_t at = below(2);
    a.pairing = (uint8_t)pairing;
    for (i = 0; i <= kRequests; ++i) {
      indptr[i] = at;
      at += below(kEntries - at + 1 < 4 ? kEntries - at + 1 : 4);
    }
    for (i = 0; i < kRequests; ++i) {
      last[i] = indptr[i] == indptr[i + 1] ? 0 : 1 + below(kPageSize);
      deltas[i] = below(7) == 0 ? 0 : below(100000) - 50000;
    }
    for (i = 0; i < kEntries; ++i) ids[i] = (int32_t)((i + round) % kPages);
    for (i = (int)below(4); i > 0; --i) {
      const int64_t wrong = odd[below((int64_t)(sizeof odd / sizeof *odd))];
      switch (below(4)) {
        case 0: indptr[below(kRequests + 1)] = below(2) == 0 ? wrong : below(kEntries + 1); break;
        case 1: last[below(kRequests)] = wrong; break;
        case 2: deltas[below(kRequests)] = wrong == INT64_MAX ? ROPE_MAX_POSITION + 1 : wrong; break;
        default: ids[below(kEntries)] = below(2) == 0 ? (int32_t)wrong : (int32_t)below(kPages); break;
      }
    }
    check_shift(&a, pairing, 1, __LINE__);
  }
  CHECK(round == 1000);
}

static void copy(const rope_tensor* source, const rope_tensor* target) {
  rope_copy_args args;
  START(args);
  args.source = ref(source);
  args.target = ref(target);
  CHECK_OK(rope_copy(&args, record()));
}

// A cache of any dtype and layout, with frequencies alike for all heads or each head's own, turns as rope_rotate turns its rows in float32,
// rounded once. The attention factor is rope_rotate's alone.
static void test_dtypes(void) {
  static const int dtypes[] = {ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16, ROPE_FLOAT8_E4M3FN, ROPE_FLOAT8_E5M2};
  static double custom[kHeads * kPairsOfLong];
  static float source[kLongCache], rows[kLongCache];
  static char wanted[kLongCache * 4], got[kLongCache * 4];
  static int64_t positions[kPages * kPageSize];
  char* const memory = (char*)fenced(kLongCache * 4);
  int which, i;
  for (i = 0; i < kHeads * kPairsOfLong; ++i) custom[i] = i % 5 == 3 ? 0 : 1.0 / (i + 1);
  for (i = 0; i < kLongCache; ++i) source[i] = (float)(below(4096) - 2048) / (i % 7 == 0 ? 2 : 1000);
  source[5] = NAN;
  source[41] = INFINITY;
  for (i = 0; i < kPages * kPageSize; ++i) positions[i] = -77;
  for (which = 0; which < 5 * 3 * 2 * 2 * 2; ++which) {
    const int dtype = dtypes[which % 5], pairing = which / 5 % 3, head_first = which / 5 / 3 % 2;
    const int own = which / 5 / 6 % 2, hf = which / 5 / 12;
    const uint64_t one = create(2 * kPairsOfLong, 1, own ? kHeads : 0, own ? custom : NULL, kHeads * kPairsOfLong, 1);
    const uint64_t scaled = create(2 * kPairsOfLong, 1, own ? kHeads : 0, own ? custom : NULL, kHeads * kPairsOfLong, 1.5);
    rope_shift_args a = start_shift();
    rope_rotate_args r;
    rope_tensor f = tensor(source, ROPE_FLOAT32, 4, kPages, kPageSize, kHeads, kLong), w = f, g = f, p;
    rope_tensor q = tensor(rows, ROPE_FLOAT32, 3, kPages * kPageSize, kHeads, kLong, 0);
    w.data = rope_address(rows);
    g = tensor(got, dtype, 4, kPages, kPageSize, kHeads, kLong);
    cache_tensor = tensor(memory, dtype, 4, kPages, kPageSize, kHeads, kLong);
    if (head_first) {
      cache_tensor.stride[1] = kLong;
      cache_tensor.stride[2] = kPageSize * kLong;
    }
    copy(&f, &cache_tensor);
    copy(&cache_tensor, &w);
    // All pages, whole.
    for (i = 0; i < kPages; ++i) ids[i] = kPages - 1 - i;
    indptr[1] = indptr[2] = 2;
    indptr[3] = 3;
    indptr[4] = kPages;
    last[0] = last[2] = last[3] = kPageSize;
    a.deltas = no_tensor();
    a.delta = -77;
    a.frequencies = scaled;
    a.pairing = (uint8_t)pairing;
    a.angles = (uint8_t)hf;
    CHECK_OK(rope_shift(&a, record()));
    copy(&cache_tensor, &g);

    p = vector(positions, ROPE_INT64, kPages * kPageSize);
    START(r);
    r.frequencies = one;
    r.q = r.q_out = ref(&q);
    r.positions = ref(&p);
    r.rotary_offset = kOffset;
    r.pairing = (uint8_t)(pairing == ROPE_INTERLEAVED ? ROPE_INTERLEAVED : ROPE_HALF);
    r.angles = (uint8_t)hf;
    CHECK_OK(rope_rotate(&r, record()));
    g.data = rope_address(wanted);
    copy(&w, &g);
    if (memcmp(wanted, got, (size_t)(kLongCache * size_of_dtype(dtype))) != 0) {
      fprintf(stderr, "dtype %d, pairing %d, head_first %d, own %d, hf %d\n", dtype, pairing, head_first, own, hf);
      check(0, __FILE__, __LINE__, "a shifted cache is its rows rotated");
    }
    CHECK(fences_whole(memory, kLongCache * 4));
    release_frequencies(one);
    release_frequencies(scaled);
  }
  free_fenced(memory);
}

// Pairs that stand still keep what no arithmetic would: the sign of a zero, the payload of a NaN.
static void test_still(void) {
  static const double custom[kPairs] = {0.5, 0, 0, 0.25};
  static const uint8_t codes[3] = {0x7d, 0xff, 0x80};  // of float8_e5m2: two NaNs and -0
  const uint64_t some = create(2 * kPairs, 1, 0, custom, kPairs, 2);
  uint8_t* const bytes = (uint8_t*)fenced(kCache);
  uint8_t saved[kCache];
  int i, same = 1;
  rope_shift_args a = start_shift();
  a.frequencies = some;
  cache_tensor = tensor(bytes, ROPE_FLOAT8_E5M2, 4, kPages, kPageSize, kHeads, kWidth);
  for (i = 0; i < kCache; ++i) bytes[i] = saved[i] = i % kWidth == kOffset ? 0x3c : codes[i % 3];
  CHECK_OK(rope_shift(&a, record()));
  for (i = 0; i < kCache; ++i) {
    const int channel = i % kWidth - kOffset, pair = channel % kPairs;
    if (channel < 0 || channel >= 2 * kPairs || pair == 1 || pair == 2) same &= bytes[i] == saved[i];
  }
  CHECK(same && memcmp(bytes, saved, kCache) != 0 && fences_whole(bytes, kCache));
  free_fenced(bytes);
  release_frequencies(some);
}

static void test_refusals(void) {
  static const double custom[3 * kPairs] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const uint64_t axes = create(2 * kPairs, 2, 0, custom, 2 * kPairs, 0), heads = create(2 * kPairs, 0, 3, custom, 3 * kPairs, 0);
#define REFUSED(status, argument, change)                                                                              \
  do {                                                                                                                 \
    rope_shift_args a = start_shift();                                                                                 \
    change;                                                                                                            \
    check_error((status), (argument), rope_shift(&a, record()), __FILE__, __LINE__, "rope_shift: " #change);           \
    check(memcmp(cache, before, sizeof before) == 0 && poisoned(owners, kPages * sizeof(int32_t)), __FILE__, __LINE__, \
          "nothing is written: " #change);                                                                             \
    check(all_fences_whole(), __FILE__, __LINE__, "nothing is written beyond: " #change);                              \
  } while (0)
  REFUSED(ROPE_ARGUMENT, "flags", a.flags = ROPE_INVERSE);
  REFUSED(ROPE_ARGUMENT, "pairing", a.pairing = 3);
  REFUSED(ROPE_ARGUMENT, "angles", a.angles = 2);
  REFUSED(ROPE_DISPOSED, "frequencies", a.frequencies = 0);
  REFUSED(ROPE_ARGUMENT, "frequencies", a.frequencies = axes);
  REFUSED(ROPE_ARGUMENT, "cache", a.frequencies = heads);
  REFUSED(ROPE_ARGUMENT, "rotary_offset", a.rotary_offset = -1);
  REFUSED(ROPE_ARGUMENT, "rotary_dim", a.rotary_offset = kWidth - 2 * kPairs + 1);
  REFUSED(ROPE_DISPOSED, "stream", a.stream = 12345);
  REFUSED(ROPE_ARGUMENT, "cache", cache_tensor.rank = 3);
  REFUSED(ROPE_ARGUMENT, "cache", cache_tensor.dtype = ROPE_INT32);
  REFUSED(ROPE_ARGUMENT, "cache", cache_tensor = tensor(cache, ROPE_FLOAT64, 4, kPages / 2, kPageSize, kHeads, kWidth));
  REFUSED(ROPE_ARGUMENT, "cache", cache_tensor.shape[1] = 0);
  REFUSED(ROPE_ARGUMENT, "cache", cache_tensor.shape[3] = 10; cache_tensor.shape[0] = 1; cache_tensor.stride[3] = 2);
  REFUSED(ROPE_ARGUMENT, "cache", cache_tensor.stride[0] = 0);
  REFUSED(ROPE_ARGUMENT, "cache", a.cache = no_tensor());
  REFUSED(ROPE_DISPOSED, "cache", cache_tensor.generation += 1);
  REFUSED(ROPE_ARGUMENT, "page_indptr", indptr_tensor.shape[0] = 0);
  REFUSED(ROPE_ARGUMENT, "page_indptr", indptr_tensor.dtype = ROPE_FLOAT64);
  REFUSED(ROPE_ARGUMENT, "page_indices", ids_tensor = tensor(ids, ROPE_INT32, 2, 2, 4, 0, 0));
  REFUSED(ROPE_ARGUMENT, "page_indices", a.page_indices = no_tensor());
  REFUSED(ROPE_ARGUMENT, "last_page_len", last_tensor.shape[0] = kRequests - 1);
  REFUSED(ROPE_ARGUMENT, "deltas", deltas_tensor.shape[0] = kRequests - 1);
  REFUSED(ROPE_ARGUMENT, "delta", a.delta = 1);
  REFUSED(ROPE_ARGUMENT, "owners", owners_tensor.shape[0] = kPages - 1);
  REFUSED(ROPE_ARGUMENT, "owners", owners_tensor.dtype = ROPE_INT64; owners_tensor.extent = 64);
  REFUSED(ROPE_ARGUMENT, "owners", owners_tensor.stride[0] = 2; owners_tensor.extent = 64);
  REFUSED(ROPE_ARGUMENT, "owners", owners_tensor.stride[0] = 0);
  REFUSED(ROPE_ARGUMENT, "owners", owners_tensor.data = rope_address(ids));
  REFUSED(ROPE_ARGUMENT, "owners", owners_tensor.data = rope_address(deltas));
  REFUSED(ROPE_ARGUMENT, "owners", owners_tensor.data = rope_address(cache));
  REFUSED(ROPE_ARGUMENT, "cache", indptr_tensor.data = rope_address(cache));
  REFUSED(ROPE_ARGUMENT, "cache", deltas_tensor.data = rope_address(cache));
  REFUSED(ROPE_DEVICE, "owners", owners_tensor.device = ROPE_CUDA << 8);
  REFUSED(ROPE_DEVICE, "page_indices", ids_tensor.device = ROPE_CUDA << 8);
  REFUSED(ROPE_DEVICE, "cache", cache_tensor.device = ROPE_CUDA << 8);
  REFUSED(ROPE_DEVICE, "deltas", deltas_tensor.device = ROPE_CUDA << 8);
  release_frequencies(axes);
  release_frequencies(heads);
}

// Recorded operations read the tables when they run.
static void test_graph(void) {
  static int32_t lengths[kRequests];
  rope_tensor l = vector(lengths, ROPE_INT32, kRequests);
  rope_graph_args graph;
  rope_seq_lens_args s;
  rope_shift_args a = start_shift();
  Model m;
  START(graph);
  CHECK_OK(rope_graph_begin(&graph, record()));
  a.stream = graph.stream;
  CHECK_OK(rope_shift(&a, record()));
  START(s);
  s.stream = graph.stream;
  s.page_indptr = a.page_indptr;
  s.last_page_len = a.last_page_len;
  s.seq_lens = ref(&l);
  s.page_size = kPageSize;
  CHECK_OK(rope_seq_lens(&s, record()));
  CHECK_OK(rope_graph_end(&graph, record()));
  CHECK(graph.nodes == 2 && memcmp(cache, before, sizeof before) == 0);
  graph.stream = 0;
  deltas[0] = -3;
  m = make_model();
  CHECK_OK(rope_graph_launch(&graph, record()));
  check_cache(&m, ROPE_HALF, 1, __LINE__);
  CHECK(lengths[0] == 7 && lengths[1] == 0 && lengths[2] == 1 && lengths[3] == 8);
  memcpy(before, cache, sizeof before);
  ids[2] = 4;
  m = make_model();
  check_error(ROPE_FAULT, "", rope_graph_launch(&graph, record()), __FILE__, __LINE__, "rope_shift in a graph");
  CHECK_FAULT(ROPE_FAULT_SHARED, 2, 2, 4, kPages);
  check_cache(&m, ROPE_HALF, 1, __LINE__);
  CHECK_OK(rope_graph_destroy(&graph, record()));
}

int main(void) {
  const rope_usage_args start = usage();
  cache = (float*)fenced(kCache * sizeof(float));
  owners = (int32_t*)fenced(kPages * sizeof(int32_t));
  ids = (int32_t*)fenced(kEntries * sizeof(int32_t));
  indptr = (int64_t*)fenced((kRequests + 1) * sizeof(int64_t));
  last = (int64_t*)fenced(kRequests * sizeof(int64_t));
  deltas = (int64_t*)fenced(kRequests * sizeof(int64_t));
  frequencies = create(2 * kPairs, 0, 0, NULL, 0, 0);
  test_shift();
  test_shift_faults();
  test_random_tables();
  test_dtypes();
  test_still();
  test_refusals();
  test_graph();
  release_frequencies(frequencies);
  free_fenced(cache);
  free_fenced(owners);
  free_fenced(ids);
  free_fenced(indptr);
  free_fenced(last);
  free_fenced(deltas);
  CHECK(usage().handles == start.handles);
  return finish("kv_shift_test");
}
