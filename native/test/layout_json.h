// How a scheduler lays out a model's memory, as JSON: segments between drop layers, tables, slabs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory/layout.h"
#include "random_model.h"

struct LayoutChoice {
  std::vector<int32_t> drop_layers;
  int page_size = 64;
  int layers_per_slab = 1;
};

// Segment by segment full tables before sliding ones, one for each width of their rows; then the carries. A slab has room for
// `layers_per_slab` layers of the widest rows, and for more of others; carry pages take as many as they need, so that a row may
// lie across two.
up::Layout make_layout(const RandomModel &m, const LayoutChoice &choice, const up::ElementBytes &elements = {});

std::string layout_json(const up::Layout &layout);
