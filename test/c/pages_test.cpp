// Rotation and append into paged caches through random tables, sound and hostile, against a naive model: what a token's row becomes is taken
// from a rotation into a tensor, where it goes is looked up one step at a time. Every byte of the pools is compared, and each has memory of
// exactly its size, for AddressSanitizer.
//
//   pages_test [tables] [seed] [apart]
//
// Several tokens may go to one place, and any of them may then stand there. With `apart` only the first does, so that what the calls leave
// can be compared with what a GPU leaves (scripts/gpu-check).
#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "check.h"
#include "fuzz_memory.h"

namespace {

uint64_t frequencies;

// A contiguous tensor in memory of exactly its size, filled with poison.
class Block {
 public:
  Block(int dtype, const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t length : shape) count *= length;
    bytes_ = static_cast<size_t>(count * element_size(dtype));
    memory_.reset(new char[bytes_]);
    std::memset(memory_.get(), kPoison, bytes_);
    t = tensor(memory_.get(), dtype, 0, 0, 0, 0, 0);
    t.rank = static_cast<uint8_t>(shape.size());
    t.extent = bytes_;
    for (int i = t.rank - 1, stride = 1; i >= 0; --i) {
      t.shape[i] = shape[static_cast<size_t>(i)];
      t.stride[i] = stride;
      stride *= static_cast<int>(t.shape[i]);
    }
  }

  template <class Element>
  Element& at(int64_t i) {
    return reinterpret_cast<Element*>(memory_.get())[i];
  }
  int64_t integer(int64_t i) { return t.dtype == ROPE_INT64 ? at<int64_t>(i) : at<int32_t>(i); }
  void set_integer(int64_t i, int64_t value) {
    if (t.dtype == ROPE_INT64) {
      at<int64_t>(i) = value;
    } else {
      at<int32_t>(i) = static_cast<int32_t>(value);
    }
  }
  std::vector<char> bytes() const { return {memory_.get(), memory_.get() + bytes_}; }

  rope_tensor t;

 private:
  std::unique_ptr<char[]> memory_;
  size_t bytes_;
};

Block random_rows(Random& random, const std::vector<int64_t>& shape) {
  Block out(ROPE_FLOAT32, shape);
  for (int64_t i = 0; i < static_cast<int64_t>(out.t.extent / 4); ++i) out.at<float>(i) = static_cast<float>(random.between(-800, 800)) / 8;
  return out;
}

// A pool of pages, NHD or HND, as the C library sees it: [pages, page_size, heads, width].
struct Pool {
  Block block;
  rope_tensor t;

  Pool(int dtype, bool hnd, int64_t pages, int64_t page_size, int64_t heads, int64_t width)
      : block(dtype, hnd ? std::vector{pages, heads, page_size, width} : std::vector{pages, page_size, heads, width}), t(block.t) {
    if (!hnd) return;
    std::swap(t.shape[1], t.shape[2]);
    std::swap(t.stride[1], t.stride[2]);
  }
  size_t offset(int64_t page, int64_t place, int64_t head) const {
    return static_cast<size_t>((page * t.stride[0] + place * t.stride[1] + head * t.stride[2]) * element_size(t.dtype));
  }
};

// What the naive model says of a token.
struct Fate {
  bool fault = false, stored = false, padding = false;
  int64_t page = 0, place = 0;
};

struct Case {
  Random& random;
  bool hostile = random.chance(50), by_slots = random.chance(40), turns = random.chance(60), hnd = random.chance(50);
  int index_dtype = random.chance(50) ? ROPE_INT64 : ROPE_INT32;
  int cache_dtype = random.chance(60) ? ROPE_FLOAT32 : random.chance(50) ? ROPE_BFLOAT16 : ROPE_FLOAT8_E4M3FN;
  int64_t tokens = random.between(0, 9), pages = random.between(1, 7), requests = random.between(0, 4), heads = random.between(1, 3);
  int64_t page_size = 1 + random.below(random.chance(50) ? 3 : 16), width = 2 * random.between(2, 9), v_width = random.between(1, 9);

  int64_t index(int64_t limit) {  // below it, mostly
    const int64_t wrong[] = {-2, -1, limit, limit + 1, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, limit + (int64_t{1} << 32)};
    if (hostile && random.chance(15)) return random.one_of(wrong);
    return random.chance(10) ? -1 : random.below(std::max<int64_t>(limit, 1));
  }
  Block indices(int64_t count) { return Block(index_dtype, {count}); }
};

// Where the tokens stand and where they go.
struct Tables {
  Block positions, slots, batch, places, indptr, ids;
};

