// Causal depthwise convolution with state and SiLU, and the gates of the delta rule.
//
// Bound by memory: each input is read once and each output written once, but for the kernel-1 rows that a tile reads of its
// neighbour. A thread has 8 channels and goes down a tile of rows with the window in registers. The thread that has a
// request's first row is the only one to read its old state, and then writes the new one, the request's last inputs: so a
// request may leave its state where it found it. The last column of the grid computes the gates.
#include <algorithm>

#include "cuda/layer/activations.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"
#include "cuda/delta/row_ranges.cuh"
#include "cuda/delta/states.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kInFlight = 4;  // rows loaded before the first is used

template <class T, int Kernel>
struct Channels {
  const up_delta_input &p;
  int channel;
  float weight[Kernel][8];

  __device__ __forceinline__ Channels(const up_delta_input &p, int channel) : p(p), channel(channel) {
    const T *source = static_cast<const T *>(p.weight) + static_cast<int64_t>(channel) * Kernel;
    float w[8 * Kernel];
#pragma unroll
    for (int i = 0; i < Kernel; ++i) {
      float piece[8];
      unpack8<T>(__ldg(reinterpret_cast<const uint4 *>(source) + i), piece);
#pragma unroll
      for (int j = 0; j < 8; ++j) w[8 * i + j] = piece[j];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int t = 0; t < Kernel; ++t) weight[t][j] = w[j * Kernel + t];
  }

  __device__ __forceinline__ uint4 input(int row) const {
    return __ldg(reinterpret_cast<const uint4 *>(static_cast<const T *>(p.input) + row * p.input_row_stride + channel));
  }

  // The input at a row of the request that may lie before it, -1 being the state's last.
  __device__ __forceinline__ uint4 before(const RowRange &rows, const T *state, int row) const {
    if (row >= rows.begin) return input(row);
    const int at = Kernel - 1 + row - rows.begin;
    if (state == nullptr || at < 0) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4 *>(state + static_cast<int64_t>(at) * p.channels + channel);
  }

  // Leaves the inputs before row `end` of the request in `target`; reads all of them first.
  __device__ __forceinline__ void leave(const RowRange &rows, const T *state, int end, T *target) const {
    uint4 last[Kernel - 1];
#pragma unroll
    for (int t = 0; t < Kernel - 1; ++t) last[t] = before(rows, state, end - (Kernel - 1) + t);
#pragma unroll
    for (int t = 0; t < Kernel - 1; ++t)
      *reinterpret_cast<uint4 *>(target + static_cast<int64_t>(t) * p.channels + channel) = last[t];
  }

  __device__ __forceinline__ void leave_states(const RowRange &rows, const T *state, int request) const {
    const SnapshotRange snapshots = snapshot_range(p.states, request);
    for (int i = snapshots.begin; i < snapshots.end; ++i) {
      const int length = p.states.snapshot_rows[i];
      T *target = state_of<T>(p.states, p.states.snapshot_slots, i);
      if (length > 0 && length % 64 == 0 && length <= rows.end - rows.begin && target != nullptr)
        leave(rows, state, rows.begin + length, target);
    }
    if (T *target = state_of<T>(p.states, p.states.target_slots, request); target != nullptr)
      leave(rows, state, rows.end, target);
  }
};

