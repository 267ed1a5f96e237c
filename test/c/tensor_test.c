// rope_copy, rope_fill, the frequencies and rope_cos_sin as a C program sees them.
#include <math.h>
#include <stddef.h>

#include "check.h"

static double distance(double a, double b) { return a < b ? b - a : a - b; }

static void test_copy(void) {
  static float source[24];
  static uint16_t halves[24];
  static double wide[24];
  rope_tensor s = tensor(source, ROPE_FLOAT32, 2, 4, 6, 0, 0), t = tensor(halves, ROPE_FLOAT16, 2, 6, 4, 0, 0), w;
  rope_copy_args args;
  int i, same = 1;
  for (i = 0; i < 24; ++i) source[i] = (float)i - 4.0f;
  START(args);
  args.source = ref(&s);
  args.target = ref(&t);
  CHECK_ERROR(ROPE_ARGUMENT, "target", rope_copy(&args, record()));  // [4, 6] and [6, 4]
  CHECK(strstr(last_error.expected, "[4, 6]") != NULL && strstr(last_error.actual, "[6, 4]") != NULL);
  s.shape[0] = 6, s.shape[1] = 4, s.stride[0] = 1, s.stride[1] = 6;  // transposed
  CHECK_OK(rope_copy(&args, record()));
  w = tensor(wide, ROPE_FLOAT64, 2, 6, 4, 0, 0);
  args.source = ref(&t);
  args.target = ref(&w);
  CHECK_OK(rope_copy(&args, record()));
  for (i = 0; i < 24; ++i) same &= wide[i] == source[i % 4 * 6 + i / 4];
  CHECK(same);

  // A tensor onto itself is nothing to do; onto a part of itself is refused; slices that interleave are apart.
  args.source = args.target;
  CHECK_OK(rope_copy(&args, record()));
  s = tensor(source, ROPE_FLOAT32, 1, 12, 0, 0, 0);
  t = s;
  s.stride[0] = t.stride[0] = 2;
  s.extent = t.extent = 92;
  args.source = ref(&s);
  args.target = ref(&t);
  CHECK_OK(rope_copy(&args, record()));
  t.data += 4;
  CHECK_OK(rope_copy(&args, record()));
  for (i = 0, same = 1; i < 24; ++i) same &= source[i] == (float)(i / 2 * 2) - 4.0f;
  CHECK(same);
  t.data += 4;
  t.shape[0] = s.shape[0] = 10;
  CHECK_ERROR(ROPE_ARGUMENT, "target", rope_copy(&args, record()));
  t.data -= 6;
  t.dtype = ROPE_FLOAT16;
  t.stride[0] = 4;
  CHECK_ERROR(ROPE_ARGUMENT, "target", rope_copy(&args, record()));  // the upper halves of the source's floats
  t = vector(wide, ROPE_FLOAT64, 10);
  t.stride[0] = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "target", rope_copy(&args, record()));
  t.stride[0] = 1;
  s.stride[0] = 0;
  CHECK_OK(rope_copy(&args, record()));  // a repeated source
  CHECK(wide[0] == -4 && wide[9] == -4);
  t.device = 1;
  CHECK_ERROR(ROPE_DEVICE, "target", rope_copy(&args, record()));
  s.device = 1;
  CHECK_ERROR(ROPE_DEVICE, "source", rope_copy(&args, record()));
  args.source = no_tensor();
  CHECK_ERROR(ROPE_ARGUMENT, "source", rope_copy(&args, record()));

  // Rank 0, and no elements at all with shapes that could not be.
  s = tensor(source, ROPE_FLOAT32, 0, 0, 0, 0, 0);
  t = tensor(wide, ROPE_FLOAT64, 0, 0, 0, 0, 0);
  args.source = ref(&s);
  CHECK_OK(rope_copy(&args, record()));
  s = tensor(NULL, ROPE_FLOAT32, 3, INT64_MAX, INT64_MAX, 0, 0);
  t = tensor(NULL, ROPE_INT64, 3, INT64_MAX, INT64_MAX, 0, 0);
  CHECK_OK(rope_copy(&args, record()));
  args.stream = 1;
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_copy(&args, record()));
}

