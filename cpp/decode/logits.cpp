#include "decode/logits.h"

#include <algorithm>

#include "base/error.h"

namespace specrt {
namespace {

// Feeds rows [0, count) of a sequence that has begun; the logits of row i go to result row i.
void feed(Lane& lane, int32_t count, int32_t rows, float* result) {
  const RowsView logits = lane.model().logits();
  const auto vocab = static_cast<size_t>(lane.model().vocab());
  const int32_t most = std::min(rows, lane.prompt_rows());
  for (int32_t begin = 0; begin < count; begin += most) {
    const int32_t fed = std::min(most, count - begin);
    lane.enqueue_prompt_chunk(0, begin, fed, Head::all);
    for (int32_t i = 0; i < fed; ++i) {
      lane.backend().copy_to_host(lane.stream(),
                                  {.host = result + static_cast<size_t>(begin + i) * vocab,
                                   .device = logits.row<const std::byte>(i),
                                   .bytes = vocab * sizeof(float)});
    }
  }
  lane.stream().record().wait();
}

}  // namespace

std::vector<float> read_logits(Lane& lane, std::span<const int32_t> tokens, int32_t rows) {
  if (rows < 1 || rows > kMaxStepRows) {
    fail_argument("rows must be in [1, ", kMaxStepRows, "], not ", rows);
  }
  check_tokens(tokens, lane.model().vocab());
  lane.sequence(0).begin(lane.stream(), {.prompt = tokens}, {});
  std::vector<float> result(tokens.size() * static_cast<size_t>(lane.model().vocab()));
  feed(lane, static_cast<int32_t>(tokens.size()), rows, result.data());
  return result;
}

std::vector<float> read_stream_logits(Lane& lane, std::span<const int32_t> tokens) {
  if (lane.streams() == 0) fail_argument("the target does not draft with streams");
  check_tokens(tokens, lane.model().vocab());
  lane.sequence(0).begin(lane.stream(), {.prompt = tokens}, {});
  const int32_t most = std::min(kMaxStepRows, lane.prompt_rows());
  const auto count = static_cast<int32_t>(tokens.size());
  int32_t begin = 0;
  for (; count - begin > most; begin += most) {
    lane.enqueue_prompt_chunk(0, begin, most, Head::none);
  }
  lane.enqueue_prompt_chunk(0, begin, count - begin, Head::last);
  const auto vocab = static_cast<size_t>(lane.model().vocab());
  const auto rows = static_cast<size_t>(1 + lane.streams());
  std::vector<float> result(rows * vocab);
  for (size_t i = 0; i < rows; ++i) {
    const int32_t row = count - begin - 1 + static_cast<int32_t>(i);
    lane.backend().copy_to_host(lane.stream(),
                                {.host = result.data() + i * vocab,
                                 .device = lane.model().logits().row<const std::byte>(row),
                                 .bytes = vocab * sizeof(float)});
  }
  lane.stream().record().wait();
  return result;
}

std::vector<float> read_pair_logits(Lane& target, Lane& drafter, std::span<const int32_t> tokens,
                                    int32_t rows) {
  const auto is_mask = [&](int32_t token) { return token == drafter.model().mask_token(); };
  const auto last = std::find_if_not(tokens.rbegin(), tokens.rend(), is_mask);
  const auto masks = static_cast<size_t>(last - tokens.rbegin());
  const std::span<const int32_t> known = tokens.first(tokens.size() - masks);
  if (known.size() < 2) fail_argument("a pair needs two tokens before the masks");
  read_logits(target, known, rows);
  drafter.sequence(0).begin(drafter.stream(),
                            {.prompt = tokens, .masks = static_cast<int32_t>(masks)}, {});
  const auto vocab = static_cast<size_t>(drafter.model().vocab());
  std::vector<float> result(tokens.size() * vocab);
  feed(drafter, static_cast<int32_t>(tokens.size()) - 1, rows, result.data() + vocab);
  return result;
}

}  // namespace specrt