template <class T, int Kernel>
__device__ void convolve(const up_delta_input &p, int channel, int request, int first, int tile_end) {
  const Channels<T, Kernel> c(p, channel);
  for (; request < p.requests; ++request) {
    const RowRange rows = row_range(p.row_starts, request, p.max_rows);
    if (rows.begin >= tile_end) break;
    // A request's first kernel-1 rows need its old state: they go to the tile that has the first one.
    const bool own = rows.begin >= first;
    int row = own ? rows.begin : max(first, rows.begin + Kernel - 1);
    const int end = min(rows.end, own ? max(tile_end, rows.begin + Kernel - 1) : tile_end);
    if (row >= end) continue;
    const T *state = state_of<T>(p.states, p.states.source_slots, request);
    float window[Kernel][8];
#pragma unroll
    for (int t = 0; t < Kernel - 1; ++t) unpack8<T>(c.before(rows, state, row - (Kernel - 1) + t), window[t]);
    if (own) c.leave_states(rows, state, request);
    while (row < end) {
      uint4 pieces[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i)
        if (row + i < end) pieces[i] = c.input(row + i);
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (row + i >= end) break;
        unpack8<T>(pieces[i], window[Kernel - 1]);
        float out[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float sum = 0.0f;
#pragma unroll
          for (int t = 0; t < Kernel; ++t) sum = fmaf(c.weight[t][j], window[t][j], sum);
          out[j] = activate<UP_SILU>(sum);
        }
        *reinterpret_cast<uint4 *>(static_cast<T *>(p.output) + (row + i) * p.output_row_stride + channel) = pack8<T>(out);
#pragma unroll
        for (int t = 0; t < Kernel - 1; ++t)
#pragma unroll
          for (int j = 0; j < 8; ++j) window[t][j] = window[t + 1][j];
      }
      row = min(row + kInFlight, end);
    }
  }
}

template <class T>
__device__ void gates(const up_delta_input &p, int first, int rows) {
  for (int i = threadIdx.x; i < rows * p.heads; i += kThreads) {
    const int row = first + i / p.heads, head = i % p.heads;
    const float a = static_cast<float>(static_cast<const T *>(p.decay_input)[row * p.decay_input_stride + head]) + p.dt_bias[head];
    const float b = static_cast<float>(static_cast<const T *>(p.beta_input)[row * p.beta_input_stride + head]);
    const float softplus = a > 20.0f ? a : log1pf(expf(a));
    const int64_t at = static_cast<int64_t>(row) * p.heads + head;
    p.decay[at] = -expf(p.a_log[head]) * softplus;
    p.beta[at] = static_cast<float>(static_cast<T>(1.0f / (1.0f + expf(-b))));
  }
}

template <class T, int Kernel>
__global__ void __launch_bounds__(kThreads) delta_input(const __grid_constant__ up_delta_input p, int tile_rows) {
  const int first = blockIdx.y * tile_rows;
  const int last = min(max(p.row_starts[p.requests], 0), p.max_rows);  // rows beyond it belong to nobody
  const int tile_end = min(first + tile_rows, last);
  if (first >= tile_end) return;
  if (8 * blockIdx.x * kThreads >= p.channels) {
    gates<T>(p, first, tile_end - first);
    return;
  }
  const int request = request_of_row(p.row_starts, p.requests, first);
  const int channel = 8 * (blockIdx.x * kThreads + threadIdx.x);
  if (channel < p.channels) convolve<T, Kernel>(p, channel, request, first, tile_end);
}

template <class T>
up_status launch(const up_delta_input &p, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch convolution";
  // A step of decoding has a request in every row: then rows are what runs side by side.
  const int64_t columns = ceil_div(p.channels, 8 * kThreads);
  int tile_rows = 32;
  while (tile_rows > 1 && ceil_div(p.max_rows, tile_rows) * columns < 4 * multiprocessors()) tile_rows /= 2;
  while (ceil_div(p.max_rows, tile_rows) > 65535) tile_rows *= 2;
  const dim3 grid(static_cast<unsigned>(columns + (p.heads > 0 ? 1 : 0)), static_cast<unsigned>(ceil_div(p.max_rows, tile_rows)));
  if (p.kernel == 2)
    delta_input<T, 2><<<grid, kThreads, 0, stream>>>(p, tile_rows);
  else if (p.kernel == 3)
    delta_input<T, 3><<<grid, kThreads, 0, stream>>>(p, tile_rows);
  else if (p.kernel == 4)
    delta_input<T, 4><<<grid, kThreads, 0, stream>>>(p, tile_rows);
  else
    return fail(error, UP_INVALID_ARGUMENT, phase, "kernel %d: 2, 3 and 4 are supported", p.kernel);
  return check_launch(phase, error);
}

}  // namespace

up_status delta_prepare(const up_delta_input *p, void *stream, up_backend_error *error) {
  if (p->requests == 0 || p->max_rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  return p->dtype == UP_BF16 ? launch<__nv_bfloat16>(*p, queue, error) : launch<__half>(*p, queue, error);
}

}  // namespace up::cuda
