// The frequency rules beyond default, linear and llama3 as a C program sees them: what they give, what they read, what they refuse.
#include <math.h>

#include "check.h"

enum { kPairs = 4 };

static double exact[kPairs];
static float inv_freq[kPairs];

static rope_frequencies_args start(uint32_t rule) {
  rope_frequencies_args args;
  START(args);
  args.rule = rule;
  args.rotary_dim = 2 * kPairs;
  args.theta = 10000;
  return args;
}

/* Makes the frequencies, reads them and gives them up. Returns the attention factor. */
static double make(rope_frequencies_args args) {
  rope_frequencies_read_args read;
  CHECK_OK(rope_frequencies_create(&args, record()));
  START(read);
  read.frequencies = args.frequencies;
  read.exact = rope_address(exact);
  read.inv_freq = rope_address(inv_freq);
  read.count = kPairs;
  CHECK_OK(rope_frequencies_read(&read, record()));
  CHECK_OK(rope_frequencies_release(&args, record()));
  return args.chosen_attention_factor;
}

static int near(double value, double wanted) { return fabs(value - wanted) <= 1e-14 * fabs(wanted); }

#define REFUSE(argument) CHECK_ERROR(ROPE_ARGUMENT, argument, rope_frequencies_create(&args, record()))

static void test_dynamic(void) {
  rope_frequencies_args args = start(ROPE_RULE_DYNAMIC);
  REFUSE("factor");
  args.factor = 2;
  REFUSE("original_max_position");
  args.original_max_position = 100;
  CHECK(make(args) == 1 && exact[1] == 0.1 && inv_freq[1] == 0.1f);
  args.context_length = 100;
  CHECK(make(args) == 1 && exact[1] == 0.1 && inv_freq[1] == 0.1f);
  args.context_length = 400; /* theta * 7^(8/6) */
  make(args);
  CHECK(near(exact[1], pow(10000 * pow(7, 8.0 / 6), -0.25)) && fabs(inv_freq[1] - exact[1]) < 1e-8);
  args.context_length = NAN;
  REFUSE("context_length");
  args.alpha = 1000; /* at every length */
  args.original_max_position = args.factor = 0;
  make(args);
  CHECK(near(exact[1], pow(10000 * pow(1000, 8.0 / 6), -0.25)));
  args.alpha = -1;
  REFUSE("alpha");
  args.alpha = 1000;
  args.rotary_dim = 2;
  REFUSE("rotary_dim");
}

static void test_ntk(void) {
  rope_frequencies_args args = start(ROPE_RULE_NTK);
  REFUSE("factor");
  args.factor = 16;
  make(args);
  CHECK(near(exact[0], 0.5) && near(exact[1], pow(160000, -0.25) / 2)); /* 16^(2/8) = 2 */
  args.mixed_b = 1;
  make(args);
  CHECK(near(exact[0], 0.5) && near(exact[1], 0.1 / 4) && near(exact[3], 0.001 / 16)); /* 2^(j + 1) */
  args.mixed_b = -1;
  REFUSE("mixed_b");
}

static void test_yarn(void) {
  rope_frequencies_args args = start(ROPE_RULE_YARN);
  REFUSE("original_max_position");
  args.original_max_position = 4096;
  REFUSE("factor");
  args.max_position = 16384; /* the factor is 4 */
  CHECK(make(args) == 0.1 * log(4) + 1);
  CHECK(exact[0] == 1 && exact[3] == 0.001 / 4 && inv_freq[3] == 0.001f / 4);
  args.mscale = args.mscale_all_dim = 0.7;
  CHECK(make(args) == 1);
  args.attention_factor = 1.5;
  CHECK(make(args) == 1.5);
  args.beta_fast = 1;
  args.beta_slow = 2;
  REFUSE("beta_fast");
  args.beta_slow = NAN;
  REFUSE("beta_slow");
  args.beta_slow = 0;
  args.mscale = -1;
  REFUSE("mscale");
  args.mscale = 0;
  args.no_truncate = 2;
  REFUSE("no_truncate");
  args.no_truncate = 1;
  make(args);
  args.theta = 1;
  REFUSE("theta");
}

static void test_longrope(void) {
  static double divisors[2 * kPairs] = {1, 2, 4, 8, 16, 32, 64, 128};
  rope_frequencies_args args = start(ROPE_RULE_LONGROPE);
  args.original_max_position = 1;
  REFUSE("original_max_position");
  args.original_max_position = 16;
  REFUSE("factor");
  args.factor = 16;
  REFUSE("custom");
  args.custom = rope_address(divisors);
  args.custom_count = kPairs;
  REFUSE("custom");
  args.custom_count = 2 * kPairs;
  CHECK(make(args) == sqrt(2));
  CHECK(exact[1] == 0.1 / 2 && exact[3] == 0.001 / 8 && inv_freq[1] == 0.05f);
  args.context_length = 17;
  CHECK(make(args) == sqrt(2));
  CHECK(exact[0] == 1.0 / 16 && exact[3] == 0.001 / 128);
  args.long_mscale = 3;
  CHECK(make(args) == 3);
  args.context_length = 16;
  CHECK(make(args) == sqrt(2));
  args.short_mscale = INFINITY;
  REFUSE("short_mscale");
  args.short_mscale = 0;
  divisors[7] = 0;
  REFUSE("custom");
  divisors[7] = 1e-30;
  args.context_length = 17;
  REFUSE("custom"); /* a frequency that is too high */
}

static void test_proportional(void) {
  rope_frequencies_args args = start(ROPE_RULE_PROPORTIONAL);
  make(args);
  CHECK(exact[0] == 1 && exact[3] == 0.001);
  args.partial = 0.6; /* 2.4 of 4 pairs */
  args.factor = 2;
  make(args);
  CHECK(exact[0] == 0.5 && exact[1] == 0.05 && exact[2] == 0 && exact[3] == 0 && inv_freq[1] == 0.1f / 2 && inv_freq[2] == 0);
  args.partial = 1.5;
  REFUSE("partial");
  args.partial = NAN;
  REFUSE("partial");
}

/* Callers who know nothing of the new fields, and of where the attention factor is told. */
static void test_shorter_blocks(void) {
  rope_frequencies_args args = start(ROPE_RULE_DEFAULT);
  args.size = (uint32_t)((const char*)&args.context_length - (const char*)&args);
  args.alpha = args.partial = NAN;
  args.chosen_attention_factor = 77;
  CHECK_OK(rope_frequencies_create(&args, record()));
  CHECK(args.chosen_attention_factor == 77);
  CHECK_OK(rope_frequencies_release(&args, record()));
  args.rule = ROPE_RULE_PROPORTIONAL + 1;
  REFUSE("rule");
}

int main(void) {
  const rope_usage_args before = usage();
  test_dynamic();
  test_ntk();
  test_yarn();
  test_longrope();
  test_proportional();
  test_shorter_blocks();
  CHECK(usage().handles == before.handles);
  return finish("rules_test");
}
