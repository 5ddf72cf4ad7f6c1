// Everything that a decoding test needs around a table model: a scripted backend, target and
// drafter, streams, sequences; and the configurations that the random tests draw.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "decode/eagle_drafter.h"
#include "decode/feature_drafter.h"
#include "decode/generator.h"
#include "decode/model_drafter.h"
#include "decode/ngram_drafter.h"
#include "scripted_backend.h"
#include "table_model.h"

namespace specrt::testing {

// Deterministic draws for configurations.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(mix(seed)) {}

  uint64_t bits() { return state_ = mix(state_); }
  int32_t between(int32_t low, int32_t high) {  // both included
    return low + static_cast<int32_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  template <typename T, size_t n>
  T one_of(const T (&choices)[n]) {
    return choices[bits() % n];
  }

 private:
  uint64_t state_;
};

enum class StreamUse { shared, separate };

struct RigOptions {
  int32_t vocab = 5;
  int32_t context = 64;  // of the target
  int32_t window = 64;   // context of the drafter; 0: no drafter
  double error = 0;      // of the drafter
  int32_t ngram = 0;     // tokens that an n-gram lookup before the drafter matches; 0: no lookup
  uint64_t model_seed = 1;
  uint64_t schedule_seed = 1;
  StreamUse streams = StreamUse::separate;
  int32_t sequences = 1;
  int32_t prompt_rows = kMaxStepRows;
  Fault fault = Fault::none;
  Drafting drafting = Drafting::one_by_one;
  TableFeatures features = TableFeatures::none;  // of the drafter; `read` makes drafts at once
  Rule rule = Rule::exact;
  TableStreams proposing{.count = 0};  // streams of the target; there is no drafter beside them
  double target_ms = 0;                // of a step on the scripted clock; 0: no clock
  double draft_ms = 0;
};

class Rig {
 public:
  explicit Rig(const RigOptions& options);

  TableParams params() const;  // of the target

  RigOptions options;
  ScriptedBackend backend;
  std::unique_ptr<Stream> target_stream;
  std::unique_ptr<Stream> draft_stream;  // null where the streams are shared
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::unique_ptr<Model> target_model;
  std::unique_ptr<Lane> target;
  std::unique_ptr<Model> draft_model;
  std::unique_ptr<Lane> draft;
  std::unique_ptr<Drafter> after_ngram;
  std::unique_ptr<Drafter> drafter;  // null without one

 private:
  std::vector<Sequence*> sequence_pointers() const;
};

// One request.
struct Ask {
  std::vector<int32_t> prompt;
  std::vector<int32_t> eos;
  int32_t max_tokens = 8;
  float temperature = 0;
  uint64_t seed = 7;

  SamplingParams params() const;
};

struct Config {
  RigOptions rig;
  LoopKind loop = LoopKind::lockstep;
  Phases phases = Phases::both;
  std::vector<Ask> asks;     // one for each sequence
  int32_t draft_tokens = 4;  // kRandomLength: another length in every round
  int32_t tree_nodes = 0;    // of trees at most; a loop draws their shapes
  int32_t kept_nodes = 0;    // of a tree that streams proposed, Generator only
  int32_t depth = 1;
  StepCosts costs{};  // Generator only; empty: every round drafts `draft_tokens`

  std::string text() const;  // for messages
};

inline constexpr int32_t kRandomLength = -1;

// Lockstep for even numbers, Pearl for odd ones; Lockstep where nothing drafts.
LoopKind loop_of(uint64_t index, const Config& config);

// Configuration number `index` of the random tests.
Config draw_config(uint64_t index, int32_t sequences);

// The same for a target with streams.
Config draw_streaming_config(uint64_t index, int32_t sequences);

// What direct sampling gives for a request.
std::vector<int32_t> direct(const Rig& rig, const Ask& ask);

// What a run gave, one for each sequence, and what the checks said.
struct Outcome {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<RoundRecord> rounds;  // Generator only
  std::vector<StepRecord> steps;    // Generator only, with clocks; times since time began
  FinishReason finish = FinishReason::length;
  std::vector<std::string> problems;  // failed invariants, races, wrong log entries
};

// Runs the request of a one-sequence configuration through a Generator.
Outcome run_generator(const Config& config);
Outcome run_generator(Rig& rig, const Config& config, const OnProgress& also);

// Runs the configuration through its loop as a host would, `depth` rounds ahead.
Outcome run_loop(const Config& config);
Outcome run_loop(Rig& rig, const Config& config);

// Empty when the outcome is that of direct sampling and no check failed.
std::string difference(const Rig& rig, const Config& config, const Outcome& outcome);

}  // namespace specrt::testing
