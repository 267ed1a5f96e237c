// A librope.so that saves the calls it sees: it is linked with the real one, which answers for every symbol that is not defined here.
//   ROPE_LIBRARY="$PWD/build/librope_recorder.so" ROPE_RECORD="$PWD/calls.bin" bun test test/rope test/tensor
// Saved are calls on CPU tensors and the default stream, of each kind the first: kinds differ in operation, outcome, flags and numbers,
// frequencies, and the tensors' dtypes, shapes, strides, alignment and shared memory; in large numbers only if they are far apart. A file
// that is there already is left alone, so of several processes one records.
//   ROPE_RECORD_BYTES       of the file at most (256 MB), as much for each operation and for failed calls; a call takes a 64th of the rest
//                           at most
//   ROPE_RECORD_CALL_BYTES  of a call's memory at most (1 MB)
//   ROPE_RECORD_ONLY        the operation of which every call is saved, of whatever kind, and no other's
#include <dlfcn.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>

#include "recording.h"

namespace {

using namespace recording;

constexpr int kMostRefused = 40;  // calls that failed before they touched anything

std::string_view setting(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string_view{} : value;
}

uint64_t setting(const char* name, uint64_t absent) {
  const std::string_view value = setting(name);
  return value.empty() ? absent : std::strtoull(value.data(), nullptr, 10);
}

// The real function of a name.
template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

template <class Args>
Args read_block(const Args* args) {
  Args out{};
  std::memcpy(&out, args, std::min<size_t>(args->size, sizeof out));
  return out;
}

template <class Item>
std::vector<Item> items_at(uint64_t address, uint64_t count) {
  const Item* const first = reinterpret_cast<const Item*>(address);
  return address == 0 ? std::vector<Item>{} : std::vector<Item>(first, first + count);
}

// The bytes of memory that a tensor's elements span; nothing where the descriptor is not one whose memory may be looked at, or names the
// same few elements too often.
std::optional<uint64_t> span_of(const rope_tensor& t, uint64_t most) {
  if (t.device != ROPE_CPU || t.dtype > ROPE_UINT8 || t.rank > ROPE_MAX_RANK) return {};
  uint64_t last = 0, count = 1, step = 0;
  bool empty = false;
  for (int i = 0; i < t.rank; ++i) {
    if (t.shape[i] < 0 || t.stride[i] < 0) return {};
    empty |= t.shape[i] == 0;
    if (t.shape[i] <= 1 || t.stride[i] == 0) continue;
    if (__builtin_mul_overflow(static_cast<uint64_t>(t.shape[i] - 1), static_cast<uint64_t>(t.stride[i]), &step) || step > most) return {};
    last += step;
    count *= std::min<uint64_t>(static_cast<uint64_t>(t.shape[i]), most + 1);
    if (count > most) return {};
  }
  if (empty) return 0;
  if (t.data == 0) return {};
  return std::min((last + 1) * size_of(t), t.extent);
}

// Every tensor lies in one region; those that only touch are apart.
std::vector<Region> regions_of(const std::vector<TensorArgument>& tensors, const std::vector<uint64_t>& spans) {
  std::map<uint64_t, uint64_t> ends;  // by address
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (spans[i] == 0) continue;
    uint64_t begin = tensors[i].tensor.data, end = begin + spans[i];
    for (auto at = ends.begin(); at != ends.end();) {
      if (at->first < end && begin < at->second) {
        begin = std::min(begin, at->first);
        end = std::max(end, at->second);
        at = ends.erase(at);
      } else {
        ++at;
      }
    }
    ends[begin] = end;
  }
  std::vector<Region> regions;
  for (const auto& [begin, end] : ends) regions.push_back({begin, items_at<uint8_t>(begin, end - begin), {}});
  return regions;
}

struct MadeFrequencies {
  rope_frequencies_args args{};
  std::vector<double> custom;
  std::vector<int32_t> axis_of_pair;
};

