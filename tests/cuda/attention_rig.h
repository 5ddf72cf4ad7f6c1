// A step of attention on made-up caches: its inputs, running the op, and what the contract says of
// each row, computed by plain loops.
#pragma once

#include <optional>
#include <random>

#include "cuda/kernels.h"
#include "rig.h"

namespace specrt::cuda {

// One sequence of a step. Keys and values are (g,slots,e), all slots finite at first.
struct AttentionSequence {
  int32_t base = 0;
  int32_t rows = 0;
  std::vector<uint64_t> sees;  // of each row; empty: a chain
  std::vector<bf16_bits> keys;
  std::vector<bf16_bits> values;
};

struct AttentionShape {
  int32_t heads = 4;
  int32_t kv_heads = 1;
  int32_t dim = 64;
  int32_t slots = 256;
  int32_t window = 0;
  int32_t capacity = 1;
};

class AttentionStep {
 public:
  AttentionStep(const AttentionShape& shape, size_t sequences, uint64_t seed);

  AttentionShape shape;
  std::vector<AttentionSequence> sequences;
  std::vector<bf16_bits> q;  // (n,he)
  float scale = 0.3f;
  int32_t positions = 0;  // 0: all slots
  RowSelect select = RowSelect::all;

  bf16_bits* query(size_t row) { return q.data() + row * query_values(); }
  bf16_bits* key(size_t sequence, int32_t head, int32_t slot) {
    return sequences[sequence].keys.data() + at(head, slot);
  }
  bf16_bits* value(size_t sequence, int32_t head, int32_t slot) {
    return sequences[sequence].values.data() + at(head, slot);
  }
  size_t query_values() const { return static_cast<size_t>(shape.heads * shape.dim); }

  // Copies a row with its query, keys and values: of sequence `from`, row `i`, to slot base + j of
  // sequence `to` of another step of the same shape.
  void copy_row(size_t from, int32_t i, AttentionStep& other, size_t to, int32_t j) const;

  // Runs the op; (n,he), kUntouched where nothing was written.
  std::vector<bf16_bits> run(Rig& rig) const;

  // The output of a head by the contract, bit for bit, with the sums of an mma ascending.
  std::vector<bf16_bits> exact(size_t sequence, int32_t row, int32_t head) const;
  // The same in double: softmax(scale q . K) V.
  std::vector<double> ideal(size_t sequence, int32_t row, int32_t head) const;

  static constexpr bf16_bits kUntouched = 0x7b7b;

 private:
  size_t at(int32_t head, int32_t slot) const {
    return static_cast<size_t>((head * shape.slots + slot) * shape.dim);
  }
  // Slots of the logical positions that a row sees, and the first position of its window.
  std::vector<int32_t> path(size_t sequence, int32_t row) const;
  size_t window_begin(size_t length) const;
};

// Output values of row `row`, of those that run() gave.
std::vector<bf16_bits> row_of(const AttentionStep& step, const std::vector<bf16_bits>& out,
                              size_t row);

}  // namespace specrt::cuda
