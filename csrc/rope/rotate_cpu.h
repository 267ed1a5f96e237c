// What the rotation and the pipeline have in common on the CPU: tokens split over the cores, a thread's scratch, angles, and the turning of
// rows.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "../device/cpu_threads.h"
#include "frequencies.h"
#include "positions.h"
#include "rotate_rows.h"

namespace rope {

// The loops for this machine's instruction set.
const RotateRows& machine_rows();

AngleInput angle_input(const Frequencies& f, const TokenPosition& position, int64_t head, bool hf, bool backward);

// `heads` rows of `bytes`, from row to row `in_head` and `out_head` bytes.
void copy_rows(const char* in, char* out, int64_t in_head, int64_t out_head, int64_t heads, int64_t bytes);

// How rows of one dtype turn.
class Turning {
 public:
  Turning(int dtype, int64_t pairs, int pairing, bool inverse, bool full);

  // Turns heads: `row` is complete but for begin and end. In place needs aside_bytes() at `aside`.
  void turn(RowInput row, const std::vector<PairRun>& runs, bool in_place, char* aside) const;

  bool spread() const { return spread_; }  // angles are to be spread before they are used
  int64_t aside_bytes() const { return permutes_ ? 2 * pairs_ * size_ : 0; }

 private:
  void turn_runs(RowInput& row, const std::vector<PairRun>& runs, bool still_in_place) const;
  void copy_pairs(const RowInput& row) const;

  RowFunction function_;
  int64_t size_;
  int64_t pairs_;
  bool spread_;
  bool permutes_;
  bool from_halves_, to_halves_;
};

struct ScratchSize {
  int64_t angles;  // pairs of all heads that have angles of their own, twice that for full width
  int64_t aside;   // bytes
  int64_t block;   // bytes
};

// Memory of one thread's share.
class Scratch {
 public:
  explicit Scratch(const ScratchSize& size) {
    const size_t table = static_cast<size_t>(size.angles) * sizeof(double);
    const size_t block = (4 * table + static_cast<size_t>(size.aside) + 63) / 64 * 64;
    const size_t bytes = block + static_cast<size_t>(size.block);
    char* base = fixed_;
    if (bytes > sizeof fixed_) {
      heap_.reset(new (std::nothrow) char[bytes]);
      base = heap_.get();
    }
    ok = base != nullptr;
    if (!ok) return;
    cos = base;
    sin = base + table;
    cos_spread = reinterpret_cast<float*>(base + 2 * table);
    sin_spread = reinterpret_cast<float*>(base + 3 * table);
    aside = base + 4 * table;
    rows = base + block;
  }

  bool ok;
  char* cos = nullptr;  // [angles], float or double
  char* sin = nullptr;
  float* cos_spread = nullptr;  // [2 * angles]
  float* sin_spread = nullptr;
  char* aside = nullptr;  // a row where interleaved_to_half works in place
  char* rows = nullptr;   // rows on their way through the pipeline

 private:
  std::unique_ptr<char[]> heap_;
  alignas(64) char fixed_[24 << 10];
};

// The smallest index that any thread met.
class First {
 public:
  void note(int64_t index) {
    int64_t known = index_.load(std::memory_order_relaxed);
    while (index < known && !index_.compare_exchange_weak(known, index, std::memory_order_relaxed)) {
    }
  }
  int64_t index() const { return index_.load(std::memory_order_relaxed); }
  static constexpr int64_t kNone = INT64_MAX;

 private:
  std::atomic<int64_t> index_{kNone};
};

// A thread's share must be worth waking it: tens of microseconds of work.
constexpr int64_t kBytesPerChunk = 256 << 10;

// Runs operation.token(batch, token, request, scratch), which is false of a faulty token, on all tokens. Returns the first fault, by
// operation.fault_of(batch, token, request).
template <class Operation>
rope_fault run_tokens(const Operation& operation, const TokenGrid& grid, const Indices& indptr) {
  const bool ragged = indptr.data != nullptr;
  const rope_fault indptr_fault = ragged ? check_indptr(indptr, grid.tokens) : rope_fault{};
  const bool sound = indptr_fault.code == ROPE_FAULT_NONE;
  if (grid.batch == 0 || grid.tokens == 0) return indptr_fault;
  const double bytes_per_token = operation.bytes_per_token();
  if (bytes_per_token == 0) return indptr_fault;
  First fault;
  std::atomic<bool> out_of_memory{false};
  const int64_t grain = static_cast<int64_t>(std::ceil(kBytesPerChunk / bytes_per_token));
  parallel_for(grid.batch * grid.tokens, grain, [&](int64_t begin, int64_t end) {
    Scratch scratch(operation.scratch_size());
    if (!scratch.ok) out_of_memory = true;
    for (int64_t i = begin; scratch.ok && i < end; ++i) {
      const int64_t batch = i / grid.tokens, token = i % grid.tokens;
      const int64_t request = !ragged ? -1 : sound ? request_of(indptr, token) : sound_request_of(indptr, grid.tokens, token);
      // Of a faulty indptr only the rows of its sound requests are written.
      if ((sound || request >= 0) && !operation.token(batch, token, request, scratch)) fault.note(i);
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  if (!sound || fault.index() == First::kNone) return indptr_fault;
  const int64_t batch = fault.index() / grid.tokens, token = fault.index() % grid.tokens;
  return operation.fault_of(batch, token, ragged ? request_of(indptr, token) : -1);
}

}  // namespace rope
