// Does racecheck see a missing wait on a bulk copy? The kernel copies a tile to shared memory and sums it, with or without
// waiting for the copy. Only if the tool reports the second and not the first does its silence about the real kernels mean
// anything.
//
// usage: cuda_planted_race wait|race
#include <cstdio>
#include <cstring>

#include "../src/cuda/hopper.cuh"

namespace {

constexpr int kWords = 4096;

template <bool Wait>
__global__ void sum_tile(const int *source, int *target) {
  __shared__ alignas(128) int tile[kWords];
  __shared__ uint64_t full;
  if (threadIdx.x == 0) {
    up::cuda::barrier_init(&full, 1);
    up::cuda::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    up::cuda::barrier_expect(&full, sizeof tile);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     up::cuda::shared_address(tile)),
                 "l"(source), "r"(static_cast<int>(sizeof tile)), "r"(up::cuda::shared_address(&full))
                 : "memory");
  }
  if (Wait) up::cuda::barrier_wait(&full, 0);
  int sum = 0;
  for (int i = threadIdx.x; i < kWords; i += blockDim.x) sum += tile[i];
  atomicAdd(target, sum);
  if (!Wait) up::cuda::barrier_wait(&full, 0);  // the copy must not outlive the block
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  int *source = nullptr, *target = nullptr;
  if (cudaMalloc(&source, kWords * sizeof(int)) != cudaSuccess || cudaMalloc(&target, sizeof(int)) != cudaSuccess) return 1;
  cudaMemset(source, 1, kWords * sizeof(int));
  cudaMemset(target, 0, sizeof(int));
  if (std::strcmp(argv[1], "wait") == 0)
    sum_tile<true><<<4, 128>>>(source, target);
  else
    sum_tile<false><<<4, 128>>>(source, target);
  const cudaError_t result = cudaDeviceSynchronize();
  std::printf("cuda_planted_race %s: %s\n", argv[1], cudaGetErrorName(result));
  return result == cudaSuccess ? 0 : 1;
}
