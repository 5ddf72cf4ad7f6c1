// The ops that only plan a step: each is one function of device/rules.h, run by one thread.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "device/rules.h"

namespace specrt::cuda {

namespace {

constexpr unsigned kThreads = 32;  // a warp, the smallest block

__device__ __forceinline__ bool is_first_thread() { return threadIdx.x == 0; }

}  // namespace

// feed_prompt, begin_catch_up, begin_draft, feed_tail, grow_tree: the functions of these names
// cells and span of the sequence, a few words each; no op aliases another's memory
// grid 1, block 32, of which the first thread works; latency bound
__global__ void feed_prompt_kernel(const __grid_constant__ FeedPromptArgs args) {
  pdl_launch();
  pdl_wait();
  if (is_first_thread()) feed_prompt(*args.span, args.begin, args.count);
}

__global__ void begin_catch_up_kernel(const __grid_constant__ BeginCatchUpArgs args) {
  pdl_launch();
  pdl_wait();
  if (!is_first_thread()) return;
  begin_catch_up(*args.sequence.cells, *args.span, args.rows, args.window, args.token_shift);
}

__global__ void begin_draft_kernel(const __grid_constant__ BeginDraftArgs args) {
  pdl_launch();
  pdl_wait();
  if (!is_first_thread()) return;
  begin_draft(*args.sequence.cells, args.sequence.tok, *args.span, args.plan);
}

__global__ void feed_tail_kernel(const __grid_constant__ FeedTailArgs args) {
  pdl_launch();
  pdl_wait();
  if (!is_first_thread()) return;
  Cells& cells = *args.sequence.cells;
  if (args.source == TailSource::appended) append_draft(cells);
  feed_tail(cells, *args.span);
}

__global__ void grow_tree_kernel(const __grid_constant__ GrowTreeArgs args) {
  pdl_launch();
  pdl_wait();
  if (!is_first_thread()) return;
  grow_tree(*args.sequence.cells, args.sequence.tok, *args.sequence.tree, *args.shape, *args.span,
            args.candidates);
}

void feed_prompt(cudaStream_t stream, const FeedPromptArgs& args) {
  launch(stream, feed_prompt_kernel, 1, kThreads, 0, args, {.pdl = true});
}

void begin_catch_up(cudaStream_t stream, const BeginCatchUpArgs& args) {
  launch(stream, begin_catch_up_kernel, 1, kThreads, 0, args, {.pdl = true});
}

void begin_draft(cudaStream_t stream, const BeginDraftArgs& args) {
  launch(stream, begin_draft_kernel, 1, kThreads, 0, args, {.pdl = true});
}

void grow_tree(cudaStream_t stream, const GrowTreeArgs& args) {
  launch(stream, grow_tree_kernel, 1, kThreads, 0, args, {.pdl = true});
}

void feed_tail(cudaStream_t stream, const FeedTailArgs& args) {
  launch(stream, feed_tail_kernel, 1, kThreads, 0, args, {.pdl = true});
}

}  // namespace specrt::cuda
