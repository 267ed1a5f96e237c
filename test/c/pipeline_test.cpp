// rope_rotate with all that it does on the way, over random calls (pipeline_calls.h), against a naive model in float64: norms, tables,
// prefixes, scales, float8, slots, sound and faulty. Every element of every output is compared, also those that must not be written, and each
// has memory of exactly its size, for AddressSanitizer. In place is out of place, bit for bit, and every instruction set gives the same bits.
//
//   pipeline_test [calls] [seed]
#include <string>

#include "pipeline_calls.h"

namespace {

uint64_t digest = 0;  // of all outputs

void add_to_digest(const Block& b) {
  for (size_t i = 0; i < b.bytes; ++i) digest = (digest ^ static_cast<uint8_t>(b.data[i])) * 0x100000001b3u;
}

struct Fate {
  rope_fault fault{};
  bool mine = true;  // false: of no sound request of a faulty indptr
  bool padding = false, turns = false, stored = false;
  int64_t position[2] = {0, 0};
  int64_t slot = 0;
};

struct Row {
  std::vector<double> x;
  double error = 0;  // largest of the arithmetic
};

class Check : public Call {
 public:
  using Call::Call;

  bool run() {
    const int failed = checks_failed;
    rope_rotate_args a = block();
    std::vector<char> inputs[kCount];
    for (int i = 0; i < kCount; ++i) inputs[i].assign(parts[i].in.data.get(), parts[i].in.data.get() + parts[i].in.bytes);
    rope_fault first{};
    fates = all_fates(&first);
    faulty = first.code != 0;
    const int32_t status = rope_rotate(&a, record());
    if (first.code == 0) {
      check_ok(status, __FILE__, __LINE__, "rope_rotate");
    } else {
      check_error(ROPE_FAULT, "", status, __FILE__, __LINE__, "rope_rotate");
      const rope_fault& f = last_error.fault;
      CHECK(f.code == first.code && f.request == first.request && f.index == first.index && f.value == first.value &&
            f.limit == first.limit);
    }
    for (int i = 0; i < kCount; ++i) {
      const Part& part = parts[i];
      CHECK(inputs[i].empty() || std::memcmp(inputs[i].data(), part.in.data.get(), part.in.bytes) == 0);
      add_to_digest(part.out);
      if (part.heads > 0) check_part(i);
    }
    for (const int i : {kQ, kK}) run_alone(i);
    run_in_place(status);
    return checks_failed == failed;
  }

  bool faulty = false;

