// Makes the calls of a recording (test/support/recorder) on cuda:0 and compares every byte, status and fault with what the CPU left.
//   replay [--uninitialised] [--calls N] [--spoil] FILE
// Each region of memory is an allocation of its own whose end is the region's, so that memcheck sees what goes beyond. What a call is to
// write without reading it holds the complement of the right bytes before; with --uninitialised it is not initialised, for initcheck.
// --calls takes N of the calls, of each operation and order of size as many, for slow sanitizers. --spoil changes a byte of what each call
// left on the CPU: then all those that write must differ.
// Ends with 1 if anything differs and 77 where there is no GPU.
#include <cuda_runtime_api.h>

#include <bit>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <tuple>

#include "../support/recorder/recording.h"
#include "twin.h"

namespace {

using namespace recording;

constexpr uint64_t kAlignment = 64;   // an address keeps its rest by this: the library's own memory then begins where its allocation does
constexpr size_t kMostPieces = 2000;  // of a region that is initialised piece by piece
constexpr uint8_t kSlackByte = 0xa5;  // between the beginning of an allocation and that of its region
constexpr size_t kMostShown = 20;

bool uninitialised = false;
size_t regions_written = 0, regions_uninitialised = 0, calls_spoiled = 0, calls_differing = 0;

const Operation& operation_of(const Call& call) {
  for (const Operation& operation : kOperations) {
    if (call.operation == operation.name) return operation;
  }
  Reader::fail();
}

// A field of the call's block; 0 where it has no such.
uint64_t number_of(const Call& call, const Operation& operation, std::string_view name) {
  uint64_t number = 0;
  for_each_field(operation, [&](const Field& field) {
    if (field.name != name || field.offset + field.bytes > call.block.size()) return;
    std::memcpy(&number, call.block.data() + field.offset, std::min(field.bytes, sizeof number));
  });
  return number;
}

bool stores_in_pages(const Call& call, const Operation& operation) {
  return number_of(call, operation, "slots") != 0 || number_of(call, operation, "batch_indices") != 0;
}

// Calls visit(offset in the region) for each element of a tensor there.
template <class Visit>
void for_each_element(const rope_tensor& t, const Region& region, const Visit& visit) {
  int64_t index[ROPE_MAX_RANK] = {};
  if (std::find(t.shape, t.shape + t.rank, 0) != t.shape + t.rank) return;
  for (;;) {
    uint64_t offset = t.data - region.address;
    for (int i = 0; i < t.rank; ++i) offset += static_cast<uint64_t>(index[i] * t.stride[i]) * size_of(t);
    if (offset + size_of(t) <= region.before.size()) visit(offset);  // not so where a tensor is smaller than its shape says
    int i = t.rank - 1;
    while (i >= 0 && (t.stride[i] == 0 || ++index[i] == t.shape[i])) index[i--] = 0;
    if (i < 0) return;
  }
}

bool lies_in(const rope_tensor& t, const Region& region) {
  return t.data >= region.address && t.data - region.address < region.before.size();
}

// ---- a region on the device -----------------------------------------------------------------------------------------------------------

class DeviceRegion {
 public:
  DeviceRegion(const Call& call, const Operation& operation, const Region& region) : region_(region), shift_(region.address % kAlignment) {
    const size_t bytes = shift_ + region.before.size();
    const cudaError_t error = cudaMalloc(&memory_, bytes);
    if (error != cudaSuccess) throw std::runtime_error(std::string("cudaMalloc: ") + cudaGetErrorString(error));
    left_out_ = written_without_reading(call, operation);
    std::vector<uint8_t> image(bytes, kSlackByte);
    for (size_t i = 0; i < region.before.size(); ++i) {
      image[shift_ + i] = left_out_[i] ? static_cast<uint8_t>(~region.after[i]) : region.before[i];
    }
    if (!region.after.empty()) ++regions_written;
    if (!uninitialised || !put_pieces(image)) put(image, 0, bytes);
  }
  ~DeviceRegion() { cudaFree(memory_); }
  DeviceRegion(const DeviceRegion&) = delete;
  DeviceRegion& operator=(const DeviceRegion&) = delete;

  const Region& region() const { return region_; }
  uint64_t address_of(const rope_tensor& t) const { return base() + shift_ + (t.data - region_.address); }

