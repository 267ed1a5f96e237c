// The C entry points for realms, devices, memory, streams, events, graphs and completions: checks, then the device's backend.
#include <pthread.h>

#include <cstring>

#include "../core/arguments.h"
#include "../core/handles.h"
#include "device.h"

namespace rope {
namespace {

// ---- realms: closed when their thread ends -----------------------------------------------------------------------------------------

struct RealmsOfThread {
  uint64_t realm;
  RealmsOfThread* next;
};

pthread_key_t realms_key;
pthread_once_t realms_once = PTHREAD_ONCE_INIT;

void close_realms(void* list) {
  for (auto* entry = static_cast<RealmsOfThread*>(list); entry != nullptr;) {
    try {
      close_realm(entry->realm, "realm");
      cuda_forget_realm(entry->realm);
    } catch (...) {
      // Closed by its owner before the thread ended.
    }
    RealmsOfThread* const next = entry->next;
    delete entry;
    entry = next;
  }
}

void give_back(const OwnedMemory& memory) {
  try {
    backend_of(memory.device, "device").release(memory.address, memory.bytes, memory.kind, nullptr);
  } catch (...) {
    // The device has failed: its memory went with it.
  }
}

uint64_t open_realm_of_thread() {
  pthread_once(&realms_once, [] {
    pthread_key_create(&realms_key, close_realms);
    set_release_memory(give_back);
  });
  auto entry = std::make_unique<RealmsOfThread>();
  entry->next = static_cast<RealmsOfThread*>(pthread_getspecific(realms_key));
  entry->realm = open_realm();
  const uint64_t realm = entry->realm;
  pthread_setspecific(realms_key, entry.release());
  return realm;
}

// ---- handles -----------------------------------------------------------------------------------------------------------------------

// The device of a block, and its stream if one is named.
struct Target {
  DeviceBackend& backend;
  StreamRef stream;
};

template <class Args>
Target target_of(const Args& args) {
  DeviceBackend& backend = backend_of(args.device, "device");
  return {backend, stream_of(args.stream, args.device)};
}

std::shared_ptr<Event> event_of(uint64_t handle, uint16_t device, const char* argument) {
  auto event = find_handle<Event>(HandleKind::event, handle, argument);
  if (event->device != device) fail(ROPE_DEVICE, argument, "an event of the block's device", "an event of another device");
  return event;
}

StreamRef recording_stream(uint64_t handle) {
  auto stream = find_handle<Stream>(HandleKind::stream, handle, "stream");
  const std::lock_guard lock(stream->mutex);
  require(stream->recording != nullptr, "stream", "a stream that is recording a graph", "one that is not");
  return stream;
}

}  // namespace

StreamRef stream_of(uint64_t handle, uint16_t device) {
  if (handle == 0) return nullptr;
  StreamRef stream = find_handle<Stream>(HandleKind::stream, handle, "stream");
  if (stream->device != device) fail(ROPE_DEVICE, "stream", "a stream of the tensors' device", "a stream of another device");
  return stream;
}

}  // namespace rope

using namespace rope;

