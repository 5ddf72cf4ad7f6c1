// One Args struct per op: the contract between the core and the backends.
// Shape letters: n rows, d model dim, h / g query / kv heads, e head dim, f ffn dim, v vocab,
// t cached length. Activations are (capacity rows, cols) views; which rows exist is read from cells
// when the op runs, and rows beyond that compute nothing and write nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/view.h"
#include "device/cells.h"
#include "device/step_rows.h"

namespace specrt {

inline constexpr int32_t kMaxHeadDim = 512;
inline constexpr int32_t kKvBlock = 16;  // cached positions that lie together in a key block

// One layer's part of a sequence's KV cache.
// Keys:   CPU: [g][slot / kKvBlock][block], a block being 16 slots x e in the panels16 layout
//         (bf16: [e pair][16 slots][2], f32: [e][16 slots]). CUDA: [g][slot][e].
// Values: [g][slot][e].
struct KvLayer {
  int64_t key_offset = 0;    // bytes from Segment::kv
  int64_t value_offset = 0;  // bytes from Segment::kv
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t slots = 0;  // multiple of kKvBlock
  DType dtype = DType::f32;
  int32_t window = 0;  // a row sees this many positions, itself included; 0: all
};

constexpr int64_t kv_key_bytes(const KvLayer& kv) {
  return static_cast<int64_t>(kv.kv_heads) * (kv.slots / kKvBlock) *
         panel_bytes(kv.dtype, kv.head_dim);
}
constexpr int64_t kv_value_bytes(const KvLayer& kv) {
  return static_cast<int64_t>(kv.kv_heads) * kv.slots * kv.head_dim *
         static_cast<int64_t>(size_of(kv.dtype));
}

// Hidden states of some of the target's layers side by side, a row for each KV slot, which a
// drafter reads. What a rejected token left is written over before anything reads it.
struct FeatureRows {
  DType dtype = DType::f32;
  int32_t cols = 0;
  int32_t slots = 0;
};

constexpr int64_t feature_row_bytes(const FeatureRows& rows) {
  return padded_row_bytes(rows.dtype, rows.cols);
}

// An RMS norm without a pass of its own, where the backend joins ops. What produces x also gives
// x * gain and its sums of squares; what reads the norm takes x * gain instead and multiplies its
// products by 1 / sqrt(mean(x^2) + eps), which is the same but for rounding.

// Of an op that produces x (n,d) f32.
struct NormGain {
  const float* gain = nullptr;  // (d,), or null: no norm follows
  RowsView scaled{};            // (n,d) bf16: x * gain
  RowsView squares{};           // (n,d/16) f32: sums of squares of 16 columns each
};

// Of an op that reads `scaled`.
struct NormFactor {
  RowsView squares{};  // without data: no norm
  float eps = 0.0f;
};

inline constexpr int32_t kSquareCols = 16;

// out[i,:] = table[token of row i,:]; out (n,d) f32, table (v,d), either layout.
struct EmbedArgs {
  StepRows rows;
  Weight table;
  RowsView out;
  NormGain gain{};
};

// out[i] = cos(p * inv_freq) * scaling in [0, e/2), sin(...) * scaling in [e/2, e); p position of
// i.
struct RopeAnglesArgs {
  StepRows rows;
  const float* inv_freq = nullptr;  // (e/2,)
  int32_t half = 0;                 // e/2
  float scaling = 1.0f;
  RowsView out;  // (n, e) f32
};

// out[i,:] = x[i,:] * gain / sqrt(mean(x[i,:]^2) + eps); x f32, out f32 or bf16. May not alias.
struct RmsNormArgs {
  StepRows rows;
  RowsView x;
  const float* gain = nullptr;  // (d,)
  float eps = 0.0f;
  RowsView out;
};

enum class Epilogue : int32_t {
  store = 0,  // out = y, f32 or bf16
  add = 1,    // out += y, f32 (residual)
  // panels16: panels alternate gate, up: out[:, 16j + r] = silu(y[:, 32j + r]) * y[:, 32j + 16 +
  // r]. tiles16x32: gate rows, then up rows, in pairs: out[:, j] = silu(y[:, j]) * y[:, m/2 + j].
  swiglu = 2,
  silu_add = 3,  // out = x + silu(y), f32 or bf16, of as many columns as x
  // y is qkv, which goes straight to where RopeKvArgs without gains would bring it, with the same
  // bits; tiles in pairs of stride e/2, no out. Only where the backend joins ops.
  rope_kv = 4,
};

// Epilogue::rope_kv: what RopeKvArgs has besides.
struct RopeOutput {
  RowsView angles{};  // (n,e) f32
  RowsView q{};       // (n,he)
  KvLayer kv{};
  int32_t heads = 0;
};

// y = (x @ w^T) factor + bias, then the epilogue. x (n,k) in w's dtype, w (m,k) packed, out (n,m)
// or (n,m/2). Epilogue `add` may have a gain, `silu_add` has no factor.
struct LinearArgs {
  StepRows rows;
  RowsView x;
  Weight w;
  const float* bias = nullptr;  // (m,), or null: none
  Epilogue epilogue = Epilogue::store;
  RowsView out{};
  NormFactor factor{};
  NormGain gain{};
  RopeOutput rope{};
  std::byte* best = nullptr;  // of the head, for PickScratch; null: none
};

// Rotates queries and keys (half-split pairs d, d + e/2), writes q in the cache's dtype, and puts
// keys and values of row i into slot base + i. qkv (n, (h+2g)e) f32, angles (n,e) f32, q (n, he).
// With gains, each head of queries or keys goes through an RMS norm before it is rotated.
struct RopeKvArgs {
  StepRows rows;
  RowsView qkv;
  RowsView angles;
  RowsView q;
  KvLayer kv;
  int32_t heads = 0;              // h, a multiple of kv.kv_heads
  const float* q_gain = nullptr;  // (e,), or null: no norm
  const float* k_gain = nullptr;  // (e,), or null: no norm
  float eps = 0.0f;               // of the norms
};

// Device memory that an op needs while it runs; as many bytes as the backend asks for, zeroed when
// it was made. What choosing leaves in its scratch, it finds there again: no other op uses it.
struct Scratch {
  std::byte* data = nullptr;
  size_t bytes = 0;
};

// out[i, head] = softmax(scale * q . K) V over the slots [0, base) and the new rows that row i
// sees; of these the last kv.window logical positions, if there is a window. Sums run over logical
// positions in ascending order (a tree row counts only what it sees), so the result of a row
// depends on its own path alone. q and out (n, he) in the cache's dtype.
struct AttentionArgs {
  StepRows rows;
  RowsView q;
  KvLayer kv;
  int32_t heads = 0;
  float scale = 0.0f;
  RowsView out;
  Scratch scratch{};
};

// Rounds row i of x to columns [first, first + d) of the features in slot base + i + ahead. x (n,d)
// f32. A drafter's rows are 1 ahead: what they keep are estimates, and only of features that the
// target has not computed yet (has_features), and will write over.
struct KeepFeaturesArgs {
  StepRows rows;
  RowsView x;
  FeatureRows features;
  int32_t first = 0;
  int32_t ahead = 0;
};

// What stands for the features of a row whose position has none (has_features).
enum class MissingFeatures : int32_t {
  mask = 0,       // a learned vector
  last = 1,       // those of the last position that has any
  estimates = 2,  // what a drafter has kept for the row (estimate_slot); others stay as they are
};

// out[i,:] = columns [first, first + d) of the features at the position of row i, or what stands
// for them. mask (d,) f32, out (n,d) f32 or as the features are.
struct LoadFeaturesArgs {
  StepRows rows;
  FeatureRows features;
  int32_t first = 0;
  MissingFeatures missing = MissingFeatures::mask;
  const float* mask = nullptr;  // of MissingFeatures::mask
  RowsView out;
};

// out[i,:] = x[i,:] rounded to bf16; x (n,d) f32, out (n,d) bf16 or f32, which is a copy.
struct ConvertArgs {
  StepRows rows;
  RowsView x;
  RowsView out;
};

// The scores of a reduced vocabulary in the places of their tokens: out[i,ids[j]] = x[i,j], and
// minus infinity elsewhere. x (n,m) f32, out (n,v) f32.
struct ScatterArgs {
  StepRows rows;
  RowsView x;
  const float* ids = nullptr;  // (m,), whole numbers; one that is no column is left out
  RowsView out;
};

// Plans the rows of the last layers: which main rows go on, and their streams. With pruning a row
// is scored by the softmax, over the candidates of its depth, of exit[parent,:] . table[token,:].
struct PlanStreamsArgs {
  StepRows rows;        // of the layers without streams
  RowsView exit{};      // (n,d) f32; read with pruning
  Weight table{};       // (v,d); read with pruning
  int32_t streams = 0;  // behind the last row of a prompt
  StreamPositions positions = StreamPositions::shifted;
};

// Rows of the layers with streams: out[i,:] = x[main row of i,:], plus embedding[j,:] for stream j.
// x (n,d) f32, out of as many rows as with_streams(rows) has.
struct InsertStreamsArgs {
  StepRows rows;  // of the layers without streams
  RowsView x;
  const float* embedding = nullptr;  // (streams, d)
  int32_t streams = 0;
  RowsView out;
};

// Copies the keys and values of a tree's accepted path down to where a chain has them, in every
// layer: slot base + path[d] to slot base + d for d < count, base from the span. path[d] ascends
// and is at least d. With `from`, slot base + from[path[d]]: rows of the layers without streams.
struct MoveKvArgs {
  const StepSpan* span = nullptr;
  std::byte* kv = nullptr;
  const KvLayer* layers = nullptr;  // host memory; (layer_count,)
  int32_t layer_count = 0;
  const Cell<int32_t>* path = nullptr;   // (kMaxStepRows,)
  const Cell<int32_t>* count = nullptr;  // 0 .. kMaxStepRows
  const Cell<int32_t>* from = nullptr;   // (kMaxStepRows,) or null
};

// The same for features, whose slots are those of the layers without streams.
struct MoveFeaturesArgs {
  const StepSpan* span = nullptr;
  std::byte* features = nullptr;  // Segment::features
  FeatureRows rows;
  const Cell<int32_t>* path = nullptr;   // as in MoveKvArgs
  const Cell<int32_t>* count = nullptr;  // as in MoveKvArgs
};

// Copies host memory to the device or to shared memory; `host` stays as it is until that is done.
struct CopyToDeviceArgs {
  std::byte* device = nullptr;
  const std::byte* host = nullptr;
  size_t bytes = 0;
};

// Copies device memory to the host; `host` stays valid until the stream has done it.
struct CopyToHostArgs {
  void* host = nullptr;
  const std::byte* device = nullptr;
  size_t bytes = 0;
};

// Span cells of prompt tokens [begin, begin + count); host constants, never recorded.
struct FeedPromptArgs {
  StepSpan* span = nullptr;
  int32_t begin = 0;
  int32_t count = 0;
};

struct ProposeNgramArgs {
  SequenceCells sequence;
  NgramPlan plan;
};

struct BeginCatchUpArgs {
  SequenceCells sequence;
  StepSpan* span = nullptr;
  int32_t rows = 0;         // fed at most
  int32_t window = 0;       // as in DraftPlan
  int32_t token_shift = 0;  // as in DraftPlan
};

struct BeginDraftArgs {
  SequenceCells sequence;
  StepSpan* span = nullptr;
  DraftPlan plan;
};

// How a token is chosen (pick_draft and judge alike), from a row of logits for position P:
//   1. logit += bias of the token; tokens that end the sequence are removed if P < earliest_stop.
//   2. penalties over tok[0 .. P-1]: repetition divides a positive logit of a token that occurred
//      and multiplies a negative one; frequency is subtracted for each time that the token was
//      generated, presence once if it was (vLLM's order and definitions).
//   3. temperature, top_k, top_p, min_p, then argmax with the noise of (seed, P, token).
// All of it is a function of the row, P and tok[0 .. P-1]: a drafted token in the tail stands in
// its place, and is read for a later position only where the walk has found it right.

// Scratch of choosing. If the head of the step left its best tokens, `best` is where, and logits
// that nothing changes or filters need not be read again.
struct PickScratch {
  std::byte* data = nullptr;
  size_t bytes = 0;
  std::byte* best = nullptr;  // Backend::head_bytes; null: none
};

// Chooses token `index` of the draft, with rule `exact`'s noise for the token's own position: one
// by one from the last existing row of the segment, and plans the next step; of a draft made at
// once, from the token's own row (device/rules.h).
struct PickDraftArgs {
  SequenceCells sequence;
  StepSpan* span = nullptr;
  RowsView logits;  // (n, v) f32; the segment's rows start at first_row
  int32_t first_row = 0;
  int32_t vocab = 0;
  int32_t index = 0;
  Drafting drafting = Drafting::one_by_one;
  int32_t token_shift = 0;  // as in DraftPlan
  PickScratch scratch{};
};

// Chooses candidates for a tree: first what pick_draft would choose, then the likeliest other
// tokens in the order of the noise. Which they are is the backend's affair. From the rows of a
// draft made at once: those of every depth. With streams, behind the verdict: from those of the
// last committed row, for the next round. With a tree: those behind its rows of depth `depth`, row
// 0 being the last one of the first step; that also plans the steps behind it.
struct PickCandidatesArgs {
  SequenceCells sequence;
  StepSpan* span = nullptr;
  RowsView logits;  // (n, v) f32; the segment's rows start at first_row
  int32_t first_row = 0;
  int32_t vocab = 0;
  int32_t lists = 0;  // at most; how many there are say the cells
  PickScratch scratch{};
  const StreamingCells* streams = nullptr;
  const TreeShape* tree = nullptr;
  int32_t depth = 0;
  int32_t token_shift = 0;  // as in DraftPlan
};

// Plans the step of the target over a tree (grow_tree).
struct GrowTreeArgs {
  SequenceCells sequence;
  StepSpan* span = nullptr;
  const TreeShape* shape = nullptr;
  Candidates candidates = Candidates::drafted;
};

enum class TailSource : int32_t {
  committed,  // feed the tail as it is
  appended,   // Lockstep: first let the draft join it
};

struct FeedTailArgs {
  SequenceCells sequence;
  StepSpan* span = nullptr;
  TailSource source = TailSource::committed;
};

// Judges the draft against the target's logits (rule `exact`), commits, logs.
// Row of tail[i] = rows of the span - m + i, so the last chunk of a prompt is judged alike. With a
// shape, the rows are those of the tree that grow_tree planned, or that plan_streams kept of it.
struct JudgeArgs {
  SequenceCells sequence;
  const StepSpan* span = nullptr;
  RowsView logits;  // (n, v) f32; the segment's rows start at first_row
  int32_t first_row = 0;
  int32_t vocab = 0;
  PickScratch scratch{};
  const TreeShape* tree = nullptr;
};

enum class ClockEdge : int32_t { begin, end };

// Notes when a step with rows begins or ends. At its end it first waits until the step has lasted
// `least_ms`.
struct ClockStepArgs {
  StepRows rows;
  StepClock* clock = nullptr;
  ClockEdge edge = ClockEdge::begin;
  double least_ms = 0;
};

// Shape and dtype rules of each op; throws specrt::Error that names the op. Pointers are not read.
void check(const EmbedArgs& args);
void check(const RopeAnglesArgs& args);
void check(const RmsNormArgs& args);
void check(const LinearArgs& args);
void check(const RopeKvArgs& args);
void check(const AttentionArgs& args);
void check(const KeepFeaturesArgs& args);
void check(const ConvertArgs& args);
void check(const ScatterArgs& args);
void check(const LoadFeaturesArgs& args);
void check(const PlanStreamsArgs& args);
void check(const InsertStreamsArgs& args);
void check(const MoveKvArgs& args);
void check(const MoveFeaturesArgs& args);
void check(const PickDraftArgs& args);
void check(const PickCandidatesArgs& args);
void check(const JudgeArgs& args);

}  // namespace specrt