// page_indptr of requests that have the pages between two cuts each; hostile ones in any order.
void fill_tables(Case& c, Tables& tables) {
  auto& [positions, slots, batch, places, indptr, ids] = tables;
  const int64_t count = ids.t.shape[0];
  int64_t cut = 0;
  for (int64_t i = 0; i <= c.requests; ++i) {
    const int64_t left = c.requests - i;
    if (i > 0) cut = left == 0 ? count : c.random.between(cut, count);
    indptr.set_integer(i, c.hostile && c.random.chance(8) ? c.index(count) : cut);
  }
  std::vector<int64_t> order(static_cast<size_t>(c.pages));
  for (int64_t i = 0; i < c.pages; ++i) order[static_cast<size_t>(i)] = i;
  for (int64_t i = c.pages - 1; i > 0; --i) std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(c.random.below(i + 1))]);
  for (int64_t i = 0; i < count; ++i)
    ids.set_integer(i, c.hostile && c.random.chance(20) ? c.index(c.pages) : order[static_cast<size_t>(i)]);
  for (int64_t i = 0; i < c.tokens; ++i) {
    const int64_t far = int64_t{1} << 39;
    positions.set_integer(i, c.index_dtype == ROPE_INT64 && c.hostile && c.random.chance(10) ? far : c.random.between(-3, 99));
    slots.set_integer(i, c.index(c.pages * c.page_size));
    batch.set_integer(i, c.index(c.requests));
    places.set_integer(i, c.hostile ? c.index(c.pages * c.page_size) : c.random.below(c.page_size));
  }
}

Fate fate_of(const Case& c, Tables& tables, int64_t token) {
  Fate fate;
  if (c.turns) {
    fate.padding = tables.positions.integer(token) == -1;
    fate.fault = tables.positions.integer(token) > int64_t{1} << 38;
    if (fate.fault) return fate;
  }
  if (c.by_slots) {
    const int64_t slot = tables.slots.integer(token);
    if (slot == -1) return fate;
    fate.fault = slot < 0 || slot >= c.pages * c.page_size;
    if (fate.fault) return fate;
    fate.page = slot / c.page_size;
    fate.place = slot % c.page_size;
  } else {
    const int64_t request = tables.batch.integer(token), count = tables.ids.t.shape[0];
    if (request == -1) return fate;
    fate.fault = true;
    if (request < 0 || request >= c.requests) return fate;
    const int64_t begin = tables.indptr.integer(request), end = tables.indptr.integer(request + 1), place = tables.places.integer(token);
    if (begin < 0 || end < begin || end > count || begin > count || place < 0) return fate;
    if (place / c.page_size >= end - begin) return fate;
    fate.page = tables.ids.integer(begin + place / c.page_size);
    if (fate.page < 0 || fate.page >= c.pages) return fate;
    fate.fault = false;
    fate.place = place % c.page_size;
  }
  fate.stored = !fate.padding;
  return fate;
}

// Whether one before the last goes where it goes.
bool taken(const std::vector<Fate>& fates) {
  return std::any_of(fates.begin(), fates.end() - 1, [&](const Fate& other) {
    return other.stored && other.page == fates.back().page && other.place == fates.back().place;
  });
}

