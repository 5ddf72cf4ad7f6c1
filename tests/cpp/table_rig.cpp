#include "table_rig.h"

#include <algorithm>
#include <deque>
#include <set>

#include "base/error.h"
#include "decode/lockstep.h"
#include "decode/pearl.h"

namespace specrt::testing {
namespace {

constexpr uint32_t kLogSlots = kMaxRunAhead + 2;

template <typename T>
std::string list(const std::vector<T>& values) {
  std::string out = "[";
  for (const T& value : values) out += concat(out.size() > 1 ? " " : "", value);
  return out + "]";
}

LaneOptions clocked(double step_ms) {
  return {.clocking = step_ms > 0 ? StepClocking::on : StepClocking::off, .least_step_ms = step_ms};
}

EngineImage target_engine(const RigOptions& options, const TableParams& params) {
  if (options.proposing.count == 0) {
    const bool keeps = reads(options.features);
    return table_engine(params, options.context, keeps ? TableFeatures::kept : TableFeatures::none);
  }
  TableParams streaming = params;
  streaming.stream_error = options.error;
  return streaming_table_engine(streaming, options.context, options.proposing);
}

}  // namespace

Rig::Rig(const RigOptions& chosen) : options(chosen), backend(chosen.schedule_seed, chosen.fault) {
  backend.feed_prompts_by(chosen.prompt_rows);
  target_stream = backend.make_stream({});
  if (chosen.streams == StreamUse::separate) draft_stream = backend.make_stream({});
  for (int32_t s = 0; s < chosen.sequences; ++s) {
    const JudgeOptions judge{.rule = chosen.rule, .draft_tokens = 8, .vocab = chosen.vocab};
    sequences.push_back(std::make_unique<Sequence>(backend, chosen.context, kLogSlots, judge));
    backend.races().name_sequence(concat("sequence", s), sequences.back()->cells(), chosen.context);
  }
  target_model =
      std::make_unique<Model>(open_engine(target_engine(chosen, params()).bytes()), backend);
  LaneOptions of_target = clocked(chosen.target_ms);
  of_target.streaming = chosen.proposing.count > 0 ? Streaming::on : Streaming::off;
  target = std::make_unique<Lane>(*target_model, *target_stream, sequence_pointers(), of_target);
  if (chosen.window > 0) {
    TableParams of_drafter = params();
    of_drafter.own = mix(chosen.model_seed + 99);
    of_drafter.error = chosen.error;
    of_drafter.mask_tokens = chosen.drafting == Drafting::at_once ? 1 : 0;
    draft_model = std::make_unique<Model>(
        open_engine(table_engine(of_drafter, chosen.window, chosen.features).bytes()), backend);
    draft = std::make_unique<Lane>(*draft_model, draft_stream ? *draft_stream : *target_stream,
                                   sequence_pointers(), clocked(chosen.draft_ms));
    if (chosen.features == TableFeatures::estimated) {
      drafter = std::make_unique<EagleDrafter>(*draft, *target);
    } else if (chosen.features == TableFeatures::read) {
      drafter = std::make_unique<FeatureDrafter>(*draft, *target);
    } else if (chosen.drafting == Drafting::at_once) {
      drafter = std::make_unique<ParallelDrafter>(*draft, chosen.vocab);
    } else {
      drafter = std::make_unique<ModelDrafter>(*draft);
    }
  }
  if (chosen.ngram > 0) {
    after_ngram = std::move(drafter);
    drafter = std::make_unique<NgramDrafter>(backend, *target_stream, sequence_pointers(),
                                             NgramOptions{.shortest = 1, .longest = chosen.ngram},
                                             after_ngram.get());
  }
  for (size_t s = 0; s < sequences.size(); ++s) {
    backend.races().name_span(concat("target span ", s), *target->span(s));
    if (draft) backend.races().name_span(concat("draft span ", s), *draft->span(s));
  }
}

TableParams Rig::params() const {
  return {.truth = mix(options.model_seed), .own = 0, .error = 0, .vocab = options.vocab};
}

std::vector<Sequence*> Rig::sequence_pointers() const {
  std::vector<Sequence*> pointers;
  for (const auto& sequence : sequences) pointers.push_back(sequence.get());
  return pointers;
}

SamplingParams Ask::params() const {
  SamplingParams params;
  params.temperature = temperature;
  params.max_tokens = max_tokens;
  params.seed = seed;
  params.stop_token_ids = eos;
  return params;
}

std::string Config::text() const {
  std::string out =
      concat("vocab ", rig.vocab, ", context ", rig.context, ", window ", rig.window, ", error ",
             rig.error, ", model seed ", rig.model_seed, ", schedule seed ", rig.schedule_seed,
             rig.streams == StreamUse::shared ? ", one stream" : ", two streams", ", draft tokens ",
             draft_tokens, ", depth ", depth);
  for (const Ask& ask : asks) {
    out += concat("; prompt ", list(ask.prompt), ", eos ", list(ask.eos), ", max_tokens ",
                  ask.max_tokens, ", temperature ", ask.temperature, ", seed ", ask.seed);
  }
  return out;
}

LoopKind loop_of(uint64_t index, const Config& config) {
  const bool drafts = config.rig.window > 0 || config.rig.ngram > 0;
  return drafts && index % 2 == 1 ? LoopKind::pearl : LoopKind::lockstep;
}

Config draw_config(uint64_t index, int32_t sequences) {
  Dice dice(index);
  Config config;
  RigOptions& rig = config.rig;
  rig.vocab = dice.one_of({5, 6, 8});
  rig.error = dice.one_of({0.0, 0.15, 0.4, 1.0});
  rig.model_seed = dice.bits();
  rig.schedule_seed = dice.bits();
  rig.streams = dice.one_of({StreamUse::shared, StreamUse::separate});
  rig.sequences = sequences;
  config.depth = dice.between(0, 2);
  config.draft_tokens = dice.between(0, 3) == 0 ? kRandomLength : dice.between(1, 8);
  int32_t longest = 0;
  for (int32_t s = 0; s < sequences; ++s) {
    Ask ask;
    for (int32_t i = dice.between(1, 6); i > 0; --i) {
      ask.prompt.push_back(dice.between(0, rig.vocab - 1));
    }
    for (int32_t i = dice.between(0, 2); i > 0; --i) {
      ask.eos.push_back(dice.between(0, rig.vocab - 1));
    }
    ask.max_tokens = dice.between(1, 24);
    ask.temperature = dice.one_of({0.0f, 0.7f, 1.0f});
    ask.seed = dice.bits();
    longest = std::max(longest, static_cast<int32_t>(ask.prompt.size()));
    config.asks.push_back(std::move(ask));
  }
  // Now and then the context ends a sequence before max_tokens.
  rig.context = longest + (dice.between(0, 3) == 0 ? dice.between(1, 24) : 30);
  const int32_t limit = longest + 24;
  rig.window = dice.between(0, 2) == 0 ? std::max(2, dice.between(1, limit + 2)) : rig.context;
  return config;
}

Config draw_streaming_config(uint64_t index, int32_t sequences) {
  Config config = draw_config(index, sequences);
  Dice dice(index + 1);
  config.rig.window = 0;
  config.rig.streams = StreamUse::shared;
  config.rig.proposing = {
      .count = dice.between(1, 6),
      .positions = dice.one_of({StreamPositions::same, StreamPositions::shifted})};
  config.tree_nodes = dice.between(1, 63 / sequences);
  return config;
}

std::vector<int32_t> direct(const Rig& rig, const Ask& ask) {
  const auto length = static_cast<int32_t>(ask.prompt.size());
  return sample_directly(rig.params(),
                         {.prompt = ask.prompt,
                          .eos = ask.eos,
                          .limit = length + std::min(ask.max_tokens, rig.options.context - length),
                          .temperature = ask.temperature,
                          .seed = ask.seed});
}

std::string difference(const Rig& rig, const Config& config, const Outcome& outcome) {
  std::string out;
  for (const std::string& problem : outcome.problems) out += problem + "\n";
  for (size_t s = 0; s < config.asks.size(); ++s) {
    const std::vector<int32_t> wanted = direct(rig, config.asks[s]);
    if (s < outcome.tokens.size() && outcome.tokens[s] == wanted) continue;
    out += concat("sequence ", s, " has tokens ",
                  s < outcome.tokens.size() ? list(outcome.tokens[s]) : "none", " instead of ",
                  list(wanted), "\n");
  }
  return out.empty() ? out : out + config.text();
}

Outcome run_generator(const Config& config) {
  Rig rig(config.rig);
  return run_generator(rig, config, {});
}

Outcome run_generator(Rig& rig, const Config& config, const OnProgress& also) {
  Generator generator(*rig.target, rig.drafter.get(),
                      {.loop = config.loop,
                       .draft_tokens = config.draft_tokens,
                       .tree_nodes = config.tree_nodes,
                       .kept_nodes = config.kept_nodes,
                       .run_ahead = config.depth,
                       .step_costs = config.costs,
                       .phases = config.phases});
  const Sequence& sequence = *rig.sequences[0];
  const Ask& ask = config.asks[0];
  Outcome outcome;
  std::vector<int32_t> delivered;
  uint32_t calls = 0;
  const auto on_progress = [&](const Progress& progress) {
    const std::span<const int32_t> tokens = progress.tokens;
    // The host has just read the entry of this round. Prompts are short here, so that reports
    // without tokens are of postponed verdicts.
    const bool read = !tokens.empty() || config.phases == Phases::post_verify_only;
    if (read) rig.backend.host_reads(sequence.cells().log[calls++ % kLogSlots]);
    delivered.insert(delivered.end(), tokens.begin(), tokens.end());
    return !also || also(progress);
  };
  const Completion completion = generator.generate(ask.prompt, ask.params(), on_progress);
  rig.backend.check_target_cache(sequence.cells());
  // A request for one token never feeds the drafter.
  if (direct(rig, ask).size() > 1) rig.backend.check_draft_cache(sequence.cells());
  outcome.problems = rig.backend.violations();
  outcome.tokens.push_back(completion.token_ids);
  outcome.finish = completion.finish_reason;
  outcome.rounds = completion.metrics.rounds;
  outcome.steps = completion.metrics.steps;
  if (delivered != completion.token_ids)
    outcome.problems.push_back("the callback saw other tokens");
  if (completion.seed != ask.seed) outcome.problems.push_back("another seed was reported");
  size_t committed = completion.token_ids.empty() ? 0 : 1;
  for (const RoundRecord& round : completion.metrics.rounds) {
    committed += static_cast<size_t>(round.committed);
    // Pearl judges in a round what the round before drafted.
    const bool unjudged = config.loop == LoopKind::lockstep && round.accepted > round.drafted;
    const int32_t fewest = config.phases == Phases::post_verify_only ? 0 : 1;
    if (unjudged || round.committed < fewest || round.committed > round.accepted + 1 ||
        round.committed < round.accepted) {
      outcome.problems.push_back(concat("a round drafted ", round.drafted, ", accepted ",
                                        round.accepted, ", committed ", round.committed));
    }
  }
  if (committed != completion.token_ids.size()) outcome.problems.push_back("rounds do not add up");
  return outcome;
}

namespace {

// The host side of a run: reads the entries of all sequences and checks that they follow
// one another.
class Reader {
 public:
  Reader(Rig& rig, const Config& config, Outcome& outcome)
      : rig_(rig), config_(config), outcome_(outcome), stopped_(config.asks.size(), false) {
    outcome.tokens.resize(config.asks.size());
  }

