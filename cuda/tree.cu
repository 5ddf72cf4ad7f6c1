// pick_candidates, judge_tree: trees of drafts, chosen and judged.
#include <algorithm>

#include "cuda/adjust.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/logprobs.cuh"
#include "cuda/pick.cuh"
#include "cuda/publish.cuh"
#include "device/candidates.h"
#include "device/rules.h"

namespace specrt::cuda {

namespace {

// At most; more would leave too few registers for what goes round the choices.
constexpr unsigned kTreeThreads = 512;

unsigned tree_threads(int32_t vocab) { return std::min(kTreeThreads, pick_threads(vocab)); }

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

// pick_candidates: candidate[l][0] = what pick_draft chooses for the position of list l, then the
//   others by value / temperature + noise, without filters; penalties count the tokens before the
//   draft. Of masks the first ones go to tok; of a tree all ranks go to the children of a row, and
//   behind row 0 the steps are planned; with streams, tree.levels says how many lists there are
// logits (n,v) f32, rows padded to lines; scratch as pick_scratch.h says
// grid the lists, block tree_threads(v): a block per list. Behind row 0 of a tree there is one, so
//   none other reads the span that it writes
// moves v/2 bytes a candidate behind a head that left its keys, else 4v
// the candidates only say what is verified, so no two backends need to agree on them
// needs v < 2^22 and a scratch of pick_scratch(v) bytes (checked at launch)
__global__ void __launch_bounds__(kTreeThreads, 1)
    pick_candidates_kernel(const __grid_constant__ PickCandidatesArgs args) {
  SPECRT_SHARED(PickShared, shared);
  pdl_launch();
  pdl_wait();
  const Cells& cells = *args.sequence.cells;
  const CandidateLists lists = candidate_lists(args);
  const auto i = static_cast<int32_t>(blockIdx.x);
  if (args.streams != nullptr && i == 0 && threadIdx.x == 0) {
    args.sequence.tree->levels = lists.count;
  }
  if (args.tree != nullptr && args.depth == 0) {
    sync_block();  // all threads have read the span
    if (threadIdx.x == 0) begin_depths(cells, *args.tree, *args.span, args.token_shift);
  }
  if (i >= lists.count) return;
  const int32_t position = lists.position + i * lists.stride;
  const int32_t r = args.first_row + lists.row + i;
  const float* logits = args.logits.row<float>(r);
  const int32_t known = args.streams == nullptr ? draft_position(cells, 0) : lists.position;
  const float* adjusted =
      adjust(args.sequence, logits, args.vocab, known, adjust_scratch(args.scratch, args.vocab, i));
  const RowKeys keys = adjusted == logits ? head_keys(args.scratch, args.vocab, r) : RowKeys{};
  const int32_t list = lists.first + i;
  TreeCells& tree = *args.sequence.tree;
  const int32_t first = pick(adjusted, keys, args.vocab, cells, position, shared);
  if (threadIdx.x == 0) {
    tree.candidate[list][0] = first;
    // The best of masks stand for these among the tokens.
    if (args.tree == nullptr && args.streams == nullptr) args.sequence.tok[position] = first;
  }
  const float temperature = cells.sampling.temperature;
  const bool noise = temperature != 0.0f;
  const Values values{adjusted, args.vocab, noise ? temperature : 1.0f};
  Word bound = kNoBound;
  for (int32_t rank = 1; rank < kTreeWidth;) {
    const Word best =
        block_max(next_best(values, keys, noise, cells, position, bound), shared.block);
    bound = best;
    const int32_t id = best == 0 ? first : id_of(best);  // none left: the first again
    if (best != 0 && id == first) continue;
    if (threadIdx.x == 0) tree.candidate[list][rank] = id;
    ++rank;
  }
  if (args.tree != nullptr && threadIdx.x == 0) place_children(tree, *args.tree, list);
}

// judge_tree: rule `exact` on a tree: chooses from the rows that the target's tokens lead to, few
//   of many, one after another; commit and write_log of rules.h
// logits, scratch, cells and log as judge has them; shape and tree of the sequence
// grid 1, block tree_threads(v): all threads walk, the first one writes
// moves for each row on the way what judge moves for one; latency bound
// the CPU backend's tokens (see pick.cuh), its log-probabilities within 1e-6
// needs v < 2^22 and a scratch of pick_scratch(v) bytes (checked at launch)
__global__ void __launch_bounds__(kTreeThreads, 1)
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
  launch(stream, pick_candidates_kernel, static_cast<unsigned>(args.lists),
         tree_threads(args.vocab), 0, args, {.pdl = true});
}

void judge_tree(cudaStream_t stream, const JudgeArgs& args) {
  check_pick("judge", args.scratch, args.vocab);
  launch(stream, judge_tree_kernel, 1, tree_threads(args.vocab), 0, args, {.pdl = true});
}

}  // namespace specrt::cuda