  // Whether the device's bytes are the CPU's; says where not.
  bool same(const Call& call, const Operation& operation) const {
    const size_t begin = slack_is_there_ ? 0 : shift_;
    std::vector<uint8_t> there(shift_ + region_.before.size(), kSlackByte);
    transfer(reinterpret_cast<uint64_t>(there.data()) + begin, base() + begin, there.size() - begin);
    CHECK_OK(synchronize());
    std::vector<uint8_t> wanted(shift_, kSlackByte);
    const std::vector<uint8_t>& left = region_.after.empty() ? region_.before : region_.after;
    wanted.insert(wanted.end(), left.begin(), left.end());
    if (there == wanted) return true;
    if (operation.result == Result::close) accept_close(call, operation, wanted, &there);
    const auto [cpu, cuda] = std::mismatch(wanted.begin(), wanted.end(), there.begin());
    if (cpu == wanted.end()) return true;
    const auto at = cpu - wanted.begin();
    if (calls_differing < kMostShown) {
      fprintf(stderr, "  byte %td of %zu: CPU 0x%02x, CUDA 0x%02x\n", at - static_cast<ptrdiff_t>(shift_), left.size(), *cpu, *cuda);
    }
    return false;
  }

 private:
  uint64_t base() const { return reinterpret_cast<uint64_t>(memory_); }

  // The elements that the call changes on the CPU and reads through none of its tensors.
  std::vector<bool> written_without_reading(const Call& call, const Operation& operation) const {
    std::vector<bool> out(region_.before.size());
    for (const bool written : {true, false}) {
      for_each_field(operation, [&](const Field& field) {
        if (!field.tensor || operation.writes(field.name) != written || region_.after.empty()) return;
        for (const auto& [offset, tensor] : call.tensors) {
          if (offset != field.offset || !lies_in(tensor, region_)) continue;
          const uint64_t size = size_of(tensor);
          for_each_element(tensor, region_, [&](uint64_t at) {
            const bool leave = written && !operation.updates(field.name) && std::memcmp(&region_.before[at], &region_.after[at], size) != 0;
            if (leave || !written) std::fill_n(out.begin() + static_cast<ptrdiff_t>(at), size, leave);
          });
        }
      });
    }
    return out;
  }

  void put(const std::vector<uint8_t>& image, size_t begin, size_t end) const {
    transfer(base() + begin, reinterpret_cast<uint64_t>(image.data()) + begin, end - begin);
  }

  // All but what the call is to write. False where that is too many pieces.
  bool put_pieces(const std::vector<uint8_t>& image) {
    std::vector<std::pair<size_t, size_t>> pieces;
    for (size_t begin = 0; begin < left_out_.size();) {
      if (left_out_[begin]) {
        ++begin;
        continue;
      }
      size_t end = begin;
      while (end < left_out_.size() && !left_out_[end]) ++end;
      pieces.push_back({shift_ + begin, shift_ + end});
      begin = end;
    }
    if (pieces.size() > kMostPieces) return false;
    for (const auto& [begin, end] : pieces) put(image, begin, end);
    if (std::find(left_out_.begin(), left_out_.end(), true) != left_out_.end()) ++regions_uninitialised;
    slack_is_there_ = false;
    return true;
  }

  // Makes those elements of a result equal that may differ as they do.
  void accept_close(const Call& call, const Operation& operation, const std::vector<uint8_t>& wanted, std::vector<uint8_t>* there) const {
    const Allowed allowed =
        number_of(call, operation, "q_norm") + number_of(call, operation, "k_norm") > 0 ? Allowed::rounding : Allowed::nans;
    for_each_field(operation, [&](const Field& field) {
      if (!operation.writes(field.name)) return;
      for (const auto& [offset, tensor] : call.tensors) {
        if (offset != field.offset || !lies_in(tensor, region_)) continue;
        const int dtype = tensor.dtype;
        const uint64_t size = size_of(tensor);
        for_each_element(tensor, region_, [&](uint64_t at) {
          const char* const a = reinterpret_cast<const char*>(&wanted[shift_ + at]);
          char* const b = reinterpret_cast<char*>(&(*there)[shift_ + at]);
          if (same_element(a, b, dtype, allowed)) std::memcpy(b, a, size);
        });
      }
    });
  }

