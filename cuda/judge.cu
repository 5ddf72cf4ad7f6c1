// judge: chooses the target's token for every tail row, walks the chain, commits, logs. This is
// rule `exact`; the others are in rejection.cu.
#include "cuda/adjust.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/logprobs.cuh"
#include "cuda/pick.cuh"
#include "cuda/publish.cuh"
#include "cuda/rejection.h"
#include "cuda/verdict.cuh"
#include "device/rules.h"

namespace specrt::cuda {

namespace {

// Chooses the token of tail row `row`. Its log-probabilities are written whether or not the walk
// reaches it: nobody reads entries beyond the committed tokens.
__device__ __forceinline__ void judge_row(const JudgeArgs& args, int32_t row, PickShared& shared) {
  const SequenceCells& sequence = args.sequence;
  const Cells& cells = *sequence.cells;
  const int32_t begin = args.span->rows - cells.tail, position = cells.committed + row;
  const int32_t r = args.first_row + begin + row;
  const float* logits = args.logits.row<float>(r);
  const float* adjusted =
      adjust(sequence, logits, args.vocab, position, adjust_scratch(args.scratch, args.vocab, row));
  const int32_t token =
      pick(adjusted, adjusted == logits ? head_keys(args.scratch, args.vocab, r) : RowKeys{},
           args.vocab, cells, position, shared);
  if (threadIdx.x == 0) pick_head(args.scratch).chosen[row] = static_cast<uint32_t>(token);
  if (cells.logprobs > 0) {
    LogprobEntry& entry = sequence.logprobs[cells.round % sequence.log_slots];
    log_probabilities(logits, args.vocab, token, min_i32(cells.logprobs - 1, args.vocab - 1),
                      entry.tokens[row], shared.block);
  }
}

}  // namespace

// judge: y_i = choice from the logits of tail[i]; walk_chain, commit and write_log of
// device/rules.h logits (n,v) f32, rows padded to lines; scratch as pick_scratch.h says; cells, log
// and logprobs of
//   the sequence, the last two in memory that the host reads
// grid kMaxStepRows, block pick_threads(v): block i chooses for tail[i], the last to arrive walks;
//   every block counts, so that cells stay as they are until all have read them
// moves from L2, behind a head that left its keys: v/2 bytes for greedy and plain sampling, with
//   top_k a few times that and 64 k; else 4v bytes a pass: 1 pass, about 8 with filters
// the CPU backend's tokens (see pick.cuh), its log-probabilities within 1e-6
// needs v < 2^22 and a scratch of pick_scratch(v) bytes (checked at launch)
__global__ void __launch_bounds__(kPickThreads)
    judge_kernel(const __grid_constant__ JudgeArgs args) {
  SPECRT_SHARED(PickShared, shared);
  pdl_launch();
  pdl_wait();
  const Cells& cells = *args.sequence.cells;
  if (cells.rule != Rule::exact) return;
  const auto row = static_cast<int32_t>(blockIdx.x);
  if (!running(cells)) {
    if (row == 0 && threadIdx.x == 0) commit(args.sequence, Verdict{}, PublishToHost{});
    return;
  }
  if (row < cells.tail) judge_row(args, row, shared);
  PickHead& head = pick_head(args.scratch);
  if (!is_last_block(head) || threadIdx.x != 0) return;
  const Verdict verdict = walk_chain(cells, args.sequence.tok, [&](int32_t i, int32_t) {
    return static_cast<int32_t>(ld_cg4(head.chosen + i));
  });
  commit(args.sequence, verdict, PublishToHost{});
}

void judge(cudaStream_t stream, const JudgeArgs& args) {
  check_pick("judge", args.scratch, args.vocab);
  launch(stream, judge_kernel, kMaxStepRows, pick_threads(args.vocab), 0, args, {.pdl = true});
  if (keeps_probabilities(args.sequence)) judge_by_probabilities(stream, args);
}

size_t head_bytes(int32_t vocab) { return HeadKeys::bytes(kMaxStepRows, vocab); }

size_t pick_scratch(int32_t vocab) {
  return sizeof(PickHead) + kMaxStepRows * pick_scratch_cols(vocab) * 8;
}

}  // namespace specrt::cuda
