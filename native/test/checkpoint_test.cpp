// Checkpoints: what is read of their tensors, and the error that each kind of bad file gives.
#include <functional>

#include "abi/failure.h"
#include "check.h"
#include "random_cases.h"
#include "weights/matrices.h"

namespace {

RandomModel tiny() {
  RandomModel model;
  model.hidden = 16;
  model.vocab = 20;
  model.layers = {attention_layer(2, 1, 16)};
  model.layers[0].mlp.inner = 24;
  return model;
}

// Three experts, a shared one, a DeltaNet layer with vectors in F32.
RandomModel mixture(bool fused) {
  RandomModel model = tiny();
  model.layers = {attention_layer(2, 1, 16), delta_layer(1, 2, 8, 8)};
  for (up::LayerSpec &layer : model.layers) layer.mlp = experts_of(3, 2, 8, 12);
  model.fused_experts = fused;
  return model;
}

void check_fails(const std::string &table, up_status status, const std::string &expected) {
  try {
    const up::Checkpoint checkpoint{up::parse_model_table(table)};
    CHECK(status == UP_OK, "no failure, expected \"%s\"", expected.c_str());
  } catch (const up::Failure &failure) {
    CHECK(failure.status == status, "%s: expected %s, got %s", expected.c_str(), up_status_name(status),
          up_status_name(failure.status));
    CHECK(failure.detail.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected.c_str(),
          failure.detail.c_str());
  }
}

// The model's tensors after a change, in one file.
void check_tensors(const RandomModel &model, const std::function<void(std::vector<NamedTensor> &)> &change, up_status status,
                   const std::string &expected) {
  const TemporaryDirectory directory;
  std::vector<NamedTensor> tensors = random_tensors(model);
  change(tensors);
  directory.write("model-0.safetensors", safetensors_bytes(tensors));
  check_fails(model_table_json(model, directory.path()), status, expected);
}

NamedTensor &named(std::vector<NamedTensor> &tensors, const std::string &name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor &tensor) { return tensor.name == name; });
  if (found == tensors.end()) stop_test(("no tensor " + name).c_str());
  return *found;
}

void take_out(std::vector<NamedTensor> &tensors, const std::string &name) {
  CHECK(std::erase_if(tensors, [&](const NamedTensor &tensor) { return tensor.name == name; }) == 1, "no tensor %s",
        name.c_str());
}

