// The Node addon: converts and checks, nothing else. `open(table)` gives a Model, whose `createRunner(options)` gives a
// Runner; its `wait` waits on a worker thread.
#include <memory>
#include <utility>
#include <vector>

#include "convert.h"

namespace up::addon {
namespace {

struct CloseModel {
  void operator()(up_model *model) const { up_model_close(model); }
};
struct DestroyRunner {
  void operator()(up_runner *runner) const { up_runner_destroy(runner); }
};

up_drop_schedule read_schedule(const Napi::Value &value) {
  up_drop_schedule out{};
  if (value.IsNull() || value.IsUndefined()) return out;
  const Napi::Object from = object(value, "schedule");
  const View<int32_t> layers = int32s(from.Get("dropLayers"), "schedule.dropLayers");
  const std::string rule = from.Get("rule").ToString();
  if (rule != "exclusive" && rule != "reference") wrong_type(value, "schedule.rule", "\"exclusive\" or \"reference\"");
  out.size = sizeof out;
  out.drop_layer_count = layers.count;
  out.drop_layers = layers.data;
  out.rule = rule == "exclusive" ? UP_RULE_EXCLUSIVE : UP_RULE_REFERENCE;
  out.block = integer(from, "block");
  out.sink = integer(from, "sink");
  out.last_q = integer(from, "lastQ");
  out.window_by_original = boolean(from, "windowByOriginal");
  return out;
}

up_kernels read_kernels(const Napi::Value &value) {
  const std::string name = value.ToString();
  if (name == "auto") return UP_KERNELS_AUTO;
  if (name == "portable") return UP_KERNELS_PORTABLE;
  if (name == "avx2") return UP_KERNELS_AVX2;
  if (name == "avx512bf16") return UP_KERNELS_AVX512_BF16;
  wrong_type(value, "kernels", "\"auto\", \"portable\", \"avx2\" or \"avx512bf16\"");
}

up_sampling read_sampling(const Napi::Object &from) {
  up_sampling out{};
  out.temperature = static_cast<float>(number(from, "temperature"));
  out.top_k = integer(from, "topK");
  out.top_p = static_cast<float>(number(from, "topP"));
  out.min_p = static_cast<float>(number(from, "minP"));
  out.frequency_penalty = static_cast<float>(number(from, "frequencyPenalty"));
  out.presence_penalty = static_cast<float>(number(from, "presencePenalty"));
  out.repetition_penalty = static_cast<float>(number(from, "repetitionPenalty"));
  out.seed = uint64(from, "seed");
  out.min_tokens = integer(from, "minTokens");
  out.logprobs = integer(from, "logprobs");
  const View<int32_t> stop = int32s(from.Get("stopTokens"), "stopTokens");
  const View<int32_t> biased = int32s(from.Get("biasTokens"), "biasTokens");
  const View<float> bias = floats(from.Get("biasValues"), "biasValues");
  if (biased.count != bias.count) wrong_type(from, "biasValues", "as many values as biasTokens");
  const Napi::Value allowed = from.Get("allowedTokens");
  const View<int32_t> allowed_tokens = allowed.IsNull() ? View<int32_t>{nullptr, -1} : int32s(allowed, "allowedTokens");
  out.stop_count = stop.count;
  out.stop_tokens = stop.data;
  out.bias_count = biased.count;
  out.bias_tokens = biased.data;
  out.bias_values = bias.data;
  out.allowed_count = allowed_tokens.count;
  out.allowed_tokens = allowed_tokens.data;
  return out;
}

up_device read_device(const Napi::Value &value) {
  const std::string name = value.ToString();
  if (name == "cpu") return UP_DEVICE_CPU;
  if (name == "reference") return UP_DEVICE_REFERENCE;
  if (name == "cuda") return UP_DEVICE_CUDA;
  wrong_type(value, "device", "\"cpu\", \"reference\" or \"cuda\"");
}

class Runner : public Napi::ObjectWrap<Runner> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Runner",
                       {InstanceMethod<&Runner::describe>("describe"), InstanceMethod<&Runner::put_content>("putContent"),
                        InstanceMethod<&Runner::forget_content>("forgetContent"), InstanceMethod<&Runner::enqueue>("enqueue"),
                        InstanceMethod<&Runner::wait>("wait"), InstanceMethod<&Runner::close>("close")});
  }

  explicit Runner(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Runner>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) wrong_type(info.This(), "Runner", "a call of Model.createRunner");
    handle_ = std::shared_ptr<up_runner>(info[0].As<Napi::External<up_runner>>().Data(), DestroyRunner{});
  }

 private:
  class Wait;

  up_runner *open_handle(Napi::Env env) const {
    if (handle_ == nullptr) throw Napi::Error::New(env, "the runner is closed");
    return handle_.get();
  }

  Napi::Value describe(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    up_runner_info native{};
    native.size = sizeof native;
    check(env, up_runner_describe(open_handle(env), &native));
    Napi::Object out = Napi::Object::New(env);
    out.Set("device", native.device);
    out.Set("slabs", native.slabs);
    out.Set("weightBytes", static_cast<double>(native.weight_bytes));
    out.Set("workspaceBytes", static_cast<double>(native.workspace_bytes));
    out.Set("freeBytes", static_cast<double>(native.free_bytes));
    out.Set("keyBlocksRead", static_cast<double>(native.key_blocks_read));
    out.Set("keyBlocksSeen", static_cast<double>(native.key_blocks_seen));
    return out;
  }

  void put_content(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    up_runner *runner = open_handle(env);
    const int32_t id = integer(info[0], "id");
    const Napi::Object from = object(info[1], "content");
    const View<int32_t> tokens = int32s(from.Get("tokens"), "tokens");
    up_content content{};
    content.size = sizeof content;
    content.token_count = tokens.count;
    content.tokens = tokens.data;
    content.prompt_length = integer(from, "promptLength");
    const Napi::Value p = from.Get("pQ32");
    content.drops = !p.IsNull();
    if (content.drops) {
      const View<uint64_t> values = uint64s(p, "pQ32");
      if (values.count != integer(from, "dropLayers")) wrong_type(p, "pQ32", "one value for each drop layer");
      content.p_q32 = values.data;
    }
    const Napi::Value bitmaps = from.Get("bitmaps");
    if (!bitmaps.IsArray()) wrong_type(bitmaps, "bitmaps", "an array of Uint32Array");
    std::vector<int32_t> counts;
    std::vector<uint32_t> words;
    const Napi::Array list = bitmaps.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); i++) {
      const View<uint32_t> bitmap = uint32s(list.Get(i), "bitmaps");
      counts.push_back(bitmap.count);
      words.insert(words.end(), bitmap.data, bitmap.data + bitmap.count);
    }
    content.bitmap_count = static_cast<int32_t>(counts.size());
    content.bitmap_words = counts.data();
    content.bitmaps = words.data();
    content.score_decided = boolean(from, "scoreDecided");
    content.sampling = read_sampling(object(from.Get("sampling"), "sampling"));
    content.return_logits = boolean(from, "returnLogits");
    content.prompt_logprobs = integer(from, "promptLogprobs");
    check(env, up_runner_put_content(runner, id, &content));
  }

  void forget_content(const Napi::CallbackInfo &info) {
    up_runner_forget_content(open_handle(info.Env()), integer(info[0], "id"));
  }

  void enqueue(const Napi::CallbackInfo &info) {
    const auto plan = view<uint8_t, napi_uint8_array>(info[0], "plan", "a Uint8Array");
    check(info.Env(), up_runner_enqueue(open_handle(info.Env()), plan.data, static_cast<size_t>(plan.count)));
  }

  Napi::Value wait(const Napi::CallbackInfo &info);

  // A call that waits keeps the native runner until it is done.
  void close(const Napi::CallbackInfo &) { handle_.reset(); }

  std::shared_ptr<up_runner> handle_;
  bool waiting_ = false;
};

