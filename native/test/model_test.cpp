// Model directories: what is read, and the error that each kind of bad file gives.
#include <functional>

#include "abi/failure.h"
#include "check.h"
#include "model/model.h"
#include "random_model.h"
#include "runner/rope.h"
#include "uniprefill.h"

namespace {

RandomModel tiny() {
  RandomModel model;
  model.layers = 1;
  model.hidden = 16;
  model.heads = 2;
  model.kv_heads = 1;
  model.head_dim = 16;
  model.inner = 24;
  model.vocab = 20;
  return model;
}

std::string replaced(std::string text, const std::string &from, const std::string &to) {
  const size_t at = text.find(from);
  CHECK(at != std::string::npos, "no %s in the text", from.c_str());
  return text.replace(at, from.size(), to);
}

void check_fails(const TemporaryDirectory &directory, up_status status, const std::string &expected) {
  up_model *model = nullptr;
  const up_status found = up_model_open(directory.path().c_str(), &model);
  CHECK(found == status, "%s: expected %s, got %s", expected.c_str(), up_status_name(status), up_status_name(found));
  CHECK(model == nullptr);
  if (found == UP_OK) return;
  CHECK(std::string(up_last_error().operation) == "up_model_open");
  const std::string detail = up_last_error().detail;
  CHECK(detail.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected.c_str(), detail.c_str());
}

// A config.json with one change.
void check_config(const std::string &from, const std::string &to, up_status status, const std::string &expected) {
  const TemporaryDirectory directory;
  write_model(directory, tiny());
  directory.write("config.json", replaced(config_json(tiny()), from, to));
  check_fails(directory, status, expected);
}

void check_configs() {
  const up_status corrupt = UP_CORRUPT_FILE;
  const up_status unsupported = UP_UNSUPPORTED_MODEL;
  check_config("LlamaForCausalLM", "GPT2LMHeadModel", unsupported,
               "config.json: architectures[0] is \"GPT2LMHeadModel\", supported: \"LlamaForCausalLM\"");
  check_config("[\"LlamaForCausalLM\"]", "[]", corrupt, "architectures is an array of 0");
  check_config("\"architectures\"", "\"architecture\"", corrupt, "architectures is missing");
  check_config("\"silu\"", "\"gelu\"", unsupported, "hidden_act is \"gelu\", supported: \"silu\"");
  check_config("\"hidden_size\":16", "\"hidden_size\":16.5", corrupt, "hidden_size is 16.5, an integer from 1 to 65536");
  check_config("\"hidden_size\":16", "\"hidden_size\":\"16\"", corrupt, "hidden_size is \"16\"");
  check_config("\"hidden_size\":16", "\"hidden_size\":0", corrupt, "hidden_size is 0");
  check_config("\"hidden_size\":16", "\"hidden_size\":-16", corrupt, "hidden_size is -16");
  check_config("\"hidden_size\":16", "\"hidden_size\":1e1", corrupt, "hidden_size is 10");
  check_config("\"hidden_size\":16", "\"hidden_size\":20", unsupported, "hidden_size is 20, supported: multiples of 8");
  check_config("\"hidden_size\":16,", "", corrupt, "hidden_size is missing");
  check_config("\"head_dim\":16", "\"head_dim\":24", unsupported, "head_dim is 24, supported: multiples of 16");
  check_config("\"num_key_value_heads\":1", "\"num_key_value_heads\":3", corrupt,
               "num_attention_heads 2 is no multiple of num_key_value_heads 3");
  check_config("1e-5", "0", corrupt, "rms_norm_eps is 0, a number above 0");
  check_config("\"attention_bias\":false", "\"attention_bias\":0", corrupt, "attention_bias is 0, true or false");
  check_config("\"mlp_bias\":false", "\"quantization_config\":{\"bits\":4}", unsupported, "quantization_config is an object of 1");
  check_config("\"mlp_bias\":false", "\"torch_dtype\":\"float16\"", unsupported, "torch_dtype is \"float16\"");
  check_config("\"mlp_bias\":false", "\"sliding_window\":4096", unsupported, "sliding_window is 4096");
  check_config("\"mlp_bias\":false", "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}", unsupported,
               "rope_scaling: rope_type is \"yarn\", supported: \"default\", \"linear\", \"llama3\"");
  check_config("\"mlp_bias\":false", "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4}", unsupported, "type is \"dynamic\"");
  check_config("\"mlp_bias\":false", "\"rope_scaling\":{\"type\":\"linear\"}", corrupt, "rope_scaling: factor is missing");
  check_config("\"mlp_bias\":false", "\"rope_scaling\":3", corrupt, "rope_scaling is 3, not an object");
  check_config("\"mlp_bias\":false", "\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8}", corrupt,
               "rope_parameters: low_freq_factor is missing");
  check_config("}", "", corrupt, "config.json: byte");
  check_config("\"vocab_size\":20", "\"vocab_size\":21", corrupt,
               "model.embed_tokens.weight: shape is [20, 16], config.json asks for [21, 16]");
  check_config("\"num_hidden_layers\":1", "\"num_hidden_layers\":2", corrupt, "model.layers.1.input_layernorm.weight is missing");
  check_config("\"tie_word_embeddings\":true", "\"tie_word_embeddings\":false", corrupt, "lm_head.weight is missing");
  check_config("\"num_hidden_layers\":1", "\"num_hidden_layers\":1025", corrupt, "num_hidden_layers is 1025");
}

// One safetensors file built from the tiny model's tensors after a change.
void check_tensors(const std::function<void(std::vector<NamedTensor> &)> &change, up_status status, const std::string &expected) {
  const TemporaryDirectory directory;
  directory.write("config.json", config_json(tiny()));
  std::vector<NamedTensor> tensors = random_tensors(tiny());
  change(tensors);
  directory.write("model.safetensors", safetensors_bytes(tensors));
  check_fails(directory, status, expected);
}

void check_tensor_faults() {
  check_tensors([](auto &t) { t[1].dtype = "F32"; t[1].bytes += t[1].bytes; }, UP_UNSUPPORTED_DTYPE,
                "model.safetensors: model.norm.weight: dtype is F32, supported: BF16");
  check_tensors([](auto &t) { t[1].dtype = "F4"; }, UP_UNSUPPORTED_DTYPE, "model.norm.weight: dtype is \"F4\"");
  check_tensors([](auto &t) { t.erase(t.begin() + 4); }, UP_CORRUPT_FILE, "model.layers.0.self_attn.q_proj.weight is missing");
  check_tensors([](auto &t) { t[4].shape = {16, 32}; }, UP_CORRUPT_FILE,
                "model.layers.0.self_attn.q_proj.weight: shape is [16, 32], config.json asks for [32, 16]");
  check_tensors([](auto &t) { t[4].shape = {32, 17}; }, UP_CORRUPT_FILE, "BF16 [32, 17] needs 1088 bytes");
  check_tensors([](auto &t) { t[4].shape = {-32, 16}; }, UP_CORRUPT_FILE, "shape holds -32, not an extent");
  check_tensors([](auto &t) { t[4].shape = {INT64_MAX, INT64_MAX}; }, UP_CORRUPT_FILE, "is too large");
  check_tensors([](auto &t) { t.push_back({"model.layers.0.self_attn.q_norm.weight", "BF16", {1}, "ab"}); },
                UP_UNSUPPORTED_MODEL, "model.layers.0.self_attn.q_norm.weight is not a tensor of LlamaForCausalLM");
  check_tensors([](auto &t) { t.push_back(t[0]); }, UP_CORRUPT_FILE, "\"model.embed_tokens.weight\" is repeated");
}

// The bytes of a whole file, damaged.
void check_bytes(const std::function<std::string(std::string)> &damage, up_status status, const std::string &expected) {
  const TemporaryDirectory directory;
  directory.write("config.json", config_json(tiny()));
  directory.write("model.safetensors", damage(safetensors_bytes(random_tensors(tiny()))));
  check_fails(directory, status, expected);
}

void check_file_faults() {
  const std::string whole = safetensors_bytes(random_tensors(tiny()));
  const auto size = [](size_t bytes) { return std::to_string(bytes) + " bytes"; };
  check_bytes([](std::string b) { return b.substr(0, b.size() - 7); }, UP_CORRUPT_FILE,
              "truncated: model.layers.0.mlp.down_proj.weight ends at byte " + std::to_string(whole.size()) + " of a file of " +
                  size(whole.size() - 7));
  check_bytes([](std::string b) { return b + "xx"; }, UP_CORRUPT_FILE,
              "the tensors end at byte " + std::to_string(whole.size()) + " of a file of " + size(whole.size() + 2));
  check_bytes([](std::string b) { return b.substr(0, 100); }, UP_CORRUPT_FILE, "truncated: a header of");
  check_bytes([](std::string b) { return b.substr(0, 3); }, UP_CORRUPT_FILE, "3 bytes, a header needs at least 8");
  check_bytes([](std::string) { return std::string(); }, UP_CORRUPT_FILE, "0 bytes, a header needs at least 8");
  check_bytes([](std::string b) { return std::string(8, '\xff') + b.substr(8); }, UP_CORRUPT_FILE,
              "a header of 18446744073709551615 bytes, at most 104857600 are read");
  check_bytes([](std::string b) { return replaced(b, "[0,640]", "[2,642]"); }, UP_CORRUPT_FILE, "after a gap from 0");
  check_bytes([](std::string b) { return replaced(b, "[640,672]", "[608,640]"); }, UP_CORRUPT_FILE, "inside the tensor that ends at 640");
  check_bytes([](std::string b) { return replaced(b, "[640,672]", "[672,640]"); }, UP_CORRUPT_FILE, "offsets 672 to 640");
  check_bytes([](std::string b) { return replaced(b, "[640,672]", "[-40,672]"); }, UP_CORRUPT_FILE, "data_offsets holds -40");
  check_bytes([](std::string b) { return replaced(b, "\"data_offsets\"", "\"data_offset_\""); }, UP_CORRUPT_FILE,
              "dtype, shape and two data_offsets were expected");
  check_bytes([](std::string b) { return replaced(b, "{\"__meta", "[\"__meta"); }, UP_CORRUPT_FILE, "model.safetensors: byte");
}

void check_directories() {
  up_model *model = nullptr;
  CHECK(up_model_open("/nonexistent/model", &model) == UP_INVALID_ARGUMENT);
  CHECK(std::string(up_last_error().detail) == "/nonexistent/model: no such directory");
  CHECK(up_model_open(nullptr, &model) == UP_INVALID_ARGUMENT && up_model_open("/", nullptr) == UP_INVALID_ARGUMENT);
  const TemporaryDirectory directory;
  check_fails(directory, UP_INVALID_ARGUMENT, "config.json: No such file or directory");
  directory.write("config.json", config_json(tiny()));
  check_fails(directory, UP_INVALID_ARGUMENT, "no *.safetensors file");
  directory.write("config.json", std::string((1 << 20) + 1, ' '));
  check_fails(directory, UP_CORRUPT_FILE, "1048577 bytes, at most 1048576 are read");
}

void check_index() {
  const TemporaryDirectory directory;
  write_model(directory, tiny());
  const auto index = [&](const std::string &members) { directory.write("model.safetensors.index.json", members); };
  index("{}");
  check_fails(directory, UP_CORRUPT_FILE, "model.safetensors.index.json: weight_map is missing");
  index("{\"weight_map\":{\"model.norm.weight\":\"../model-0.safetensors\"}}");
  check_fails(directory, UP_CORRUPT_FILE, "weight_map names \"../model-0.safetensors\" for model.norm.weight");
  index("{\"weight_map\":{\"model.norm.weight\":\"absent.safetensors\"}}");
  check_fails(directory, UP_INVALID_ARGUMENT, "absent.safetensors: No such file or directory");
  index("{\"weight_map\":{\"model.other.weight\":\"model-0.safetensors\"}}");
  check_fails(directory, UP_CORRUPT_FILE, "model.other.weight is not in model-0.safetensors");
  index("{\"weight_map\":{\"model.norm.weight\":\"model-0.safetensors\"}}");
  up_model *model = nullptr;
  CHECK(up_model_open(directory.path().c_str(), &model) == UP_OK, "%s", up_last_error().detail);
  up_model_close(model);
  directory.write("model-1.safetensors", safetensors_bytes({{"model.norm.weight", "BF16", {1}, "ab"}}));
  std::filesystem::remove(directory.path() + "/model.safetensors.index.json");
  check_fails(directory, UP_CORRUPT_FILE, "model.norm.weight is in both ");
}

uint64_t fingerprint_of(const RandomModel &spec) {
  const TemporaryDirectory directory;
  write_model(directory, spec);
  return up::Model(directory.path()).fingerprint();
}

void check_contents() {
  RandomModel spec = tiny();
  spec.shards = 3;
  spec.tied = false;
  const TemporaryDirectory directory;
  write_model(directory, spec);
  const up::Model model(directory.path());
  for (const NamedTensor &tensor : random_tensors(spec)) {
    const auto weight = model.weight(tensor.name);
    CHECK(std::string(reinterpret_cast<const char *>(weight.data()), weight.size() * 2) == tensor.bytes);
  }
  CHECK(model.lm_head().data() == model.weight("lm_head.weight").data());
  // Shards and copies do not change it; weights and config do.
  CHECK(fingerprint_of(spec) == model.fingerprint());
  spec.shards = 1;
  CHECK(fingerprint_of(spec) == model.fingerprint());
  spec.seed = 2;
  CHECK(fingerprint_of(spec) != model.fingerprint());
  spec.seed = 1;
  spec.rope = ",\"rope_theta\":20000.0";
  CHECK(fingerprint_of(spec) != model.fingerprint());
}

void check_rope() {
  up::ModelConfig config;
  config.head_dim = 64;
  config.rope_theta = 500000;
  const auto plain = up::rope_frequencies(config);
  CHECK(plain.size() == 32 && plain[0] == 1 && std::abs(plain[16] * std::sqrt(500000.0) - 1) < 1e-12);
  config.rope_scaling.type = up::RopeScaling::Type::linear;
  config.rope_scaling.factor = 4;
  CHECK(up::rope_frequencies(config)[5] == plain[5] / 4);
  config.rope_scaling = {up::RopeScaling::Type::llama3, 8, 1, 4, 8192};
  const auto scaled = up::rope_frequencies(config);
  for (size_t i = 0; i < plain.size(); i++) {
    const double wavelength = 2 * 3.14159265358979323846 / plain[i];
    if (wavelength < 2048) CHECK(scaled[i] == plain[i]);
    else if (wavelength > 8192) CHECK(scaled[i] == plain[i] / 8);
    else CHECK(scaled[i] < plain[i] && scaled[i] > plain[i] / 8);
  }
}

}  // namespace

int main() {
  check_configs();
  check_tensor_faults();
  check_file_faults();
  check_directories();
  check_index();
  check_contents();
  check_rope();
  return check_result();
}
