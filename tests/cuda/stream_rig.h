// Trees and the streams of their rows, for tests of the ops that plan, make and read them.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "cuda/kernels.h"
#include "decode/draft_tree.h"
#include "sequence_rig.h"
#include "step_rig.h"

namespace specrt::cuda {

// A tree of `rows` rows, random but for that.
inline TreeShape draw_tree(Dice& dice, int32_t rows, int32_t most_depth) {
  std::vector<DraftNode> nodes{{}};
  for (int32_t row = 1, begin = 0, end = 1; row < rows; ++row) {  // parents: [begin, end)
    const bool deeper = dice.one_in(6) && nodes.back().depth < most_depth && row > end;
    if (deeper) begin = end;
    if (deeper) end = row;
    const int32_t parent = dice.between(begin, end - 1);
    nodes.push_back({.parent = parent,
                     .depth = nodes[static_cast<size_t>(parent)].depth + 1,
                     .rank = dice.between(0, kTreeWidth - 1)});
  }
  return shape_of(nodes);
}

// What a sequence has of a step with streams. Copied as bytes.
struct StreamMemory {
  StepSpan span;
  TreeCells tree;
  StreamingShape shape;
  StreamingCells cells;

  // A tree that this step verifies, of tokens below `vocab`.
  void draw(Dice& dice, int32_t rows, int32_t vocab) {
    shape.tree = draw_tree(dice, rows, 4);
    shape.streams = dice.between(1, 5);
    shape.kept = dice.between(1, kMaxStepRows / (1 + shape.streams));
    span.base = dice.between(0, 200);
    span.rows = rows;
    for (auto& candidates : tree.candidate) {
      for (Cell<int32_t>& token : candidates) token = dice.between(0, vocab - 1);
    }
    for (Cell<int32_t>& token : tree.token) token = dice.between(0, vocab - 1);
  }

  Segment segment() {
    return {.span = &span,
            .sees = shape.tree.sees,
            .depth = shape.tree.depth,
            .row_tokens = tree.token,
            .streams = {.cells = &cells, .tree = &tree, .shape = &shape}};
  }
  Segment prompt() { return {.span = &span, .streams = {.cells = &cells, .tree = &tree}}; }
};

// Memory that the device and the host see.
template <typename T>
class Pinned {
 public:
  Pinned() {
    void* memory = nullptr;
    CUDA_CHECK(cudaHostAlloc(&memory, sizeof(T), cudaHostAllocMapped));
    std::memset(memory, 0, sizeof(T));
    data_.reset(static_cast<T*>(memory));
  }
  T& operator*() const { return *data_; }
  T* operator->() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const { (void)cudaFreeHost(memory); }
  };
  std::unique_ptr<T, Free> data_;
};

template <typename T>
void copy_bytes(T& to, const T& from) {
  std::memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof(T));
}
template <typename T>
bool same_bytes(const T& a, const T& b) {
  return std::memcmp(static_cast<const void*>(&a), static_cast<const void*>(&b), sizeof(T)) == 0;
}

// A step of these segments, `capacity` rows each.
inline StepRows step_of(std::initializer_list<Segment> segments, int32_t capacity) {
  StepRows step;
  step.capacity = capacity;
  for (const Segment& segment : segments) {
    step.segments[static_cast<size_t>(step.segment_count++)] = segment;
  }
  return step;
}

}  // namespace specrt::cuda
