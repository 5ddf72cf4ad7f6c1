// Which ops of a plan do the work of their neighbours, on a backend that joins ops: norms without a
// pass of their own, and products whose queries, keys and values are rotated and cached at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/format.h"

namespace specrt {

struct Plan;

// What one op does besides; ids of ops.
struct Joint {
  int32_t gain_of = format::kNone;    // the norm that reads what this op produces
  int32_t factor_of = format::kNone;  // the norm whose output this op would read
  int32_t rope = format::kNone;       // the rope_kv that would read this op's output
  bool left_out = false;              // others do its work
};

class Joints {
 public:
  Joints() = default;                 // every op by itself
  explicit Joints(const Plan& plan);  // all that can be joined; the plan has been validated

  Joint of(size_t op) const { return op < joints_.size() ? joints_[op] : Joint{}; }

 private:
  void join_norm(const Plan& plan, int32_t norm);
  void join_rope(const Plan& plan, int32_t rope);

  std::vector<Joint> joints_;
  int32_t last_reader_ = -1;  // of the norms joined so far, which share their memory
};

}  // namespace specrt
