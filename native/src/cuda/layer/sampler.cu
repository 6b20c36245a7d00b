// Sampling: a cluster of eight blocks of threads a row of logits, which each keep a slice of it in shared memory, so that the
// logits are read once.
//
// A token's standing is `depth`, (most − score) · log2(e) / temperature in steps of 2⁻²⁶: 0 for the likeliest, and its weight is
// 2^(40 − depth · 2⁻²⁶) as an integer. So top-k and top-p are cuts in depth, found by three rounds of histograms (11, 11 and 10
// bits) instead of a sort, and all sums are integers. Tokens deeper than 40 weigh nothing and are never drawn.
//
// Floor, 64 rows of 128,256 f32 logits: 33 MB, 8 µs at 4.3 TB/s. What takes longer are the histograms and some 10 exchanges between
// the blocks of a row.
#include "cuda/common/dtype.cuh"
#include "cuda/common/launch.h"
#include "cuda/layer/logit_edits.cuh"
#include "cuda/common/operators.h"
#include "cuda/layer/sampler_row.cuh"

namespace up::cuda {

namespace {

constexpr int kMostShared = 144 * 1024;  // bytes of a slice; where it does not fit, it lies in the workspace
constexpr int kInFlight = 8;

__host__ __device__ inline int slice_tokens(int vocab) { return (vocab + kSamplerBlocks * 32 - 1) / (kSamplerBlocks * 32) * 32; }

__device__ __forceinline__ uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Calls use(i, logit) for every token begin + i of the slice; a thread's come in order.
template <class T, class Use>
__device__ __forceinline__ void read_slice(const T *logits, const Row &row, Use use) {
  for (int first = threadIdx.x; first < row.size(); first += kSamplerThreads * kInFlight) {
    T x[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (first + j * kSamplerThreads < row.size()) x[j] = logits[row.begin + first + j * kSamplerThreads];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (first + j * kSamplerThreads < row.size()) use(first + j * kSamplerThreads, static_cast<float>(x[j]));
  }
}

// Penalties of a row; none where its slot has no counts or they change nothing.
struct Penalties {
  const up_sample_row &r;
  const uint32_t *in_prompt = nullptr;
  const int32_t *outputs = nullptr;

  __device__ __forceinline__ Penalties(const up_sampler &p, const up_sample_row &r, int vocab) : r(r) {
    if (r.slot < 0 || r.slot >= p.slots) return;
    if (r.repetition_penalty == 1.0f && r.frequency_penalty == 0.0f && r.presence_penalty == 0.0f) return;
    if (p.prompt_tokens != nullptr) in_prompt = p.prompt_tokens + static_cast<int64_t>(r.slot) * ((vocab + 31) / 32);
    if (p.output_counts != nullptr) outputs = p.output_counts + static_cast<int64_t>(r.slot) * vocab;
  }
  __device__ __forceinline__ bool any() const { return in_prompt != nullptr || outputs != nullptr; }
  __device__ __forceinline__ float operator()(float score, int token) const {
    const int count = outputs == nullptr ? 0 : max(outputs[token], 0);
    const bool prompted = in_prompt != nullptr && (in_prompt[token / 32] >> (token % 32) & 1);
    if (count == 0 && !prompted) return score;
    score = score > 0 ? score / r.repetition_penalty : score * r.repetition_penalty;
    if (count > 0) score -= r.frequency_penalty * static_cast<float>(count) + r.presence_penalty;
    return score;
  }
};

// The row's most likely tokens by the model's own logits, which are the slice's scores now; written by the first block.
__device__ void report_tops(const up_sampler &p, const Row &row, int at_row, float log_total) {
  Best best{__int_as_float(0x7f800000), -1};
  for (int i = 0; i < p.logprob_count; ++i) {
    if (best.token < p.vocab_size) best = row.next_best(best, p.vocab_size);
    if (threadIdx.x == 0) row.shared.tops[i] = best;
  }
  row.sync();
  if (row.rank == 0 && threadIdx.x < 32) {
    const int lane = threadIdx.x;
    const Best none{negative_infinity(), p.vocab_size};
    int taken = 0;
    for (int i = 0; i < p.logprob_count; ++i) {
      const Best mine = lane < kSamplerBlocks && taken < p.logprob_count ? row.other(lane).tops[taken] : none;
      Best most = mine;
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        const Best next{__shfl_xor_sync(~0u, most.score, step), __shfl_xor_sync(~0u, most.token, step)};
        if (better(next, most)) most = next;
      }
      if (lane == 0) {
        const int64_t at = static_cast<int64_t>(at_row) * p.logprob_count + i;
        p.top_tokens[at] = most.token < p.vocab_size ? most.token : -1;
        p.top_logprobs[at] = most.token < p.vocab_size ? most.score - log_total : negative_infinity();
      }
      if (most.token < p.vocab_size && mine.token == most.token) ++taken;
    }
  }
  row.sync();  // the first block is done with the others' memory
}

__device__ void report_broken(const up_sampler &p, int at_row) {
  if (threadIdx.x == 0) {
    p.tokens[at_row] = 0;
    if (p.logprobs != nullptr) p.logprobs[at_row] = 0.0f;
  }
  for (int i = threadIdx.x; i < p.logprob_count; i += kSamplerThreads) {
    p.top_tokens[static_cast<int64_t>(at_row) * p.logprob_count + i] = 0;
    p.top_logprobs[static_cast<int64_t>(at_row) * p.logprob_count + i] = 0.0f;
  }
}

template <class T>
__global__ void __launch_bounds__(kSamplerThreads, 2) sample_row(const __grid_constant__ up_sampler p, float *workspace) {
  __shared__ SamplerShared shared;
  extern __shared__ __align__(16) float slice[];
  const int at_row = blockIdx.x / kSamplerBlocks, vocab = p.vocab_size, share = slice_tokens(vocab);
  const int rank = static_cast<int>(cooperative_groups::this_cluster().block_rank()), begin = min(rank * share, vocab);
  const Row row{shared, {workspace == nullptr ? slice : workspace + static_cast<int64_t>(at_row) * vocab + begin}, begin,
                min(begin + share, vocab), rank};
  const up_sample_row r = p.parameters[at_row];
  const T *logits = static_cast<const T *>(p.logits) + at_row * p.logits_stride;
  const bool reported = p.logprobs != nullptr || p.logprob_count > 0;
  const LogitEdits edits(p.edits, at_row, vocab);
  const Penalties penalties(p, r, vocab);

  bool broken = false;
  LogSum sum{negative_infinity(), 0.0f};
  read_slice(logits, row, [&](int i, float x) {
    broken |= isnan(x) || x == -negative_infinity();
    if (reported) {
      if (x > sum.top) {
        sum.value = sum.value * __expf(sum.top - x) + 1.0f;
        sum.top = x;
      } else if (x > negative_infinity()) {
        sum.value += __expf(x - sum.top);
      }
    }
    row.scores[i] = edits.allowed(row.begin + i) ? x : negative_infinity();
  });
  broken = __syncthreads_or(broken);
  if (edits.begin < edits.end) {
    edits.add(row.begin, row.end, [&](int token, float value) { row.scores[token - row.begin] += value; });
    __syncthreads();
  }
  if (penalties.any()) {
    for (int i = threadIdx.x; i < row.size(); i += kSamplerThreads) row.scores[i] = penalties(row.scores[i], row.begin + i);
    __syncthreads();
  }
  Best best = row.next_best({-negative_infinity() /* +inf */, -1}, vocab);
  sum = row.block_sum(sum);
  if (threadIdx.x == 0) {
    shared.best = best;
    shared.sum = sum;
    shared.broken = broken;
  }
  row.sync();
  best = {negative_infinity(), vocab};
  sum = {negative_infinity(), 0.0f};
  for (int i = 0; i < kSamplerBlocks; ++i) {
    const SamplerShared &other = row.other(i);
    broken |= other.broken != 0;
    if (better(other.best, best)) best = other.best;
    sum = add(sum, other.sum);
  }
  broken |= best.token >= vocab;
  if (rank == 0 && threadIdx.x == 0 && p.non_finite != nullptr) p.non_finite[at_row] = broken;
  if (broken) {
    if (rank == 0) report_broken(p, at_row);
    row.sync();  // nobody leaves while its memory is read
    return;
  }

  int token = best.token;
  const int forced = p.forced == nullptr ? -1 : p.forced[at_row];
  if (forced >= 0 && forced < vocab) {
    token = forced;
  } else if (r.temperature > 0) {
    Weigher w{best.score, kLog2E / r.temperature * kDepthUnit, kNoDepth - 1};
    for (int i = threadIdx.x; i < row.size(); i += kSamplerThreads) row.depths[i] = w.depth(row.scores[i]);
    __syncthreads();
    int place = 0;
    if (r.top_k > 0 && r.top_k < vocab) w.deepest = cut<false>(row, w, r.top_k, 0.0f, place);
    if (r.min_p > 0) w.deepest = min(w.deepest, __float2uint_rd(-log2f(r.min_p) * kDepthUnit));
    if (r.top_p < 1) w.deepest = cut<true>(row, w, 0, r.top_p, place);
    const uint64_t bits = mix(mix(r.seed + 0x9e3779b97f4a7c15ull) + (r.index + 1) * 0x9e3779b97f4a7c15ull) >> 11;
    token = pick(row, w, bits << 11);
  }
  const float log_total = sum.top + __logf(sum.value);
  if (rank == 0 && threadIdx.x == 0) {
    p.tokens[at_row] = token;
    if (p.logprobs != nullptr) p.logprobs[at_row] = static_cast<float>(logits[token]) - log_total;
    if (r.slot >= 0 && r.slot < p.slots) {
      if (p.last_tokens != nullptr) p.last_tokens[r.slot] = token;
      if (p.count_outputs != 0 && p.output_counts != nullptr) ++p.output_counts[static_cast<int64_t>(r.slot) * vocab + token];
    }
  }
  if (p.logprob_count > 0) {
    __syncthreads();
    read_slice(logits, row, [&](int i, float x) { row.scores[i] = x; });
    __syncthreads();
    report_tops(p, row, at_row, log_total);
  } else {
    row.sync();  // nobody leaves while its memory is read
  }
}

bool fits(const up_sampler &p) { return slice_tokens(p.vocab_size) * static_cast<int>(sizeof(float)) <= kMostShared; }

template <class T>
up_status launch(const up_sampler &p, float *workspace, cudaStream_t stream, const char *phase, up_backend_error *error) {
  const auto kernel = sample_row<T>;
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), kMostShared, phase, error); s != UP_OK) return s;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kSamplerBlocks, 1, 1};
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = dim3(static_cast<unsigned>(p.rows) * kSamplerBlocks);
  configuration.blockDim = dim3(kSamplerThreads);
  configuration.dynamicSmemBytes = fits(p) ? static_cast<size_t>(slice_tokens(p.vocab_size)) * sizeof(float) : 0;
  configuration.stream = stream;
  configuration.attrs = &cluster;
  configuration.numAttrs = 1;
  return check(cudaLaunchKernelEx(&configuration, kernel, p, fits(p) ? static_cast<float *>(nullptr) : workspace), phase, error);
}

}  // namespace

up_status sampler_workspace(const up_sampler *p, size_t *bytes, up_backend_error *) {
  *bytes = fits(*p) ? 0 : aligned(static_cast<size_t>(p->rows) * static_cast<size_t>(p->vocab_size) * sizeof(float));
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
  return with_element_type(p->dtype, phase, error, [&](auto element) {
    return launch<typename decltype(element)::type>(*p, scores, queue, phase, error);
  });
}

}  // namespace up::cuda
