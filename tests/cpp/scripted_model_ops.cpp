// The model ops of the scripted backend: rows carry (token, position), then the hash of what they
// see, then logits.
#include "scripted_backend.h"
#include "scripted_rows.h"
#include "table_model.h"

namespace specrt::testing {

void ScriptedBackend::run(const EmbedArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    const int32_t depth = segment.depth == nullptr ? i : segment.depth[i];
    const int32_t position = segment.span->base + depth;
    const FedToken fed{
        segment.row_tokens == nullptr ? segment.tok[position] : segment.row_tokens[i], position};
    require(peek(segment.span->rows) <= args.rows.capacity, "a step of ", peek(segment.span->rows),
            " rows with a capacity of ", args.rows.capacity);
    require(fed.position < args.rows.positions, "position ", fed.position, " in a step for ",
            args.rows.positions);
    require(fed.token >= 0 && fed.token < args.table.rows, "token ", fed.token, " is fed");
    races_.access(args.out.row<std::byte>(row), CellAccess::write);
    std::memcpy(args.out.row<std::byte>(row), &fed, sizeof(fed));
  });
}

void ScriptedBackend::run(const RopeKvArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    const int32_t slot = segment.span->base + i;
    caches_[segment.span] = {segment.kv, args.kv};
    require(slot >= 0 && slot < args.kv.slots, "KV slot ", slot, " of ", args.kv.slots);
    races_.access(args.qkv.row<std::byte>(row), CellAccess::read);
    const auto fed = load<FedToken>(args.qkv.row<std::byte>(row));
    if (fault_ == Fault::kv_row_not_written && i > 0 && i + 1 == segment.span->rows) return;
    races_.access(slot_of(segment.kv, args.kv, slot), CellAccess::write);
    std::memcpy(slot_of(segment.kv, args.kv, slot), &fed, sizeof(fed));
  });
}

void ScriptedBackend::run(const KeepFeaturesArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    const int32_t slot = segment.span->base + i;
    require(slot >= 0 && slot < args.features.slots, "features of slot ", slot);
    const auto stride = static_cast<size_t>(feature_row_bytes(args.features));
    if (named_features_.insert(segment.features).second) {
      const auto slots = static_cast<size_t>(args.features.slots);
      races_.name_rows("features", segment.features, slots * stride, stride);
    }
    std::byte* kept = segment.features + static_cast<size_t>(slot) * stride;
    races_.access(args.x.row<std::byte>(row), CellAccess::read);
    races_.access(kept, CellAccess::write);
    std::memcpy(kept, args.x.row<std::byte>(row), sizeof(FedToken));
  });
}

// Features are those of the committed tokens; a mask has none.
void ScriptedBackend::run(const LoadFeaturesArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t) {
    pair_spans_.insert(segment.span);
    const int32_t position = segment.span->base + i;
    if (!has_features(*segment.cells, position)) return;
    const std::byte* kept = segment.features + position * feature_row_bytes(args.features);
    races_.access(kept, CellAccess::read);
    const auto fed = load<FedToken>(kept);
    const int32_t token = peek(segment.tok[position - 1]);
    require(fed.token == token && fed.position == position, "the features of position ", position,
            " are of token ", fed.token, " at ", fed.position, " instead of ", token);
  });
}

// A row's score is a hash of the tokens on the way to it.
void ScriptedBackend::run(const PlanStreamsArgs& args) {
  for (int32_t s = 0; s < args.rows.segment_count; ++s) {
    const Segment& segment = args.rows.segments[static_cast<size_t>(s)];
    const SegmentStreams& streams = segment.streams;
    if (streams.cells == nullptr) continue;
    if (streams.shape == nullptr) {
      plan_prompt_streams(*segment.span, *streams.tree, *streams.cells, args.streams,
                          args.positions);
      continue;
    }
    float scores[kMaxStepRows] = {};
    for (int32_t row = 1; row < segment.span->rows; ++row) {
      const int32_t token = streams.tree->token[row];
      const uint64_t bits = mix(static_cast<uint64_t>(row * 64 + token));
      scores[row] = static_cast<float>(bits >> 40) / 16777216.0f;
    }
    plan_tree_streams(*streams.shape, *segment.span, *streams.tree, *streams.cells, args.positions,
                      args.rows.pruning == Pruning::scored ? scores : nullptr);
  }
}

void ScriptedBackend::run(const InsertStreamsArgs& args) {
  each_row(with_streams(args.rows), [&](const Segment& segment, int32_t i, int32_t row) {
    const auto s = static_cast<int32_t>(row / with_streams(args.rows).capacity);
    const StreamingCells* cells = segment.streams.cells;
    const int32_t from = cells == nullptr ? i : cells->from[main_row(*cells, i)];
    const std::byte* x = args.x.row<std::byte>(s * args.rows.capacity + from);
    races_.access(x, CellAccess::read);
    auto fed = load<FedToken>(x);
    if (cells != nullptr && i >= cells->kept) {
      const int32_t stream = stream_of(*cells, i);
      require(stream < args.streams, "stream ", stream, " of ", args.streams);
      fed = {-1 - stream, segment.span->base + segment.depth[i]};
    }
    races_.access(args.out.row<std::byte>(row), CellAccess::write);
    std::memcpy(args.out.row<std::byte>(row), &fed, sizeof(fed));
  });
}

// Hash of the tokens that a row sees: the sequence's own up to the step, and of a chain the step's
// as well. Each stands at the position that it takes among them.
uint64_t ScriptedBackend::context_of(const AttentionArgs& args, const Segment& segment,
                                     int32_t row) {
  const int32_t base = segment.span->base;
  uint64_t hash = kEmptyContext;
  int32_t position = 0;
  // The first token of all is in no pair but in what the target computed of it.
  if (pair_spans_.contains(segment.span)) hash = extend_context(hash, peek(segment.tok[-1]));
  for (int32_t slot = 0; slot <= base + row; ++slot) {
    const int32_t i = slot - base;
    if (i >= 0 && segment.sees != nullptr && ((segment.sees[row] >> i) & 1) == 0) continue;
    const std::byte* at = slot_of(segment.kv, args.kv, slot);
    races_.access(at, CellAccess::read);
    const auto fed = load<FedToken>(at);
    const int32_t token = i < 0 || segment.sees == nullptr ? peek(segment.tok[slot]) : fed.token;
    require(fed.token == token && fed.position == position++, "slot ", slot, " holds token ",
            fed.token, " of position ", fed.position, ", the sequence has ", token);
    hash = extend_context(hash, fed.token);
  }
  return hash;
}

void ScriptedBackend::run(const AttentionArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    const uint64_t hash = context_of(args, segment, i);
    races_.access(args.out.row<std::byte>(row), CellAccess::write);
    std::memcpy(args.out.row<std::byte>(row), &hash, sizeof(hash));
  });
}

void ScriptedBackend::run(const LinearArgs& args) {
  const auto params = load<TableParams>(args.w.data);
  each_row(args.rows, [&](const Segment&, int32_t, int32_t row) {
    races_.access(args.x.row<std::byte>(row), CellAccess::read);
    races_.access(args.out.row<std::byte>(row), CellAccess::write);
    table_logits(params, load<uint64_t>(args.x.row<std::byte>(row)), args.out.row<float>(row));
  });
}

}  // namespace specrt::testing
