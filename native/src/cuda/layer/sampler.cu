// Sampling: one block of threads a row of logits.
//
// A token's standing is `depth`, (most − score) · log2(e) / temperature in steps of 2⁻²⁶: 0 for the likeliest, and its weight is
// 2^(40 − depth · 2⁻²⁶) as an integer. So top-k and top-p are cuts in depth, found by three rounds of histograms (11, 11 and 10
// bits) instead of a sort, and all sums are integers. Tokens deeper than 40 weigh nothing and are never drawn.
#include "cuda/common/hopper.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/layer/logit_edits.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kMostLogprobs = 32;
constexpr uint32_t kNoDepth = 0xffffffffu;
constexpr float kDepthUnit = 67108864.0f;  // 2^26

using Count = unsigned long long;

struct Best {
  float score;
  int token;
};

struct Shared {
  Count bins[kBins];
  Count sums[kWarps];
  float floats[kWarps];
  Best best[kWarps];
  Count found;
  uint32_t prefix;
};

__device__ __forceinline__ bool better(Best a, Best b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

// The best token that comes after `previous` in (score descending, token ascending) and is not masked; its number is `vocab`
// where there is none. The same for all threads.
__device__ Best next_best(Shared &shared, const float *scores, int vocab, Best previous) {
  const Best none{negative_infinity(), vocab};
  Best best = none;
  for (int i = threadIdx.x; i < vocab; i += kThreads) {
    const Best candidate{scores[i], i};
    if (candidate.score > none.score && better(previous, candidate) && better(candidate, best)) best = candidate;
  }
  const auto reduce = [&] {
    for (int step = 16; step > 0; step /= 2) {
      const Best other{__shfl_xor_sync(~0u, best.score, step), __shfl_xor_sync(~0u, best.token, step)};
      if (better(other, best)) best = other;
    }
  };
  reduce();
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = best;
  __syncthreads();
  best = shared.best[threadIdx.x % 32];
  reduce();
  return best;
}

__device__ Count block_sum(Shared &shared, Count value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = value;
  __syncthreads();
  Count total = 0;
  for (int i = 0; i < kWarps; ++i) total += shared.sums[i];
  return total;
}

// Sum of exponentials relative to `most`, added in an order that depends on the vocabulary alone.
__device__ float exponential_sum(Shared &shared, const float *scores, int vocab, float most) {
  float sum = 0.0f;
  for (int i = threadIdx.x; i < vocab; i += kThreads) sum += expf(scores[i] - most);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.floats[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < kWarps; ++i) total += shared.floats[i];
  return total;
}

struct Weigher {
  const float *scores;
  float most, factor;  // factor: log2(e) / temperature · 2^26
  uint32_t deepest;    // tokens beyond it are out

  __device__ __forceinline__ uint32_t depth(int token) const {
    const float d = (most - scores[token]) * factor;
    const uint32_t depth = d < 41.0f * kDepthUnit ? __float2uint_rn(d) : kNoDepth;
    return depth <= deepest ? depth : kNoDepth;
  }
  static __device__ __forceinline__ Count weight(uint32_t depth) {
    if (depth == kNoDepth) return 0;
    return __float2ull_rn(exp2f(40.0f - static_cast<float>(depth) / kDepthUnit));
  }
};

// The largest depth d such that what lies before it (counts, or weights) is below `limit`: kept tokens are those up to d.
template <bool Weighted>
__device__ uint32_t cut(Shared &shared, const Weigher &w, int vocab, Count limit) {
  uint32_t prefix = 0;
  Count before = 0;
  for (int shift = 21; shift >= -1; shift -= 11) {  // bits 31…21, 20…10, 9…0
    const int low = shift < 0 ? 0 : shift == 21 ? 21 : 10, width = low == 0 ? 10 : 11;
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocab; i += kThreads) {
      const uint32_t depth = w.depth(i);
      const bool inside = depth != kNoDepth && (low == 21 || depth >> (low + width) == prefix);
      if (inside) atomicAdd(&shared.bins[depth >> low & ((1u << width) - 1)], Weighted ? Weigher::weight(depth) : 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t last = 0;
      Count sum = before, at_last = before;
      for (uint32_t bin = 0; bin < 1u << width && sum < limit; ++bin)
        if (shared.bins[bin] > 0) {
          last = bin;
          at_last = sum;
          sum += shared.bins[bin];
        }
      shared.prefix = prefix << width | last;
      shared.found = at_last;
    }
    __syncthreads();
    prefix = shared.prefix;
    before = shared.found;
    __syncthreads();
  }
  return prefix;
}

__device__ __forceinline__ uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// The token at which the cumulated weight first exceeds `target`. Warps have neighbouring ranges of tokens.
__device__ int pick(Shared &shared, const Weigher &w, int vocab, uint64_t draw) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int share = (vocab + kThreads - 1) / kThreads * 32;
  const int begin = min(warp * share, vocab), end = min(begin + share, vocab);
  Count sum = 0;
  for (int i = begin + lane; i < end; i += 32) sum += Weigher::weight(w.depth(i));
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  __syncthreads();
  if (lane == 0) shared.sums[warp] = sum;
  __syncthreads();
  Count total = 0, before = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp) before = total;
    total += shared.sums[i];
  }
  const Count target = __umul64hi(draw, total);
  if (target >= before && target < before + sum) {
    for (int first = begin; first < end; first += 32) {
      const Count own = first + lane < end ? Weigher::weight(w.depth(first + lane)) : 0;
      Count through = own;
      for (int step = 1; step < 32; step *= 2) {
        const Count other = __shfl_up_sync(~0u, through, step);
        if (lane >= step) through += other;
      }
      const uint32_t over = __ballot_sync(~0u, before + through > target);
      if (over != 0) {
        if (lane == 0) shared.found = static_cast<Count>(first + __ffs(over) - 1);
        break;
      }
      before += __shfl_sync(~0u, through, 31);
    }
  }
  __syncthreads();
  return static_cast<int>(shared.found);
}

