// The overlap of strided tensors against brute force: rope_copy and rope_rotate over random small tensors in one small block must refuse
// exactly the calls in which an output names an element twice or shares a byte with another tensor without being the same one.
//
//   overlap_test [calls] [seed]
#include <algorithm>
#include <bitset>
#include <chrono>
#include <string>
#include <vector>

#include "check.h"
#include "fuzz_memory.h"

namespace {

constexpr size_t kBytes = 512;
alignas(64) char block[kBytes];
uint64_t frequencies;

using Bytes = std::bitset<kBytes>;

Bytes bytes_of(const rope_tensor& t) {
  Bytes bytes;
  const size_t start = t.data - reinterpret_cast<uint64_t>(block), size = static_cast<size_t>(element_size(t.dtype));
  each_element(t, [&](int64_t offset) {
    for (size_t i = 0; i < size; ++i) bytes.set(start + static_cast<size_t>(offset) * size + i);
  });
  return bytes;
}

bool share(const rope_tensor& a, const rope_tensor& b) { return (bytes_of(a) & bytes_of(b)).any(); }

bool names_twice(const rope_tensor& t) {
  std::vector<int64_t> offsets;
  each_element(t, [&](int64_t offset) { offsets.push_back(offset); });
  std::sort(offsets.begin(), offsets.end());
  return std::adjacent_find(offsets.begin(), offsets.end()) != offsets.end();
}

// The same elements in the same order.
bool same(const rope_tensor& a, const rope_tensor& b) {
  if (a.data != b.data || a.dtype != b.dtype) return false;
  std::vector<int64_t> of_a, of_b;
  each_element(a, [&](int64_t offset) { of_a.push_back(offset); });
  each_element(b, [&](int64_t offset) { of_b.push_back(offset); });
  return of_a == of_b;
}

// A tensor somewhere in the block that fits in it.
rope_tensor place(Random& random, int dtype, const std::vector<int64_t>& shape, bool packed_last) {
  for (;;) {
    rope_tensor t = tensor(block, dtype, 0, 0, 0, 0, 0);
    t.rank = static_cast<uint8_t>(shape.size());
    int64_t last = 0;
    bool empty = false;
    const int64_t widest = random.one_of({int64_t{4}, int64_t{13}, int64_t{60}});
    for (size_t i = 0; i < shape.size(); ++i) {
      t.shape[i] = shape[i];
      t.stride[i] = packed_last && i + 1 == shape.size() ? 1 : random.below(widest);
      last += (shape[i] - 1) * t.stride[i];
      empty |= shape[i] == 0;
    }
    const int64_t size = element_size(dtype), span = empty ? 0 : (last + 1) * size;
    if (span > static_cast<int64_t>(kBytes)) continue;
    const int64_t offset = random.below((static_cast<int64_t>(kBytes) - span) / size + 1) * size;
    t.data += static_cast<uint64_t>(offset);
    t.extent = kBytes - static_cast<uint64_t>(offset);
    return t;
  }
}

// Names the argument a refused call names, "" where it runs.
void expect(const std::string& argument, int32_t status, const char* what) {
  const bool right = argument.empty() ? status == ROPE_OK : status == ROPE_ARGUMENT && argument == last_error.argument;
  check(right, __FILE__, __LINE__, what);
  if (right) return;
  std::fprintf(stderr, "  status %d, \"%s\" instead of \"%s\": %s, %s\n", status, last_error.argument, argument.c_str(),
               last_error.expected, last_error.actual);
}

struct Tally {
  int64_t refused = 0, ran = 0, touching = 0;
  void count(bool is_refused, bool interleaved) {
    ++(is_refused ? refused : ran);
    touching += interleaved;
  }
};

// Apart, but each within the other's reach.
bool interleaved(const rope_tensor& a, const rope_tensor& b) {
  const auto reach = [](const rope_tensor& t) {
    int64_t last = 0;
    for (int i = 0; i < t.rank; ++i) last += (t.shape[i] - 1) * t.stride[i];
    return t.data + static_cast<uint64_t>((last + 1) * element_size(t.dtype));
  };
  return !share(a, b) && a.data < reach(b) && b.data < reach(a);
}

Tally test_copy(Random& random, int64_t calls) {
  Tally tally;
  for (int64_t n = 0; n < calls; ++n) {
    std::vector<int64_t> shape;
    for (int64_t rank = random.below(6); rank > 0; --rank) shape.push_back(random.chance(2) ? 0 : random.between(1, 4));
    rope_tensor source = place(random, static_cast<int>(random.below(9)), shape, false);
    rope_tensor target = place(random, static_cast<int>(random.below(9)), shape, false);
    if (random.chance(5)) target = source;
    rope_copy_args args{sizeof args, 0, 0, ref(&source), ref(&target)};
    const bool refused = names_twice(target) || (share(source, target) && !same(source, target));
    expect(refused ? "target" : "", rope_copy(&args, record()), "rope_copy");
    tally.count(refused, interleaved(source, target));
  }
  return tally;
}

// Tensors of different shapes: two sides and positions.
Tally test_rotate(Random& random, int64_t calls) {
  Tally tally;
  for (int64_t n = 0; n < calls; ++n) {
    const int dtype = random.one_of({ROPE_FLOAT64, ROPE_FLOAT32, ROPE_FLOAT16, ROPE_BFLOAT16});
    const int64_t tokens = random.between(1, 4), head_dim = random.between(2, 3);
    const std::vector<int64_t> q_shape{tokens, random.between(1, 3), head_dim}, k_shape{tokens, random.between(1, 2), head_dim};
    rope_tensor q = place(random, dtype, q_shape, true), q_out = random.chance(40) ? q : place(random, dtype, q_shape, true);
    rope_tensor k = place(random, dtype, k_shape, true), k_out = random.chance(40) ? k : place(random, dtype, k_shape, true);
    rope_tensor positions = place(random, ROPE_INT32, {tokens}, false);
    std::memset(block, 0, sizeof block);  // no position is a fault
    rope_rotate_args args{};
    args.size = sizeof args;
    args.frequencies = frequencies;
    args.q = ref(&q);
    args.k = ref(&k);
    args.q_out = ref(&q_out);
    args.k_out = ref(&k_out);
    args.positions = ref(&positions);
    const bool q_apart = !share(q, q_out), k_apart = !share(k, k_out), q_in_place = same(q, q_out), k_in_place = same(k, k_out);
    const char* const q_written = q_in_place ? "q" : "q_out";  // what an error calls it
    const char* const k_written = k_in_place ? "k" : "k_out";
    const char* const refused = names_twice(q_out)        ? q_written
                                : !q_apart && !q_in_place ? q_written
                                : names_twice(k_out)      ? k_written
                                : !k_apart && !k_in_place ? k_written
                                : share(q_out, k_out)     ? k_written
                                : share(q_out, k)         ? q_written
                                : share(k_out, q)         ? k_written
                                : share(q_out, positions) ? q_written
                                : share(k_out, positions) ? k_written
                                                          : "";
    expect(refused, rope_rotate(&args, record()), "rope_rotate");
    tally.count(refused[0] != 0, interleaved(q_out, k_out) || interleaved(q_out, positions));
  }
  return tally;
}

// Six dimensions of coprime strides, as no real tensor has: an answer comes, and soon.
void test_adversarial(Random& random) {
  constexpr int64_t primes[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 1009, 2003, 4001};
  std::vector<char> memory(4 << 20);
  for (int n = 0; n < 50; ++n) {
    rope_tensor t = tensor(memory.data(), ROPE_UINT8, 6, 0, 0, 0, 0);
    for (int i = 0; i < 6; ++i) {
      t.shape[i] = random.between(2, 40);
      t.stride[i] = random.one_of(primes);
    }
    t.extent = memory.size();
    rope_fill_args args{};
    args.size = sizeof args;
    args.target = ref(&t);
    const int32_t status = rope_fill(&args, record());
    CHECK(status == ROPE_OK || status == ROPE_ARGUMENT);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t calls = count > 1 ? std::atoll(arguments[1]) : 60000;
  const uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10)
                                  : static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) % 1000000000;
  std::printf("overlap_test: seed %llu\n", static_cast<unsigned long long>(seed));
  Random random(seed);
  rope_frequencies_args args{};
  args.size = sizeof args;
  args.rotary_dim = 2;
  args.theta = 10000;
  CHECK_OK(rope_frequencies_create(&args, record()));
  frequencies = args.frequencies;
  for (const Tally& tally : {test_copy(random, calls), test_rotate(random, calls)}) {
    CHECK(tally.refused > calls / 10 && tally.ran > calls / 50 && tally.touching > calls / 100);
    std::printf("  %lld refused, %lld ran, %lld interleaved\n", static_cast<long long>(tally.refused), static_cast<long long>(tally.ran),
                static_cast<long long>(tally.touching));
  }
  test_adversarial(random);
  CHECK_OK(rope_frequencies_release(&args, record()));
  return finish("overlap_test");
}