static void test_fill(void) {
  int32_t* const ints = (int32_t*)fenced(40);
  float values[1000], again[1000];
  double mean = 0, square = 0;
  rope_tensor t = vector(ints, ROPE_INT32, 5), f = vector(values, ROPE_FLOAT32, 1000), g = vector(again + 500, ROPE_FLOAT32, 500);
  rope_fill_args args;
  int i;
  t.stride[0] = 2;
  t.extent = 36;
  START(args);
  args.target = ref(&t);
  args.kind = ROPE_FILL_ARANGE;
  args.start = INT32_MAX;
  args.step = -2;
  CHECK_OK(rope_fill(&args, record()));
  CHECK(ints[0] == INT32_MAX && ints[8] == INT32_MAX - 8 && poisoned(ints + 1, 4) && poisoned(ints + 9, 4) && fences_whole(ints, 40));
  // What an integer cannot hold is converted as rope_copy does: truncated, saturated, NaN to 0.
  args.step = 1;
  CHECK_OK(rope_fill(&args, record()));
  CHECK(ints[0] == INT32_MAX && ints[8] == INT32_MAX && poisoned(ints + 1, 4) && fences_whole(ints, 40));
  args.kind = ROPE_FILL_CONSTANT;
  args.start = NAN;
  CHECK_OK(rope_fill(&args, record()));
  CHECK(ints[0] == 0 && ints[8] == 0);
  args.start = -1.5;
  CHECK_OK(rope_fill(&args, record()));
  CHECK(ints[0] == -1 && ints[8] == -1 && poisoned(ints + 9, 4) && fences_whole(ints, 40));
  memset(ints, kPoison, 40);
  args.kind = ROPE_FILL_NORMAL;
  CHECK_ERROR(ROPE_ARGUMENT, "target", rope_fill(&args, record()));
  args.kind = 3;
  CHECK_ERROR(ROPE_ARGUMENT, "kind", rope_fill(&args, record()));
  args.kind = ROPE_FILL_CONSTANT;
  args.start = 3;
  args.stream = 1;
  CHECK_ERROR(ROPE_DISPOSED, "stream", rope_fill(&args, record()));
  args.stream = 0;
  t.device = (ROPE_CUDA << 8) + 63;
  CHECK_ERROR(ROPE_DEVICE, "target", rope_fill(&args, record()));
  t.device = 0;
  t.stride[0] = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "target", rope_fill(&args, record()));
  CHECK(poisoned(ints, 40) && fences_whole(ints, 40));
  args.target = ref(&f);
  args.kind = ROPE_FILL_NORMAL;
  args.seed = 42;
  CHECK_OK(rope_fill(&args, record()));
  for (i = 0; i < 1000; ++i) mean += values[i] / 1000.0, square += values[i] * values[i] / 1000.0;
  CHECK(distance(mean, 0) < 0.15 && distance(square, 1) < 0.2);
  args.target = ref(&g);
  CHECK_OK(rope_fill(&args, record()));
  CHECK(memcmp(values, again + 500, sizeof values / 2) == 0);  // a function of seed and index alone
  free_fenced(ints);
}

