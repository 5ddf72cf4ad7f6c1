// pick_candidates, judge_tree: trees of drafts, chosen and judged.
#include <algorithm>

#include "cuda/adjust.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/logprobs.cuh"
#include "cuda/pick.cuh"
#include "cuda/publish.cuh"
#include "device/rules.h"

namespace specrt::cuda {

namespace {

constexpr unsigned kWalkThreads = 512;  // more would leave too few registers for the walk

// The best key below `bound` for one of kTreeWidth candidates. Where the head left its keys, the
// best of every 16 tokens come into question.
__device__ __forceinline__ Word next_best(const Values& values, const RowKeys& keys, bool noise,
                                          const Cells& cells, int32_t position, Word bound) {
  Word best = 0;
  if (keys.chosen != nullptr) {
    for (int32_t i = threadIdx.x; i < keys.count; i += blockDim.x) {
      if (keys.chosen[i] < bound && keys.chosen[i] > best) best = keys.chosen[i];
    }
    return best;
  }
  if (!noise) return best_below(values, bound);
  const uint64_t seed = cells.seed;
  each_token(values, [&](int32_t id, float value) {
    const float gumbel = token_gumbel(seed, static_cast<uint32_t>(position), Purpose::token,
                                      static_cast<uint32_t>(id), 0);
    const Word key = key_of(value + gumbel, id);
    if (key < bound && key > best) best = key;
  });
  return best;
}

// The rows of a step that candidates are chosen from, and the position of the first.
struct CandidateRows {
  int32_t depths;
  int32_t row;
  int32_t position;
};

__device__ __forceinline__ CandidateRows candidate_rows(const PickCandidatesArgs& args) {
  const Cells& cells = *args.sequence.cells;
  if (args.streams != nullptr) {
    const int32_t depths = min_i32(args.depths, streamed_levels(cells, *args.streams));
    if (depths <= 0) return {0, 0, 0};
    return {depths, candidate_row(*args.sequence.tree, *args.streams, 0), cells.committed};
  }
  return {min_i32(args.depths, cells.snap_count),
          draft_row(cells, *args.span, 0, Drafting::at_once), draft_position(cells, 0)};
}

struct StoreByFirst {
  __device__ void operator()(Cell<int32_t>& cell, int32_t value) const {
    if (threadIdx.x == 0) cell = value;
  }
};

// The target's token at `position` from row `row` of the step, in every thread.
__device__ __forceinline__ int32_t choose(const JudgeArgs& args, int32_t row, int32_t position,
                                          PickShared& shared) {
  const SequenceCells& sequence = args.sequence;
  const Cells& cells = *sequence.cells;
  sync_block();  // the tokens before `position` are there
  const int32_t r = args.first_row + row;
  const float* logits = args.logits.row<float>(r);
  const float* adjusted =
      adjust(sequence, logits, args.vocab, position, adjust_scratch(args.scratch, args.vocab, 0));
  const int32_t token =
      pick(adjusted, adjusted == logits ? head_keys(args.scratch, args.vocab, r) : RowKeys{},
           args.vocab, cells, position, shared);
  if (cells.logprobs > 0) {
    LogprobEntry& entry = sequence.logprobs[cells.round % sequence.log_slots];
    log_probabilities(logits, args.vocab, token, min_i32(cells.logprobs - 1, args.vocab - 1),
                      entry.tokens[position - cells.committed], shared.block);
  }
  return token;
}

}  // namespace

// pick_candidates: candidate[d][0] = what pick_draft chooses for depth d, then the others by value
// /
//   temperature + noise, without filters; penalties count the tokens before the draft. A draft's
//   first ones go to tok; with streams, tree.levels says how many depths there are
// logits (n,v) f32, rows padded to lines; scratch as pick_scratch.h says
// grid the depths, block pick_threads(v): a block per depth
// moves v/2 bytes a candidate behind a head that left its keys, else 4v
// the candidates only say what is verified, so no two backends need to agree on them
// needs v < 2^22 and a scratch of pick_scratch(v) bytes (checked at launch)
__global__ void __launch_bounds__(kPickThreads)
    pick_candidates_kernel(const __grid_constant__ PickCandidatesArgs args) {
  SPECRT_SHARED(PickShared, shared);
  pdl_launch();
  pdl_wait();
  const Cells& cells = *args.sequence.cells;
  TreeCells& tree = *args.sequence.tree;
  const CandidateRows rows = candidate_rows(args);
  const auto depth = static_cast<int32_t>(blockIdx.x);
  if (args.streams != nullptr && depth == 0 && threadIdx.x == 0) tree.levels = rows.depths;
  if (depth >= rows.depths) return;
  const int32_t position = rows.position + depth;
  const int32_t r = args.first_row + rows.row + depth;
  const float* logits = args.logits.row<float>(r);
  const float* adjusted = adjust(args.sequence, logits, args.vocab, rows.position,
                                 adjust_scratch(args.scratch, args.vocab, depth));
  const RowKeys keys = adjusted == logits ? head_keys(args.scratch, args.vocab, r) : RowKeys{};
  int32_t picked[kTreeWidth];
  picked[0] = pick(adjusted, keys, args.vocab, cells, position, shared);
  const float temperature = cells.sampling.temperature;
  const bool noise = temperature != 0.0f;
  const Values values{adjusted, args.vocab, noise ? temperature : 1.0f};
  Word bound = kNoBound;
  for (int32_t rank = 1; rank < kTreeWidth;) {
    const Word best =
        block_max(next_best(values, keys, noise, cells, position, bound), shared.block);
    bound = best;
    const int32_t id = best == 0 ? picked[0] : id_of(best);  // none left: the first again
    if (best != 0 && id == picked[0]) continue;
    picked[rank++] = id;
  }
  if (threadIdx.x != 0) return;
  keep_candidates(tree, depth, picked);
  if (args.streams == nullptr) args.sequence.tok[position] = picked[0];
}

// judge_tree: rule `exact` on a tree: chooses from the rows that the target's tokens lead to, few
//   of many, one after another; commit and write_log of rules.h
// logits, scratch, cells and log as judge has them; shape and tree of the sequence
// grid 1, block pick_threads(v), at most 512: all threads walk, the first one writes
// moves for each row on the way what judge moves for one; latency bound
// the CPU backend's tokens (see pick.cuh), its log-probabilities within 1e-6
// needs v < 2^22 and a scratch of pick_scratch(v) bytes (checked at launch)
__global__ void __launch_bounds__(kWalkThreads, 1)
    judge_tree_kernel(const __grid_constant__ JudgeArgs args) {
  SPECRT_SHARED(PickShared, shared);
  pdl_launch();
  pdl_wait();
  const SequenceCells& sequence = args.sequence;
  const Cells& cells = *sequence.cells;
  Verdict verdict;
  if (running(cells)) {
    verdict = walk_tree(
        cells, sequence.tok, *sequence.tree, *args.tree, min_i32(args.span->rows, args.tree->rows),
        [&](int32_t row, int32_t position) { return choose(args, row, position, shared); },
        StoreByFirst{});
  } else {
    StoreByFirst{}(sequence.tree->path_length, 0);
  }
  sync_block();  // no thread reads cells any more
  if (threadIdx.x == 0) commit(sequence, verdict, PublishToHost{});
}

void pick_candidates(cudaStream_t stream, const PickCandidatesArgs& args) {
  check_pick("pick_candidates", args.scratch, args.vocab);
  launch(stream, pick_candidates_kernel, static_cast<unsigned>(args.depths),
         pick_threads(args.vocab), 0, args, {.pdl = true});
}

void judge_tree(cudaStream_t stream, const JudgeArgs& args) {
  check_pick("judge", args.scratch, args.vocab);
  const unsigned threads = std::min(kWalkThreads, pick_threads(args.vocab));
  launch(stream, judge_tree_kernel, 1, threads, 0, args, {.pdl = true});
}

}  // namespace specrt::cuda
