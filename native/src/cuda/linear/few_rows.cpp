#include "cuda/linear/few_rows.h"

#include "cuda/linear/few_rows_launch.h"

namespace up::cuda {
namespace {

// As many blocks as keep some 132 multiprocessors busy, each with at least eight tiles of K.
int splits_of(int n, int blocks) {
  int splits = 1;
  while (splits < 8 && (n + 63) / 64 * splits < 264 && blocks / (2 * splits) >= 8) splits *= 2;
  return splits;
}

// Of K that a block's 128 bytes hold.
int width_of(const Matrix &weights) { return weights.scales != nullptr ? 128 : 64; }

up_status multiply(const Product *p, void *stream, up_backend_error *error) {
  const Matrix &w = *p->weights;
  const int blocks = w.k / width_of(w);
  const FewRowsArguments arguments{p->out, p->out_stride, w.bias, p->rows, w.n, blocks, splits_of(w.n, blocks), p->accumulate, w.scales, p->in_scales};
  return launch_few_rows(arguments, {w.data, p->in, w.scales != nullptr ? p->in_stride / 2 : p->in_stride}, p->out_f32, static_cast<cudaStream_t>(stream), error);
}

}  // namespace

bool takes_few_rows(const Product &p) {
  if ((p.in_scales != nullptr) != (p.weights->scales != nullptr)) return false;
  return p.rows <= most_few_rows && p.weights->k % width_of(*p.weights) == 0 && p.weights->n % 8 == 0 && p.in_stride % (p.in_scales != nullptr ? 16 : 8) == 0 && p.out_stride % 8 == 0 &&
         !(p.out_f32 && (p.accumulate || p.weights->bias != nullptr || p.weights->scales != nullptr));
}

void multiply_few_rows(Device &device, const Product &product) { device.run(multiply, &product); }

}  // namespace up::cuda
