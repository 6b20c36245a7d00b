// Pieces of 8 elements: what one 16-byte access of a thread holds.
#pragma once

#include "cuda/common/hopper.cuh"

namespace up::cuda {

template <class T>
__device__ __forceinline__ void unpack8(const uint4 &v, float (&x)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = Element<T>::unpack(words[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

template <class T>
__device__ __forceinline__ uint4 pack8(const float (&x)[8]) {
  return make_uint4(Element<T>::pack(x[0], x[1]), Element<T>::pack(x[2], x[3]), Element<T>::pack(x[4], x[5]),
                    Element<T>::pack(x[6], x[7]));
}

}  // namespace up::cuda