// A length, a stride, a number of the block: small ones as they are, of large ones the magnitude and the largest power of two, up to 16,
// that divides them.
uint64_t rough(int64_t number) {
  const auto n = static_cast<uint64_t>(number);
  return n <= 8 ? n : 16 * static_cast<uint64_t>(std::bit_width(n)) + std::gcd(n, uint64_t{16});
}

// What two calls must differ in to be of two kinds.
std::string kind_of(const Operation& operation, const Call& call) {
  Writer kind;
  kind(call.operation);
  for_each_field(operation, [&](const Field& field) {
    if (field.tensor || field.name == "stream" || field.name == "frequencies" || field.offset + field.bytes > call.block.size()) return;
    int64_t value = 0;
    std::memcpy(&value, call.block.data() + field.offset, std::min(field.bytes, sizeof value));
    kind(rough(value));
  });
  for (const TensorArgument& argument : call.tensors) {
    const rope_tensor& t = argument.tensor;
    kind(argument.offset);
    kind(t.dtype);
    kind(t.rank);
    for (int i = 0; i < t.rank; ++i) {
      kind(rough(t.shape[i]));
      kind(rough(t.stride[i]));
    }
    kind(t.data % 16);
    for (size_t i = 0; i < call.regions.size(); ++i) {
      const uint64_t begin = call.regions[i].address;
      if (t.data >= begin && t.data - begin < call.regions[i].before.size()) kind(i);
    }
  }
  const rope_frequencies_args& f = call.frequencies;
  kind(f.rule);
  kind(f.rotary_dim);
  kind(f.axes);
  kind(f.heads);
  kind(f.attention_factor == 0 || f.attention_factor == 1);
  kind(std::find(call.custom.begin(), call.custom.end(), 0.0) != call.custom.end());
  kind(call.outcome.status);
  kind(call.outcome.argument);
  kind(call.outcome.fault.code);
  return {kind.bytes.begin(), kind.bytes.end()};
}

class Recorder {
 public:
  static Recorder& get() {
    static Recorder* const recorder = new Recorder;  // never destroyed: runtimes end with threads still at work
    return *recorder;
  }

  void remember(const rope_frequencies_args& args) {
    if (file_ == nullptr) return;
    MadeFrequencies made{args, items_at<double>(args.custom, args.custom_count),
                         items_at<int32_t>(args.axis_of_pair, args.axis_of_pair_count)};
    const std::lock_guard lock(mutex_);
    frequencies_[args.frequencies] = std::move(made);
  }

  // The call as it is before it is made; nothing where it is not one to save.
  std::optional<Call> begin(const Operation& operation, const void* block, const rope_error* error) {
    uint32_t size = 0;
    if (file_ == nullptr || !(only_.empty() || operation.name == only_) || block == nullptr || error == nullptr ||
        error->size < sizeof *error)
      return {};
    std::memcpy(&size, block, sizeof size);
    Call call;
    operation.name.copy(call.operation, sizeof call.operation - 1);
    call.block = items_at<uint8_t>(reinterpret_cast<uint64_t>(block), std::min<size_t>(size, operation.block_bytes));
    std::vector<uint64_t> spans;
    bool good = call.block.size() >= sizeof size;
    for_each_field(operation, [&](const Field& field) {
      if (!good || field.offset + field.bytes > call.block.size()) return;
      rope_tensor_ref ref{};  // or a number of 8 bytes
      std::memcpy(&ref, call.block.data() + field.offset, std::min(field.bytes, sizeof ref));
      if (field.name == "stream") good = ref.tensor == 0;
      if (field.name == "frequencies") good = know_frequencies(ref.tensor, &call);
      if (!field.tensor || ref.tensor == 0) return;
      good = ref.tensor % alignof(rope_tensor) == 0;
      if (!good) return;
      const rope_tensor& tensor = *reinterpret_cast<const rope_tensor*>(ref.tensor);
      const std::optional<uint64_t> span = span_of(tensor, call_bytes_);
      good = tensor.generation == ref.generation && span && *span <= call_bytes_;
      if (!good) return;
      call.tensors.push_back({field.offset, tensor});
      spans.push_back(*span);
    });
    if (!good) return {};
    uint64_t bytes = 0;
    for (const uint64_t span : spans) bytes += span;
    if (bytes > call_bytes_) return {};
    call.regions = regions_of(call.tensors, spans);
    return call;
  }