extern "C" {

int32_t rope_realm_open(rope_realm_args* block, rope_error* error) {
  return guard("rope_realm_open", error, [&] {
    rope_realm_args args = read_block(block, end_of(&rope_realm_args::realm));
    args.realm = open_realm_of_thread();
    write_block(block, args);
  });
}

int32_t rope_realm_close(const rope_realm_args* block, rope_error* error) {
  return guard("rope_realm_close", error, [&] {
    const uint64_t realm = read_block(block).realm;
    close_realm(realm, "realm");
    cuda_forget_realm(realm);
  });
}

int32_t rope_usage(rope_usage_args* block, rope_error* error) {
  return guard("rope_usage", error, [&] {
    rope_usage_args args = read_block(block);
    args.handles = live_handles();
    args.bytes = live_memory();
    write_block(block, args);
  });
}

int32_t rope_device_info(rope_device_info_args* block, rope_error* error) {
  return guard("rope_device_info", error, [&] {
    const rope_device_info_args asked = read_block(block);
    rope_device_info_args args{};
    args.device = asked.device;
    if (is_cuda(args.device)) {
      cuda_info(args);
    } else {
      backend_of(args.device, "device");
      cpu_info(args);
    }
    write_block(block, args);
  });
}

int32_t rope_device_health(rope_health_args* block, rope_error* error) {
  return guard("rope_device_health", error, [&] {
    const rope_health_args asked = read_block(block);
    rope_health_args args{};
    args.device = asked.device;
    args.realm = asked.realm;
    backend_of(args.device, "device").health(args);
    write_block(block, args);
  });
}

int32_t rope_memory_allocate(rope_memory_args* block, rope_error* error) {
  return guard("rope_memory_allocate", error, [&] {
    rope_memory_args args = read_block(block, end_of(&rope_memory_args::address));
    const Target target = target_of(args);
    require(args.bytes > 0, "bytes", "at least 1", "0");
    if (args.kind > ROPE_MEMORY_PINNED) fail(ROPE_ARGUMENT, "kind", text("a rope_memory_kind"), text("%u", args.kind));
    set_release_memory(give_back);
    const bool pinned = args.kind == ROPE_MEMORY_PINNED;
    args.address = pinned ? target.backend.allocate_pinned(args.bytes) : target.backend.allocate(args.bytes, target.stream);
    try {
      add_memory({args.address, args.bytes, args.realm, args.device, args.kind});
    } catch (...) {
      target.backend.release(args.address, args.bytes, args.kind, target.stream);
      throw;
    }
    write_block(block, args);
  });
}

int32_t rope_memory_release(const rope_memory_args* block, rope_error* error) {
  return guard("rope_memory_release", error, [&] {
    const rope_memory_args args = read_block(block);
    const Target target = target_of(args);
    const OwnedMemory memory = remove_memory(args.address, args.device, "address");
    target.backend.release(memory.address, memory.bytes, memory.kind, target.stream);
  });
}

int32_t rope_memory_trim(const rope_memory_args* block, rope_error* error) {
  return guard("rope_memory_trim", error, [&] { backend_of(read_block(block).device, "device").trim(); });
}

int32_t rope_transfer(const rope_transfer_args* block, rope_error* error) {
  return guard("rope_transfer", error, [&] {
    const rope_transfer_args args = read_block(block);
    const Target target = target_of(args);
    if (args.bytes == 0) return;
    require(args.source != 0, "source", "an address", "0");
    require(args.target != 0, "target", "an address", "0");
    target.backend.transfer(args.target, args.source, args.bytes, target.stream);
  });
}

int32_t rope_stream_create(rope_stream_args* block, rope_error* error) {
  return guard("rope_stream_create", error, [&] {
    rope_stream_args args = read_block(block, end_of(&rope_stream_args::stream));
    StreamRef stream = backend_of(args.device, "device").create_stream();
    stream->device = args.device;
    args.stream = add_handle(HandleKind::stream, std::move(stream), args.realm);
    write_block(block, args);
  });
}

int32_t rope_stream_destroy(const rope_stream_args* block, rope_error* error) {
  return guard("rope_stream_destroy", error, [&] {
    const rope_stream_args args = read_block(block);
    const StreamRef stream = stream_of(args.stream, args.device);
    if (stream) {
      const std::lock_guard lock(stream->mutex);
      require(!stream->recording, "stream", "a stream that is not recording a graph", "the stream of a recording",
              "End or cancel the recording first.");
    }
    remove_handle(HandleKind::stream, args.stream, "stream");
  });
}

int32_t rope_stream_synchronize(const rope_stream_args* block, rope_error* error) {
  return guard("rope_stream_synchronize", error, [&] {
    const rope_stream_args args = read_block(block);
    const Target target = target_of(args);
    target.backend.synchronize(target.stream, args.realm);
  });
}

int32_t rope_stream_order(const rope_order_args* block, rope_error* error) {
  return guard("rope_stream_order", error, [&] {
    const rope_order_args args = read_block(block);
    const Target target = target_of(args);
    if (args.stream == args.after) return;
    target.backend.order(target.stream, stream_of(args.after, args.device));
  });
}

int32_t rope_event_record(rope_event_args* block, rope_error* error) {
  return guard("rope_event_record", error, [&] {
    rope_event_args args = read_block(block, end_of(&rope_event_args::event));
    const Target target = target_of(args);
    std::shared_ptr<Event> event = target.backend.record(target.stream);
    event->device = args.device;
    args.event = add_handle(HandleKind::event, std::move(event), args.realm);
    write_block(block, args);
  });
}

int32_t rope_event_wait(const rope_event_args* block, rope_error* error) {
  return guard("rope_event_wait", error, [&] {
    const rope_event_args args = read_block(block);
    const auto event = event_of(args.event, args.device, "event");
    const Target target = target_of(args);
    target.backend.wait(target.stream, *event);
  });
}

int32_t rope_event_synchronize(const rope_event_args* block, rope_error* error) {
  return guard("rope_event_synchronize", error, [&] {
    const rope_event_args args = read_block(block);
    const auto event = event_of(args.event, args.device, "event");
    backend_of(args.device, "device").synchronize(*event, args.realm);
  });
}

int32_t rope_event_elapsed(rope_event_args* block, rope_error* error) {
  return guard("rope_event_elapsed", error, [&] {
    rope_event_args args = read_block(block);
    const auto end = event_of(args.event, args.device, "event");
    const auto start = event_of(args.since, args.device, "since");
    args.elapsed_ms = backend_of(args.device, "device").elapsed_ms(*start, *end);
    write_block(block, args);
  });
}

int32_t rope_event_destroy(const rope_event_args* block, rope_error* error) {
  return guard("rope_event_destroy", error, [&] { remove_handle(HandleKind::event, read_block(block).event, "event"); });
}

int32_t rope_graph_begin(rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_begin", error, [&] {
    rope_graph_args args = read_block(block, end_of(&rope_graph_args::stream));
    StreamRef stream = backend_of(args.device, "device").begin_graph();
    stream->device = args.device;
    stream->recording->device = args.device;
    args.stream = add_handle(HandleKind::stream, std::move(stream), args.realm);
    write_block(block, args);
  });
}

