/* What the benchmarks compare with: the same C function called in a C loop, and memcpy on one thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

typedef int32_t (*operation)(const void* args, void* error);

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

struct loop {
  uint64_t path;   /* librope.so, open already: dlopen gives the same copy */
  uint64_t symbol; /* "rope_rotate" */
  uint64_t args;
  uint64_t error;
  uint64_t samples; /* how often `batch` calls are timed */
  uint64_t batch;
  uint64_t times; /* double[samples]: nanoseconds of a call */
};

#define POINTER(address) ((void*)(uintptr_t)(address))

/* Returns the first status that is not 0, or -1 where the function is not there. */
int32_t bench_call(struct loop* loop, void* unused) {
  void* library = dlopen(POINTER(loop->path), RTLD_NOW);
  if (library == NULL) return -1;
  operation call;
  *(void**)&call = dlsym(library, POINTER(loop->symbol));
  if (call == NULL) return -1;
  double* times = POINTER(loop->times);
  for (uint64_t sample = 0; sample < loop->samples; ++sample) {
    const int64_t start = nanoseconds();
    for (uint64_t i = 0; i < loop->batch; ++i) {
      const int32_t status = call(POINTER(loop->args), POINTER(loop->error));
      if (status != 0) return status;
    }
    times[sample] = (double)(nanoseconds() - start) / (double)loop->batch;
  }
  (void)unused;
  return 0;
}

struct copy {
  uint64_t target;
  uint64_t source;
  uint64_t bytes;
  uint64_t batch;
  double nanoseconds; /* out: of one memcpy */
};

int32_t bench_memcpy(struct copy* copy, void* unused) {
  const int64_t start = nanoseconds();
  for (uint64_t i = 0; i < copy->batch; ++i) {
    memcpy(POINTER(copy->target), POINTER(copy->source), copy->bytes);
    __asm__ volatile("" ::: "memory"); /* every copy is made */
  }
  copy->nanoseconds = (double)(nanoseconds() - start) / (double)copy->batch;
  (void)unused;
  return 0;
}
