// propose_ngram: drafts what followed the last tokens when they occurred before.
#include "cuda/block.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "device/rules.h"

namespace specrt::cuda {

namespace {

constexpr unsigned kThreads = 1024;

// The best match that ends before `end`, as length << 32 | its end: the longest, then the latest.
__device__ __forceinline__ Word best_match(const Cell<int32_t>* tok, int32_t end, int32_t longest) {
  Word best = 0;
  for (int32_t stop = threadIdx.x; stop < end; stop += blockDim.x) {
    const int32_t most = min_i32(longest, stop);
    int32_t same = 0;
    while (same < most && tok[stop - 1 - same] == tok[end - 1 - same]) ++same;
    const Word match = static_cast<Word>(same) << 32 | static_cast<uint32_t>(stop);
    if (match > best) best = match;
  }
  return best;
}

}  // namespace

// propose_ngram: device/rules.h's function of this name, looked up side by side, and
//   note_sure_drafts
// tok (context) of the sequence; the draft goes to tok[E ..], and to probabilities.sure (slots)
//   where the rule is not `exact`
// grid 1, block 1024: each thread looks at every 1024th end of a match
// moves 4 bytes a token of context from L2, a little more where tokens match; latency bound
// integers: equal to device/rules.h
// needs plan.shortest >= 1
__global__ void __launch_bounds__(kThreads)
    propose_ngram_kernel(const __grid_constant__ ProposeNgramArgs args) {
  SPECRT_SHARED(BlockShared, shared);
  pdl_launch();
  pdl_wait();
  Cells& cells = *args.sequence.cells;
  Cell<int32_t>* tok = args.sequence.tok;
  const ProbabilityRows& rows = args.sequence.probabilities;
  const int32_t end = cells.committed - 1 + cells.tail;
  const int32_t room = ngram_room(cells, args.plan);
  const Word best = room > 0 ? best_match(tok, end, args.plan.longest) : 0;
  const Word found = block_max(best, shared);
  const bool drafts = static_cast<int32_t>(found >> 32) >= args.plan.shortest;
  if (threadIdx.x == 0) {
    cells.drafted = drafts ? room : 0;
    cells.snap_count = 0;
  }
  if (!drafts) return;
  // Past the end the copy goes on into its own beginning, so it repeats what lies between.
  const auto stop = static_cast<int32_t>(found & 0xffffffffu);
  for (int32_t i = threadIdx.x; i < room; i += blockDim.x) {
    const int32_t token = tok[stop + i % (end - stop)];
    tok[end + i] = token;
    if (cells.rule != Rule::exact) rows.sure[(end + i) % rows.slots] = token;
  }
}

void propose_ngram(cudaStream_t stream, const ProposeNgramArgs& args) {
  SPECRT_CHECK(args.plan.shortest >= 1, "propose_ngram: a shortest match of ", args.plan.shortest,
               " tokens; it must be at least 1");
  launch(stream, propose_ngram_kernel, 1, kThreads, 0, args, {.pdl = true});
}

}  // namespace specrt::cuda