template <class T>
__device__ __forceinline__ float to_float(T x) {
  return static_cast<float>(x);
}

template <class T>
__global__ void __launch_bounds__(kThreads) sample_row(const __grid_constant__ up_sampler p, float *workspace) {
  __shared__ Shared shared;
  const int row = blockIdx.x, vocab = p.vocab_size;
  const up_sample_row r = p.parameters[row];
  const T *logits = static_cast<const T *>(p.logits) + row * p.logits_stride;
  float *scores = workspace + static_cast<int64_t>(row) * vocab;
  const bool counted = r.slot >= 0 && r.slot < p.slots;
  const uint32_t *in_prompt =
      counted && p.prompt_tokens != nullptr ? p.prompt_tokens + static_cast<int64_t>(r.slot) * ((vocab + 31) / 32) : nullptr;
  const int32_t *outputs = counted && p.output_counts != nullptr ? p.output_counts + static_cast<int64_t>(r.slot) * vocab : nullptr;

  const LogitEdits edits(p.edits, row, vocab);
  bool broken = false;
  for (int i = threadIdx.x; i < vocab; i += kThreads) {
    const float score = to_float(logits[i]);
    broken |= isnan(score) || score == -negative_infinity();
    scores[i] = edits.allowed(i) ? score : negative_infinity();
  }
  if (edits.any()) {
    __syncthreads();
    edits.add(0, vocab, [&](int token, float value) { scores[token] += value; });
    __syncthreads();
  }
  if (outputs != nullptr || in_prompt != nullptr) {
    for (int i = threadIdx.x; i < vocab; i += kThreads) {
      float score = scores[i];
      const int count = outputs == nullptr ? 0 : max(outputs[i], 0);
      const bool prompted = in_prompt != nullptr && (in_prompt[i / 32] >> (i % 32) & 1);
      if (count == 0 && !prompted) continue;
      score = score > 0 ? score / r.repetition_penalty : score * r.repetition_penalty;
      if (count > 0) score -= r.frequency_penalty * static_cast<float>(count) + r.presence_penalty;
      scores[i] = score;
    }
  }
  broken = __syncthreads_or(broken);
  const Best best = next_best(shared, scores, vocab, {-negative_infinity() /* +inf */, -1});
  broken |= best.token >= vocab;
  if (threadIdx.x == 0 && p.non_finite != nullptr) p.non_finite[row] = broken;
  const auto leave = [&](int token) {
    if (threadIdx.x != 0) return;
    p.tokens[row] = token;
    if (!counted) return;
    if (p.last_tokens != nullptr) p.last_tokens[r.slot] = token;
    if (p.count_outputs != 0 && p.output_counts != nullptr) p.output_counts[static_cast<int64_t>(r.slot) * vocab + token]++;
  };
  if (broken) {
    leave(0);
    if (threadIdx.x == 0 && p.logprobs != nullptr) p.logprobs[row] = 0.0f;
    for (int i = threadIdx.x; i < p.logprob_count; i += kThreads) {
      p.top_tokens[static_cast<int64_t>(row) * p.logprob_count + i] = 0;
      p.top_logprobs[static_cast<int64_t>(row) * p.logprob_count + i] = 0.0f;
    }
    return;
  }

  int token = best.token;
  if (r.temperature > 0) {
    Weigher w{scores, best.score, kLog2E / r.temperature * kDepthUnit, kNoDepth - 1};
    if (r.top_k > 0 && r.top_k < vocab) w.deepest = cut<false>(shared, w, vocab, r.top_k);
    if (r.min_p > 0) w.deepest = min(w.deepest, __float2uint_rd(-log2f(r.min_p) * kDepthUnit));
    if (r.top_p < 1) {
      Count sum = 0;
      for (int i = threadIdx.x; i < vocab; i += kThreads) sum += Weigher::weight(w.depth(i));
      const Count total = block_sum(shared, sum);
      const double limit = static_cast<double>(r.top_p) * static_cast<double>(total);
      w.deepest = cut<true>(shared, w, vocab, max(static_cast<Count>(ceil(limit)), Count{1}));
    }
    const uint64_t bits = mix(mix(r.seed + 0x9e3779b97f4a7c15ull) + (r.index + 1) * 0x9e3779b97f4a7c15ull) >> 11;
    token = pick(shared, w, vocab, bits << 11);
  }
  leave(token);
  if (p.logprobs == nullptr && p.logprob_count == 0) return;
  const float log_total = best.score + logf(exponential_sum(shared, scores, vocab, best.score));
  if (threadIdx.x == 0 && p.logprobs != nullptr) p.logprobs[row] = scores[token] - log_total;
  Best next = best;
  for (int i = 0; i < p.logprob_count; ++i) {
    if (threadIdx.x == 0) {
      const int64_t at = static_cast<int64_t>(row) * p.logprob_count + i;
      p.top_tokens[at] = next.token < vocab ? next.token : -1;
      p.top_logprobs[at] = next.token < vocab ? next.score - log_total : negative_infinity();
    }
    if (next.token < vocab && i + 1 < p.logprob_count) next = next_best(shared, scores, vocab, next);
  }
}

}  // namespace