class Runner::Wait : public Napi::AsyncWorker {
 public:
  explicit Wait(Runner &owner)
      : Napi::AsyncWorker(owner.Env()),
        deferred(Napi::Promise::Deferred::New(owner.Env())),
        owner_(owner),
        keep_owner_(Napi::Persistent(owner.Value())),
        handle_(owner.handle_) {
    owner_.waiting_ = true;
  }

  Napi::Promise::Deferred deferred;

 protected:
  void Execute() override {
    const uint8_t *result = nullptr;
    size_t bytes = 0;
    if (up_runner_wait(handle_.get(), &result, &bytes) == UP_OK) {
      result_.assign(result, result + bytes);
    } else {
      error_ = last_error();
    }
    handle_.reset();
  }

  void OnOK() override {
    owner_.waiting_ = false;
    if (error_.status != UP_OK) {
      deferred.Reject(to_error(Env(), error_).Value());
      return;
    }
    Napi::Uint8Array out = Napi::Uint8Array::New(Env(), result_.size());
    std::copy(result_.begin(), result_.end(), out.Data());
    deferred.Resolve(out);
  }

  void OnError(const Napi::Error &error) override {
    owner_.waiting_ = false;
    deferred.Reject(error.Value());
  }

 private:
  Runner &owner_;
  Napi::ObjectReference keep_owner_;
  std::shared_ptr<up_runner> handle_;
  std::vector<uint8_t> result_;
  CallError error_;
};