  struct Most {
    int32_t drafted, judged;  // in a round
  };

  void read(size_t s, uint32_t round, const Most& most) {
    const LogEntry& entry = rig_.sequences[s]->entry(round);
    rig_.backend.host_reads(entry);
    std::vector<int32_t>& tokens = outcome_.tokens[s];
    const auto before = static_cast<int32_t>(config_.asks[s].prompt.size() + tokens.size());
    if (entry.round != round || entry.committed_before != before) {
      complain("entry ", round, " says round ", entry.round, " behind ", entry.committed_before,
               " tokens instead of ", before);
    }
    const bool postponed = config_.phases == Phases::post_verify_only && entry.drafted > 0 &&
                           entry.judged == 0 && !stopped_[s];
    if ((entry.count == 0) != (stopped_[s] || postponed))
      complain("entry ", round, " has ", entry.count, " tokens");
    if (entry.drafted > most.drafted || entry.judged > most.judged ||
        entry.accepted > entry.judged || entry.count > entry.accepted + 1) {
      complain("entry ", round, ": drafted ", entry.drafted, ", judged ", entry.judged,
               ", accepted ", entry.accepted, ", committed ", entry.count);
    }
    tokens.insert(tokens.end(), entry.tokens, entry.tokens + entry.count);
    if (entry.stop != Stop::running) stopped_[s] = true;
  }