  const Region& region_;
  uint64_t shift_;
  void* memory_ = nullptr;
  std::vector<bool> left_out_;
  bool slack_is_there_ = true;
};

// ---- a call ---------------------------------------------------------------------------------------------------------------------------

template <class Value>
void put_value(std::vector<uint8_t>* block, uint64_t offset, const Value& value) {
  if (offset + sizeof value > block->size()) Reader::fail();
  std::memcpy(block->data() + offset, &value, sizeof value);
}

// Several indices may be out of range, of which each device meets another first; of an indptr of tokens each finds the same.
bool same_fault(const rope_fault& cpu, const rope_fault& cuda) {
  if (std::memcmp(&cpu, &cuda, sizeof cpu) == 0) return true;
  if (cpu.code == ROPE_FAULT_INDPTR || cuda.code == ROPE_FAULT_INDPTR || cuda.code == ROPE_FAULT_NONE) return false;
  return cuda.value > cuda.limit || cuda.value < -cuda.limit ||
         (cuda.code != ROPE_FAULT_POSITION && (cuda.value < 0 || cuda.value == cuda.limit)) || cuda.code == ROPE_FAULT_PAGES ||
         cuda.code == ROPE_FAULT_SHARED || cuda.code == ROPE_FAULT_LENGTH;
}

bool same_outcome(const rope_error& cpu, int32_t status) {
  if (status != cpu.status) return false;
  if (status == ROPE_FAULT) return strcmp(cpu.operation, last_error.operation) == 0 && same_fault(cpu.fault, last_error.fault);
  return status == ROPE_OK || strcmp(cpu.argument, last_error.argument) == 0;
}

bool replay(Call& call) {
  const Operation& operation = operation_of(call);
  std::vector<std::unique_ptr<DeviceRegion>> regions;
  for (const Region& region : call.regions) {
    if (!region.after.empty() && region.after.size() != region.before.size()) Reader::fail();
    regions.push_back(std::make_unique<DeviceRegion>(call, operation, region));
  }
  std::vector<uint8_t> block = call.block;
  std::vector<rope_tensor> tensors;
  tensors.reserve(call.tensors.size());
  for (const auto& [offset, recorded] : call.tensors) {
    if (recorded.rank > ROPE_MAX_RANK || recorded.dtype > ROPE_UINT8) Reader::fail();
    rope_tensor tensor = recorded;
    tensor.device = kCuda;
    for (const auto& there : regions) {
      if (!lies_in(recorded, there->region())) continue;
      tensor.data = there->address_of(recorded);
      tensor.extent = std::min(tensor.extent, there->region().address + there->region().before.size() - recorded.data);
    }
    tensors.push_back(tensor);
    put_value(&block, offset, ref(&tensors.back()));
  }
  rope_frequencies_args frequencies = call.frequencies;
  if (frequencies.size != 0) {
    frequencies.realm = 0;
    frequencies.custom = reinterpret_cast<uint64_t>(call.custom.data());
    frequencies.axis_of_pair = reinterpret_cast<uint64_t>(call.axis_of_pair.data());
    frequencies.frequencies = create_frequencies(frequencies);
    for_each_field(operation, [&](const Field& field) {
      if (field.name == "frequencies") put_value(&block, field.offset, frequencies.frequencies);
    });
  }
  CHECK_OK(synchronize());
  int32_t status = operation.call(block.data(), record());
  if (status == ROPE_OK) status = synchronize();
  bool same = same_outcome(call.outcome, status);
  if (!same && calls_differing < kMostShown) {
    fprintf(stderr, "  CPU: status %d, \"%s\", %s; CUDA: status %d, \"%s\", %s\n", call.outcome.status, call.outcome.argument,
            call.outcome.actual, status, status == ROPE_OK ? "" : last_error.argument, status == ROPE_OK ? "" : last_error.actual);
  }
  for (const auto& there : regions) same &= there->same(call, operation);
  if (frequencies.size != 0) release_frequencies(frequencies.frequencies);
  return same;
}

void print(const Call& call, size_t number) {
  fprintf(stderr, "call %zu, %s:", number, call.operation);
  for (const auto& [offset, t] : call.tensors) {
    for_each_field(operation_of(call), [&, at = offset](const Field& field) {
      if (field.offset == at) fprintf(stderr, " %.*s", static_cast<int>(field.name.size()), field.name.data());
    });
    fprintf(stderr, " dtype %d", t.dtype);
    for (int i = 0; i < t.rank; ++i)
      fprintf(stderr, "%s%lld by %lld", i == 0 ? " [" : ", ", static_cast<long long>(t.shape[i]), static_cast<long long>(t.stride[i]));
    fprintf(stderr, "%s", t.rank == 0 ? " []" : "]");
  }
  fprintf(stderr, "\n");
}

std::vector<Call> read_calls(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("there is no such file");
  Reader reader(std::vector<char>(std::istreambuf_iterator<char>(file), {}));
  Heading heading{};
  reader(heading);
  if (heading != Heading{}) Reader::fail();
  std::vector<Call> calls;
  while (!reader.at_end()) pass(reader, calls.emplace_back());
  return calls;
}

bool device_is_there() {
  rope_device_info_args info;
  START(info);
  info.device = kCuda;
  if (rope_device_info(&info, record()) == ROPE_OK) return true;
  printf("replay: skipped, there is no GPU: %s\n", last_error.advice[0] != 0 ? last_error.advice : last_error.actual);
  return false;
}

uint64_t bytes_of(const Call& call) {
  uint64_t bytes = 0;
  for (const Region& region : call.regions) bytes += region.before.size();
  return bytes;
}

// At most so many of the calls: of each operation, outcome and order of size as many, if there are, evenly spread.
std::vector<size_t> choose(const std::vector<Call>& calls, size_t most) {
  std::map<std::tuple<std::string, int32_t, int>, std::vector<size_t>> groups;
  for (size_t i = 0; i < calls.size(); ++i) {
    groups[{calls[i].operation, calls[i].outcome.status, std::bit_width(bytes_of(calls[i]))}].push_back(i);
  }
  std::vector<std::vector<size_t>> by_size;
  for (auto& [kind, numbers] : groups) by_size.push_back(std::move(numbers));
  std::sort(by_size.begin(), by_size.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  std::vector<size_t> chosen;
  for (size_t i = 0; i < by_size.size(); ++i) {
    const size_t there = by_size[i].size(), wanted = std::min(there, (most - chosen.size()) / (by_size.size() - i));
    for (size_t n = 0; n < wanted; ++n) chosen.push_back(by_size[i][n * there / wanted]);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

// Another sign and exponent of the last element written: no rounding excuses that.
void spoil(Call* call) {
  const auto written = std::find_if(call->regions.begin(), call->regions.end(), [](const Region& region) { return !region.after.empty(); });
  if (written == call->regions.end()) return;
  written->after.back() ^= 0xff;
  ++calls_spoiled;
}

int run(const char* path, size_t most, bool spoiled) {
  std::vector<Call> calls = read_calls(path);
  if (!device_is_there()) return 77;
  const std::vector<size_t> chosen = choose(calls, most);
  std::map<std::string, size_t> made;
  size_t faults = 0, refused = 0, paged = 0;
  for (const size_t number : chosen) {
    Call& call = calls[number];
    ++made[call.operation];
    if (spoiled) spoil(&call);
    faults += call.outcome.status == ROPE_FAULT;
    refused += call.outcome.status != ROPE_OK && call.outcome.status != ROPE_FAULT;
    paged += call.operation == std::string_view("rope_rotate") && stores_in_pages(call, operation_of(call));
    if (replay(call)) continue;
    if (calls_differing++ < kMostShown) print(call, number);
  }
  printf("replay: %zu of %zu calls:", chosen.size(), calls.size());
  for (const auto& [operation, times] : made) printf(" %zu %s,", times, operation.c_str());
  printf(" of these %zu into pages, %zu with a fault, %zu refused\n", paged, faults, refused);
  printf("%zu regions written", regions_written);
  if (uninitialised) printf(", %zu not initialised before", regions_uninitialised);
  if (spoiled) printf(", %zu calls spoiled", calls_spoiled);
  printf("; %zu calls differ, %d checks failed\n", calls_differing, checks_failed);
  return !chosen.empty() && calls_differing == 0 && checks_failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const char* path = nullptr;
  size_t most = SIZE_MAX;
  bool spoiled = false;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--uninitialised") == 0) {
      uninitialised = true;
    } else if (strcmp(argv[i], "--spoil") == 0) {
      spoiled = true;
    } else if (strcmp(argv[i], "--calls") == 0 && i + 1 < argc) {
      most = strtoull(argv[++i], nullptr, 10);
    } else {
      path = argv[i];
    }
  }
  if (path == nullptr) {
    fprintf(stderr, "replay [--uninitialised] [--calls N] [--spoil] FILE\n");
    return 2;
  }
  try {
    return run(path, most, spoiled);
  } catch (const std::exception& error) {
    fprintf(stderr, "replay: %s: %s\n", path, error.what());
    return 1;
  }
}
