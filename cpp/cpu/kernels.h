// What every instruction set provides: one table of functions. Kernels get the existing rows as a
// list and know no cells. They are compiled with the flags of their instruction set, so nothing but
// kernels may live in those files (see kernels.inl.h).
#pragma once

#include <array>
#include <cstdint>

#include "cpu/team.h"
#include "device/ops.h"

namespace specrt::cpu {

// One existing row of a step, as read from cells when the op runs.
struct Row {
  int32_t row;  // index in every activation
  int32_t segment;
  int32_t position;
  int32_t base;  // length of the cached prefix
  int32_t slot;  // KV slot of this row
  int32_t token;
  uint64_t sees;  // bits of the new rows that this row sees; bit j stands for slot base + j
};

struct RowList {
  int32_t count = 0;
  std::array<Row, kMaxStepRows> rows;
};

struct Kernels {
  const char* isa;
  void (*embed)(const EmbedArgs& args, const RowList& rows);
  void (*rope_angles)(const RopeAnglesArgs& args, const RowList& rows);
  void (*rms_norm)(const RmsNormArgs& args, const RowList& rows, Team& team);
  void (*linear)(const LinearArgs& args, const RowList& rows, Team& team);
  void (*rope_kv)(const RopeKvArgs& args, const RowList& rows, Team& team);
  void (*attention)(const AttentionArgs& args, const RowList& rows, Team& team);
  int32_t (*argmax)(const float* logits, int32_t vocab);
  int32_t (*argmax_noisy)(const float* logits, int32_t vocab, float temperature, uint64_t seed,
                          uint32_t position);
};

namespace portable {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512bf16 {
extern const Kernels kernels;
}

}  // namespace specrt::cpu