static void test_frequencies(void) {
  const rope_usage_args before = usage();
  static const int32_t axis_of_pair[4] = {0, 1, 1, 0};
  static const double custom[4] = {1, 0.5, 0, -2};
  double exact[9];
  float inv_freq[9];
  rope_frequencies_args args;
  rope_frequencies_read_args read;
  int i;
  START(args);
  args.rotary_dim = 8;
  args.theta = 10000;
  CHECK_OK(rope_frequencies_create(&args, record()));
  START(read);
  read.frequencies = args.frequencies;
  read.exact = rope_address(exact);
  read.inv_freq = rope_address(inv_freq);
  exact[4] = inv_freq[4] = 77;
  CHECK_ERROR(ROPE_ARGUMENT, "count", rope_frequencies_read(&read, record()));
  read.count = 4;
  CHECK_OK(rope_frequencies_read(&read, record()));
  CHECK(exact[0] == 1 && exact[1] == 0.1 && exact[2] == 0.01 && exact[3] == 0.001 && exact[4] == 77);  // 10000^(-2j/8)
  CHECK(inv_freq[0] == 1 && inv_freq[1] == 0.1f && inv_freq[2] == 0.01f && inv_freq[3] == 0.001f && inv_freq[4] == 77);
  read.exact = 0;
  CHECK_OK(rope_frequencies_read(&read, record()));
  CHECK_OK(rope_frequencies_release(&args, record()));
  CHECK_ERROR(ROPE_DISPOSED, "frequencies", rope_frequencies_read(&read, record()));

  args.rule = ROPE_RULE_LINEAR;
  CHECK_ERROR(ROPE_ARGUMENT, "factor", rope_frequencies_create(&args, record()));
  args.factor = 4;
  CHECK_OK(rope_frequencies_create(&args, record()));
  read.frequencies = args.frequencies;
  read.exact = rope_address(exact);
  CHECK_OK(rope_frequencies_read(&read, record()));
  CHECK(exact[0] == 0.25 && exact[3] == 0.001 / 4 && inv_freq[0] == 0.25f);
  CHECK_OK(rope_frequencies_release(&args, record()));
  args.rule = ROPE_RULE_LLAMA3;
  CHECK_ERROR(ROPE_ARGUMENT, "low_freq_factor", rope_frequencies_create(&args, record()));
  args.low_freq_factor = 5;
  CHECK_ERROR(ROPE_ARGUMENT, "high_freq_factor", rope_frequencies_create(&args, record()));
  args.high_freq_factor = 4;
  CHECK_ERROR(ROPE_ARGUMENT, "original_max_position", rope_frequencies_create(&args, record()));
  args.original_max_position = 100;
  CHECK_ERROR(ROPE_ARGUMENT, "low_freq_factor", rope_frequencies_create(&args, record()));
  args.low_freq_factor = 1;
  CHECK_OK(rope_frequencies_create(&args, record()));
  read.frequencies = args.frequencies;
  CHECK_OK(rope_frequencies_read(&read, record()));
  CHECK(exact[0] == 1 && exact[3] == 0.001 / 4);  // a wavelength of 2 pi is kept, one of 2000 pi is stretched
  CHECK_OK(rope_frequencies_release(&args, record()));

  args.rule = ROPE_RULE_CUSTOM;
  CHECK_ERROR(ROPE_ARGUMENT, "custom", rope_frequencies_create(&args, record()));
  args.custom = rope_address(custom);
  args.custom_count = 3;
  CHECK_ERROR(ROPE_ARGUMENT, "custom", rope_frequencies_create(&args, record()));
  args.custom_count = 4;
  args.axes = 2;
  CHECK_ERROR(ROPE_ARGUMENT, "custom", rope_frequencies_create(&args, record()));
  args.axis_of_pair = rope_address(axis_of_pair);
  args.axis_of_pair_count = 3;
  CHECK_ERROR(ROPE_ARGUMENT, "axis_of_pair", rope_frequencies_create(&args, record()));
  args.axis_of_pair_count = 4;
  CHECK_OK(rope_frequencies_create(&args, record()));
  read.frequencies = args.frequencies;
  read.count = 8;
  CHECK_OK(rope_frequencies_read(&read, record()));
  for (i = 0; i < 8; ++i) CHECK(exact[i] == (axis_of_pair[i % 4] == i / 4 ? custom[i % 4] : 0));
  CHECK_OK(rope_frequencies_release(&args, record()));
  args.axes = 1;
  CHECK_ERROR(ROPE_ARGUMENT, "axis_of_pair", rope_frequencies_create(&args, record()));

  // The numbers that every rule refuses.
  START(args);
  args.rotary_dim = 8;
  CHECK_ERROR(ROPE_ARGUMENT, "theta", rope_frequencies_create(&args, record()));
  args.theta = NAN;
  CHECK_ERROR(ROPE_ARGUMENT, "theta", rope_frequencies_create(&args, record()));
  args.theta = 10000;
  args.rule = 9;
  CHECK_ERROR(ROPE_ARGUMENT, "rule", rope_frequencies_create(&args, record()));
  args.rule = 0;
  args.rotary_dim = 7;
  CHECK_ERROR(ROPE_ARGUMENT, "rotary_dim", rope_frequencies_create(&args, record()));
  args.rotary_dim = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "rotary_dim", rope_frequencies_create(&args, record()));
  args.rotary_dim = INT64_MAX - 1;
  CHECK_ERROR(ROPE_ARGUMENT, "rotary_dim", rope_frequencies_create(&args, record()));
  args.rotary_dim = 8;
  args.axes = -1;
  CHECK_ERROR(ROPE_ARGUMENT, "axes", rope_frequencies_create(&args, record()));
  args.axes = 2;
  CHECK_ERROR(ROPE_ARGUMENT, "axis_of_pair", rope_frequencies_create(&args, record()));
  args.axes = 0;
  args.heads = 1;
  CHECK_ERROR(ROPE_ARGUMENT, "heads", rope_frequencies_create(&args, record()));
  args.heads = 0;
  args.attention_factor = -1;
  CHECK_ERROR(ROPE_ARGUMENT, "attention_factor", rope_frequencies_create(&args, record()));
  args.attention_factor = INFINITY;
  CHECK_ERROR(ROPE_ARGUMENT, "attention_factor", rope_frequencies_create(&args, record()));
  CHECK(usage().handles == before.handles);
}