  void end(const Operation& operation, Call& call, int32_t status, const rope_error& error) {
    if (status != ROPE_OK) call.outcome = error;
    call.outcome.status = status;
    const std::lock_guard lock(mutex_);
    if (status != ROPE_OK && status != ROPE_FAULT && refused_ == kMostRefused) return;
    if (only_.empty() && !kinds_.insert(kind_of(operation, call)).second) return;
    for_each_field(operation, [&](const Field& field) {
      if (!operation.writes(field.name)) return;
      for (const TensorArgument& argument : call.tensors) {
        if (argument.offset == field.offset) keep_result(argument.tensor.data, &call);
      }
    });
    Writer writer;
    pass(writer, call);
    uint64_t& left = left_[status == ROPE_OK ? &operation - kOperations : std::ssize(kOperations)];
    if (writer.bytes.size() > left / 64) return;
    left -= writer.bytes.size();
    refused_ += status != ROPE_OK && status != ROPE_FAULT;
    write(writer);
  }

 private:
  Recorder() {
    const char* const path = std::getenv("ROPE_RECORD");
    if (path == nullptr || *path == 0) return;
    file_ = std::fopen(path, "wbx");
    if (file_ == nullptr) return;
    std::fill(std::begin(left_), std::end(left_), setting("ROPE_RECORD_BYTES", 256 << 20) / std::size(left_));
    Writer writer;
    writer(Heading{});
    write(writer);
  }

  bool know_frequencies(uint64_t handle, Call* call) {
    if (handle == 0) return true;
    const std::lock_guard lock(mutex_);
    const auto found = frequencies_.find(handle);
    if (found == frequencies_.end()) return false;
    call->frequencies = found->second.args;
    call->custom = found->second.custom;
    call->axis_of_pair = found->second.axis_of_pair;
    return true;
  }

  static void keep_result(uint64_t address, Call* call) {
    for (Region& region : call->regions) {
      if (address < region.address || address - region.address >= region.before.size()) continue;
      region.after = items_at<uint8_t>(region.address, region.before.size());
    }
  }

  // At once: a runtime may end without running destructors.
  void write(const Writer& writer) {
    std::fwrite(writer.bytes.data(), 1, writer.bytes.size(), file_);
    std::fflush(file_);
  }

  const uint64_t call_bytes_ = setting("ROPE_RECORD_CALL_BYTES", 1 << 20);
  const std::string_view only_ = setting("ROPE_RECORD_ONLY");
  uint64_t left_[std::size(kOperations) + 1]{};  // bytes for each operation, and for calls that fail
  std::FILE* file_ = nullptr;
  std::mutex mutex_;
  std::map<uint64_t, MadeFrequencies> frequencies_;  // by handle
  std::set<std::string> kinds_;
  int refused_ = 0;
};

template <class Function>
int32_t record(std::string_view name, Function* function, const void* block, rope_error* error) {
  const Operation& operation =
      *std::find_if(std::begin(kOperations), std::end(kOperations), [&](const Operation& o) { return o.name == name; });
  std::optional<Call> call = Recorder::get().begin(operation, block, error);
  const int32_t status = function(block, error);
  if (call) Recorder::get().end(operation, *call, status, *error);
  return status;
}

}  // namespace

extern "C" {

#define RECORDED_ENTRY(name, ...)                                                \
  ROPE_API int32_t name(const name##_args* args, rope_error* error) {            \
    static const auto function = real<int32_t(const void*, rope_error*)>(#name); \
    return record(#name, function, args, error);                                 \
  }
RECORDED_OPERATIONS(RECORDED_ENTRY)

ROPE_API int32_t rope_frequencies_create(rope_frequencies_args* args, rope_error* error) {
  static const auto function = real<decltype(rope_frequencies_create)>("rope_frequencies_create");
  const int32_t status = function(args, error);
  if (status == ROPE_OK) Recorder::get().remember(read_block(args));
  return status;
}

}  // extern "C"
