// pick_draft and judge under the rules `rejection` and `block`.
#include "cuda/adjust.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/logprobs.cuh"
#include "cuda/publish.cuh"
#include "cuda/rejection.cuh"
#include "cuda/rejection.h"
#include "cuda/verdict.cuh"

namespace specrt::cuda {

namespace {

struct RejectionShared {
  PickShared pick;
  DrawShared draw;
};

void check_probabilities(const char* op, const ProbabilityRows& rows, int32_t vocab) {
  SPECRT_CHECK(rows.vocab == vocab, op, ": a vocabulary of ", vocab,
               ", but room for the probabilities of ", rows.vocab);
}

// Logs the tokens of a verdict with the probabilities that the model gave them.
__device__ __forceinline__ void log_verdict(const JudgeArgs& args, const Verdict& verdict,
                                            int32_t first_row, BlockShared& shared) {
  const Cells& cells = *args.sequence.cells;
  const int32_t most = min_i32(cells.logprobs - 1, args.vocab - 1);
  LogprobEntry& entry = args.sequence.logprobs[cells.round % args.sequence.log_slots];
  for (int32_t i = 0; i < verdict.count; ++i) {
    log_probabilities(args.logits.row<float>(first_row + i), args.vocab, verdict.tokens[i], most,
                      entry.tokens[i], shared);
  }
}

}  // namespace

// draw_draft: tok[draft_position] drawn from the probabilities of the segment's logits (draft_row),
//   which are kept in their row of probabilities.draft
// logits (n,v) f32, rows padded to lines; probabilities.draft (slots,v) f32; scratch as
//   pick_scratch.h says, of which row 0 is used
// grid 1, block pick_threads(v)
// moves 4v bytes a pass from L2: 3 passes, about 8 more with filters, and 2 over what is kept
// probabilities within an ulp of the CPU backend's (see rejection.cuh)
// needs v < 2^22, a scratch of pick_scratch(v) bytes, room for v (checked at launch)
__global__ void __launch_bounds__(kPickThreads)
    draw_draft_kernel(const __grid_constant__ PickDraftArgs args) {
  SPECRT_SHARED(RejectionShared, shared);
  pdl_launch();
  pdl_wait();
  Cells& cells = *args.sequence.cells;
  if (cells.rule == Rule::exact) return;
  int32_t token = 0;
  if (drafts(cells, args.index)) {
    const ProbabilityRows& rows = args.sequence.probabilities;
    const int32_t position = draft_position(cells, args.index), slot = position % rows.slots;
    const int32_t r = args.first_row + draft_row(cells, *args.span, args.index, args.drafting);
    float* kept = rows.draft + static_cast<int64_t>(slot) * rows.vocab;
    const float* adjusted = adjust(args.sequence, args.logits.row<float>(r), args.vocab, position,
                                   adjust_scratch(args.scratch, args.vocab, 0));
    row_probabilities(adjusted, args.vocab, cells.sampling, kept, shared.pick);
    sync_block();
    token = BlockDraws(cells.seed, shared.draw)
                .draw(draft_key(cells, position), args.vocab,
                      [&](int32_t id) { return static_cast<double>(kept[id]); });
    if (threadIdx.x == 0) rows.sure[slot] = -1;
  }
  if (threadIdx.x != 0) return;
  finish_draft_step(cells, args.sequence.tok, *args.span, args.index, args.drafting,
                    args.token_shift, token);
}

// judge_by_probabilities: probabilities.target[i] of the row of tail[i]; then walk_rejection of
//   device/rejection.h, commit and write_log of device/rules.h
// logits (n,v) f32, rows padded to lines; probabilities.draft (slots,v), .target (64,v) f32;
//   scratch as pick_scratch.h says; cells, log and logprobs of the sequence, the last two in memory
//   that the host reads
// grid kMaxStepRows, block pick_threads(v): block i has tail[i], the last to arrive walks, all of
//   its threads together
// moves 4v bytes a pass from L2: for a row as draw_draft; then 8v bytes for each sum and draw, at
//   most one of either a drafted token and 3 at the end, by one block
// the law of the CPU backend's tokens (see rejection.cuh), its log-probabilities within 1e-6
// needs v < 2^22, a scratch of pick_scratch(v) bytes, room for v (checked at launch)
__global__ void __launch_bounds__(kPickThreads)
    judge_by_probabilities_kernel(const __grid_constant__ JudgeArgs args) {
  SPECRT_SHARED(RejectionShared, shared);
  pdl_launch();
  pdl_wait();
  const SequenceCells& sequence = args.sequence;
  const Cells& cells = *sequence.cells;
  if (cells.rule == Rule::exact) return;
  const auto row = static_cast<int32_t>(blockIdx.x);
  if (!running(cells)) {
    if (row == 0 && threadIdx.x == 0) commit(sequence, Verdict{}, PublishToHost{});
    return;
  }
  const int32_t first_row = args.first_row + args.span->rows - cells.tail;
  if (row < cells.tail) {
    const ProbabilityRows& rows = sequence.probabilities;
    const float* adjusted =
        adjust(sequence, args.logits.row<float>(first_row + row), args.vocab, cells.committed + row,
               adjust_scratch(args.scratch, args.vocab, row));
    row_probabilities(adjusted, args.vocab, cells.sampling,
                      rows.target + static_cast<int64_t>(row) * rows.vocab, shared.pick);
  }
  if (!is_last_block(pick_head(args.scratch))) return;
  const Verdict verdict = walk_rejection(cells, sequence.tok, KeptRows{sequence.probabilities},
                                         BlockDraws(cells.seed, shared.draw));
  if (cells.logprobs > 0) log_verdict(args, verdict, first_row, shared.pick.block);
  sync_block();
  if (threadIdx.x == 0) commit(sequence, verdict, PublishToHost{});
}

void draw_draft(cudaStream_t stream, const PickDraftArgs& args) {
  check_probabilities("pick_draft", args.sequence.probabilities, args.vocab);
  launch(stream, draw_draft_kernel, 1, pick_threads(args.vocab), 0, args, {.pdl = true});
}

void judge_by_probabilities(cudaStream_t stream, const JudgeArgs& args) {
  check_probabilities("judge", args.sequence.probabilities, args.vocab);
  launch(stream, judge_by_probabilities_kernel, kMaxStepRows, pick_threads(args.vocab), 0, args,
         {.pdl = true});
}

}  // namespace specrt::cuda
