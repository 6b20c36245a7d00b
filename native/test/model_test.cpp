// The model table: what is read of it, and the error that each kind of bad one gives.
#include <functional>

#include "abi/failure.h"
#include "check.h"
#include "random_cases.h"
#include "weights/rope.h"

namespace {

bool same(const up::NormSpec &a, const up::NormSpec &b) { return a.eps == b.eps && a.offset == b.offset; }

bool same(const up::AttentionSpec &a, const up::AttentionSpec &b) {
  return a.heads == b.heads && a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.window == b.window &&
         a.scale == b.scale && a.soft_cap == b.soft_cap && a.rope.theta == b.rope.theta && a.rope.dim == b.rope.dim &&
         a.rope.scaling == b.rope.scaling && (a.rope.scaling == up::RopeSpec::Scaling::none || a.rope.factor == b.rope.factor) &&
         (a.rope.scaling != up::RopeSpec::Scaling::llama3 || a.rope.original_max_positions == b.rope.original_max_positions) &&
         a.qk_norm == b.qk_norm && (!a.qk_norm || same(a.qk_norm_spec, b.qk_norm_spec)) && a.output_gate == b.output_gate;
}

bool same(const up::DeltaSpec &a, const up::DeltaSpec &b) {
  return a.key_heads == b.key_heads && a.value_heads == b.value_heads && a.key_dim == b.key_dim && a.value_dim == b.value_dim &&
         a.conv_kernel == b.conv_kernel && a.grouped == b.grouped && a.normalise_activations == b.normalise_activations &&
         a.norm_eps == b.norm_eps;
}

bool same(const up::MlpSpec &a, const up::MlpSpec &b) {
  return a.activation == b.activation && a.inner == b.inner && a.experts == b.experts && a.top_k == b.top_k &&
         a.renormalise == b.renormalise && a.shared_inner == b.shared_inner;
}

// Every layer that a model is made of comes back from its JSON.
void check_round_trip() {
  std::vector<Case> list = cases::families();
  for (uint64_t seed = 1; seed <= 40; seed++) list.push_back(cases::random(seed));
  for (const Case &c : list) {
    const RandomModel &m = c.model;
    const up::ModelTable table = up::parse_model_table(model_table_json(m, "/models"));
    CHECK(table.architecture == "RandomForCausalLM" && table.identity == 0xdeadbeef && table.hidden_size == m.hidden &&
          table.vocab_size == m.vocab && table.max_positions == m.max_positions && table.embedding_scale == m.embedding_scale &&
          table.logit_soft_cap == m.logit_soft_cap && same(table.final_norm, m.norm));
    CHECK(static_cast<int>(table.files.size()) == m.shards && table.files[0] == "/models/model-0.safetensors");
    CHECK(table.index_file.empty() != m.index && (table.index.size() == random_tensors(m).size() || !m.index));
    CHECK(table.tensor(-1, "lmHead") == (m.tied ? "model.embedding.weight" : "model.lmHead.weight"));
    CHECK(table.layers.size() == m.layers.size());
    for (size_t i = 0; i < m.layers.size(); i++) {
      const up::LayerSpec &a = table.layers[i];
      const up::LayerSpec &b = m.layers[i];
      CHECK(a.mixer == b.mixer && same(a.norm, m.norm) && a.post_norms == b.post_norms && same(a.mlp, b.mlp), "%s, layer %zu",
            c.name.c_str(), i);
      CHECK(a.is_attention() ? same(a.attention, b.attention) : same(a.delta, b.delta), "%s, layer %zu", c.name.c_str(), i);
    }
  }
}

std::string replaced(std::string text, const std::string &from, const std::string &to) {
  const size_t at = text.find(from);
  CHECK(at != std::string::npos, "no %s in the text", from.c_str());
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

void check_fails(const std::string &table, up_status status, const std::string &expected) {
  up_model *model = nullptr;
  const up_status found = up_model_open(table.data(), table.size(), &model);
  CHECK(found == status, "%s: expected %s, got %s", expected.c_str(), up_status_name(status), up_status_name(found));
  CHECK(model == nullptr);
  if (found == UP_OK) return up_model_close(model);
  CHECK(std::string(up_last_error().operation) == "up_model_open");
  const std::string detail = up_last_error().detail;
  CHECK(detail.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected.c_str(), detail.c_str());
}

// One table with a change. Nothing is read of its files before the table has been.
void check_table(const RandomModel &m, const std::string &from, const std::string &to, const std::string &expected,
                 up_status status = UP_INVALID_ARGUMENT) {
  check_fails(replaced(model_table_json(m, "/nowhere"), from, to), status, expected);
}

void check_tables() {
  RandomModel m = cases::qwen(true, true).model;
  const auto refused = [&](const std::string &from, const std::string &to, const std::string &expected,
                           up_status status = UP_INVALID_ARGUMENT) { check_table(m, from, to, expected, status); };
  refused("uniprefill-model", "uniprefill-models", "format is \"uniprefill-models\", \"uniprefill-model\" was expected");
  refused("\"version\":1", "\"version\":2", "model.version is 2");
  refused("00000000deadbeef", "00000000deadbeeg", "model.identity is \"00000000deadbeeg\", 16 hexadecimal digits were expected");
  refused("00000000deadbeef", "", "model.identity is \"\"");
  refused("\"hiddenSize\":64", "\"hiddenSize\":0", "model.hiddenSize is 0, an integer from 1");
  refused("\"hiddenSize\":64", "\"hiddenSize\":64.5", "model.hiddenSize is 64.5");
  refused("\"hiddenSize\":64", "\"hiddenSize\":\"64\"", "model.hiddenSize is \"64\"");
  refused("\"hiddenSize\":64,", "", "model.hiddenSize is missing");
  refused("\"vocabSize\":160", "\"vocabSize\":99999999", "model.vocabSize is 99999999, an integer from 1 to 16777216");
  refused("\"embeddingScale\":1", "\"embeddingScale\":0", "model.embeddingScale is 0, a number above 0");
  refused("\"quantization\":\"none\"", "\"quantization\":\"int4\"", "model.quantization is \"int4\"");
  refused("\"logitSoftCap\":0", "\"logitSoftCap\":null", "model.logitSoftCap is null, a number was expected");
  refused("\"eps\":", "\"eps\":-", "model.finalNorm.eps is -");
  refused("\"files\":[\"", "\"files\":[7,\"", "model.files holds 7, strings were expected");
  refused("\"ignore\":[", "\"ignore\":{},\"other\":[", "model.ignore is an object");
  refused("\"layers\":[", "\"layers\":[],\"other\":[", "model.layers has 0 entries, 1 to 1024", UP_UNSUPPORTED_MODEL);
  refused("\"layers\":[", "\"layers\":[7,", "layers[0] is 7, an object was expected");
  refused("\"kind\":\"delta\"", "\"kind\":\"mamba\"",
          "layers[0].mixer.kind is \"mamba\", one of \"full\", \"sliding\", \"delta\" was expected");
  refused("\"keyHeads\":2", "\"keyHeads\":3", "layers[0].mixer.valueHeads is 4, no multiple of 3 key heads",
          UP_UNSUPPORTED_MODEL);
  refused("\"keyDim\":16", "\"keyDim\":257", "layers[0].mixer.keyDim is 257, an integer from 2 to 256");
  refused("\"convKernel\":4", "\"convKernel\":1", "layers[0].mixer.convKernel is 1");
  refused("\"grouped\":true", "\"grouped\":1", "layers[0].mixer.grouped is 1, a boolean was expected");
  refused("\"normaliseInput\":\"activation\"", "\"normaliseInput\":\"double\"", "layers[0].mixer.normaliseInput is \"double\"");
  refused("\"kind\":\"moe\"", "\"kind\":\"dense\"", "layers[0].mlp.kind is \"dense\", one of \"gated\", \"moe\"");
  refused("\"activation\":\"silu\"", "\"activation\":\"relu\"",
          "layers[0].mlp.activation is \"relu\", one of \"silu\", \"gelu\"");
  refused("\"topK\":2", "\"topK\":7", "layers[0].mlp.topK is 7, an integer from 1 to 6");
  refused("\"renormalise\":true", "\"renormalise\":null", "layers[0].mlp.renormalise is null");
  refused("\"kvHeads\":1", "\"kvHeads\":3", "layers[1].mixer.kvHeads is 3, an integer from 1 to 2");
  refused("\"heads\":2,\"kvHeads\":1", "\"heads\":3,\"kvHeads\":2", "layers[1].mixer.kvHeads is 2, which does not divide 3 heads",
          UP_UNSUPPORTED_MODEL);
  refused("\"scale\":", "\"scale\":-", "layers[1].mixer.scale is -");
  refused("\"dim\":8", "\"dim\":7", "layers[1].mixer.rope.dim is 7: rotary embedding pairs dimensions", UP_UNSUPPORTED_MODEL);
  refused("\"dim\":8", "\"dim\":34", "layers[1].mixer.rope.dim is 34, an integer from 2 to 32");
  refused("{\"type\":\"none\"", "{\"type\":\"yarn\"", "layers[1].mixer.rope.scaling.type is \"yarn\"");
  refused("{\"type\":\"none\"", "{\"type\":\"linear\"", "layers[1].mixer.rope.scaling.factor is missing");
  refused("{\"type\":\"none\"", "{\"type\":\"llama3\",\"factor\":8", "layers[1].mixer.rope.scaling.lowFreqFactor is missing");
  refused("\"outputGate\":true", "\"outputGate\":\"yes\"", "layers[1].mixer.outputGate is \"yes\"");
  refused("\"window\":0", "\"window\":5", "layers[1].mixer.window is 5 in a layer of kind full");
  refused("\"inputNorm\":\"", "\"inputNorm\":7,\"x\":\"", "layers[0].tensors.inputNorm is 7, a name was expected");
  refused("\"postNorms\":false", "\"postNorms\":false,\"postNorms\":true", "model table: byte", UP_CORRUPT_FILE);
  m = cases::gemma(40, false).model;
  refused("\"window\":40", "\"window\":0", "layers[0].mixer.window is 0 in a layer of kind sliding");
  refused("\"eps\":", "\"eps\":1e400,\"x\":", "model table: byte", UP_CORRUPT_FILE);
  check_fails("", UP_CORRUPT_FILE, "model table: byte");
  check_fails("[]", UP_INVALID_ARGUMENT, "model is an array of 0, an object was expected");
  check_fails(std::string(up::model_table_max_bytes + 1, ' '), UP_CORRUPT_FILE, "at most");
  up_model *model = nullptr;
  CHECK(up_model_open(nullptr, 0, &model) == UP_INVALID_ARGUMENT && up_model_open("{}", 2, nullptr) == UP_INVALID_ARGUMENT);
}

// Any text is refused or read, and never more than that.
void check_damaged_tables() {
  const std::string good = model_table_json(cases::hybrid().model, "/nowhere");
  Dice dice(5);
  for (int round = 0; round < 3000; round++) {
    std::string text = good;
    for (int i = dice.between(1, 3); i > 0; i--) {
      const auto at = static_cast<size_t>(dice.between(0, static_cast<int>(text.size()) - 1));
      if (dice.chance(3)) text.erase(at, static_cast<size_t>(dice.between(1, 40)));
      else text[at] = dice.pick({'0', '9', '-', '"', '{', ']', ',', 'e', '\x80'});
    }
    try {
      up::parse_model_table(text);
    } catch (const up::Failure &failure) {
      CHECK(!failure.detail.empty() && failure.status != UP_INTERNAL, "round %d: %s", round, failure.detail.c_str());
    }
  }
}

void check_rope() {
  up::RopeSpec rope;
  rope.dim = 64;
  rope.theta = 500000;
  const auto plain = up::rope_frequencies(rope);
  CHECK(plain.size() == 32 && plain[0] == 1 && std::abs(plain[16] * std::sqrt(500000.0) - 1) < 1e-12);
  rope.scaling = up::RopeSpec::Scaling::linear;
  rope.factor = 4;
  CHECK(up::rope_frequencies(rope)[5] == plain[5] / 4);
  rope.scaling = up::RopeSpec::Scaling::llama3;
  rope.factor = 8;
  rope.original_max_positions = 8192;
  const auto scaled = up::rope_frequencies(rope);
  for (size_t i = 0; i < plain.size(); i++) {
    const double wavelength = 2 * 3.14159265358979323846 / plain[i];
    if (wavelength < 2048) CHECK(scaled[i] == plain[i]);
    else if (wavelength > 8192) CHECK(scaled[i] == plain[i] / 8);
    else CHECK(scaled[i] < plain[i] && scaled[i] > plain[i] / 8);
  }
}

}  // namespace

int main() {
  check_round_trip();
  check_tables();
  check_damaged_tables();
  check_rope();
  return check_result();
}
