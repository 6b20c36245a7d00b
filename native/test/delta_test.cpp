// Gated DeltaNet: the kernels against double loops row by row, continued over many calls; and their promise: how rows are cut into
// calls, which groups share one, and how many threads there are changes no bit.
#include "kernel_inputs.h"

namespace {

struct Weights {
  DeltaShape shape;
  std::vector<float> conv, decay, dt_bias, norm;

  // `strength`: of the decay; 0.01 forgets in thousands of rows, 30 at once.
  Weights(Random &random, DeltaShape shape, float strength)
      : shape(shape),
        conv(random.floats(static_cast<size_t>(shape.conv_kernel) * shape.conv_width(), 0.5f)),
        dt_bias(random.floats(shape.value_heads)),
        norm(random.floats(shape.value_dim)) {
    for (const float x : random.floats(shape.value_heads)) decay.push_back(-strength * std::exp(x));
  }
  DeltaWeights view() const { return {conv.data(), decay.data(), dt_bias.data(), norm.data()}; }
};

// A slot's state, as the kernels keep it.
struct State {
  std::vector<float> conv, state;
  std::vector<bf16> keys;
  int32_t begun = 0;

  explicit State(const DeltaShape &shape)
      : conv(static_cast<size_t>(shape.conv_kernel - 1) * shape.conv_width(), 0),
        state(shape.value_heads * shape.head_state(), 0),
        keys(shape.key_heads * shape.head_keys(), 0) {}
  DeltaGroup group(int first, int rows) { return {first, rows, conv.data(), state.data(), keys.data(), &begun}; }
};

// Memory of DeltaRows that held NaN before.
struct Work {
  std::vector<float> mixed, betas, decays, products;
  std::vector<bf16> directions, blocks;
  DeltaRows view;

  Work(const DeltaShape &shape, int rows)
      : mixed(static_cast<size_t>(rows) * shape.conv_width(), not_a_number),
        betas(static_cast<size_t>(rows) * shape.value_heads, not_a_number),
        decays(betas),
        products(static_cast<size_t>(rows) * shape.key_heads * 2 * delta_block, not_a_number),
        directions(static_cast<size_t>(rows) * shape.key_heads * 2 * shape.padded_key_dim(), bf16_nan),
        blocks(rows * shape.key_heads * 2 * shape.head_keys(), bf16_nan),
        view{rows, mixed.data(), betas.data(), decays.data(), directions.data(), products.data(), blocks.data()} {}
};

// Some rows of several slots, [rows, projected_width], in one call.
struct Piece {
  int slot, row, rows;
};

struct Case {
  const Kernels &table;
  const Weights &weights;
  std::vector<std::vector<float>> projected;  // [slots][rows, projected_width]
  std::vector<State> states;
  std::vector<std::vector<bf16>> outputs;  // [slots][rows, value_width]

  Case(const Kernels &table, const Weights &weights, std::vector<std::vector<float>> inputs)
      : table(table), weights(weights), projected(std::move(inputs)) {
    for (const auto &each : projected) {
      states.emplace_back(weights.shape);
      outputs.emplace_back(each.size() / weights.shape.projected_width() * weights.shape.value_width(), bf16_nan);
    }
  }

  void run(const std::vector<Piece> &pieces) {
    const DeltaShape &shape = weights.shape;
    std::vector<float> in;
    std::vector<DeltaGroup> groups;
    int rows = 0;
    for (const auto &[slot, row, count] : pieces) {
      const float *from = projected[slot].data() + static_cast<size_t>(row) * shape.projected_width();
      in.insert(in.end(), from, from + static_cast<size_t>(count) * shape.projected_width());
      groups.push_back(states[slot].group(rows, count));
      rows += count;
    }
    const Work work(shape, rows);
    std::vector<bf16> out(static_cast<size_t>(rows) * shape.value_width() + 16, bf16_nan);
    const int count = static_cast<int>(groups.size());
    table.delta_inputs(in.data(), groups.data(), count, shape, weights.view(), work.view);
    table.delta_recur(groups.data(), count, shape, work.view);
    table.delta_outputs(in.data(), rows, shape, weights.view(), work.mixed.data(), out.data());
    for (int i = 0; i < 16; ++i) CHECK(out[out.size() - 1 - i] == bf16_nan, "%s: wrote beyond its rows", table.name);
    const bf16 *from = out.data();
    for (const auto &[slot, row, rows_of] : pieces) {
      const size_t n = static_cast<size_t>(rows_of) * shape.value_width();
      std::copy_n(from, n, outputs[slot].begin() + static_cast<size_t>(row) * shape.value_width());
      from += n;
    }
  }

