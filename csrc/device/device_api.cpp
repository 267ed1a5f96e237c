// The C entry points for realms, devices, memory, streams, events and graphs.
#include <chrono>
#include <cstdio>
#include <cstring>

#include <pthread.h>

#include "../core/arguments.h"
#include "../core/handles.h"
#include "machine.h"
#include "stream.h"

namespace rope {
namespace {

struct Event {
  uint16_t device;
  std::chrono::steady_clock::time_point time;
};

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
    } catch (...) {
      // Closed by its owner before the thread ended.
    }
    RealmsOfThread* const next = entry->next;
    delete entry;
    entry = next;
  }
}

uint64_t open_realm_of_thread() {
  pthread_once(&realms_once, [] { pthread_key_create(&realms_key, close_realms); });
  auto entry = std::make_unique<RealmsOfThread>();
  entry->next = static_cast<RealmsOfThread*>(pthread_getspecific(realms_key));
  entry->realm = open_realm();
  const uint64_t realm = entry->realm;
  pthread_setspecific(realms_key, entry.release());
  return realm;
}

// ---- streams, events, graphs -------------------------------------------------------------------------------------------------------

std::shared_ptr<Event> event_of(uint64_t handle, uint16_t device, const char* argument) {
  auto event = find_handle<Event>(HandleKind::event, handle, argument);
  if (event->device != device) fail(ROPE_DEVICE, argument, "an event of the block's device", "an event of another device");
  return event;
}

// A stream that records cannot be waited for; 0 and every other CPU stream is always done.
void require_running(uint64_t handle, uint16_t device, const char* what) {
  const StreamRef stream = stream_of(handle, device);
  if (!stream) return;
  const std::lock_guard lock(stream->mutex);
  require(!stream->recording, "stream", "a stream that is not recording a graph", "the stream of a recording", what);
}

std::shared_ptr<Graph> end_recording(uint64_t handle) {
  const auto stream = find_handle<Stream>(HandleKind::stream, handle, "stream");
  std::shared_ptr<Graph> graph;
  {
    const std::lock_guard lock(stream->mutex);
    require(stream->recording != nullptr, "stream", "a stream that is recording a graph", "one that is not");
    graph = std::move(stream->recording);
    stream->recording = nullptr;
  }
  remove_handle(HandleKind::stream, handle, "stream");
  return graph;
}

void launch(const Graph& graph) {
  rope_fault first{};
  const char* operation = "";
  for (const GraphNode& node : graph.nodes) {
    const rope_fault fault = node.run();
    if (fault.code == ROPE_FAULT_NONE || first.code != ROPE_FAULT_NONE) continue;
    first = fault;
    operation = node.operation;
  }
  if (first.code != ROPE_FAULT_NONE) fail_fault(first, operation);
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
    rope_realm_args args = read_block(block, offsetof(rope_realm_args, realm) + sizeof block->realm);
    args.realm = open_realm_of_thread();
    write_block(block, args);
  });
}

int32_t rope_realm_close(const rope_realm_args* block, rope_error* error) {
  return guard("rope_realm_close", error, [&] { close_realm(read_block(block).realm, "realm"); });
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
    rope_device_info_args args = read_block(block);
    require_present(args.device, "device");
    args.memory_bytes = machine().memory_bytes;
    args.cores = static_cast<uint32_t>(machine().cores);
    args.usable = 1;
    std::snprintf(args.description, sizeof args.description, "%s", machine().description);
    write_block(block, args);
  });
}

int32_t rope_memory_allocate(rope_memory_args* block, rope_error* error) {
  return guard("rope_memory_allocate", error, [&] {
    rope_memory_args args = read_block(block, offsetof(rope_memory_args, address) + sizeof block->address);
    require_present(args.device, "device");
    require(args.bytes > 0, "bytes", "at least 1", "0");
    args.address = allocate_memory(args.bytes, args.realm);
    write_block(block, args);
  });
}

int32_t rope_memory_release(const rope_memory_args* block, rope_error* error) {
  return guard("rope_memory_release", error, [&] {
    const rope_memory_args args = read_block(block);
    require_present(args.device, "device");
    release_memory(args.address, "address");
  });
}