void check_tensor_faults() {
  const std::string q = "model.layers.0.q.weight";
  const auto refused = [&](const std::function<void(std::vector<NamedTensor> &)> &change, up_status status,
                           const std::string &expected) { check_tensors(tiny(), change, status, expected); };
  refused(
      [&](auto &t) {
        named(t, q).dtype = "F32";
        named(t, q).bytes += named(t, q).bytes;
      },
      UP_UNSUPPORTED_DTYPE, "model-0.safetensors: model.layers.0.q.weight: dtype is F32, supported: BF16");
  refused([&](auto &t) { named(t, q).dtype = "F16"; }, UP_UNSUPPORTED_DTYPE,
          "model.layers.0.q.weight: dtype is F16, supported: BF16");
  refused([&](auto &t) { named(t, "model.finalNorm.weight").dtype = "F16"; }, UP_UNSUPPORTED_DTYPE,
          "dtype is F16, supported: BF16 and F32");
  refused([&](auto &t) { named(t, q).dtype = "F4"; }, UP_UNSUPPORTED_DTYPE, "model.layers.0.q.weight: dtype is \"F4\"");
  refused([&](auto &t) { take_out(t, q); }, UP_CORRUPT_FILE, "model.layers.0.q.weight is missing");
  refused([&](auto &t) { named(t, q).shape = {16, 32}; }, UP_CORRUPT_FILE,
          "model.layers.0.q.weight: shape is [16, 32], config.json asks for [32, 16]");
  refused([&](auto &t) { named(t, q).shape = {512}; }, UP_CORRUPT_FILE, "shape is [512], config.json asks for [32, 16]");
  refused([&](auto &t) { named(t, q).shape = {32, 17}; }, UP_CORRUPT_FILE, "BF16 [32, 17] needs 1088 bytes");
  refused([&](auto &t) { named(t, q).shape = {-32, 16}; }, UP_CORRUPT_FILE, "shape holds -32, not an extent");
  refused([&](auto &t) { named(t, q).shape = {INT64_MAX, INT64_MAX}; }, UP_CORRUPT_FILE, "is too large");
  refused([](auto &t) { t.push_back({"model.layers.0.qNorm.weight", "BF16", {1}, "ab"}); }, UP_UNSUPPORTED_MODEL,
          "model.layers.0.qNorm.weight is not a tensor of RandomForCausalLM");
  refused([](auto &t) { t.push_back(t[0]); }, UP_CORRUPT_FILE, "\"model.embedding.weight\" is repeated");
  // Tensors that the table ignores may be of any kind; those that only look like them may not.
  refused(
      [](auto &t) {
        for (const char *name : {"mtp.layers.0.x", "model.layers.0.rope.inv_freq", "model.spare"})
          t.push_back({name, "U8", {2}, "ab"});
      },
      UP_OK, "");
  refused([](auto &t) { t.push_back({"model.spare.weight", "U8", {2}, "ab"}); }, UP_UNSUPPORTED_MODEL,
          "model.spare.weight is not a tensor");
  refused([](auto &t) { t.push_back({"model.mtp.x", "U8", {2}, "ab"}); }, UP_UNSUPPORTED_MODEL, "model.mtp.x is not a tensor");

  const auto of_experts = [&](bool fused, const std::function<void(std::vector<NamedTensor> &)> &change, up_status status,
                              const char *expected) { check_tensors(mixture(fused), change, status, expected); };
  for (const bool fused : {true, false}) of_experts(fused, [](auto &) {}, UP_OK, "");
  of_experts(
      true, [](auto &t) { named(t, "model.layers.0.expertGateUp.weight").shape = {3, 32, 8}; }, UP_CORRUPT_FILE,
      "shape is [3, 32, 8], config.json asks for [3, 16, 16]");
  of_experts(
      true, [](auto &t) { take_out(t, "model.layers.1.expertDown.weight"); }, UP_CORRUPT_FILE,
      "model.layers.1.expertDown.weight is missing");
  of_experts(
      false, [](auto &t) { take_out(t, "model.layers.1.2.expertUp.weight"); }, UP_CORRUPT_FILE,
      "model.layers.1.2.expertUp.weight is missing");
  of_experts(
      false, [](auto &t) { named(t, "model.layers.0.0.expertDown.weight").shape = {8, 16}; }, UP_CORRUPT_FILE,
      "model.layers.0.0.expertDown.weight: shape is [8, 16], config.json asks for [16, 8]");
  of_experts(
      false, [](auto &t) { t.push_back({"model.layers.0.3.expertUp.weight", "BF16", {1}, "ab"}); }, UP_UNSUPPORTED_MODEL,
      "model.layers.0.3.expertUp.weight is not a tensor");
  of_experts(
      true,
      [](auto &t) {
        named(t, "model.layers.1.aLog.weight").dtype = "BF16";
        named(t, "model.layers.1.aLog.weight").bytes.resize(4);
      },
      UP_OK, "");
}

// Roles that a layer has too many or too few of.
void check_roles() {
  const auto refused = [&](const RandomModel &model, const std::string &from, const std::string &to,
                           const std::string &expected) {
    const TemporaryDirectory directory;
    std::string table = write_model(directory, model);
    const size_t at = table.find(from);
    CHECK(at != std::string::npos, "no %s", from.c_str());
    check_fails(table.replace(at, from.size(), to), UP_INVALID_ARGUMENT, expected);
  };
  refused(tiny(), "\"mlpNorm\":", "\"otherNorm\":", "layers[0].tensors.mlpNorm is missing");
  refused(tiny(), "\"o\":", "\"conv\":", "layers[0].tensors.o is missing");
  refused(tiny(), ",\"lmHead\":\"model.embedding.weight\"", "", "tensors.lmHead is missing");
  refused(tiny(), "\"lmHead\":", "\"head\":\"x\",\"lmHead\":", "tensors.head: a model has no such tensor");
  refused(tiny(), "\"embedding\":\"model.embedding.weight\",", "", "tensors.embedding is missing");
  refused(tiny(), "\"finalNorm\":\"model.finalNorm.weight\",", "", "tensors.finalNorm is missing");
  refused(tiny(), "\"down\":", "\"router\":\"x\",\"down\":", "layers[0].tensors.router: a layer of this kind has no such tensor");
  refused(tiny(), "\"down\":", "\"sinks\":\"x\",\"down\":", "layers[0].tensors.sinks: a layer of this kind has no such tensor");
  refused(mixture(true), "\"expertGateUp\":", "\"expertGate\":", "layers[0].tensors.expertUp is missing");
  refused(mixture(true), "\"sharedExpertGate\":", "\"shared\":", "layers[0].tensors.sharedExpertGate is missing");
  refused(mixture(false), "\"conv\":", "\"convolution\":", "layers[1].tensors.conv is missing");
}