Napi::Value Runner::wait(const Napi::CallbackInfo &info) {
  open_handle(info.Env());
  if (waiting_) throw Napi::Error::New(info.Env(), "a result is being waited for");
  auto *work = new Wait(*this);
  const Napi::Promise promise = work->deferred.Promise();
  work->Queue();
  return promise;
}

struct Classes {
  Napi::FunctionReference model;
  Napi::FunctionReference runner;
};

class Model : public Napi::ObjectWrap<Model> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Model",
                       {InstanceMethod<&Model::describe>("describe"),
                        InstanceMethod<&Model::create_runner>("createRunner"), InstanceMethod<&Model::close>("close")});
  }

  explicit Model(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Model>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) wrong_type(info.This(), "Model", "a call of open");
    handle_.reset(info[0].As<Napi::External<up_model>>().Data());
  }

 private:
  const up_model *open_handle(Napi::Env env) const {
    if (handle_ == nullptr) throw Napi::Error::New(env, "the model is closed");
    return handle_.get();
  }

  Napi::Value describe(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    up_model_info native{};
    native.size = sizeof native;
    check(env, up_model_describe(open_handle(env), &native));
    Napi::Object out = Napi::Object::New(env);
    out.Set("layers", native.layers);
    out.Set("hiddenSize", native.hidden_size);
    out.Set("vocabSize", native.vocab_size);
    out.Set("maxPositions", native.max_positions);
    out.Set("fingerprint", Napi::BigInt::New(env, native.fingerprint));
    return out;
  }

  Napi::Value create_runner(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    const up_model *model = open_handle(env);
    const Napi::Object from = object(info[0], "options");
    up_runner_options options{};
    options.size = sizeof options;
    options.device = read_device(from.Get("device"));
    options.schedule = read_schedule(from.Get("schedule"));
    const std::string layout = string(from, "layout");
    options.layout = layout.data();
    options.layout_bytes = layout.size();
    options.slabs = integer(from, "slabs");
    options.slots = integer(from, "slots");
    options.state_slots = integer(from, "stateSlots");
    options.max_rows_per_step = integer(from, "maxRowsPerStep");
    options.max_tokens = integer(from, "maxTokens");
    options.threads = integer(from, "threads");
    options.kernels = read_kernels(from.Get("kernels"));
    options.memory_fraction = number(from, "memoryFraction");
    options.device_index = integer(from, "deviceIndex");
    options.tensor_parallel_size = integer(from, "tensorParallelSize");
    options.prefill_p_q32 = uint64(from, "prefillPQ32");
    up_runner *runner = nullptr;
    check(env, up_runner_create(model, &options, &runner));
    return env.GetInstanceData<Classes>()->runner.New({Napi::External<up_runner>::New(env, runner)});
  }

  void close(const Napi::CallbackInfo &) { handle_.reset(); }

  std::unique_ptr<up_model, CloseModel> handle_;
};

Napi::Value open(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsString()) wrong_type(info[0], "table", "a string");
  const std::string table = info[0].As<Napi::String>().Utf8Value();
  up_model *model = nullptr;
  check(env, up_model_open(table.data(), table.size(), &model));
  return env.GetInstanceData<Classes>()->model.New({Napi::External<up_model>::New(env, model)});
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Classes{Napi::Persistent(Model::define(env)), Napi::Persistent(Runner::define(env))});
  exports.Set("abiVersion", up_abi_version());
  exports.Set("open", Napi::Function::New(env, open, "open"));
  return exports;
}

}  // namespace
}  // namespace up::addon

static Napi::Object initialise(Napi::Env env, Napi::Object exports) { return up::addon::initialise(env, exports); }
NODE_API_MODULE(uniprefill, initialise)