  int rows(int slot) const { return static_cast<int>(projected[slot].size()) / weights.shape.projected_width(); }
  void run_whole(int slot) { run({{slot, 0, rows(slot)}}); }
};

// Rows of one slot in double precision, but for keys and queries, which are bf16 once they have been normalised.
std::vector<double> reference(const Weights &w, const std::vector<float> &projected) {
  const DeltaShape &s = w.shape;
  const int rows = static_cast<int>(projected.size()) / s.projected_width(), width = s.conv_width();
  std::vector<double> state(static_cast<size_t>(s.value_heads) * s.key_dim * s.value_dim, 0), out;
  for (int row = 0; row < rows; ++row) {
    const float *in = &projected[static_cast<size_t>(row) * s.projected_width()];
    std::vector<double> mixed(width, 0);
    for (int c = 0; c < width; ++c) {
      for (int j = 0; j < s.conv_kernel; ++j) {
        const int from = row - s.conv_kernel + 1 + j;
        if (from >= 0) mixed[c] += static_cast<double>(w.conv[j * width + c]) * projected[static_cast<size_t>(from) * s.projected_width() + c];
      }
      mixed[c] /= 1 + std::exp(-mixed[c]);
    }
    for (int h = 0; h < 2 * s.key_heads; ++h) {
      double squares = 0;
      for (int i = 0; i < s.key_dim; ++i) squares += mixed[h * s.key_dim + i] * mixed[h * s.key_dim + i];
      for (int i = 0; i < s.key_dim; ++i) {
        double &x = mixed[h * s.key_dim + i];
        x *= (h < s.key_heads ? 1 / std::sqrt(s.key_dim) : 1) / std::sqrt(squares + 1e-6);
        x = from_bf16(to_bf16(static_cast<float>(x)));
      }
    }
    const float *z = in + width, *b = z + s.value_width(), *a = b + s.value_heads;
    for (int h = 0; h < s.value_heads; ++h) {
      const double beta = 1 / (1 + std::exp(-static_cast<double>(b[h])));
      const double softplus = std::log1p(std::exp(static_cast<double>(a[h]) + w.dt_bias[h]));
      const double decay = std::exp(w.decay[h] * softplus);
      const int key_head = h / (s.value_heads / s.key_heads);
      const double *q = &mixed[key_head * s.key_dim], *k = q + s.key_width(), *v = &mixed[2 * s.key_width() + h * s.value_dim];
      std::vector<double> o(s.value_dim, 0);
      double squares = 0;
      for (int j = 0; j < s.value_dim; ++j) {
        double *column = &state[static_cast<size_t>(h) * s.key_dim * s.value_dim + j];
        double recalled = 0;
        for (int i = 0; i < s.key_dim; ++i) recalled += (column[i * s.value_dim] *= decay) * k[i];
        for (int i = 0; i < s.key_dim; ++i) o[j] += (column[i * s.value_dim] += k[i] * beta * (v[j] - recalled)) * q[i];
        squares += o[j] * o[j];
      }
      for (int j = 0; j < s.value_dim; ++j) {
        const double gate = z[h * s.value_dim + j];
        out.push_back(o[j] / std::sqrt(squares / s.value_dim + s.norm_eps) * w.norm[j] * gate / (1 + std::exp(-gate)));
      }
    }
  }
  return out;
}

void check_values(const Kernels &table, const Weights &weights, const std::vector<float> &projected) {
  Case c(table, weights, {projected});
  c.run_whole(0);
  const std::vector<double> expected = reference(weights, projected);
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double got = from_bf16(c.outputs[0][i]);
    error += (got - expected[i]) * (got - expected[i]);
    size += expected[i] * expected[i];
  }
  // The rounding of the result alone leaves about 1.7e-3; S and the changes that it takes up are rounded in products.
  CHECK(std::sqrt(error) <= 4e-3 * std::sqrt(size), "%s heads %d/%d dims %d, %d kernel %d decay %g, %d rows: relative error %g",
        table.name, weights.shape.key_heads, weights.shape.value_heads, weights.shape.key_dim, weights.shape.value_dim,
        weights.shape.conv_kernel, weights.decay[0], c.rows(0), std::sqrt(error / size));
}