// The bytes of a whole file, damaged.
void check_file_faults() {
  const std::string whole = safetensors_bytes(random_tensors(tiny()));
  const auto refused = [](const std::string &bytes, const std::string &expected) {
    const TemporaryDirectory directory;
    directory.write("model-0.safetensors", bytes);
    check_fails(model_table_json(tiny(), directory.path()), UP_CORRUPT_FILE, expected);
  };
  const auto replaced = [&](const std::string &from, const std::string &to) {
    std::string out = whole;
    const size_t at = out.find(from);
    CHECK(at != std::string::npos && from.size() == to.size(), "no %s", from.c_str());
    return out.replace(at, from.size(), to);
  };
  const auto size = [](size_t bytes) { return std::to_string(bytes) + " bytes"; };
  refused(whole.substr(0, whole.size() - 7), "truncated: model.layers.0.down.weight ends at byte " +
                                                 std::to_string(whole.size()) + " of a file of " + size(whole.size() - 7));
  refused(whole + "xx", "the tensors end at byte " + std::to_string(whole.size()) + " of a file of " + size(whole.size() + 2));
  refused(whole.substr(0, 100), "truncated: a header of");
  refused(whole.substr(0, 3), "3 bytes, a header needs at least 8");
  refused("", "0 bytes, a header needs at least 8");
  refused(std::string(8, '\xff') + whole.substr(8), "a header of 18446744073709551615 bytes, at most 104857600 are read");
  refused(replaced("[0,640]", "[2,642]"), "after a gap from 0");
  refused(replaced("[640,672]", "[608,640]"), "inside the tensor that ends at 640");
  refused(replaced("[640,672]", "[672,640]"), "offsets 672 to 640");
  refused(replaced("[640,672]", "[-40,672]"), "data_offsets holds -40");
  refused(replaced("\"data_offsets\"", "\"data_offset_\""), "dtype, shape and two data_offsets were expected");
  refused(replaced("{\"__meta", "[\"__meta"), "model-0.safetensors: byte");
}

void check_files() {
  RandomModel model = tiny();
  model.shards = 2;
  model.index = true;
  const TemporaryDirectory directory;
  const std::string good = write_model(directory, model);
  const auto refused = [&](const std::string &from, const std::string &to, up_status status, const std::string &expected) {
    std::string table = good;
    const size_t at = table.find(from);
    CHECK(at != std::string::npos, "no %s", from.c_str());
    check_fails(table.replace(at, from.size(), to), status, expected);
  };
  check_fails(good, UP_OK, "");
  const std::string path = directory.path();
  refused("\"" + path + "/model-0.safetensors\",\"" + path + "/model-1.safetensors\"", "", UP_INVALID_ARGUMENT,
          "the model table names no file of weights");
  refused("model-1.safetensors\"]", "model-2.safetensors\"]", UP_INVALID_ARGUMENT,
          "model-2.safetensors: No such file or directory");
  refused("model-1.safetensors\"]", "model-0.safetensors\"]", UP_CORRUPT_FILE, "is in both ");
  refused("\"model.embedding.weight\":\"model-0", "\"model.embedding.weight\":\"model-1", UP_CORRUPT_FILE,
          "model.safetensors.index.json: model.embedding.weight is not in model-1.safetensors");
  refused("\"weightMap\":{", "\"weightMap\":{\"model.other\":\"model-0.safetensors\",", UP_CORRUPT_FILE,
          "model.other is not in model-0.safetensors");
  refused("\"file\":", "\"path\":", UP_INVALID_ARGUMENT, "model.index.file is missing");
}

uint64_t fingerprint_of(const RandomModel &model) { return TestModel(model).checkpoint->fingerprint(); }