int32_t rope_graph_end(rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_end", error, [&] {
    rope_graph_args args = read_block(block, end_of(&rope_graph_args::graph));
    const StreamRef stream = recording_stream(args.stream);
    remove_handle(HandleKind::stream, args.stream, "stream");
    std::shared_ptr<Graph> graph = backend_of(stream->device, "stream").end_graph(stream);
    args.nodes = graph->count;
    args.graph = add_handle(HandleKind::graph, std::move(graph), args.realm);
    write_block(block, args);
  });
}

int32_t rope_graph_cancel(const rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_cancel", error, [&] {
    const rope_graph_args args = read_block(block);
    const StreamRef stream = recording_stream(args.stream);
    remove_handle(HandleKind::stream, args.stream, "stream");
    try {
      backend_of(stream->device, "stream").end_graph(stream);
    } catch (const Failure& failure) {
      if (failure.status == ROPE_FATAL) throw;  // an invalid recording is what is being given up
    }
  });
}

int32_t rope_graph_launch(const rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_launch", error, [&] {
    const rope_graph_args args = read_block(block);
    const auto graph = find_handle<Graph>(HandleKind::graph, args.graph, "graph");
    backend_of(graph->device, "graph").launch(*graph, stream_of(args.stream, graph->device));
  });
}

int32_t rope_graph_destroy(const rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_destroy", error, [&] { remove_handle(HandleKind::graph, read_block(block).graph, "graph"); });
}

int32_t rope_queue_open(rope_queue_args* block, rope_error* error) {
  return guard("rope_queue_open", error, [&] {
    rope_queue_args args = read_block(block, end_of(&rope_queue_args::queue));
    auto queue = std::make_shared<CompletionQueue>();
    args.wake_fd = queue->wake_fd();
    args.queue = add_handle(HandleKind::queue, std::move(queue), args.realm);
    write_block(block, args);
  });
}

int32_t rope_queue_take(rope_queue_args* block, rope_error* error) {
  return guard("rope_queue_take", error, [&] {
    rope_queue_args args = read_block(block, end_of(&rope_queue_args::status));
    Completion completion;
    find_handle<CompletionQueue>(HandleKind::queue, args.queue, "queue")->take(&completion);
    args.ticket = completion.ticket;
    args.status = completion.failure.status;
    if (completion.failure.status != ROPE_OK) report(completion.failure, "rope_queue_notify", error);
    write_block(block, args);
  });
}

int32_t rope_queue_wait(const rope_queue_args* block, rope_error* error) {
  return guard("rope_queue_wait", error, [&] {
    const rope_queue_args args = read_block(block);
    find_handle<CompletionQueue>(HandleKind::queue, args.queue, "queue")->wait();
  });
}

int32_t rope_queue_notify(const rope_notify_args* block, rope_error* error) {
  return guard("rope_queue_notify", error, [&] {
    const rope_notify_args args = read_block(block);
    const Target target = target_of(args);
    require(args.ticket != 0, "ticket", "a number that is not 0", "0");
    auto queue = find_handle<CompletionQueue>(HandleKind::queue, args.queue, "queue");
    const auto event = args.event != 0 ? event_of(args.event, args.device, "event") : nullptr;
    target.backend.notify(target.stream, event, {std::move(queue), args.ticket, args.realm});
  });
}

}  // extern "C"
