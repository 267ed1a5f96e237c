// A kernel that traps, for the tests of what comes after it. scripts/gpu-check makes build/test/libtrap.so of it:
//   nvcc -shared -Xcompiler -fPIC -o build/test/libtrap.so test/support/trap.cu
__global__ void trap_kernel() { asm volatile("trap;"); }

// On a stream of its own: the context, which all of the process shares, is lost for every stream.
extern "C" int trap(int device) {
  cudaSetDevice(device);
  cudaStream_t stream;
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) return 1;
  trap_kernel<<<1, 1, 0, stream>>>();
  return cudaGetLastError() == cudaSuccess ? 0 : 1;
}