void check_contents() {
  for (RandomModel model : {mixture(true), mixture(false)}) {
    model.shards = 3;
    model.tied = false;
    const TestModel opened(model);
    const up::Checkpoint &checkpoint = *opened.checkpoint;
    for (const TensorSpec &spec : tensor_specs(model)) {
      const int experts = spec.name.find("{e}") == std::string::npos ? 1 : 3;
      for (int e = 0; e < experts; e++) {
        std::string name = spec.name;
        if (experts > 1) name.replace(name.find("{e}"), 3, std::to_string(e));
        std::vector<NamedTensor> tensors = random_tensors(model);
        const std::string &bytes = named(tensors, name).bytes;
        if (spec.shape.size() == 1) {
          const std::vector<float> values = checkpoint.vector(spec.layer, spec.role);
          NamedTensor written{name, spec.dtype, spec.shape, ""};
          for (const float value : values) append_number(written, value);
          CHECK(written.bytes == bytes, "%s", name.c_str());
        } else {
          const auto weight = checkpoint.matrix(spec.layer, spec.role, experts > 1 ? e : -1);
          CHECK(std::string(reinterpret_cast<const char *>(weight.data()), weight.size() * 2) == bytes, "%s", name.c_str());
        }
      }
    }
    // Shards and copies do not change it; weights and the table's identity do.
    RandomModel other = model;
    other.shards = 1;
    CHECK(fingerprint_of(other) == checkpoint.fingerprint());
    other.seed = 2;
    CHECK(fingerprint_of(other) != checkpoint.fingerprint());
    std::string table = opened.table;
    table.replace(table.find("deadbeef"), 8, "deadbeee");
    CHECK(TestModel::load(table)->fingerprint() != checkpoint.fingerprint());
  }
}

// Matrices that checkpoints hold in other orders come out in one: experts fused or one by one, projections grouped by key head.
void check_orders() {
  const auto bytes_of = [](const std::vector<uint16_t> &rows) {
    return std::string(reinterpret_cast<const char *>(rows.data()), rows.size() * 2);
  };
  const RandomModel single = mixture(false);
  const TestModel one_by_one(single);
  RandomModel joined = mixture(true);
  std::vector<NamedTensor> from = random_tensors(single);
  std::vector<NamedTensor> to = random_tensors(joined);
  for (int layer = 0; layer < 2; layer++) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    std::string gate_up, down;
    for (int e = 0; e < 3; e++) {
      const std::string expert = at + std::to_string(e) + ".";
      gate_up += named(from, expert + "expertGate.weight").bytes + named(from, expert + "expertUp.weight").bytes;
      down += named(from, expert + "expertDown.weight").bytes;
    }
    named(to, at + "expertGateUp.weight").bytes = gate_up;
    named(to, at + "expertDown.weight").bytes = down;
  }
  const TemporaryDirectory directory;
  directory.write("model-0.safetensors", safetensors_bytes(to));
  const auto fused = TestModel::load(model_table_json(joined, directory.path()));
  for (int e = 0; e < 3; e++) {
    for (const up::MatrixKind kind : {up::MatrixKind::expert_gate_up, up::MatrixKind::expert_down}) {
      CHECK(bytes_of(up::matrix_rows(*fused, 1, kind, e).gather()) ==
                bytes_of(up::matrix_rows(*one_by_one.checkpoint, 1, kind, e).gather()),
            "expert %d", e);
    }
  }

  // [q k v… z…] and [b… a…] of each key head, from [q | k | v], z, b and a.
  RandomModel plain = tiny();
  plain.layers = {delta_layer(2, 4, 8, 6), attention_layer(2, 1, 16)};
  RandomModel grouped = plain;
  grouped.layers[0].delta.grouped = true;
  from = random_tensors(plain);
  to = random_tensors(grouped);
  const auto rows = [&](const char *role, int begin, int count) {
    return named(from, std::string("model.layers.0.") + role + ".weight")
        .bytes.substr(static_cast<size_t>(begin) * 32, static_cast<size_t>(count) * 32);
  };
  std::string qkvz, ba;
  for (int head = 0; head < 2; head++) {
    qkvz += rows("qkv", 8 * head, 8) + rows("qkv", 16 + 8 * head, 8) + rows("qkv", 32 + 12 * head, 12) + rows("z", 12 * head, 12);
    ba += rows("b", 2 * head, 2) + rows("a", 2 * head, 2);
  }
  named(to, "model.layers.0.qkvz.weight").bytes = qkvz;
  named(to, "model.layers.0.ba.weight").bytes = ba;
  const TemporaryDirectory second;
  second.write("model-0.safetensors", safetensors_bytes(to));
  const TestModel ungrouped(plain);
  CHECK(bytes_of(
            up::matrix_rows(*TestModel::load(model_table_json(grouped, second.path())), 0, up::MatrixKind::delta_in).gather()) ==
        bytes_of(up::matrix_rows(*ungrouped.checkpoint, 0, up::MatrixKind::delta_in).gather()));
}

}  // namespace

