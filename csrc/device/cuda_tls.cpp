// NVIDIA's static run-time library has thread-local variables, and asks the dynamic loader for them by name: that alone would make the loader a
// library that librope names as needed. The name is looked up instead, as the loader is in every process.
#if defined(ROPE_HAVE_CUDA)

#include <dlfcn.h>

namespace {

using GetAddress = void* (*)(void* index);
GetAddress loaders_get_address;

// Before any other constructor of the library could ask.
__attribute__((constructor(101))) void look_up() {
  loaders_get_address = reinterpret_cast<GetAddress>(dlsym(RTLD_DEFAULT, "__tls_get_addr"));
}

}  // namespace

// A jump, so that the stack may be as callers leave it.
extern "C" __attribute__((visibility("hidden"))) void* __tls_get_addr(void* index) { return loaders_get_address(index); }

#endif
