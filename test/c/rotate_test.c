// rope_rotate as a C program sees it, and graphs of it: what it computes, what it refuses, and what is written when it does: nothing, or
// after a fault all but the bad rows. The checks of tensors, which every operation has in common, are here too.
#include <math.h>
#include <stddef.h>

#include "check.h"

// q [4, 2, 8], k [4, 1, 8] of float32 and outputs for both, in fenced memory.
enum { kTokens = 4, kHeads = 2, kWidth = 8, kQ = kTokens * kHeads * kWidth, kK = kTokens * kWidth };
static float *q_data, *k_data, *q_out_data, *k_out_data;
static rope_tensor q, k, q_out, k_out;
static uint64_t frequencies;  // default rule, theta 10000, R = 8

static uint64_t create_frequencies(int64_t rotary_dim, double theta) {
  rope_frequencies_args args;
  START(args);
  args.rotary_dim = rotary_dim;
  args.theta = theta;
  CHECK_OK(rope_frequencies_create(&args, record()));
  return args.frequencies;
}

static void poison_outputs(void) {
  memset(q_out_data, kPoison, kQ * sizeof(float));
  memset(k_out_data, kPoison, kK * sizeof(float));
}

static int outputs_poisoned(void) { return poisoned(q_out_data, kQ * sizeof(float)) && poisoned(k_out_data, kK * sizeof(float)); }

static int all_fences_whole(void) {
  return fences_whole(q_data, kQ * sizeof(float)) && fences_whole(k_data, kK * sizeof(float)) &&
         fences_whole(q_out_data, kQ * sizeof(float)) && fences_whole(k_out_data, kK * sizeof(float));
}

// Numbers in [-1, 1).
static float q_value(int i) { return (float)((i + 1) * 7919 % 4096) / 2048 - 1; }

// Fresh inputs, poisoned outputs and a block that rotates them.
static rope_rotate_args start_rotate(void) {
  rope_rotate_args args;
  int i;
  for (i = 0; i < kQ; ++i) q_data[i] = q_value(i);
  for (i = 0; i < kK; ++i) k_data[i] = q_value(i + 1000);
  poison_outputs();
  q = tensor(q_data, ROPE_FLOAT32, 3, kTokens, kHeads, kWidth, 0);
  q_out = tensor(q_out_data, ROPE_FLOAT32, 3, kTokens, kHeads, kWidth, 0);
  k = tensor(k_data, ROPE_FLOAT32, 3, kTokens, 1, kWidth, 0);
  k_out = tensor(k_out_data, ROPE_FLOAT32, 3, kTokens, 1, kWidth, 0);
  START(args);
  args.frequencies = frequencies;
  args.q = ref(&q);
  args.k = ref(&k);
  args.q_out = ref(&q_out);
  args.k_out = ref(&k_out);
  return args;
}