  bool all_stopped() const {
    return std::all_of(stopped_.begin(), stopped_.end(), [](bool stopped) { return stopped; });
  }

 private:
  template <typename... Parts>
  void complain(const Parts&... parts) {
    outcome_.problems.push_back(concat(parts...));
  }

  Rig& rig_;
  const Config& config_;
  Outcome& outcome_;
  std::vector<bool> stopped_;
};

std::unique_ptr<Loop> make_loop(const Config& config, Rig& rig) {
  if (config.loop == LoopKind::lockstep) {
    return std::make_unique<Lockstep>(*rig.target, rig.drafter.get());
  }
  return std::make_unique<Pearl>(*rig.target, rig.drafter.get(), config.phases);
}

// Any tree of at most `nodes` nodes behind row 0, which is no deeper than a draft is long.
TreeShape draw_tree(Dice& dice, int32_t nodes) {
  std::vector<DraftNode> drawn{{}};
  const int32_t wanted = 1 + dice.between(1, nodes);
  std::set<std::pair<int32_t, int32_t>> taken;  // parent and rank
  int32_t first_of_level = 0, level_end = 1;
  while (level_end < wanted && drawn.back().depth < 8) {
    const int32_t most = std::min(wanted - level_end, 1 + dice.between(0, 3));
    for (int32_t i = 0; i < most; ++i) {
      const int32_t parent = dice.between(first_of_level, level_end - 1);
      const int32_t rank = dice.between(0, dice.between(0, kTreeWidth - 1));
      if (!taken.emplace(parent, rank).second) continue;
      drawn.push_back(
          {.parent = parent, .depth = drawn[static_cast<size_t>(parent)].depth + 1, .rank = rank});
    }
    first_of_level = level_end;
    level_end = static_cast<int32_t>(drawn.size());
  }
  return shape_of(drawn);
}

// A round of a target with streams: any tree, as many of its rows and streams as a step can have,
// pruned or not; sometimes none is good enough.
struct StreamedRound {
  StreamingShape shape;
  Pruning pruning = Pruning::off;
};
StreamedRound draw_streamed_round(Dice& dice, const Config& config, int32_t most_rows) {
  StreamedRound round;
  StreamingShape& shape = round.shape;
  shape.streams = dice.between(0, config.rig.proposing.count);
  if (dice.between(0, 3) > 0) shape.tree = draw_tree(dice, config.tree_nodes);
  const int32_t most = most_rows / (1 + shape.streams);
  shape.kept = dice.between(1, most);
  if (shape.tree.rows > shape.kept || dice.between(0, 1) == 0) {
    round.pruning = Pruning::scored;
    shape.least_score = dice.one_of({0.0f, 0.0f, 0.1f, 0.5f, 2.0f});
  }
  return round;
}

void begin_sequence(Rig& rig, Loop& loop, const Config& config, size_t s) {
  const Ask& ask = config.asks[s];
  const auto length = static_cast<int32_t>(ask.prompt.size());
  rig.sequences[s]->begin(*rig.target_stream,
                          {.prompt = ask.prompt,
                           .eos = ask.eos,
                           .max_tokens = ask.max_tokens,
                           .seed = ask.seed,
                           .phases = config.phases},
                          ask.params());
  loop.enqueue_prompt_verdict(s, 0, length);
}

}  // namespace

Outcome run_loop(const Config& config) {
  Rig rig(config.rig);
  return run_loop(rig, config);
}

Outcome run_loop(Rig& rig, const Config& config) {
  struct Round {
    Event event;
    Reader::Most most;
  };
  Outcome outcome;
  Dice dice(config.rig.schedule_seed + 1);
  const std::unique_ptr<Loop> loop = make_loop(config, rig);
  Reader reader(rig, config, outcome);
  for (size_t s = 0; s < config.asks.size(); ++s) begin_sequence(rig, *loop, config, s);
  std::deque<Round> rounds{{rig.target_stream->record(), {0, 0}}};
  int32_t last = 0;  // length of the draft before
  uint32_t next = 0;
  const auto read_oldest = [&] {
    rounds.front().event.wait();
    for (size_t s = 0; s < config.asks.size(); ++s) reader.read(s, next, rounds.front().most);
    rounds.pop_front();
    ++next;
  };
  while (!reader.all_stopped() && next < 200) {
    while (rounds.size() <= static_cast<size_t>(config.depth)) {
      const int32_t k =
          config.draft_tokens == kRandomLength ? dice.between(0, 8) : config.draft_tokens;
      if (rig.drafter && dice.between(0, 2) == 0) loop->enqueue_catch_up(config.rig.context);
      if (config.rig.proposing.count > 0) {
        const auto [shape, pruning] = draw_streamed_round(dice, config, rig.target->most_rows());
        rounds.push_back({loop->enqueue_streamed_round(shape, pruning, config.rig.context),
                          {shape.tree.rows - 1, shape.tree.depth[shape.tree.rows - 1]}});
        continue;
      }
      if (config.tree_nodes > 0 && dice.between(0, 3) > 0) {
        const TreeShape shape = draw_tree(dice, config.tree_nodes);
        rounds.push_back({loop->enqueue_tree_round(shape, config.rig.context),
                          {shape.rows - 1, shape.depth[shape.rows - 1]}});
        continue;
      }
      const int32_t postponed = config.phases == Phases::post_verify_only ? 1 : 0;
      const int32_t judged = config.loop == LoopKind::pearl ? std::max(1, last + postponed) : k;
      rounds.push_back({loop->enqueue_round(k, config.rig.context), {k, judged}});
      last = k;
    }
    read_oldest();
  }
  while (!rounds.empty()) read_oldest();  // empty entries behind the stop
  if (rig.drafter) rig.drafter->stream().record().wait();
  for (const auto& sequence : rig.sequences) {
    rig.backend.check_target_cache(sequence->cells());
    rig.backend.check_draft_cache(sequence->cells());
  }
  const auto& violations = rig.backend.violations();
  outcome.problems.insert(outcome.problems.end(), violations.begin(), violations.end());
  return outcome;
}

}  // namespace specrt::testing