int32_t rope_stream_create(rope_stream_args* block, rope_error* error) {
  return guard("rope_stream_create", error, [&] {
    rope_stream_args args = read_block(block, offsetof(rope_stream_args, stream) + sizeof block->stream);
    require_present(args.device, "device");
    auto stream = std::make_shared<Stream>();
    stream->device = args.device;
    args.stream = add_handle(HandleKind::stream, std::move(stream), args.realm);
    write_block(block, args);
  });
}

int32_t rope_stream_destroy(const rope_stream_args* block, rope_error* error) {
  return guard("rope_stream_destroy", error, [&] {
    const rope_stream_args args = read_block(block);
    require_running(args.stream, args.device, "End or cancel the recording first.");
    remove_handle(HandleKind::stream, args.stream, "stream");
  });
}

int32_t rope_stream_synchronize(const rope_stream_args* block, rope_error* error) {
  return guard("rope_stream_synchronize", error, [&] {
    const rope_stream_args args = read_block(block);
    require_present(args.device, "device");
    require_running(args.stream, args.device, "Waiting cannot be recorded.");
  });
}

int32_t rope_event_record(rope_event_args* block, rope_error* error) {
  return guard("rope_event_record", error, [&] {
    rope_event_args args = read_block(block, offsetof(rope_event_args, event) + sizeof block->event);
    require_present(args.device, "device");
    require_running(args.stream, args.device, "Events cannot be recorded.");
    auto event = std::make_shared<Event>(Event{args.device, std::chrono::steady_clock::now()});
    args.event = add_handle(HandleKind::event, std::move(event), args.realm);
    write_block(block, args);
  });
}

int32_t rope_event_wait(const rope_event_args* block, rope_error* error) {
  return guard("rope_event_wait", error, [&] {
    const rope_event_args args = read_block(block);
    event_of(args.event, args.device, "event");
    stream_of(args.stream, args.device);
  });
}

int32_t rope_event_synchronize(const rope_event_args* block, rope_error* error) {
  return guard("rope_event_synchronize", error, [&] {
    const rope_event_args args = read_block(block);
    event_of(args.event, args.device, "event");
  });
}

int32_t rope_event_elapsed(rope_event_args* block, rope_error* error) {
  return guard("rope_event_elapsed", error, [&] {
    rope_event_args args = read_block(block);
    const auto end = event_of(args.event, args.device, "event");
    const auto start = event_of(args.since, args.device, "since");
    args.elapsed_ms = std::chrono::duration<double, std::milli>(end->time - start->time).count();
    write_block(block, args);
  });
}

int32_t rope_event_destroy(const rope_event_args* block, rope_error* error) {
  return guard("rope_event_destroy", error, [&] { remove_handle(HandleKind::event, read_block(block).event, "event"); });
}

int32_t rope_graph_begin(rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_begin", error, [&] {
    rope_graph_args args = read_block(block, offsetof(rope_graph_args, stream) + sizeof block->stream);
    require_present(args.device, "device");
    auto stream = std::make_shared<Stream>();
    stream->device = args.device;
    stream->recording = std::make_shared<Graph>();
    stream->recording->device = args.device;
    args.stream = add_handle(HandleKind::stream, std::move(stream), args.realm);
    write_block(block, args);
  });
}

int32_t rope_graph_end(rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_end", error, [&] {
    rope_graph_args args = read_block(block, offsetof(rope_graph_args, graph) + sizeof block->graph);
    std::shared_ptr<Graph> graph = end_recording(args.stream);
    args.nodes = graph->nodes.size();
    args.graph = add_handle(HandleKind::graph, std::move(graph), args.realm);
    write_block(block, args);
  });
}

int32_t rope_graph_cancel(const rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_cancel", error, [&] { end_recording(read_block(block).stream); });
}

int32_t rope_graph_launch(const rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_launch", error, [&] {
    const rope_graph_args args = read_block(block);
    const auto graph = find_handle<Graph>(HandleKind::graph, args.graph, "graph");
    require_running(args.stream, graph->device, "A graph cannot be recorded into another.");
    launch(*graph);
  });
}

int32_t rope_graph_destroy(const rope_graph_args* block, rope_error* error) {
  return guard("rope_graph_destroy", error, [&] { remove_handle(HandleKind::graph, read_block(block).graph, "graph"); });
}

}  // extern "C"