 private:
  std::vector<Fate> all_fates(rope_fault* first) const {
    std::vector<Fate> out;
    int64_t requests = 0, bad = -1;
    if (indptr.data) {
      requests = indptr.t.shape[0] - 1;
      for (int64_t i = 0; i <= requests && bad < 0; ++i) {
        if (indptr.integer(i) < (i > 0 ? indptr.integer(i - 1) : 0) || indptr.integer(i) > tokens) bad = i;
      }
      if (bad >= 0) *first = {ROPE_FAULT_INDPTR, 0, std::max<int64_t>(0, bad - 1), bad, indptr.integer(bad), tokens};
    }
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t t = 0; t < tokens; ++t) {
        int64_t request = -1;
        for (int64_t r = requests - 1; r >= 0; --r) {
          if (indptr.integer(r) >= 0 && indptr.integer(r) <= t && t < indptr.integer(r + 1) && indptr.integer(r + 1) <= tokens) request = r;
        }
        out.push_back(fate(b, t, request));
        out.back().mine = bad < 0 || request >= 0;
        if (first->code == 0) *first = out.back().fault;
      }
    }
    return out;
  }

  Fate fate(int64_t b, int64_t t, int64_t request) const {
    Fate f;
    const int64_t index = b * tokens + t, within = request >= 0 ? t - indptr.integer(request) : t;
    if (turns && (!indptr.data || request >= 0)) {
      f.turns = within >= prefix;
      for (int64_t axis = 0; axis < axes; ++axis) {
        f.position[axis] = ids.data        ? ids.integer(axis * batch * tokens + index)
                           : !offsets.data ? start + within
                                           : offsets.integer(indptr.data ? request : b) + within;
      }
      f.padding = ids.data && axes == 1 && f.position[0] == -1;
      const int64_t row = request >= 0 ? request : b;
      for (int64_t axis = 0; axis < axes && !f.padding && f.fault.code == 0; ++axis) {
        const int64_t p = f.position[axis];
        if (cos.data ? p < 0 || p >= cos.t.shape[0] : p > ROPE_MAX_POSITION) {
          f.fault = {cos.data ? ROPE_FAULT_ROW : ROPE_FAULT_POSITION, 0, row, t, p, cos.data ? cos.t.shape[0] : ROPE_MAX_POSITION};
        }
      }
      if (f.fault.code != 0) return f;
    }
    if (paged) {
      f.slot = slots.integer(index);
      f.stored = f.slot >= 0 && !f.padding;
      if (f.slot < -1 || f.slot >= pages * page_size) f.fault = {ROPE_FAULT_SLOT, 0, 0, index, f.slot, pages * page_size};
    }
    f.turns = f.turns && !f.padding;
    return f;
  }

  // cos and sin of a channel of the slice, as it is written or, of interleaved_to_half, in halves.
  void angle(const Fate& f, int64_t head, int64_t channel, double* c, double* s) const {
    const int64_t pair = pairing == ROPE_INTERLEAVED ? channel / 2 : channel % pairs;
    if (cos.data) {
      const int64_t column = full ? channel : pair, row = f.position[0];
      *c = cos.value(row * cos.t.stride[0] + column);
      *s = joined ? cos.value(row * cos.t.stride[0] + pairs + column) : sin.value(row * sin.t.stride[0] + column);
    } else {
      long double radians = 0;
      for (int64_t axis = 0; axis < axes; ++axis) {
        const int64_t row = angle_heads > 0 ? axis * angle_heads + head : axis;
        radians += static_cast<long double>(f.position[axis]) * custom[static_cast<size_t>(row * pairs + pair)];
      }
      *c = static_cast<double>(std::cos(radians)) * attention_factor;
      *s = static_cast<double>(std::sin(radians)) * attention_factor;
    }
    if ((flags & ROPE_CONJUGATE) != 0) *s = -*s;
  }

  void rotate(Row& row, const Fate& f, int64_t head) const {
    const bool inverse = (flags & ROPE_INVERSE) != 0, permutes = pairing == ROPE_INTERLEAVED_TO_HALF;
    const std::vector<double> x = row.x;
    for (int64_t j = 0; j < pairs; ++j) {
      const int64_t halves[2] = {j, j + pairs}, neighbours[2] = {2 * j, 2 * j + 1};
      const int64_t* const from = pairing == ROPE_HALF || (permutes && inverse) ? halves : neighbours;
      const int64_t* const to = pairing == ROPE_HALF || (permutes && !inverse) ? halves : neighbours;
      const int64_t* const at = pairing == ROPE_INTERLEAVED ? neighbours : halves;
      double c[2], s[2];
      for (int i = 0; i < 2; ++i) angle(f, head, at[i], &c[i], &s[i]);
      const double a = x[static_cast<size_t>(offset + from[0])], b = x[static_cast<size_t>(offset + from[1])];
      row.x[static_cast<size_t>(offset + to[0])] = inverse ? a * c[0] + b * s[1] : a * c[0] - b * s[0];
      row.x[static_cast<size_t>(offset + to[1])] = inverse ? b * c[1] - a * s[0] : b * c[1] + a * s[1];
    }
    row.error *= 6;  // cosines of tables go up to 2
  }

  static void normalise(std::vector<Row>& rows, const Part& part) {
    const bool over_width = (part.norm & ROPE_NORM_WIDTH) != 0;
    std::vector<double> sums;
    double whole = 0;
    for (const Row& row : rows) {
      sums.push_back(0);
      for (const double x : row.x) sums.back() += x * x;
      whole += sums.back();
    }
    const double count = static_cast<double>(part.width * (over_width ? part.heads : 1));
    for (size_t head = 0; head < rows.size(); ++head) {
      Row& row = rows[head];
      const double inverse = 1 / std::sqrt((over_width ? whole : sums[head]) / count + part.eps);
      for (size_t c = 0; c < row.x.size(); ++c) {
        const size_t at = (over_width ? head * row.x.size() : 0) + c;
        const double weight = part.weight.data ? part.weight.value(static_cast<int64_t>(at)) : 1;
        row.x[c] *= inverse * (weight + ((part.norm & ROPE_NORM_UNIT_OFFSET) != 0 ? 1 : 0));
      }
      row.error *= 3 * inverse;
    }
  }

  // A token's rows of a part as they should be.
  std::vector<Row> model(int index, int64_t b, int64_t t, const Fate& f) const {
    const Part& part = parts[index];
    std::vector<Row> rows(static_cast<size_t>(part.heads));
    const double far = f.turns ? std::fabs(static_cast<double>(f.position[0])) + std::fabs(static_cast<double>(f.position[1])) : 0;
    for (int64_t head = 0; head < part.heads; ++head) {
      Row& row = rows[static_cast<size_t>(head)];
      for (int64_t c = 0; c < part.width; ++c) row.x.push_back(part.in.value(element(part.in, b, t, head) + c));
      // A frequency is right to 2^-65 turns; Hugging Face's angles are float32.
      row.error = (dtype == ROPE_FLOAT64 ? 2e-15 + 2e-18 * far : 1e-6) + (hf ? 5e-7 * far : 0);
    }
    const bool norms = part.norm != 0 && !f.padding;
    if (norms && (part.norm & ROPE_NORM_AFTER) == 0) normalise(rows, part);
    for (int64_t head = 0; head < part.heads && part.turns && f.turns; ++head) rotate(rows[static_cast<size_t>(head)], f, head);
    if (norms && (part.norm & ROPE_NORM_AFTER) != 0) normalise(rows, part);
    double factor = part.factor == 0 ? 1 : part.factor;
    if (index == kQ && scale.data && !f.padding) factor *= scale.value(scale.t.rank == 2 ? b * tokens + t : t);
    for (Row& row : rows) {
      for (double& x : row.x) x *= factor;
      row.error *= std::fabs(factor);
    }
    return rows;
  }

  int64_t element(const Block& block, int64_t b, int64_t t, int64_t head) const {
    const int64_t* const s = block.t.stride;
    return ragged ? t * s[0] + head * s[1] : b * s[0] + t * s[1] + head * s[2];
  }

  void check_part(int index) const {
    const Part& part = parts[index];
    const Block& out = part.out;
    const Format format = formats[out.t.dtype];
    std::vector<char> written(out.bytes / static_cast<size_t>(element_size(out.t.dtype)));
    bool near = true;
    for (int64_t i = 0; i < batch * tokens; ++i) {
      const Fate& f = fates[static_cast<size_t>(i)];
      if (!f.mine || f.fault.code != 0 || (part.paged && !f.stored)) continue;
      const int64_t b = i / tokens, t = i % tokens;
      const std::vector<Row> rows = model(index, b, t, f);
      const bool moves =
          out.t.dtype == dtype && !(part.turns && f.turns) && (f.padding || (part.norm == 0 && !(index == kQ && scale.data)));
      for (int64_t head = 0; head < part.heads; ++head) {
        const Row& row = rows[static_cast<size_t>(head)];
        const int64_t first = !part.paged
                                  ? element(out, b, t, head)
                                  : f.slot / page_size * out.t.stride[0] + f.slot % page_size * out.t.stride[1] + head * out.t.stride[2];
        for (int64_t c = 0; c < part.width; ++c) {
          double wanted = row.x[static_cast<size_t>(c)];
          if (format.largest > 0) wanted = std::fmax(-format.largest, std::fmin(format.largest, wanted));
          double bound = row.error + std::ldexp(std::fabs(wanted), -format.mantissa_bits - 1);
          if (out.t.dtype >= ROPE_FLOAT16) bound += std::ldexp(1, 1 - (1 << (format.exponent_bits - 1)) - format.mantissa_bits);
          near &= std::fabs(out.value(first + c) - wanted) <= (moves ? 0 : bound);
          written[static_cast<size_t>(first + c)] = 1;
        }
      }
    }
    CHECK(near);
    bool untouched = true;
    for (size_t i = 0; i < written.size(); ++i) {
      if (written[i] == 0) untouched &= poisoned(out.at(static_cast<int64_t>(i)), static_cast<size_t>(element_size(out.t.dtype))) != 0;
    }
    CHECK(untouched);
  }

  bool equal_rows(const Part& part, const Block& a, const Block& b) const {
    bool equal = true;
    for (int64_t i = 0; i < batch * tokens; ++i) {
      const Fate& f = fates[static_cast<size_t>(i)];
      for (int64_t head = 0; head < part.heads && f.mine && f.fault.code == 0; ++head) {
        const int64_t row_a = element(a, i / tokens, i % tokens, head), row_b = element(b, i / tokens, i % tokens, head);
        equal &= std::memcmp(a.at(row_a), b.at(row_b), static_cast<size_t>(part.width * element_size(dtype))) == 0;
      }
    }
    return equal;
  }

  // What only turns, in a call that does nothing else: it goes another way.
  void run_alone(int index) const {
    const Part& part = parts[index];
    const bool plain = part.norm == 0 && part.factor == 0 && !part.paged && prefix == 0 && !(index == kQ && scale.data);
    if (frequencies == 0 || part.heads == 0 || !plain) return;
    const Block out(dtype, shape(part.heads, part.width));
    rope_rotate_args a = block();
    a.q = part.in.reference(), a.q_out = out.reference();
    a.k = a.k_out = a.v = a.v_out = a.q_rest = a.q_rest_out = a.k_rest = a.k_rest_out = no_tensor();
    a.q_weight = a.k_weight = a.q_scale = a.slots = no_tensor();
    a.q_norm = a.k_norm = 0;
    a.q_eps = a.k_eps = a.q_factor = a.k_factor = a.v_factor = 0;
    const int32_t status = rope_rotate(&a, record());
    CHECK(status == ROPE_OK || (faulty && status == ROPE_FAULT));
    CHECK(equal_rows(part, part.out, out));
  }

  // Again with tensors of the inputs' dtype in place.
  void run_in_place(int32_t status) {
    rope_rotate_args a = block();
    bool any = false;
    for (int i = 0; i < kCount; ++i) {
      if (parts[i].heads == 0 || parts[i].paged || parts[i].factor != 0) continue;
      (i == kQ ? a.q_out : i == kK ? a.k_out : i == kV ? a.v_out : i == kQRest ? a.q_rest_out : a.k_rest_out) = parts[i].in.reference();
      any = true;
    }
    if (!any) return;
    CHECK(rope_rotate(&a, record()) == status);
    for (const Part& part : parts) {
      if (part.heads > 0 && !part.paged && part.factor == 0) CHECK(equal_rows(part, part.in, part.out));
    }
  }

  std::vector<Fate> fates;
};

