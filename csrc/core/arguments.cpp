#include "arguments.h"

#include <algorithm>
#include <utility>

#include "../device/machine.h"
#include "dtypes.h"

namespace rope {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 62;

bool multiply_overflows(int64_t a, int64_t b, int64_t* out) { return __builtin_mul_overflow(a, b, out) || *out > kMaxBytes; }

// Places are sums of digit * stride with 0 <= digit < count, in bytes. Two tensors share a byte exactly when
//   sum(digit_i * stride_i) = target
// has a solution, with the second tensor's digits mirrored so that all coefficients are positive. Strides of real tensors nest, so that the
// search below looks at one or two digits per dimension; an adversarial one is cut off and counts as an overlap.
struct Term {
  int64_t stride;
  int64_t count;
};

template <class Before>
void sort_terms(Term* terms, int size, Before before) {
  for (int i = 1; i < size; ++i) {
    for (int j = i; j > 0 && before(terms[j], terms[j - 1]); --j) std::swap(terms[j], terms[j - 1]);
  }
}

struct Places {
  Term terms[2 * ROPE_MAX_RANK + 2];
  int size = 0;
  int64_t reach[2 * ROPE_MAX_RANK + 3] = {};  // largest sum of terms i and after
  int64_t divisor[2 * ROPE_MAX_RANK + 3] = {};
  int64_t budget = 100000;

  // Equal strides merge into one term: the sum of two digits.
  void add(int64_t stride, int64_t count) {
    if (stride == 0 || count <= 1) return;
    for (int i = 0; i < size; ++i) {
      if (terms[i].stride == stride) {
        terms[i].count += count - 1;
        return;
      }
    }
    terms[size++] = {stride, count};
  }

  void prepare() {
    sort_terms(terms, size, [](const Term& a, const Term& b) { return a.stride > b.stride; });
    for (int i = size - 1; i >= 0; --i) {
      reach[i] = reach[i + 1] + terms[i].stride * (terms[i].count - 1);
      int64_t a = divisor[i + 1], b = terms[i].stride;
      while (b != 0) a = std::exchange(b, a % b);
      divisor[i] = a;
    }
  }

  bool reachable(int64_t target, int from = 0) {
    if (target == 0) return true;
    if (target < 0 || target > reach[from] || from == size || target % divisor[from] != 0) return false;
    const Term& term = terms[from];
    const int64_t most = std::min(term.count - 1, target / term.stride);
    const int64_t least = std::max<int64_t>(0, (target - reach[from + 1] + term.stride - 1) / term.stride);
    for (int64_t digit = most; digit >= least; --digit) {
      if (--budget < 0) return true;
      if (reachable(target - digit * term.stride, from + 1)) return true;
    }
    return false;
  }
};

int64_t span_bytes(const Tensor& t) {
  int64_t last = 0;
  for (int i = 0; i < t.rank; ++i) last += (t.shape[i] - 1) * t.stride[i];
  return (last + 1) * dtype_size(t.dtype);
}

}  // namespace

Tensor resolve(const rope_tensor_ref& reference, const char* argument) {
  if (reference.tensor == 0) fail(ROPE_ARGUMENT, argument, "a tensor", "none");
  require(reference.tensor % alignof(rope_tensor) == 0, argument, "the address of a rope_tensor", "an address that is not a multiple of 8");
  const rope_tensor& d = *reinterpret_cast<const rope_tensor*>(reference.tensor);
  if (d.generation != reference.generation) fail(ROPE_DISPOSED, argument, "a live tensor", "a disposed one");
  if (d.dtype > ROPE_UINT8) fail(ROPE_ARGUMENT, argument, text("a tensor of a known dtype"), text("dtype number %u", d.dtype));
  if (d.rank > ROPE_MAX_RANK) fail(ROPE_ARGUMENT, argument, text("a tensor of rank 0 to %d", ROPE_MAX_RANK), text("rank %u", d.rank));
  require_present(d.device, argument);
  Tensor out;
  out.data = reinterpret_cast<char*>(d.data);
  out.dtype = d.dtype;
  out.rank = d.rank;
  out.device = d.device;
  const int64_t size = dtype_size(d.dtype);
  int64_t count = 1, last = 0;
  bool empty = false;
  for (int i = 0; i < d.rank; ++i) {
    out.shape[i] = d.shape[i];
    out.stride[i] = d.shape[i] > 1 ? d.stride[i] : 0;  // the stride of a single element may be any number
    if (d.shape[i] < 0) fail(ROPE_ARGUMENT, argument, text("a shape of counts"), text("%lld in it", static_cast<long long>(d.shape[i])));
    if (d.stride[i] < 0) fail(ROPE_ARGUMENT, argument, text("strides of 0 or more"), text("%lld", static_cast<long long>(d.stride[i])));
    empty |= d.shape[i] == 0;
  }
  if (empty) return out;
  for (int i = 0; i < d.rank; ++i) {
    int64_t step;
    if (multiply_overflows(count, d.shape[i], &count) || multiply_overflows(d.shape[i] - 1, d.stride[i], &step) ||
        __builtin_add_overflow(last, step, &last)) {
      fail(ROPE_ARGUMENT, argument, "a shape whose size fits in 62 bits", shape_text(out).bytes);
    }
  }
  int64_t bytes;
  if (multiply_overflows(count, size, &bytes) || __builtin_add_overflow(last, 1, &bytes) || multiply_overflows(bytes, size, &bytes)) {
    fail(ROPE_ARGUMENT, argument, "a shape whose size fits in 62 bits", shape_text(out).bytes);
  }
  if (static_cast<uint64_t>(bytes) > d.extent) {
    fail(ROPE_ARGUMENT, argument, text("at least the %lld bytes that its shape and strides say", static_cast<long long>(bytes)),
         text("%llu bytes", static_cast<unsigned long long>(d.extent)));
  }
  require(d.data != 0, argument, "memory", "a tensor without any");
  require(d.data % size == 0, argument, "memory aligned to its elements", "memory that is not");
  return out;
}