up_status sampler_workspace(const up_sampler *p, size_t *bytes, up_backend_error *) {
  *bytes = aligned(static_cast<size_t>(p->rows) * static_cast<size_t>(p->vocab_size) * sizeof(float));
  return UP_OK;
}

up_status sample(const up_sampler *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error) {
  constexpr const char *phase = "launch sampler";
  size_t needed = 0;
  sampler_workspace(p, &needed, error);
  if (workspace_bytes < needed)
    return fail(error, UP_INVALID_ARGUMENT, phase, "workspace of %zu bytes: %zu are needed", workspace_bytes, needed);
  if (p->logprob_count > kMostLogprobs)
    return fail(error, UP_INVALID_ARGUMENT, phase, "logprob_count %d: at most %d", p->logprob_count, kMostLogprobs);
  if (p->rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  auto *scores = static_cast<float *>(workspace);
  switch (p->dtype) {
    case UP_F32:
      sample_row<float><<<p->rows, kThreads, 0, queue>>>(*p, scores);
      break;
    case UP_BF16:
      sample_row<__nv_bfloat16><<<p->rows, kThreads, 0, queue>>>(*p, scores);
      break;
    case UP_F16:
      sample_row<__half><<<p->rows, kThreads, 0, queue>>>(*p, scores);
      break;
    default:
      return fail(error, UP_UNSUPPORTED_DTYPE, phase, "dtype %d: f32 (0), bf16 (1) and f16 (2) are supported", p->dtype);
  }
  return check_launch(phase, error);
}

}  // namespace up::cuda
