// What every decoding loop has: the prompt, catching up, judging, and work recorded by class. A
// loop says in which order a round drafts and verifies.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "decode/drafter.h"
#include "decode/lane.h"

namespace specrt {

inline constexpr int32_t kMaxRunAhead = 8;  // rounds that may be enqueued ahead of a verdict

class Loop {
 public:
  // `drafter` may be null; it serves the same sequences as `target`.
  Loop(Lane& target, Drafter* drafter) : target_(target), drafter_(drafter) {}
  virtual ~Loop() = default;

  // Prompt tokens [begin, end) of sequence s for the target; with `verdict`, the round of the
  // prompt: its last row is judged with nothing drafted and committed like any round.
  void enqueue_prompt_chunk(size_t s, int32_t begin, int32_t end);
  void enqueue_prompt_verdict(size_t s, int32_t begin, int32_t end);

  // One step of the drafter over tokens that it has not fed (Drafter::enqueue_catch_up), all of
  // them below `positions`; between two rounds.
  void enqueue_catch_up(int32_t positions);

  // Bounds of the next round, if it drafts at most `draft_tokens` tokens.
  struct Bounds {
    int32_t commits = 1;  // tokens that it commits at most
    int32_t reach = 0;    // it feeds and drafts at positions below the committed length plus this
  };
  virtual Bounds bounds(int32_t draft_tokens) const = 0;

  // One round of every sequence with at most `draft_tokens` drafted tokens, at positions below
  // `positions`. The event covers the commit. Recorded on first use, for each length of the draft
  // or class of row counts, and each class of contexts.
  virtual Event enqueue_round(int32_t draft_tokens, int32_t positions) = 0;

  // One round whose draft is a tree of `shape`, which is as deep as the draft is long and branches
  // as the drafter does. Refused where drafts cannot branch.
  virtual Event enqueue_tree_round(const TreeShape& shape, int32_t positions);

  // One round whose draft is a tree of what the target's streams proposed, which drafts the next
  // one. Refused where the target drafts with none. `pruning` says how rows of the tree are chosen
  // for the last layers, where not all are kept.
  virtual Event enqueue_streamed_round(const StreamingShape& shape, Pruning pruning,
                                       int32_t positions);

  // Recordings made so far.
  size_t recordings() const { return recordings_.size(); }

 protected:
  // What was recorded: its length or rows, and the positions that it has room for.
  enum class Part : int32_t {
    draft,
    draft_tree,
    catch_up,
    step,
    judge,
    step_and_judge,
    tree,
    streamed,
    streamed_pruned,
  };
  struct Key {
    Part part;
    int32_t size = 0;
    int32_t positions = 0;
    int32_t more_rows = 0;  // of the layers with streams, or of a tree that is drafted by rows
    auto operator<=>(const Key&) const = default;
  };

  void launch_target(const Key& key, const std::function<void()>& enqueue);

  // The draft begins when what the target's stream holds now is done.
  void launch_draft(const DraftRequest& request);

  // The target's stream goes on when what was drafted so far is there.
  void join_draft();

  // Rows of a recorded target step for `rows` of each sequence, and the context it is recorded for.
  int32_t row_class(int32_t rows) const;
  int32_t context_class(int32_t positions) const;

  void enqueue_step(int32_t rows, int32_t positions, TailSource source);
  void enqueue_judges(int32_t rows, const TreeShape* tree = nullptr);
  void enqueue_judge(size_t s, int32_t first_row, const TreeShape* tree);

  Lane& target_;
  Drafter* drafter_;

 private:
  RecordedWork& recorded(const Key& key, Backend& backend, Stream& stream,
                         const std::function<void()>& enqueue);
  void launch_on_draft_stream(const Key& key, const std::function<void()>& enqueue);

  std::map<Key, std::unique_ptr<RecordedWork>> recordings_;
  bool draft_is_ahead_ = false;  // the drafter's stream holds work that the target did not wait for
};

}  // namespace specrt
