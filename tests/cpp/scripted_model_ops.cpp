// The model ops of the scripted backend: rows carry (token, position), then the hash of what they
// see, then logits.
#include <cstddef>

#include "scripted_backend.h"

namespace specrt::testing {

void ScriptedBackend::run(const EmbedArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    const int32_t depth = segment.depth == nullptr ? i : segment.depth[i];
    const int32_t position = segment.span->base + depth;
    const TableRow fed{
        segment.row_tokens == nullptr ? segment.tok[position] : segment.row_tokens[i], position, 0};
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
    caches_[segment.span] = segment.kv;
    layers_[segment.kv].emplace(args.kv.key_offset, args.kv);
    require(slot >= 0 && slot < args.kv.slots, "KV slot ", slot, " of ", args.kv.slots);
    races_.access(args.qkv.row<std::byte>(row), CellAccess::read);
    const auto fed = load<TableRow>(args.qkv.row<std::byte>(row));
    races_.access(args.q.row<std::byte>(row), CellAccess::write);
    std::memcpy(args.q.row<std::byte>(row), &fed.below, sizeof(fed.below));
    if (fault_ == Fault::kv_row_not_written && i > 0 && i + 1 == segment.span->rows) return;
    races_.access(slot_of(segment.kv, args.kv, slot), CellAccess::write);
    std::memcpy(slot_of(segment.kv, args.kv, slot), &fed, sizeof(FedToken));
  });
}

namespace {

std::byte* feature_of(const Segment& segment, const FeatureRows& features, int32_t slot,
                      int32_t first) {
  const auto row = static_cast<size_t>(feature_row_bytes(features));
  return segment.features + static_cast<size_t>(slot) * row +
         static_cast<size_t>(first) * size_of(features.dtype);
}

}  // namespace

void ScriptedBackend::run(const KeepFeaturesArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    const int32_t slot = segment.span->base + i + args.ahead;
    require(slot >= 0 && slot < args.features.slots, "features of slot ", slot);
    const auto stride = static_cast<size_t>(feature_row_bytes(args.features));
    if (args.ahead > 0 && has_features(*segment.cells, slot)) return;
    if (named_features_.insert(segment.features).second) {
      const auto slots = static_cast<size_t>(args.features.slots);
      races_.name_rows("features", segment.features, slots * stride, stride);
    }
    std::byte* kept = feature_of(segment, args.features, slot, args.first);
    races_.access(args.x.row<std::byte>(row), CellAccess::read);
    races_.access(kept, CellAccess::write);
    auto fed = load<FedToken>(args.x.row<std::byte>(row));
    fed.position += args.ahead;
    std::memcpy(kept, &fed, sizeof(fed));
  });
}

// Features are those of the committed tokens; a mask has none, nor what gets the last ones instead.
// What a drafter has estimated is that of the token that it drafted, in a tree that of the row's
// parent.
void ScriptedBackend::run(const LoadFeaturesArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t) {
    pair_spans_.insert(segment.span);
    const int32_t depth = segment.depth == nullptr ? i : segment.depth[i];
    const int32_t position = segment.span->base + depth;
    const bool real = has_features(*segment.cells, position);
    const bool estimates = args.missing == MissingFeatures::estimates;
    if (real == estimates) return;
    const bool by_position = real || fault_ == Fault::estimates_by_position;
    const int32_t slot = by_position ? position : estimate_slot(segment, i);
    const std::byte* kept = feature_of(segment, args.features, slot, args.first);
    races_.access(kept, CellAccess::read);
    const auto fed = load<FedToken>(kept);
    const int32_t token = depth < 2 || segment.tree == nullptr
                              ? peek(segment.tok[position - 1])
                              : peek(segment.row_tokens[segment.tree->parent[i]]);
    require(fed.token == token && fed.position == position, "the features of position ", position,
            " are of token ", fed.token, " at ", fed.position, " instead of ", token);
  });
}

// Hash of the tokens that a row sees: the sequence's own up to the step, and of a chain the step's
// as well. Each stands at the position that it takes among them. A stream sees those of its row,
// and streams behind them.
uint64_t ScriptedBackend::context_of(const AttentionArgs& args, const Segment& segment,
                                     int32_t row) {
  const int32_t base = segment.span->base;
  uint64_t hash = kEmptyContext;
  int32_t position = 0, streams = 0;
  // The first token of all is in no pair but in what the target computed of it.
  if (pair_spans_.contains(segment.span)) hash = extend_context(hash, peek(segment.tok[-1]));
  for (int32_t slot = 0; slot <= base + row; ++slot) {
    const int32_t i = slot - base;
    if (i >= 0 && segment.sees != nullptr && ((segment.sees[row] >> i) & 1) == 0) continue;
    const std::byte* at = slot_of(segment.kv, args.kv, slot);
    races_.access(at, CellAccess::read);
    const auto fed = load<FedToken>(at);
    if (i >= 0 && is_stream(segment, i)) {
      check_stream(fed, position, streams++);
      continue;
    }
    const int32_t token = i < 0 || segment.sees == nullptr ? peek(segment.tok[slot]) : fed.token;
    require(fed.token == token && fed.token >= 0 && fed.position == position++, "slot ", slot,
            " holds token ", fed.token, " of position ", fed.position, ", the sequence has ",
            token);
    hash = extend_context(hash, fed.token);
  }
  const int32_t own = is_stream(segment, row) ? 1 + stream_of(*segment.streams.cells, row) : 0;
  require(streams == own, "row ", row, " sees ", streams, " streams instead of ", own);
  return hash;
}

void ScriptedBackend::run(const AttentionArgs& args) {
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    uint64_t hash = context_of(args, segment, i);
    races_.access(args.q.row<std::byte>(row), CellAccess::read);
    const auto below = load<uint64_t>(args.q.row<std::byte>(row));
    if (below != 0 && below != hash) {
      violate("the layers with streams see other tokens than those below");
      hash = mix(hash ^ below);
    }
    races_.access(args.out.row<std::byte>(row), CellAccess::write);
    std::memcpy(args.out.row<std::byte>(row), &hash, sizeof(hash));
  });
}

// The head gives logits. Other products hand hashes on: to what a row carries, or, marked, to the
// head of a stream.
void ScriptedBackend::run(const LinearArgs& args) {
  const auto params = load<TableParams>(args.w.data);
  each_row(args.rows, [&](const Segment& segment, int32_t i, int32_t row) {
    races_.access(args.x.row<std::byte>(row), CellAccess::read);
    races_.access(args.out.row<std::byte>(row), CellAccess::write);
    head_params_[segment.span] = params;
    auto hash = load<uint64_t>(args.x.row<std::byte>(row));
    std::byte* out = args.out.row<std::byte>(row);
    if (params.vocab > 0 && is_stream(segment, i)) {
      run_stream_head(args, segment, i, row);
    } else if (params.vocab > 0) {
      table_logits(params, hash, args.out.row<float>(row));
    } else if (args.out.cols == args.x.cols) {
      require(is_stream(segment, i), "row ", i, " is taken for a stream");
      hash ^= kStreamMark;
      std::memcpy(out, &hash, sizeof(hash));
    } else {
      std::memcpy(out + offsetof(TableRow, below), &hash, sizeof(hash));
    }
  });
}

}  // namespace specrt::testing
