// What must hold of the shape of every planned tree.
#pragma once

#include <doctest/doctest.h>

#include "device/tree.h"

namespace specrt::testing {

// One of two rows or more, no deeper than `depth`.
inline void check_shape(const TreeShape& shape, int32_t depth) {
  REQUIRE_GE(shape.rows, 2);
  REQUIRE_LE(shape.rows, kMaxStepRows);
  int32_t children[kMaxStepRows] = {};
  for (int32_t row = 1; row < shape.rows; ++row) ++children[shape.parent[row]];
  for (int32_t row = 0; row < shape.rows; ++row) {
    const int32_t place = row - shape.begin[shape.depth[row]];
    CHECK_GE(place, 0);
    CHECK_LT(row, shape.begin[shape.depth[row] + 1]);
    CHECK_EQ(place<shape.parents[shape.depth[row]], children[row]> 0);
  }
  for (int32_t row = 1; row < shape.rows; ++row) {
    const int32_t parent = shape.parent[row];
    REQUIRE_LT(parent, row);
    CHECK_EQ(shape.depth[row], shape.depth[parent] + 1);
    CHECK_LE(shape.depth[row], depth);
    CHECK_GE(shape.depth[row], shape.depth[row - 1]);
    CHECK_EQ(shape.sees[row], (shape.sees[parent] | uint64_t{1} << row));
    for (int32_t other = 1; other < row; ++other) {
      CHECK_FALSE((shape.parent[other] == parent && shape.rank[other] == shape.rank[row]));
    }
  }
}

}  // namespace specrt::testing