// Changes one thing, expects the error and untouched outputs. `change` sees the tensors and the block `a`.
#define REFUSED(status, argument, change)                                                                      \
  do {                                                                                                         \
    rope_rotate_args a = start_rotate();                                                                       \
    change;                                                                                                    \
    check_error((status), (argument), rope_rotate(&a, record()), __FILE__, __LINE__, "rope_rotate: " #change); \
    check(outputs_poisoned() && all_fences_whole(), __FILE__, __LINE__, "nothing is written: " #change);       \
  } while (0)

// ---- tensors: the same checks in every operation, here as q of a rotation -----------------------------------------------

static void test_tensors(void) {
  REFUSED(ROPE_ARGUMENT, "q", a.q = a.k = no_tensor());
  REFUSED(ROPE_ARGUMENT, "q_out", a.q = no_tensor());
  REFUSED(ROPE_ARGUMENT, "q_out", a.q_out = no_tensor());
  REFUSED(ROPE_ARGUMENT, "k_out", a.k_out = no_tensor());
  REFUSED(ROPE_ARGUMENT, "k_out", a.k = no_tensor());
  REFUSED(ROPE_ARGUMENT, "q", a.q.tensor += 4);
  REFUSED(ROPE_DISPOSED, "q", q.generation += 1);
  REFUSED(ROPE_DISPOSED, "q_out", a.q_out.generation -= 1);
  REFUSED(ROPE_DISPOSED, "k", a.k.generation = 0);
  REFUSED(ROPE_DISPOSED, "k_out", k_out.generation = 0);
  REFUSED(ROPE_ARGUMENT, "q", q.dtype = 9);
  REFUSED(ROPE_ARGUMENT, "q", q.dtype = 255);
  REFUSED(ROPE_ARGUMENT, "q", q.rank = 7);
  REFUSED(ROPE_ARGUMENT, "q", q.rank = 255);
  REFUSED(ROPE_ARGUMENT, "q", q.shape[1] = -1);
  REFUSED(ROPE_ARGUMENT, "q", q.shape[0] = INT64_MIN);
  REFUSED(ROPE_ARGUMENT, "q", q.stride[0] = -16);
  REFUSED(ROPE_ARGUMENT, "q", q.extent -= 1);
  REFUSED(ROPE_ARGUMENT, "q_out", q_out.extent = 0);
  REFUSED(ROPE_ARGUMENT, "q", q.stride[0] += 1);
  REFUSED(ROPE_ARGUMENT, "q", q.data = 0);
  REFUSED(ROPE_ARGUMENT, "q", q.data += 2);
  REFUSED(ROPE_ARGUMENT, "q_out", q_out.data += 1; q_out.extent -= 1);
  // Sizes that overflow: in elements, in bytes, through a stride.
  REFUSED(ROPE_ARGUMENT, "q", q.shape[0] = INT64_MAX);
  REFUSED(ROPE_ARGUMENT, "q", q.shape[0] = q.shape[1] = INT64_C(1) << 40);
  REFUSED(ROPE_ARGUMENT, "q", q.shape[0] = INT64_C(1) << 58; q.extent = UINT64_MAX);
  REFUSED(ROPE_ARGUMENT, "q", q.stride[0] = INT64_MAX; q.extent = UINT64_MAX);
  REFUSED(ROPE_ARGUMENT, "q", q.stride[0] = INT64_MAX / 3; q.extent = UINT64_MAX);
  // Devices: another than the rest, and one that is not there.
  REFUSED(ROPE_DEVICE, "q_out", q_out.device = ROPE_CUDA << 8);
  REFUSED(ROPE_DEVICE, "k", k.device = k_out.device = ROPE_CUDA << 8);
  REFUSED(ROPE_DEVICE, "q", q.device = k.device = q_out.device = k_out.device = (ROPE_CUDA << 8) + 63);
  REFUSED(ROPE_DEVICE, "q", q.device = k.device = q_out.device = k_out.device = 1);
}

// ---- what rope_rotate refuses -------------------------------------------------------------------------------------------

static void test_rotate_refusals(void) {
  static int64_t ids[2 * kTokens];
  static int32_t ids32[kTokens + 1];
  rope_tensor p = vector(ids, ROPE_INT64, kTokens), o = vector(ids32, ROPE_INT32, 1), ip = vector(ids32, ROPE_INT32, 2);
  rope_graph_args graph;
  uint64_t wide;
  REFUSED(ROPE_ARGUMENT, "flags", a.flags = 4);
  REFUSED(ROPE_ARGUMENT, "pairing", a.pairing = 3);
  REFUSED(ROPE_ARGUMENT, "angles", a.angles = 2);
  REFUSED(ROPE_ARGUMENT, "head_dim", a.head_dim = -1);
  REFUSED(ROPE_ARGUMENT, "head_dim", a.head_dim = 16);
  REFUSED(ROPE_ARGUMENT, "rotary_offset", a.rotary_offset = -1);
  REFUSED(ROPE_ARGUMENT, "rotary_offset", a.rotary_offset = 9);
  REFUSED(ROPE_ARGUMENT, "rotary_dim", a.rotary_offset = 1);
  REFUSED(ROPE_DISPOSED, "frequencies", a.frequencies = 0);
  REFUSED(ROPE_DISPOSED, "frequencies", a.frequencies += 1);
  REFUSED(ROPE_DISPOSED, "stream", a.stream = frequencies);
  wide = create_frequencies(16, 10000);
  REFUSED(ROPE_ARGUMENT, "rotary_dim", a.frequencies = wide);
  release_frequencies(wide);
  REFUSED(ROPE_DISPOSED, "frequencies", a.frequencies = wide);
  // dtypes and shapes
  REFUSED(ROPE_ARGUMENT, "q", q.dtype = ROPE_INT32);
  REFUSED(ROPE_ARGUMENT, "q", q.dtype = ROPE_FLOAT8_E5M2);
  REFUSED(ROPE_ARGUMENT, "q_out", q_out.dtype = ROPE_FLOAT16);
  REFUSED(ROPE_ARGUMENT, "k", k.dtype = k_out.dtype = ROPE_BFLOAT16);
  REFUSED(ROPE_ARGUMENT, "q_out", q_out.shape[0] -= 1);
  REFUSED(ROPE_ARGUMENT, "k", k.shape[0] = k_out.shape[0] = 3);
  REFUSED(ROPE_ARGUMENT, "k", k.shape[2] = k_out.shape[2] = 4);
  REFUSED(ROPE_ARGUMENT, "q", q.rank = q_out.rank = 1);
  REFUSED(ROPE_ARGUMENT, "head_dim", q.rank = q_out.rank = 2; q.stride[1] = q_out.stride[1] = 1);  // [nnz, H * D] does not say what D is
  REFUSED(ROPE_ARGUMENT, "q", q.rank = q_out.rank = 2; q.shape[1] = q_out.shape[1] = 7; q.stride[1] = q_out.stride[1] = 1; a.head_dim = 8);
  REFUSED(ROPE_ARGUMENT, "q", q.shape[2] = q_out.shape[2] = 4; q.stride[2] = 2);
  // overlaps
  REFUSED(ROPE_ARGUMENT, "q_out", q_out.data = q.data + 4; q.shape[0] = q_out.shape[0] = 3);
  REFUSED(ROPE_ARGUMENT, "q_out", q_out.data = q.data; q_out.stride[0] = 8; q_out.stride[1] = 32);  // the same memory in another order
  REFUSED(ROPE_ARGUMENT, "q_out", q_out.stride[0] = 0);
  REFUSED(ROPE_ARGUMENT, "k_out", k_out.data = q_out.data);
  REFUSED(ROPE_ARGUMENT, "q_out", k.data = q_out.data);
  REFUSED(ROPE_ARGUMENT, "k_out", k_out.data = q.data);
  REFUSED(ROPE_ARGUMENT, "q_out", p.data = q_out.data; a.positions = ref(&p));
  p.data = rope_address(ids);
  // positions
  REFUSED(ROPE_ARGUMENT, "positions", a.positions = ref(&p); a.offset = 1);
  REFUSED(ROPE_ARGUMENT, "positions", a.positions = ref(&p); a.offsets = ref(&o));
  REFUSED(ROPE_ARGUMENT, "positions", a.positions = ref(&p); a.indptr = ref(&ip));
  REFUSED(ROPE_ARGUMENT, "offset", a.offsets = ref(&o); a.offset = 1);
  REFUSED(ROPE_ARGUMENT, "offsets", o.shape[0] = 2; a.offsets = ref(&o));
  REFUSED(ROPE_ARGUMENT, "indptr", ip.shape[0] = 0; a.indptr = ref(&ip));
  REFUSED(ROPE_ARGUMENT, "positions", p.shape[0] = 3; a.positions = ref(&p));
  REFUSED(ROPE_ARGUMENT, "positions", p.dtype = ROPE_FLOAT64; a.positions = ref(&p));
  REFUSED(ROPE_ARGUMENT, "positions", p.dtype = ROPE_UINT8; a.positions = ref(&p));
  REFUSED(ROPE_DISPOSED, "positions", a.positions = ref(&p); p.generation += 1);
  p = vector(ids, ROPE_INT64, kTokens);
  REFUSED(ROPE_DEVICE, "positions", p.device = 256; a.positions = ref(&p));
  ip = vector(ids32, ROPE_FLOAT32, 2);
  REFUSED(ROPE_ARGUMENT, "indptr", a.indptr = ref(&ip));
  ip = tensor(ids32, ROPE_INT32, 2, 1, 2, 0, 0);
  REFUSED(ROPE_ARGUMENT, "indptr", a.indptr = ref(&ip));
  // the stream of a finished recording
  START(graph);
  CHECK_OK(rope_graph_begin(&graph, record()));
  CHECK_OK(rope_graph_end(&graph, record()));
  REFUSED(ROPE_DISPOSED, "stream", a.stream = graph.stream);
  CHECK_OK(rope_graph_destroy(&graph, record()));
}

// ---- what it computes ---------------------------------------------------------------------------------------------------

// cos and sin without a library: Taylor series of a 1024th of the angle, then ten doublings.
static void turn(double angle, double* c, double* s) {
  const double turns = angle / 6.283185307179586477;
  const double x = (angle - (double)(int64_t)turns * 6.283185307179586477) / 1024;
  int i;
  double versine = x * x / 2 * (1 - x * x / 12 * (1 - x * x / 30));  // 1 - cos
  *s = x * (1 - x * x / 6 * (1 - x * x / 20 * (1 - x * x / 42)));
  for (i = 0; i < 10; ++i) {
    *s = 2 * *s * (1 - versine);
    versine = 2 * versine * (2 - versine);
  }
  *c = 1 - versine;
}

static double distance(double a, double b) { return a < b ? b - a : a - b; }

static void expect_rotated(const float* in, const float* out, int heads, const int64_t* positions, int pairing, int sign) {
  static const double theta_powers[] = {1, 0.1, 0.01, 0.001};  // 10000^(-2j/8)
  int token, head, j;
  double worst = 0, c, s, error;
  for (token = 0; token < kTokens; ++token) {
    for (head = 0; head < heads; ++head) {
      const float* const x = in + (token * heads + head) * kWidth;
      const float* const y = out + (token * heads + head) * kWidth;
      for (j = 0; j < kWidth / 2; ++j) {
        const int first = pairing == ROPE_HALF ? j : 2 * j, second = pairing == ROPE_HALF ? j + kWidth / 2 : 2 * j + 1;
        const int to_first = pairing == ROPE_INTERLEAVED ? 2 * j : j, to_second = pairing == ROPE_INTERLEAVED ? 2 * j + 1 : j + kWidth / 2;
        turn(sign * (double)positions[token] * theta_powers[j], &c, &s);
        error = distance(y[to_first], x[first] * c - x[second] * s) + distance(y[to_second], x[second] * c + x[first] * s);
        if (error > worst) worst = error;
      }
    }
  }
  CHECK(worst < 1e-6);
}

static void test_rotation(void) {
  static int64_t positions[kTokens] = {3, 1000, -7, 0};
  static const int64_t counted[kTokens] = {5, 6, 7, 8};
  rope_tensor p = vector(positions, ROPE_INT64, kTokens);
  int pairing;
  for (pairing = ROPE_HALF; pairing <= ROPE_INTERLEAVED_TO_HALF; ++pairing) {
    float saved[kQ], saved_k[kK];
    int i, near;
    rope_rotate_args a = start_rotate();
    a.pairing = (uint8_t)pairing;
    a.positions = ref(&p);
    CHECK_OK(rope_rotate(&a, record()));
    CHECK(all_fences_whole());
    expect_rotated(q_data, q_out_data, kHeads, positions, pairing, 1);
    expect_rotated(k_data, k_out_data, 1, positions, pairing, 1);

    // In place is out of place, bit for bit.
    memcpy(saved, q_out_data, sizeof saved);
    memcpy(saved_k, k_out_data, sizeof saved_k);
    a.q_out = a.q;
    a.k_out = a.k;
    poison_outputs();
    CHECK_OK(rope_rotate(&a, record()));
    CHECK(memcmp(saved, q_data, sizeof saved) == 0 && memcmp(saved_k, k_data, sizeof saved_k) == 0);
    CHECK(outputs_poisoned() && all_fences_whole());

    // The inverse undoes it.
    a.flags = ROPE_INVERSE;
    CHECK_OK(rope_rotate(&a, record()));
    for (i = 0, near = 1; i < kQ; ++i) near &= distance(q_data[i], q_value(i)) < 1e-6;
    CHECK(near);
    CHECK(all_fences_whole());

    a = start_rotate();
    a.pairing = (uint8_t)pairing;
    a.offset = 5;
    a.k = a.k_out = no_tensor();
    a.flags = ROPE_CONJUGATE;
    CHECK_OK(rope_rotate(&a, record()));
    expect_rotated(q_data, q_out_data, kHeads, counted, pairing, -1);
    CHECK(poisoned(k_out_data, sizeof saved_k));
    CHECK(memcmp(a.reserved, "\0\0\0\0\0\0", 6) == 0);
  }
}

// A block of an older header, which ends before pairing and angles: half and exact, whatever stands there.
static void test_short_block(void) {
  static const int64_t counted[kTokens] = {2, 3, 4, 5};
  rope_rotate_args a = start_rotate();
  a.offset = 2;
  memset(&a.head_dim, 0xff, sizeof a - offsetof(rope_rotate_args, head_dim));
  a.size = offsetof(rope_rotate_args, head_dim);
  CHECK_OK(rope_rotate(&a, record()));
  expect_rotated(q_data, q_out_data, kHeads, counted, ROPE_HALF, 1);
  a.size = offsetof(rope_rotate_args, offset);
  CHECK_OK(rope_rotate(&a, record()));
  a.size = offsetof(rope_rotate_args, q);
  CHECK_ERROR(ROPE_ARGUMENT, "q", rope_rotate(&a, record()));
}

// q and k as slices of one packed [token, 3, D] row, and outputs that interleave in one buffer: no element is shared, so all is legal.
static void test_packed(void) {
  float* const packed = (float*)fenced(kTokens * 4 * kWidth * sizeof(float));
  float* const outs = (float*)fenced(kTokens * 4 * kWidth * sizeof(float));
  rope_rotate_args a = start_rotate();
  int token, same = 1;
  CHECK_OK(rope_rotate(&a, record()));
  for (token = 0; token < kTokens; ++token) {
    memcpy(packed + token * 4 * kWidth, q_data + token * 2 * kWidth, 2 * kWidth * sizeof(float));
    memcpy(packed + token * 4 * kWidth + 2 * kWidth, k_data + token * kWidth, kWidth * sizeof(float));
  }
  q.data = rope_address(packed);
  k.data = rope_address(packed + 2 * kWidth);
  q_out.data = rope_address(outs);
  k_out.data = rope_address(outs + 2 * kWidth);
  q.stride[0] = k.stride[0] = q_out.stride[0] = k_out.stride[0] = 4 * kWidth;
  q.extent = q_out.extent = (3 * 4 + 2) * kWidth * sizeof(float);
  k.extent = k_out.extent = (3 * 4 + 1) * kWidth * sizeof(float);
  CHECK_OK(rope_rotate(&a, record()));
  for (token = 0; token < kTokens; ++token) {
    same &= memcmp(outs + token * 4 * kWidth, q_out_data + token * 2 * kWidth, 2 * kWidth * sizeof(float)) == 0;
    same &= memcmp(outs + token * 4 * kWidth + 2 * kWidth, k_out_data + token * kWidth, kWidth * sizeof(float)) == 0;
    same &= poisoned(outs + token * 4 * kWidth + 3 * kWidth, kWidth * sizeof(float));
  }
  CHECK(same);
  CHECK(fences_whole(outs, kTokens * 4 * kWidth * sizeof(float)) && fences_whole(packed, kTokens * 4 * kWidth * sizeof(float)));
  // In place in the packed rows; what is not q or k stays.
  a.q_out = a.q;
  a.k_out = a.k;
  CHECK_OK(rope_rotate(&a, record()));
  CHECK(memcmp(packed, outs, kTokens * 4 * kWidth * sizeof(float)) == 0);
  free_fenced(packed);
  free_fenced(outs);
}

static void test_empty(void) {
  rope_rotate_args a = start_rotate();
  q = tensor(NULL, ROPE_FLOAT32, 3, 0, kHeads, kWidth, 0);
  k = tensor(NULL, ROPE_FLOAT32, 3, 0, 0, kWidth, 0);
  q_out = q;
  k_out = k;
  CHECK_OK(rope_rotate(&a, record()));
  // No heads: nothing to do for any number of tokens.
  q = tensor(NULL, ROPE_FLOAT32, 3, INT64_C(1) << 40, 0, kWidth, 0);
  q_out = q;
  a.k = a.k_out = no_tensor();
  CHECK_OK(rope_rotate(&a, record()));
  q = tensor(NULL, ROPE_FLOAT32, 4, INT64_MAX, INT64_MAX, 0, kWidth);
  q_out = q;
  CHECK_OK(rope_rotate(&a, record()));
  // The stride of a dimension of length 1 does not matter.
  a = start_rotate();
  q.shape[0] = q_out.shape[0] = k.shape[0] = k_out.shape[0] = 1;
  q.shape[1] = q_out.shape[1] = 1;
  q.stride[0] = q.stride[1] = q_out.stride[0] = q_out.stride[1] = INT64_MAX;
  k.stride[1] = k_out.stride[1] = INT64_MAX / 4;
  CHECK_OK(rope_rotate(&a, record()));
  CHECK(poisoned(q_out_data + kWidth, (kQ - kWidth) * sizeof(float)) && memcmp(q_out_data, q_data, kWidth * sizeof(float)) == 0);
}

// ---- faults -------------------------------------------------------------------------------------------------------------

static void check_fault(uint32_t code, int64_t request, int64_t index, int64_t value, int64_t limit, int line) {
  const rope_fault* const f = &last_error.fault;
  check(f->code == code && f->request == request && f->index == index && f->value == value && f->limit == limit, __FILE__, line,
        "the record holds the first fault");
  if (f->code == code && f->request == request && f->index == index && f->value == value && f->limit == limit) return;
  fprintf(stderr, "  code %u, request %lld, index %lld, value %lld, limit %lld\n", (unsigned)f->code, (long long)f->request,
          (long long)f->index, (long long)f->value, (long long)f->limit);
}

static void test_faults(void) {
  static int64_t positions[kTokens] = {0, (INT64_C(1) << 38) + 1, INT64_MIN, -1};
  static float fractional[kTokens] = {0.0f, INFINITY, -INFINITY, NAN};
  static int32_t indptr[3] = {0, 3, 2};
  static int64_t starts[2] = {0, INT64_MAX};
  rope_tensor p = vector(positions, ROPE_INT64, kTokens), ip = vector(indptr, ROPE_INT32, 3), o = vector(starts, ROPE_INT64, 2);
  const size_t q_row = kHeads * kWidth, k_row = kWidth;
  int form;
  for (form = 0; form < 2; ++form) {
    rope_rotate_args a = start_rotate();
    if (form == 1) p = vector(fractional, ROPE_FLOAT32, kTokens);
    a.positions = ref(&p);
    CHECK_ERROR(ROPE_FAULT, "", rope_rotate(&a, record()));
    check_fault(ROPE_FAULT_POSITION, 0, 1, form == 0 ? positions[1] : INT64_MAX, ROPE_MAX_POSITION, __LINE__);
    // Position 0 turns by nothing and padding passes through; the bad rows between are not written.
    CHECK(memcmp(q_out_data, q_data, q_row * 4) == 0 && memcmp(k_out_data, k_data, k_row * 4) == 0);
    CHECK(memcmp(q_out_data + 3 * q_row, q_data + 3 * q_row, q_row * 4) == 0);
    CHECK(memcmp(k_out_data + 3 * k_row, k_data + 3 * k_row, k_row * 4) == 0);
    CHECK(poisoned(q_out_data + q_row, 2 * q_row * 4) && poisoned(k_out_data + k_row, 2 * k_row * 4));
    CHECK(all_fences_whole());
  }
  for (form = 0; form < 2; ++form) {
    // Request 0 owns tokens 0 to 2 and is sound; request 1 ends before it begins, or beyond the tokens.
    rope_rotate_args a = start_rotate();
    indptr[2] = form == 0 ? 2 : 5;
    a.indptr = ref(&ip);
    CHECK_ERROR(ROPE_FAULT, "", rope_rotate(&a, record()));
    check_fault(ROPE_FAULT_INDPTR, 1, 2, indptr[2], kTokens, __LINE__);
    CHECK(memcmp(q_out_data, q_data, q_row * 4) == 0 && memcmp(k_out_data, k_data, k_row * 4) == 0);
    CHECK(!poisoned(q_out_data + q_row, q_row * 4) && !poisoned(q_out_data + 2 * q_row, q_row * 4));
    CHECK(poisoned(q_out_data + 3 * q_row, q_row * 4) && poisoned(k_out_data + 3 * k_row, k_row * 4));
    CHECK(all_fences_whole());
  }
  REFUSED(ROPE_FAULT, "", indptr[0] = -1; a.indptr = ref(&ip));
  check_fault(ROPE_FAULT_INDPTR, 0, 0, -1, kTokens, __LINE__);
  REFUSED(ROPE_FAULT, "", a.offset = INT64_MAX);
  check_fault(ROPE_FAULT_POSITION, 0, 0, INT64_MAX, ROPE_MAX_POSITION, __LINE__);
  REFUSED(ROPE_FAULT, "", a.offset = INT64_MIN);
  check_fault(ROPE_FAULT_POSITION, 0, 0, INT64_MIN, ROPE_MAX_POSITION, __LINE__);
  {
    // Requests [0, 2) and [2, 3); token 3 belongs to none. The second starts beyond the limit.
    rope_rotate_args a = start_rotate();
    indptr[0] = 0;
    indptr[1] = 2;
    indptr[2] = 3;
    a.indptr = ref(&ip);
    a.offsets = ref(&o);
    CHECK_ERROR(ROPE_FAULT, "", rope_rotate(&a, record()));
    check_fault(ROPE_FAULT_POSITION, 1, 2, INT64_MAX, ROPE_MAX_POSITION, __LINE__);
    CHECK(memcmp(q_out_data, q_data, q_row * 4) == 0 && !poisoned(q_out_data + q_row, q_row * 4));
    CHECK(poisoned(q_out_data + 2 * q_row, q_row * 4));
    CHECK(memcmp(q_out_data + 3 * q_row, q_data + 3 * q_row, q_row * 4) == 0);
    // The last position that is none.
    starts[1] = ROPE_MAX_POSITION;
    CHECK_OK(rope_rotate(&a, record()));
  }
}

// ---- graphs -------------------------------------------------------------------------------------------------------------

static void test_graphs(void) {
  const rope_usage_args before = usage();
  static int64_t positions[kTokens] = {1, 2, 3, 4};
  rope_tensor p = vector(positions, ROPE_INT64, kTokens);
  rope_graph_args graph, cancelled;
  rope_copy_args copy;
  rope_rotate_args a = start_rotate();
  float expected[kQ];
  int i;
  START(graph);
  CHECK_OK(rope_graph_begin(&graph, record()));
  a.positions = ref(&p);
  a.stream = graph.stream;
  CHECK_OK(rope_rotate(&a, record()));
  CHECK(outputs_poisoned());  // recorded, not run
  START(copy);
  copy.stream = graph.stream;
  copy.source = a.q_out;
  copy.target = a.q;
  CHECK_OK(rope_copy(&copy, record()));
  a.pairing = 9;
  CHECK_ERROR(ROPE_ARGUMENT, "pairing", rope_rotate(&a, record()));  // checked while recording, and then not part of it
  a.pairing = 0;
  CHECK_OK(rope_graph_end(&graph, record()));
  CHECK(graph.nodes == 2 && graph.graph != 0);
  // The descriptors, the frequencies' handle and the stream may go: the graph holds what it needs.
  memset(&q, 0, sizeof q);
  memset(&q_out, 0, sizeof q_out);
  release_frequencies(frequencies);
  graph.stream = 0;
  for (i = 0; i < 1000; ++i) {
    if (rope_graph_launch(&graph, record()) != ROPE_OK) break;
  }
  CHECK(i == 1000);
  CHECK(all_fences_whole());
  memcpy(expected, q_data, sizeof expected);

  // The same thousand rotations without a graph.
  frequencies = create_frequencies(8, 10000);
  a = start_rotate();
  a.positions = ref(&p);
  START(copy);
  copy.source = a.q_out;
  copy.target = a.q;
  for (i = 0; i < 1000; ++i) {
    if (rope_rotate(&a, record()) != ROPE_OK || rope_copy(&copy, record()) != ROPE_OK) break;
  }
  CHECK(i == 1000 && memcmp(expected, q_data, sizeof expected) == 0);

  // Data is read when it runs: a position that went bad is a fault of the launch, which names the operation; the next launch is whole
  // again.
  positions[2] = INT64_MAX;
  poison_outputs();
  check_error(ROPE_FAULT, "", rope_graph_launch(&graph, record()), __FILE__, __LINE__, "rope_rotate in a graph");
  check_fault(ROPE_FAULT_POSITION, 0, 2, INT64_MAX, ROPE_MAX_POSITION, __LINE__);
  CHECK(poisoned(q_out_data + 2 * kHeads * kWidth, kHeads * kWidth * 4) &&
        !poisoned(q_out_data + 3 * kHeads * kWidth, kHeads * kWidth * 4));
  positions[2] = 3;
  CHECK_OK(rope_graph_launch(&graph, record()));

  // Launching on a recording stream, and a recording that is given up.
  START(cancelled);
  CHECK_OK(rope_graph_begin(&cancelled, record()));
  graph.stream = cancelled.stream;
  CHECK_ERROR(ROPE_ARGUMENT, "stream", rope_graph_launch(&graph, record()));
  a = start_rotate();
  a.stream = cancelled.stream;
  CHECK_OK(rope_rotate(&a, record()));
  CHECK_OK(rope_graph_cancel(&cancelled, record()));
  CHECK(outputs_poisoned());
  graph.stream = frequencies;
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_graph_launch(&graph, record()));
  CHECK_OK(rope_graph_destroy(&graph, record()));
  CHECK(usage().handles == before.handles);
}

static void test_flat(void) {
  const rope_usage_args before = usage();
  rope_rotate_args a = start_rotate();
  int i, fine = 1;
  for (i = 0; i < 10000; ++i) {
    a.angles = (uint8_t)(i % 3);
    fine &= rope_rotate(&a, record()) == (i % 3 < 2 ? ROPE_OK : ROPE_ARGUMENT);
  }
  CHECK(fine);
  CHECK(usage().handles == before.handles && usage().bytes == before.bytes);
}

int main(void) {
  q_data = (float*)fenced(kQ * sizeof(float));
  k_data = (float*)fenced(kK * sizeof(float));
  q_out_data = (float*)fenced(kQ * sizeof(float));
  k_out_data = (float*)fenced(kK * sizeof(float));
  frequencies = create_frequencies(8, 10000);
  test_tensors();
  test_rotate_refusals();
  test_rotation();
  test_short_block();
  test_packed();
  test_empty();
  test_faults();
  test_graphs();
  test_flat();
  release_frequencies(frequencies);
  free_fenced(q_data);
  free_fenced(k_data);
  free_fenced(q_out_data);
  free_fenced(k_out_data);
  return finish("rotate_test");
}
