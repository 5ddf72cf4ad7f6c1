#include "decode/logits.h"

#include <algorithm>

#include "base/error.h"

namespace specrt {

std::vector<float> read_logits(Lane& lane, std::span<const int32_t> tokens, int32_t rows) {
  if (rows < 1 || rows > kMaxStepRows) {
    fail_argument("rows must be in [1, ", kMaxStepRows, "], not ", rows);
  }
  check_tokens(tokens, lane.model().vocab());
  lane.sequence(0).begin(lane.stream(), {.prompt = tokens}, {});
  const RowsView logits = lane.model().logits();
  const auto vocab = static_cast<size_t>(lane.model().vocab());
  const auto count = static_cast<int32_t>(tokens.size());
  std::vector<float> result(tokens.size() * vocab);
  for (int32_t begin = 0; begin < count; begin += rows) {
    const int32_t fed = std::min(rows, count - begin);
    lane.enqueue_prompt_chunk(0, begin, fed, Head::all);
    for (int32_t i = 0; i < fed; ++i) {
      lane.backend().copy_to_host(lane.stream(),
                                  {.host = result.data() + static_cast<size_t>(begin + i) * vocab,
                                   .device = logits.row<const std::byte>(i),
                                   .bytes = vocab * sizeof(float)});
    }
  }
  lane.stream().record().wait();
  return result;
}

}  // namespace specrt