void run(Random& random, bool apart, int64_t* faults, int64_t* stored) {
  Case c{random};
  Block q = random_rows(random, {c.tokens, 2, c.width}), k = random_rows(random, {c.tokens, c.heads, c.width}),
        v = random_rows(random, {c.tokens, c.heads, c.v_width});
  Block q_out(ROPE_FLOAT32, {c.tokens, 2, c.width}), k_turned(ROPE_FLOAT32, {c.tokens, c.heads, c.width}),
      q_turned(ROPE_FLOAT32, {c.tokens, 2, c.width});
  Pool keys(c.cache_dtype, c.hnd, c.pages, c.page_size, c.heads, c.width),
      values(c.cache_dtype, c.hnd, c.pages, c.page_size, c.heads, c.v_width);
  Tables tables{c.indices(c.tokens), c.indices(c.tokens),       c.indices(c.tokens),
                c.indices(c.tokens), c.indices(c.requests + 1), c.indices(random.between(0, c.pages))};
  fill_tables(c, tables);

  // The model: the rotated rows, converted as the cache wants them, and where each goes.
  rope_rotate_args a{};
  a.size = sizeof a;
  a.flags = c.turns ? 0 : ROPE_STILL;
  a.frequencies = c.turns ? frequencies : 0;
  if (c.turns) a.positions = ref(&tables.positions.t);
  a.q = ref(&q.t);
  a.q_out = ref(&q_turned.t);
  a.k = ref(&k.t);
  a.k_out = ref(&k_turned.t);
  rope_rotate(&a, record());                                                               // a position out of range is met again below
  const double factor = c.cache_dtype == ROPE_FLOAT8_E4M3FN && random.chance(50) ? 4 : 0;  // exact in float32
  const auto converted = [&](Block& rows) {
    Block out(c.cache_dtype, {rows.t.shape[0], rows.t.shape[1], rows.t.shape[2]});
    for (int64_t i = 0; factor != 0 && i < static_cast<int64_t>(rows.t.extent / 4); ++i) rows.at<float>(i) *= static_cast<float>(factor);
    rope_copy_args copy{sizeof copy, 0, 0, ref(&rows.t), ref(&out.t)};
    CHECK_OK(rope_copy(&copy, record()));
    return out;
  };
  Block v_copy(ROPE_FLOAT32, {c.tokens, c.heads, c.v_width});
  std::memcpy(&v_copy.at<char>(0), &v.at<char>(0), v.t.extent);
  Block k_wanted = converted(k_turned), v_wanted = converted(v_copy);

  std::vector<Fate> fates;
  for (int64_t i = 0; i < c.tokens; ++i) {
    fates.push_back(fate_of(c, tables, i));
    if (!apart || !fates.back().stored || !taken(fates)) continue;
    (c.by_slots ? tables.slots : tables.batch).set_integer(i, -1);
    fates.back() = {};
  }

  a.q_out = ref(&q_out.t);
  a.k_out = ref(&keys.t);
  a.v = ref(&v.t);
  a.v_out = ref(&values.t);
  a.k_factor = a.v_factor = factor;
  if (c.by_slots) {
    a.slots = ref(&tables.slots.t);
  } else {
    a.page_indptr = ref(&tables.indptr.t);
    a.page_indices = ref(&tables.ids.t);
    a.batch_indices = ref(&tables.batch.t);
    a.places = ref(&tables.places.t);
  }
  std::vector<char> k_pool = keys.block.bytes(), v_pool = values.block.bytes();
  const int32_t status = rope_rotate(&a, record());
  const auto bad = std::find_if(fates.begin(), fates.end(), [](const Fate& fate) { return fate.fault; });
  CHECK(status == (bad == fates.end() ? ROPE_OK : ROPE_FAULT));
  if (status == ROPE_ARGUMENT) fprintf(stderr, "  %s must be %s, got %s\n", last_error.argument, last_error.expected, last_error.actual);
  if (status == ROPE_FAULT) ++*faults;

  // Tokens that go to one place: any of them may stand there.
  const auto holds = [&](const Pool& pool, Block& wanted, std::vector<char>& before) {
    const std::vector<char> now = pool.block.bytes();
    const int64_t row = wanted.t.shape[2] * element_size(wanted.t.dtype);
    bool right = true;
    for (int64_t head = 0; head < c.heads; ++head) {
      for (int64_t i = 0; i < c.tokens; ++i) {
        if (!fates[static_cast<size_t>(i)].stored) continue;
        const size_t at = pool.offset(fates[static_cast<size_t>(i)].page, fates[static_cast<size_t>(i)].place, head);
        bool any = false;
        for (int64_t j = 0; j < c.tokens; ++j) {
          const Fate& other = fates[static_cast<size_t>(j)];
          if (!other.stored || other.page != fates[static_cast<size_t>(i)].page || other.place != fates[static_cast<size_t>(i)].place)
            continue;
          any |= std::memcmp(&now[at], &wanted.at<char>((j * c.heads + head) * row), static_cast<size_t>(row)) == 0;
        }
        right &= any;
        std::memcpy(&before[at], &now[at], static_cast<size_t>(row));
      }
    }
    return right && before == now;
  };
  CHECK(holds(keys, k_wanted, k_pool));
  CHECK(holds(values, v_wanted, v_pool));
  for (int64_t i = 0; i < c.tokens; ++i) {
    const size_t row = static_cast<size_t>(2 * c.width * 4);
    const char* const there = &q_out.at<char>(0) + static_cast<size_t>(i) * row;
    const Fate& fate = fates[static_cast<size_t>(i)];
    *stored += fate.stored;
    CHECK(fate.fault ? poisoned(there, row) : std::memcmp(there, &q_turned.at<char>(0) + static_cast<size_t>(i) * row, row) == 0);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t tables = count > 1 ? std::atoll(arguments[1]) : 20000;
  const uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  const bool apart = count > 3 && std::strcmp(arguments[3], "apart") == 0;
  rope_frequencies_args f{};
  f.size = sizeof f;
  f.rule = ROPE_RULE_DEFAULT;
  f.rotary_dim = 4;
  f.theta = 100;
  CHECK_OK(rope_frequencies_create(&f, record()));
  frequencies = f.frequencies;
  Random random(seed);
  int64_t faults = 0, stored = 0;
  for (int64_t i = 0; i < tables; ++i) {
    const int failed = checks_failed;
    run(random, apart, &faults, &stored);
    if (checks_failed > failed)
      fprintf(stderr, "  table %lld of seed %llu\n", static_cast<long long>(i), static_cast<unsigned long long>(seed));
    if (checks_failed > 20) break;
  }
  printf("%lld tables, %lld with a fault, %lld rows stored\n", static_cast<long long>(tables), static_cast<long long>(faults),
         static_cast<long long>(stored));
  CHECK(faults > tables / 10 && stored > tables);
  CHECK_OK(rope_frequencies_release(&f, record()));
  return finish("pages_test");
}
