// pick_draft: chooses the token of a draft step and plans the next one. This is rule `exact`; the
// others are in rejection.cu.
#include "cuda/adjust.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/pick.cuh"
#include "cuda/rejection.h"
#include "device/rules.h"

namespace specrt::cuda {

// pick_draft: tok[draft_position] = choice from the segment's logits (draft_row); finish_draft_step
// logits (n,v) f32, rows padded to lines; scratch as pick_scratch.h says, of which row 0 is used
// grid 1, block pick_threads(v)
// moves what judge moves for a row; nothing where the step drafts nothing
// the CPU backend's tokens (see pick.cuh)
// needs v < 2^22 and a scratch of pick_scratch(v) bytes (checked at launch)
__global__ void __launch_bounds__(kPickThreads)
    pick_draft_kernel(const __grid_constant__ PickDraftArgs args) {
  SPECRT_SHARED(PickShared, shared);
  pdl_launch();
  pdl_wait();
  Cells& cells = *args.sequence.cells;
  if (cells.rule != Rule::exact) return;
  int32_t token = 0;
  if (drafts(cells, args.index)) {
    const int32_t position = draft_position(cells, args.index);
    const int32_t r = args.first_row + draft_row(cells, *args.span, args.index, args.drafting);
    const float* logits = args.logits.row<float>(r);
    const float* adjusted = adjust(args.sequence, logits, args.vocab, position,
                                   adjust_scratch(args.scratch, args.vocab, 0));
    token = pick(adjusted, adjusted == logits ? head_keys(args.scratch, args.vocab, r) : RowKeys{},
                 args.vocab, cells, position, shared);
  }
  if (threadIdx.x != 0) return;
  finish_draft_step(cells, args.sequence.tok, *args.span, args.index, args.drafting,
                    args.token_shift, token);
}

void pick_draft(cudaStream_t stream, const PickDraftArgs& args) {
  check_pick("pick_draft", args.scratch, args.vocab);
  launch(stream, pick_draft_kernel, 1, pick_threads(args.vocab), 0, args, {.pdl = true});
  if (keeps_probabilities(args.sequence)) draw_draft(stream, args);
}

}  // namespace specrt::cuda
