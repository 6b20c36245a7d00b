#include "model/config.h"

#include <cmath>
#include <tuple>

#include "abi/failure.h"
#include "model/json.h"

namespace up {
namespace {

// Typed access to the fields of one JSON object; errors name the object and the field.
class Fields {
 public:
  Fields(std::string where, const Json &object) : where_(std::move(where)), object_(object) {
    if (!object.is_object()) fail(UP_CORRUPT_FILE, "read config", where_, " is ", object.describe(), ", not an object");
  }

  // nullptr when absent or null.
  const Json *find(std::string_view name) const {
    const Json *value = object_.find(name);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  [[noreturn]] void wrong(std::string_view name, const Json &value, std::string_view expected) const {
    fail(UP_CORRUPT_FILE, "read config", where_, ": ", name, " is ", value.describe(), ", ", expected, " was expected");
  }

  [[noreturn]] void unsupported(std::string_view name, const Json &value, std::string_view supported) const {
    fail(UP_UNSUPPORTED_MODEL, "read config", where_, ": ", name, " is ", value.describe(), ", supported: ", supported);
  }

  [[noreturn]] void missing(std::string_view name) const {
    fail(UP_CORRUPT_FILE, "read config", where_, ": ", name, " is missing");
  }

  int size(std::string_view name, int64_t most) const {
    const Json *value = find(name);
    if (value == nullptr) missing(name);
    if (!value->is_integer || value->integer < 1 || value->integer > most) {
      wrong(name, *value, text("an integer from 1 to ", most));
    }
    return static_cast<int>(value->integer);
  }

  int size(std::string_view name, int64_t most, int otherwise) const {
    return find(name) == nullptr ? otherwise : size(name, most);
  }

  double positive(std::string_view name) const {
    const Json *value = find(name);
    if (value == nullptr) missing(name);
    if (value->kind != Json::Kind::number || !(value->number > 0) || !std::isfinite(value->number)) {
      wrong(name, *value, "a number above 0");
    }
    return value->number;
  }

  double positive(std::string_view name, double otherwise) const {
    return find(name) == nullptr ? otherwise : positive(name);
  }

  bool flag(std::string_view name, bool otherwise) const {
    const Json *value = find(name);
    if (value == nullptr) return otherwise;
    if (value->kind != Json::Kind::boolean) wrong(name, *value, "true or false");
    return value->boolean;
  }

 private:
  std::string where_;
  const Json &object_;
};

void check_architecture(const Fields &fields, ModelConfig &config) {
  const Json *names = fields.find("architectures");
  if (names == nullptr) fields.missing("architectures");
  if (names->kind != Json::Kind::array || names->items.size() != 1 || names->items[0].kind != Json::Kind::string) {
    fields.wrong("architectures", *names, "an array of one name");
  }
  if (names->items[0].string != "LlamaForCausalLM") {
    fields.unsupported("architectures[0]", names->items[0], "\"LlamaForCausalLM\"");
  }
  config.architecture = names->items[0].string;
}

// Fields that change what is computed and that only one value is computed for.
void check_fixed_fields(const Fields &fields) {
  if (const Json *act = fields.find("hidden_act"); act && (act->kind != Json::Kind::string || act->string != "silu")) {
    fields.unsupported("hidden_act", *act, "\"silu\"");
  }
  if (const Json *value = fields.find("quantization_config")) {
    fields.unsupported("quantization_config", *value, "none (weights in bfloat16)");
  }
  if (const Json *value = fields.find("partial_rotary_factor"); value && value->number != 1) {
    fields.unsupported("partial_rotary_factor", *value, "1");
  }
  if (const Json *value = fields.find("sliding_window")) {
    fields.unsupported("sliding_window", *value, "null");
  }
  for (const char *name : {"torch_dtype", "dtype"}) {
    const Json *value = fields.find(name);
    if (value && (value->kind != Json::Kind::string || value->string != "bfloat16")) {
      fields.unsupported(name, *value, "\"bfloat16\"");
    }
  }
}

// `rope_scaling` (theta beside it) or, since transformers 5, `rope_parameters` (theta inside).
void read_rope(const std::string &source, const Fields &fields, ModelConfig &config) {
  config.rope_theta = fields.positive("rope_theta", 10000);
  const char *name = fields.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const Json *object = fields.find(name);
  if (object == nullptr) return;
  const Fields rope(source + ": " + name, *object);
  config.rope_theta = rope.positive("rope_theta", config.rope_theta);
  const Json *type = rope.find("rope_type");
  const char *type_name = type != nullptr ? "rope_type" : "type";
  if (type == nullptr) type = rope.find("type");
  if (type == nullptr) rope.missing("rope_type");
  RopeScaling &scaling = config.rope_scaling;
  if (type->string == "default" || type->string == "none") {
    scaling.type = RopeScaling::Type::none;
  } else if (type->string == "linear") {
    scaling.type = RopeScaling::Type::linear;
    scaling.factor = rope.positive("factor");
  } else if (type->string == "llama3") {
    scaling.type = RopeScaling::Type::llama3;
    scaling.factor = rope.positive("factor");
    scaling.low_freq_factor = rope.positive("low_freq_factor");
    scaling.high_freq_factor = rope.positive("high_freq_factor");
    scaling.original_max_positions = rope.positive("original_max_position_embeddings");
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      rope.wrong("high_freq_factor", *rope.find("high_freq_factor"), "a number above low_freq_factor");
    }
  } else {
    rope.unsupported(type_name, *type, "\"default\", \"linear\", \"llama3\"");
  }
}

}  // namespace

ModelConfig parse_config(std::string_view source, std::string_view bytes) {
  const std::string where(source);
  const Json document = parse_json(source, bytes, config_max_bytes);
  const Fields fields(where, document);
  ModelConfig config;
  check_architecture(fields, config);
  check_fixed_fields(fields);
  config.hidden_size = fields.size("hidden_size", 1 << 16);
  config.intermediate_size = fields.size("intermediate_size", 1 << 18);
  config.vocab_size = fields.size("vocab_size", 1 << 22);
  config.layers = fields.size("num_hidden_layers", 1 << 10);
  config.heads = fields.size("num_attention_heads", 1 << 10);
  config.kv_heads = fields.size("num_key_value_heads", 1 << 10, config.heads);
  config.max_positions = fields.size("max_position_embeddings", 1 << 26, 2048);
  config.norm_eps = static_cast<float>(fields.positive("rms_norm_eps", 1e-6));
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", false);
  config.attention_bias = fields.flag("attention_bias", false);
  config.mlp_bias = fields.flag("mlp_bias", false);
  if (fields.find("head_dim") == nullptr && config.hidden_size % config.heads != 0) {
    fail(UP_CORRUPT_FILE, "read config", where, ": hidden_size ", config.hidden_size,
         " is no multiple of num_attention_heads ", config.heads, " and head_dim is missing");
  }
  config.head_dim = fields.size("head_dim", 1 << 10, config.hidden_size / config.heads);
  if (config.heads % config.kv_heads != 0) {
    fail(UP_CORRUPT_FILE, "read config", where, ": num_attention_heads ", config.heads,
         " is no multiple of num_key_value_heads ", config.kv_heads);
  }
  // Sums over a width are formed as four slices of bf16 pairs; attention walks head dimensions 16 at a time.
  for (const auto &[name, value, step] : {std::tuple{"hidden_size", config.hidden_size, 8},
                                          std::tuple{"intermediate_size", config.intermediate_size, 8},
                                          std::tuple{"head_dim", config.head_dim, 16}}) {
    if (value % step != 0) {
      fail(UP_UNSUPPORTED_MODEL, "read config", where, ": ", name, " is ", value, ", supported: multiples of ", step);
    }
  }
  if (config.head_dim > 256) {
    fail(UP_UNSUPPORTED_MODEL, "read config", where, ": head_dim is ", config.head_dim, ", supported: at most 256");
  }
  config.attention_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config.head_dim)));
  read_rope(where, fields, config);
  return config;
}

}  // namespace up