Text shape_text(const Tensor& tensor) {
  Text out = text("[");
  size_t used = 1;
  for (int i = 0; i < tensor.rank; ++i) {
    used += static_cast<size_t>(
        std::snprintf(out.bytes + used, sizeof out.bytes - used, i == 0 ? "%lld" : ", %lld", static_cast<long long>(tensor.shape[i])));
  }
  std::snprintf(out.bytes + used, sizeof out.bytes - used, "]");
  return out;
}

bool same_shape(const Tensor& a, const Tensor& b) { return a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape); }

bool same_place(const Tensor& a, const Tensor& b) {
  if (a.data != b.data || a.dtype != b.dtype || !same_shape(a, b)) return false;
  for (int i = 0; i < a.rank; ++i) {
    if (a.shape[i] > 1 && a.stride[i] != b.stride[i]) return false;
  }
  return true;
}

void require_dtype(const Tensor& tensor, const char* argument, std::initializer_list<int> allowed) {
  if (std::find(allowed.begin(), allowed.end(), tensor.dtype) != allowed.end()) return;
  Text list = text("%s", "");
  size_t used = 0;
  const int* const last = allowed.end() - 1;
  for (const int& dtype : allowed) {
    const char* const join = &dtype == allowed.begin() ? "" : &dtype == last ? " or " : ", ";
    used += static_cast<size_t>(std::snprintf(list.bytes + used, sizeof list.bytes - used, "%s%s", join, dtype_name(dtype)));
  }
  fail(ROPE_ARGUMENT, argument, list.bytes, dtype_name(tensor.dtype));
}

void require_device(const Tensor& tensor, const char* argument, uint16_t device, const char* like) {
  if (tensor.device == device) return;
  fail(ROPE_DEVICE, argument, text("on the device of %s", like), text("a tensor of another device"),
       "Move one of them: tensor.to(device).");
}

void require_shape(const Tensor& tensor, const char* argument, std::initializer_list<int64_t> wanted, const char* meaning) {
  Tensor like;
  for (const int64_t length : wanted) like.shape[like.rank++] = length;
  if (same_shape(tensor, like)) return;
  fail(ROPE_ARGUMENT, argument, text("of shape %s = %s", meaning, shape_text(like).bytes), shape_text(tensor));
}

void require_last_stride(const Tensor& tensor, const char* argument) {
  const int last = tensor.rank - 1;
  if (tensor.shape[last] <= 1 || tensor.stride[last] == 1) return;
  fail(ROPE_ARGUMENT, argument, text("contiguous in its last dimension"),
       text("a last stride of %lld", static_cast<long long>(tensor.stride[last])), "Use contiguous().");
}

bool overlap(const Tensor& a, const Tensor& b) {
  if (a.device != b.device || a.empty() || b.empty()) return false;
  const int64_t a_span = span_bytes(a), b_span = span_bytes(b);
  const int64_t distance =
      reinterpret_cast<int64_t>(b.data) - reinterpret_cast<int64_t>(a.data);  // byte j of b is byte i of a: i - j = distance
  if (distance >= a_span || -distance >= b_span) return false;
  Places places;
  const auto add = [&places](const Tensor& t) {
    for (int i = 0; i < t.rank; ++i) places.add(t.stride[i] * dtype_size(t.dtype), t.shape[i]);
    places.add(1, dtype_size(t.dtype));
  };
  add(a);
  add(b);
  places.prepare();
  return places.reachable(distance + b_span - 1);
}

bool overlaps_itself(const Tensor& t) {
  if (t.empty()) return false;
  Term terms[ROPE_MAX_RANK];
  int size = 0;
  for (int i = 0; i < t.rank; ++i) {
    if (t.shape[i] > 1) terms[size++] = {t.stride[i], t.shape[i]};
  }
  sort_terms(terms, size, [](const Term& a, const Term& b) { return a.stride < b.stride; });
  // Nested strides, each beyond all smaller ones together, cannot meet: nearly every tensor there is.
  int64_t below = 0;
  bool nested = true;
  for (int i = 0; i < size; ++i) {
    nested &= terms[i].stride > below;
    below += terms[i].stride * (terms[i].count - 1);
  }
  if (nested) return false;
  // Two indices meet where sum(d_i * stride_i) = 0 with |d_i| < count_i, not all 0. Let i be the first that differs, d_i > 0; the mirrored
  // rest must then reach the sum of its own maxima less d_i * stride_i.
  for (int i = 0; i < size; ++i) {
    Places rest;
    int64_t half = 0;
    for (int j = i + 1; j < size; ++j) {
      rest.add(terms[j].stride, 2 * terms[j].count - 1);
      half += terms[j].stride * (terms[j].count - 1);
    }
    rest.prepare();
    for (int64_t d = 1; d < terms[i].count && d * terms[i].stride <= half + terms[i].stride; ++d) {
      if (--rest.budget < 0 || rest.reachable(half - d * terms[i].stride)) return true;
    }
  }
  return false;
}

}  // namespace rope