// Of the same calls in a process that may use only this instruction set.
uint64_t digest_under(const std::string& isa, const std::string& program, int64_t calls, uint64_t seed) {
  const std::string command =
      "ROPE_CPU_ISA=" + isa + " '" + program + "' " + std::to_string(calls) + " " + std::to_string(seed) + " digest";
  FILE* const out = popen(command.c_str(), "r");
  unsigned long long found = 0;
  CHECK(out != nullptr && fscanf(out, "%llx", &found) == 1 && pclose(out) == 0);
  return found;
}

}  // namespace

// Prints the digest of its outputs, which another run reads.
int main(int count, char** arguments) {
  const int64_t calls = count > 1 ? std::atoll(arguments[1]) : 2000;
  const uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  const bool only_digest = count > 3;
  Random random(seed);
  int64_t faults = 0;
  for (int64_t i = 0; i < calls && checks_failed < 20; ++i) {
    Check call(random);
    if (!call.run()) fprintf(stderr, "  call %lld of seed %llu\n", static_cast<long long>(i), static_cast<unsigned long long>(seed));
    faults += call.faulty;
  }
  CHECK(faults > calls / 50 && faults < calls / 2);
  if (only_digest) {
    printf("%llx\n", static_cast<unsigned long long>(digest));
    return checks_failed == 0 ? 0 : 1;
  }
  for (const char* const isa : {"baseline", "v3"}) CHECK(digest_under(isa, arguments[0], calls, seed) == digest);
  return finish("pipeline_test");
}
