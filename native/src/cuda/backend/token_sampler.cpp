#include "cuda/backend/token_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "cuda/backend/activations.h"
#include "cuda/backend/row_kernels.h"
#include "cuda/common/operators.h"

namespace up::cuda {
namespace {

constexpr size_t most_listed = 1 << 20;
constexpr float forbidden = -std::numeric_limits<float>::infinity();

bool is_penalised(const Sampling &s) {
  return s.repetition_penalty != 1 || s.frequency_penalty != 0 || s.presence_penalty != 0;
}

// Whether stop tokens must not be drawn yet. The mask gives way where nothing else may be.
bool masks_stops(const SampleTask &task, int vocab_size) {
  const Sampling &s = *task.sampling;
  if (task.index >= static_cast<uint64_t>(s.min_tokens) || s.stop_tokens.empty()) return false;
  if (s.restricted) return std::any_of(s.allowed.begin(), s.allowed.end(), [&](int32_t token) { return !s.is_stop(token); });
  return std::unordered_set<int32_t>(s.stop_tokens.begin(), s.stop_tokens.end()).size() < static_cast<size_t>(vocab_size);
}

size_t mask_words(int vocab_size) { return (static_cast<size_t>(vocab_size) + 31) / 32; }

}  // namespace

TokenSampler::TokenSampler(Device &device, int vocab_size, int slots, int logits_rows)
    : device_(device),
      vocab_size_(vocab_size),
      slots_(slots),
      logits_rows_(logits_rows),
      stride_(logits_stride(vocab_size)),
      last_tokens_(device, static_cast<size_t>(slots) * sizeof(int32_t), "the last tokens"),
      results_(device, 2 * static_cast<size_t>(logits_rows) * sizeof(int32_t), "the sampled tokens"),
      counted_(static_cast<size_t>(slots)) {
  device_.clear(last_tokens_.as(), 0, last_tokens_.bytes(), "clear last tokens");
}

size_t TokenSampler::count_bytes(int vocab_size, int slots) {
  return aligned_bytes(static_cast<size_t>(slots) * mask_words(vocab_size) * sizeof(uint32_t)) +
         aligned_bytes(static_cast<size_t>(slots) * static_cast<size_t>(vocab_size) * sizeof(int32_t));
}

size_t TokenSampler::bytes() const {
  return last_tokens_.bytes() + results_.bytes() + prompt_bits_.bytes() + output_counts_.bytes();
}

size_t TokenSampler::tile_bytes() const {
  return aligned_bytes(static_cast<size_t>(logits_rows_) * static_cast<size_t>(stride_) * sizeof(float));
}

void TokenSampler::sample(std::span<const SampleTask> tasks, const DeviceBuffer &scratch, UploadRing &ring, StepBuffers &out) {
  // As many at once as there is room for copies of their logits, and lists that the ring takes.
  while (!tasks.empty()) {
    size_t count = 0, listed = 0;
    while (count < std::min(tasks.size(), static_cast<size_t>(logits_rows_))) {
      const Sampling &s = *tasks[count].sampling;
      listed += s.bias.size() + s.stop_tokens.size() + (s.restricted ? mask_words(vocab_size_) : 0);
      if (count > 0 && listed > most_listed) break;
      count++;
    }
    draw(tasks.first(count), scratch, ring, out);
    tasks = tasks.subspan(count);
  }
}

void TokenSampler::draw(std::span<const SampleTask> tasks, const DeviceBuffer &scratch, UploadRing &ring, StepBuffers &out) {
  const auto *const tile = scratch.as<const float>();
  const size_t tasks_count = tasks.size();
  std::vector<up_sample_row> rows;
  std::vector<int32_t> logit_rows;
  bool penalised = false, in_place = true;
  for (const SampleTask &task : tasks) {
    const Sampling &s = *task.sampling;
    if (is_penalised(s)) {
      count(task, ring);
      penalised = true;
    }
    in_place &= task.row == static_cast<int>(logit_rows.size());
    logit_rows.push_back(task.row);
    rows.push_back({s.seed, task.index, static_cast<float>(s.temperature), static_cast<float>(s.top_p), static_cast<float>(s.min_p),
                    static_cast<float>(s.frequency_penalty), static_cast<float>(s.presence_penalty),
                    static_cast<float>(s.repetition_penalty), s.top_k, task.slot});
  }
  up_sampler p{};
  p.size = sizeof p;
  p.dtype = UP_F32;
  p.rows = static_cast<int32_t>(tasks_count);
  p.vocab_size = vocab_size_;
  p.slots = slots_;
  p.logits = tile;
  p.logits_stride = stride_;
  if (!in_place) {
    auto *const copies = scratch.as<float>(tile_bytes());
    launch_gather_rows(tile, ring.upload(std::span<const int32_t>(logit_rows)), copies, p.rows, stride_ * static_cast<int64_t>(sizeof(float)),
                       device_.stream());
    device_.check_launch("gather logits");
    p.logits = copies;
  }
  p.parameters = ring.upload(std::span<const up_sample_row>(rows));
  if (penalised) {
    p.prompt_tokens = prompt_bits_.as<const uint32_t>();
    p.output_counts = output_counts_.as<int32_t>();
    p.count_outputs = 1;
  }
  p.tokens = results_.as<int32_t>();
  p.non_finite = p.tokens + logits_rows_;
  p.last_tokens = last_tokens_.as<int32_t>();
  p.edits = upload_edits(tasks, ring);
  const size_t at = 2 * tile_bytes();
  device_.run(cuda::sample, &p, scratch.as<void>(at), scratch.bytes() - at);

  auto *const values = out.take<int32_t>(device_, 2 * tasks_count);
  device_.copy_out(values, p.tokens, tasks_count * sizeof(int32_t), "return tokens");
  device_.copy_out(values + tasks_count, p.non_finite, tasks_count * sizeof(int32_t), "return tokens");
  StepBuffers::Samples samples{{}, values, values + tasks_count};
  StepBuffers::Logprobs asked{};
  std::vector<int32_t> asked_rows, asked_tasks;
  for (size_t i = 0; i < tasks_count; i++) {
    const SampleTask &task = tasks[i];
    samples.slots.push_back(task.slot);
    if (task.sampling->logprobs >= 0) {
      asked.counts.push_back(std::min(task.sampling->logprobs, vocab_size_));
      asked.samples.push_back(out.sampled + static_cast<int>(i));
      asked_rows.push_back(task.row);
      asked_tasks.push_back(static_cast<int32_t>(i));
    }
    if (task.return_logits) {
      auto *const logits = out.take<float>(device_, static_cast<size_t>(vocab_size_));
      device_.copy_out(logits, tile + task.row * stride_, static_cast<size_t>(vocab_size_) * sizeof(float), "return logits");
      out.logits.push_back({task.slot, logits, vocab_size_});
    }
  }
  out.sampled += static_cast<int>(tasks_count);
  out.samples.push_back(std::move(samples));
  if (asked.counts.empty()) return;
  auto *const wanted = reinterpret_cast<int32_t *>(scratch.as(at));  // the sampler's workspace, which has been used
  launch_gather_words(p.tokens, ring.upload(std::span<const int32_t>(asked_tasks)), wanted, static_cast<int>(asked_tasks.size()),
                      device_.stream());
  device_.check_launch("gather tokens");
  report(std::move(asked), asked_rows, wanted, tile, ring, out);
}

void TokenSampler::count(const SampleTask &task, UploadRing &ring) {
  uint64_t &counted = counted_[static_cast<size_t>(task.slot)];
  if (counted == task.sequence + 1) return;
  const size_t words = mask_words(vocab_size_), vocab = static_cast<size_t>(vocab_size_);
  if (output_counts_.empty()) {
    prompt_bits_ = DeviceBuffer(device_, static_cast<size_t>(slots_) * words * sizeof(uint32_t), "the bits of prompt tokens");
    output_counts_ = DeviceBuffer(device_, static_cast<size_t>(slots_) * vocab * sizeof(int32_t), "the counts of output tokens");
    device_.clear(prompt_bits_.as(), 0, prompt_bits_.bytes(), "clear token counts");
    device_.clear(output_counts_.as(), 0, output_counts_.bytes(), "clear token counts");
  }
  auto *const bits = prompt_bits_.as<uint32_t>() + static_cast<size_t>(task.slot) * words;
  auto *const counts = output_counts_.as<int32_t>() + static_cast<size_t>(task.slot) * vocab;
  device_.clear(bits, 0, words * sizeof(uint32_t), "clear token counts");
  device_.clear(counts, 0, vocab * sizeof(int32_t), "clear token counts");
  constexpr size_t most = 1 << 16;
  for (size_t first = 0; first < task.tokens.size(); first += most) {
    const auto part = task.tokens.subspan(first, std::min(most, task.tokens.size() - first));
    launch_count_tokens(ring.upload(part), static_cast<int>(first), static_cast<int>(part.size()), task.prompt_length, vocab_size_, bits,
                        counts, device_.stream());
    device_.check_launch("count tokens");
  }
  counted = task.sequence + 1;
}

up_logit_edits TokenSampler::upload_edits(std::span<const SampleTask> tasks, UploadRing &ring) {
  std::vector<int32_t> starts{0}, tokens, mask_rows;
  std::vector<float> values;
  std::vector<uint32_t> masks;
  const size_t words = mask_words(vocab_size_);
  int masks_count = 0;
  for (const SampleTask &task : tasks) {
    const Sampling &s = *task.sampling;
    for (const auto &[token, bias] : s.bias) {
      tokens.push_back(token);
      values.push_back(bias);
    }
    if (masks_stops(task, vocab_size_)) {
      tokens.insert(tokens.end(), s.stop_tokens.begin(), s.stop_tokens.end());
      values.resize(tokens.size(), forbidden);
    }
    starts.push_back(static_cast<int32_t>(tokens.size()));
    mask_rows.push_back(s.restricted ? masks_count : -1);
    if (!s.restricted) continue;
    masks_count++;
    masks.resize(static_cast<size_t>(masks_count) * words);
    for (const int32_t token : s.allowed)
      masks[static_cast<size_t>(masks_count - 1) * words + static_cast<size_t>(token) / 32] |= 1u << (token % 32);
  }
  up_logit_edits out{};
  if (!tokens.empty()) {
    out.starts = ring.upload(std::span<const int32_t>(starts));
    out.tokens = ring.upload(std::span<const int32_t>(tokens));
    out.values = ring.upload(std::span<const float>(values));
    out.edits = static_cast<int32_t>(tokens.size());
  }
  if (masks_count > 0) {
    out.mask_rows = ring.upload(std::span<const int32_t>(mask_rows));
    out.masks = ring.upload(std::span<const uint32_t>(masks));
    out.masks_count = masks_count;
  }
  return out;
}

void TokenSampler::logprobs(std::span<const LogprobTask> tasks, const DeviceBuffer &scratch, UploadRing &ring, StepBuffers &out) {
  StepBuffers::Logprobs list{};
  std::vector<int32_t> rows, tokens;
  for (const LogprobTask &task : tasks) {
    list.counts.push_back(std::clamp(task.count, 0, vocab_size_));
    list.slots.push_back(task.slot);
    list.prompt_rows.push_back(task.prompt_row);
    rows.push_back(task.row);
    tokens.push_back(task.token);
  }
  report(std::move(list), rows, ring.upload(std::span<const int32_t>(tokens)), scratch.as<const float>(), ring, out);
}

void TokenSampler::report(StepBuffers::Logprobs list, const std::vector<int32_t> &rows, const int32_t *wanted, const float *logits,
                          UploadRing &ring, StepBuffers &out) {
  const size_t count = rows.size();
  list.most = *std::max_element(list.counts.begin(), list.counts.end());
  const size_t cells = count * static_cast<size_t>(1 + list.most);
  // Written to the host's memory by the kernel itself: a value at a time, and few of them.
  auto *const tokens = out.take<int32_t>(device_, cells);
  auto *const values = out.take<float>(device_, cells);
  launch_log_probabilities(logits, stride_, vocab_size_, ring.upload(std::span<const int32_t>(rows)), wanted,
                           ring.upload(std::span<const int32_t>(list.counts)), static_cast<int>(count), list.most, tokens, values,
                           device_.stream());
  device_.check_launch("take log probabilities");
  list.tokens = tokens;
  list.values = values;
  out.logprobs.push_back(std::move(list));
}

}  // namespace up::cuda