// Slots beside each other, cut anywhere, on any number of threads: the bits of each alone in one call.
void check_cuts(const Kernels &table, Random &random, const Weights &weights, const std::vector<std::vector<float>> &inputs) {
  Case whole(table, weights, inputs);
  const int slots = static_cast<int>(inputs.size());
  for (int slot = 0; slot < slots; ++slot) whole.run_whole(slot);
  for (const bool single : {true, false}) {
    const Threads scope(random.integer(1, 3));
    Case parts(table, weights, inputs);
    std::vector<int> next(slots, 0);
    for (bool more = true; more;) {
      std::vector<Piece> pieces;
      more = false;
      for (int slot = 0; slot < slots; ++slot) {
        const int left = whole.rows(slot) - next[slot];
        if (left == 0) continue;
        more = true;
        if (random.integer(0, 3) == 0) continue;
        const int count = single ? 1 : std::min(left, random.integer(1, 90));
        pieces.push_back({slot, next[slot], count});
        next[slot] += count;
      }
      if (!pieces.empty()) parts.run(pieces);
    }
    for (int slot = 0; slot < slots; ++slot)
      CHECK(parts.outputs[slot] == whole.outputs[slot], "%s heads %d/%d dims %d, %d kernel %d, slot %d, single %d",
            table.name, weights.shape.key_heads, weights.shape.value_heads, weights.shape.key_dim, weights.shape.value_dim,
            weights.shape.conv_kernel, slot, single);
  }
}

// A NaN stays with its slot, and with the rows from its own on.
void check_nan(const Kernels &table, const Weights &weights, const std::vector<std::vector<float>> &inputs) {
  Case clean(table, weights, inputs);
  clean.run({{0, 0, clean.rows(0)}, {1, 0, clean.rows(1)}});
  std::vector<std::vector<float>> spoilt = inputs;
  const int row = clean.rows(0) / 2, width = weights.shape.value_width();
  // In a key: it reaches the state.
  spoilt[0][static_cast<size_t>(row) * weights.shape.projected_width() + weights.shape.key_width()] = not_a_number;
  Case c(table, weights, spoilt);
  c.run({{0, 0, c.rows(0)}, {1, 0, c.rows(1)}});
  CHECK(c.outputs[1] == clean.outputs[1], "%s: a NaN reached another slot", table.name);
  CHECK(same_bits(c.outputs[0].data(), clean.outputs[0].data(), static_cast<size_t>(row) * width), "%s: a NaN reached rows before it",
        table.name);
  CHECK(std::isnan(from_bf16(c.outputs[0].back())), "%s: a NaN was forgotten", table.name);
}

}  // namespace

int main() {
  for (const Kernels *table : kernel_tables()) {
    Random random(23);
    const auto inputs = [&](const DeltaShape &shape, int rows) {
      return random.floats(static_cast<size_t>(rows) * shape.projected_width(), 1.5f);
    };
    for (int i = 0; i < 12; ++i) {
      const int key_heads = random.integer(1, 3);
      const DeltaShape shape{key_heads, key_heads * random.integer(1, 3), random.integer(2, 50), random.integer(2, 150), random.integer(2, 8), 1e-6f};
      const Weights weights(random, shape, random.one_of({0.01f, 1.0f, 30.0f}));
      check_values(*table, weights, inputs(shape, random.integer(1, 120)));
      check_cuts(*table, random, weights, {inputs(shape, 150), inputs(shape, 7), inputs(shape, random.integer(1, 60))});
    }
    // The shapes that models have; long enough for states to be settled many times, or never.
    for (const float strength : {0.0001f, 0.3f, 200.0f}) {
      const DeltaShape shape{1, 2, 128, 128, 4, 1e-6f};
      const Weights weights(random, shape, strength);
      check_values(*table, weights, inputs(shape, 1500));
      check_cuts(*table, random, weights, {inputs(shape, 600), inputs(shape, 130)});
      check_nan(*table, weights, {inputs(shape, 40), inputs(shape, 30)});
    }
  }
  return check_result();
}
