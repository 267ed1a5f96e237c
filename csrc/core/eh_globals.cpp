// The C++ runtime keeps each thread's exceptions in thread-local storage, whose accessor lives in the dynamic loader: with libstdc++ linked in
// statically that would make the loader a third library that librope.so needs. These two functions of the Itanium C++ ABI (section 2.2.2) take
// the place of the runtime's and keep the same record behind a pthread key.
#if defined(ROPE_STATIC_RUNTIME)

#include <pthread.h>

#include <atomic>
#include <cstdlib>

namespace {

struct Globals {
  void* caught;
  unsigned int uncaught;
};

// For threads whose first exception is that there is no memory: their record comes from here.
constexpr int kSpares = 64;
Globals spares[kSpares];
std::atomic<bool> spare_taken[kSpares];

pthread_key_t key;
pthread_once_t once = PTHREAD_ONCE_INIT;

void release(void* globals) {
  const auto index = static_cast<Globals*>(globals) - spares;
  if (index < 0 || index >= kSpares) return std::free(globals);
  spares[index] = {};
  spare_taken[index] = false;
}

Globals* take_spare() {
  for (int i = 0; i < kSpares; ++i) {
    if (!spare_taken[i].exchange(true)) return &spares[i];
  }
  std::abort();
}

}  // namespace

extern "C" Globals* __cxa_get_globals() {
  pthread_once(&once, [] { pthread_key_create(&key, release); });
  auto* globals = static_cast<Globals*>(pthread_getspecific(key));
  if (globals != nullptr) return globals;
  globals = static_cast<Globals*>(std::calloc(1, sizeof(Globals)));
  if (globals == nullptr) globals = take_spare();
  pthread_setspecific(key, globals);
  return globals;
}

extern "C" Globals* __cxa_get_globals_fast() { return __cxa_get_globals(); }

#endif
