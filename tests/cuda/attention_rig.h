// A step of attention on made-up caches: its inputs, running the op, and what the contract says of
// each row, computed by plain loops.
#pragma once

#include <limits>
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

// (m, l, o) of some positions.
struct Partial {
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0f;
  std::vector<float> o;
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
  TreeShape tree{};  // of RowSelect::parents, in every sequence
  int32_t depth = 0;

  size_t query_values() const { return static_cast<size_t>(shape.heads * shape.dim); }

  // Takes over the keys and values of a slot, or a query, from a step with the same heads.
  void copy_slot(const AttentionStep& from, size_t sequence, int32_t slot, size_t to_sequence,
                 int32_t to_slot);
  void copy_query(const AttentionStep& from, size_t row, size_t to_row);

  // Makes every value of a slot, or of a query, `bits`.
  void fill_slot(size_t sequence, int32_t slot, bf16_bits bits);
  void fill_query(size_t row, bf16_bits bits);

  // Runs the op; (n,he), kUntouched where nothing was written. `partials`: (n,h,splits,e) of o,
  // then (n,h,splits,2) of m and l.
  std::vector<bf16_bits> run(Rig& rig, std::vector<float>* partials = nullptr) const;

  // The splits and the output of a head by the contract, bit for bit, with the sums of an mma
  // ascending.
  std::vector<Partial> exact_splits(size_t sequence, int32_t row, int32_t head) const;
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