// A matrix's numbers as a published checkpoint has them in eight bits, with scales of this shape and dtype.
void put_eight_bits(std::vector<NamedTensor> &tensors, const std::string &name, const std::vector<int64_t> &scales_shape, const char *dtype,
                    const char *suffix) {
  NamedTensor &matrix = named(tensors, name);
  matrix.dtype = "F8_E4M3";
  const auto count = static_cast<size_t>(matrix.shape[0] * matrix.shape[1]);
  matrix.bytes.clear();
  for (size_t i = 0; i < count; i++) matrix.bytes += static_cast<char>(i % 255 == 127 ? 0 : i % 255);  // not NaN
  NamedTensor scales{name + suffix, dtype, scales_shape, {}};
  int64_t values = 1;
  for (const int64_t extent : scales_shape) values *= extent;
  for (int64_t i = 0; i < values; i++) append_number(scales, 0.25 + static_cast<double>(i % 16) / 8);
  tensors.push_back(scales);
}

// Numbers in e4m3 with scales of every kind are the bf16 numbers that they stand for.
void check_eight_bits() {
  RandomModel model = tiny();
  model.hidden = 144;
  model.layers[0].mlp.inner = 272;
  const std::string name = "model.layers.0.up.weight";  // [272, 144]
  const std::vector<std::vector<int64_t>> shapes{{}, {1}, {272}, {272, 1}, {3, 2}};
  for (const auto &shape : shapes) {
    for (const char *dtype : {"F32", "BF16"}) {
      std::vector<NamedTensor> tensors = random_tensors(model);
      put_eight_bits(tensors, name, shape, dtype, shape.size() == 2 ? "_scale_inv" : "_scale");
      tensors.push_back({"model.layers.0.up.input_scale", "F32", {}, std::string(4, 0)});
      const TemporaryDirectory directory;
      directory.write("model-0.safetensors", safetensors_bytes(tensors));
      const up::Checkpoint checkpoint{up::parse_model_table(model_table_json(model, directory.path()))};
      const auto got = checkpoint.matrix(0, "up");
      CHECK(got.size() == 272 * 144);
      for (size_t i = 0; i < got.size(); i++) {
        const int bits = static_cast<int>(i % 255 == 127 ? 0 : i % 255), exponent = bits >> 3 & 15, mantissa = bits & 7;
        const double size = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
        const size_t row = i / 144, column = i % 144;
        const size_t at = shape.empty() || shape[0] == 1 ? 0 : shape[0] == 272 ? row : row / 128 * 2 + column / 128;
        const double expected = (bits < 128 ? size : -size) * (0.25 + static_cast<double>(at % 16) / 8);
        CHECK(got[i] == bf16_bits(expected), "scales %d of them, element %d", static_cast<int>(shape.size()), static_cast<int>(i));
      }
    }
  }
  const auto fails = [&](const std::function<void(std::vector<NamedTensor> &)> &change, up_status status, const char *expected) {
    check_tensors(model, change, status, expected);
  };
  fails([&](auto &tensors) { put_eight_bits(tensors, name, {}, "F32", "_other"); }, UP_CORRUPT_FILE,
        "dtype is F8_E4M3, and there is neither model.layers.0.up.weight_scale nor");
  fails([&](auto &tensors) { put_eight_bits(tensors, name, {2, 3}, "F32", "_scale"); }, UP_CORRUPT_FILE,
        "shape is [2, 3], for [272, 144] one scale was expected, one a row, or [3, 2]");
  fails(
      [&](auto &tensors) {
        put_eight_bits(tensors, name, {}, "F32", "_scale");
        tensors.back().dtype = "F16";
        tensors.back().bytes.resize(2);
      },
      UP_UNSUPPORTED_DTYPE, "dtype is F16, supported: F32 and BF16");
  fails([&](auto &tensors) { named(tensors, "model.finalNorm.weight").dtype = "F8_E4M3"; named(tensors, "model.finalNorm.weight").bytes.resize(144); },
        UP_UNSUPPORTED_DTYPE, "dtype is F8_E4M3, supported: BF16 and F32");
}

int main() {
  check_eight_bits();
  check_tensor_faults();
  check_roles();
  check_file_faults();
  check_files();
  check_contents();
  check_orders();
  return check_result();
}
