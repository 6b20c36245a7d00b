// Pieces of matrices in the registers of one warp: loads and stores of 8 × 8 matrices, the m16n8k16 product, and exchanges.
//
// A lane holds, of a 16 × 8 accumulator, rows lane / 4 and that + 8, columns 2 · (lane % 4) and the next.
#pragma once

#include "cuda/common/hopper.cuh"

namespace up::cuda {

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

template <class T>
__device__ __forceinline__ void mma16(float *d, const uint32_t *a, uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma16<__nv_bfloat16>(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma16<__half>(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Address of 16-byte chunk `chunk` of a panel's row under the 128-byte swizzle.
__device__ __forceinline__ uint32_t swizzled(uint32_t panel, int row, int chunk) {
  return panel + row * 128 + ((chunk ^ (row & 7)) << 4);
}

// Writes four 8 × 8 matrices transposed: a lane gives the address of row lane % 8 of matrix lane / 8 as it will lie in memory.
__device__ __forceinline__ void store_matrices_transposed(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r0), "r"(r1),
               "r"(r2), "r"(r3)
               : "memory");
}

// Four neighbouring lanes hold words of four pieces of 16 bytes, lane q the q-th word of each; afterwards lane q has piece q.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4]) {
  const int quad = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t out = quad & 2 ? v[i] : v[i + 2];
    const uint32_t in = __shfl_xor_sync(~0u, out, 2);
    (quad & 2 ? v[i] : v[i + 2]) = in;
  }
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t out = quad & 1 ? v[i] : v[i + 1];
    const uint32_t in = __shfl_xor_sync(~0u, out, 1);
    (quad & 1 ? v[i] : v[i + 1]) = in;
  }
}

}  // namespace up::cuda