static void test_cos_sin(void) {
  static int64_t positions[4] = {0, -1, INT64_C(1) << 39, 0};
  float* const cos = (float*)fenced(16 * sizeof(float));
  float* const sin = (float*)fenced(16 * sizeof(float));
  rope_tensor p = vector(positions, ROPE_INT64, 4), c = tensor(cos, ROPE_FLOAT32, 2, 4, 4, 0, 0),
              s = tensor(sin, ROPE_FLOAT32, 2, 4, 4, 0, 0);
  rope_frequencies_args frequencies;
  rope_cos_sin_args args;
  int i, same = 1;
  START(frequencies);
  frequencies.rotary_dim = 8;
  frequencies.theta = 10000;
  frequencies.attention_factor = 1.5;
  CHECK_OK(rope_frequencies_create(&frequencies, record()));
  START(args);
  args.frequencies = frequencies.frequencies;
  args.positions = ref(&p);
  args.cos = ref(&c);
  args.sin = ref(&s);
  CHECK_ERROR(ROPE_FAULT, "", rope_cos_sin(&args, record()));
  CHECK(last_error.fault.index == 2 && last_error.fault.value == positions[2] && last_error.fault.limit == ROPE_MAX_POSITION);
  for (i = 0; i < 4; ++i) same &= cos[i] == 1.5f && sin[i] == 0 && cos[4 + i] == 1 && sin[4 + i] == 0 && cos[12 + i] == 1.5f;  // 1: padding
  CHECK(same && poisoned(cos + 8, 16) && poisoned(sin + 8, 16));
  CHECK(fences_whole(cos, 16 * sizeof(float)) && fences_whole(sin, 16 * sizeof(float)));
  c.stride[0] = 5;
  c.shape[0] = s.shape[0] = p.shape[0] = 3;
  CHECK_ERROR(ROPE_ARGUMENT, "cos", rope_cos_sin(&args, record()));
  c.stride[0] = 4;
  s.data = c.data;
  CHECK_ERROR(ROPE_ARGUMENT, "sin", rope_cos_sin(&args, record()));
  s.shape[1] = 3;
  CHECK_ERROR(ROPE_ARGUMENT, "sin", rope_cos_sin(&args, record()));
  c.dtype = ROPE_FLOAT64;
  CHECK_ERROR(ROPE_ARGUMENT, "cos", rope_cos_sin(&args, record()));
  p.data = c.data;
  c.dtype = ROPE_FLOAT32;
  CHECK_ERROR(ROPE_ARGUMENT, "cos", rope_cos_sin(&args, record()));
  p.rank = 0;
  CHECK_ERROR(ROPE_ARGUMENT, "positions", rope_cos_sin(&args, record()));
  args.angles = 2;
  CHECK_ERROR(ROPE_ARGUMENT, "angles", rope_cos_sin(&args, record()));
  args.flags = 4;
  CHECK_ERROR(ROPE_ARGUMENT, "flags", rope_cos_sin(&args, record()));
  CHECK_OK(rope_frequencies_release(&frequencies, record()));
  free_fenced(cos);
  free_fenced(sin);
}

int main(void) {
  test_copy();
  test_fill();
  test_frequencies();
  test_cos_sin();
  return finish("tensor_test");
}
