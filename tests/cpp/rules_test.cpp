// The decoding rules on hand-made cells, both loops: what Lockstep alone never reaches is here.
#include "device/rules.h"

#include <doctest/doctest.h>

#include <initializer_list>
#include <memory>
#include <vector>

namespace specrt {
namespace {

// A sequence with C committed tokens, a tail of m and c drafted tokens; every token is its
// position.
struct Desk {
  Desk(int32_t committed, int32_t tail, int32_t drafted) {
    cells.committed = committed;
    cells.tail = tail;
    cells.drafted = drafted;
    cells.limit = 40;
    cells.draft_kv = committed - 1;
    cells.draft_end = committed - 1 + tail + (drafted > 0 ? drafted - 1 : 0);
    for (int32_t i = 0; i < 48; ++i) tok[i] = i;
  }

  // The target agrees with every token up to, not including, position `refuses`; there it wants
  // 100.
  Verdict walk(int32_t refuses) {
    return walk_chain(cells, tok, [&](int32_t row, int32_t position) {
      CHECK_EQ(position, cells.committed + row);
      return position < refuses ? position : 100;
    });
  }

  const LogEntry& commit_verdict(const Verdict& verdict) {
    const uint32_t round = cells.round;
    commit({.cells = &cells, .tok = tok, .log = log, .log_slots = 4}, verdict);
    CHECK_EQ(log[round % 4].sequence, round + 1);
    return log[round % 4];
  }

  Cells cells;
  Cell<int32_t> tok[48];
  LogEntry log[4] = {};
};

struct DraftCase {
  DraftPlan plan;
  int32_t draft_kv, limit;
  int32_t drafted, fed, draft_end;
};

TEST_CASE("begin_draft plans the draft from the cells") {
  // Ten committed, tail of one: E = 10.
  const DraftCase cases[] = {
      {{.capacity = 4, .bonus_rows = 1, .window = 40, .catch_up_rows = 2}, 9, 40, 4, 1, 13},
      {{.capacity = 4, .bonus_rows = 1, .window = 40, .catch_up_rows = 2}, 8, 40, 4, 2, 13},
      {{.capacity = 4, .bonus_rows = 1, .window = 40, .catch_up_rows = 2}, 5, 40, 0, 2, 7},
      {{.capacity = 4, .bonus_rows = 1, .window = 40, .catch_up_rows = 2}, 9, 13, 2, 1, 11},
      {{.capacity = 4, .bonus_rows = 0, .window = 40, .catch_up_rows = 2}, 9, 13, 3, 1, 12},
      {{.capacity = 4, .bonus_rows = 1, .window = 40, .catch_up_rows = 2}, 9, 11, 0, 0, 9},
      {{.capacity = 4, .bonus_rows = 1, .window = 11, .catch_up_rows = 2}, 9, 40, 2, 1, 11},
      {{.capacity = 4, .bonus_rows = 1, .window = 10, .catch_up_rows = 2}, 9, 40, 1, 1, 10},
      {{.capacity = 4, .bonus_rows = 1, .window = 9, .catch_up_rows = 2}, 9, 40, 0, 0, 9},
      {{.capacity = 0, .bonus_rows = 1, .window = 40, .catch_up_rows = 2}, 9, 40, 0, 0, 9},
  };
  for (const DraftCase& c : cases) {
    Desk desk(10, 1, 0);
    desk.cells.draft_kv = c.draft_kv;
    desk.cells.limit = c.limit;
    StepSpan span;
    begin_draft(desk.cells, desk.tok, span, c.plan);
    CHECK_EQ(desk.cells.drafted, c.drafted);
    CHECK_EQ(desk.cells.draft_end, c.draft_end);
    CHECK_EQ(desk.cells.snap_begin, 10);
    CHECK_EQ(desk.cells.snap_count, c.drafted);
    CHECK_EQ(span.base, c.draft_kv);
    CHECK_EQ(span.rows, c.fed);
  }
}

TEST_CASE("a stopped sequence drafts and feeds nothing") {
  Desk desk(10, 1, 0);
  desk.cells.stop = Stop::eos;
  StepSpan span;
  span.rows = 5;
  begin_draft(desk.cells, desk.tok, span,
              {.capacity = 4, .bonus_rows = 1, .window = 40, .catch_up_rows = 2});
  CHECK_EQ(span.rows, 0);
  CHECK_EQ(desk.cells.drafted, 0);
  CHECK(!drafts(desk.cells, 0));
  span.rows = 5;
  feed_tail(desk.cells, span);
  CHECK_EQ(span.rows, 0);
  const LogEntry& entry = desk.commit_verdict({});
  CHECK_EQ(entry.count, 0);
  CHECK_EQ(entry.committed_before, 10);
  CHECK_EQ(desk.cells.committed, 10);
}

TEST_CASE("draft steps feed each token but the last") {
  Desk desk(10, 1, 0);
  StepSpan span;
  begin_draft(desk.cells, desk.tok, span,
              {.capacity = 2, .bonus_rows = 1, .window = 40, .catch_up_rows = 2});
  finish_draft_step(desk.cells, desk.tok, span, 0, Drafting::one_by_one, 0, 70);
  CHECK_EQ(desk.tok[10], 70);
  CHECK_EQ(span.base, 10);
  CHECK_EQ(span.rows, 1);
  finish_draft_step(desk.cells, desk.tok, span, 1, Drafting::one_by_one, 0, 71);
  CHECK_EQ(desk.tok[11], 71);
  CHECK_EQ(span.rows, 0);
  finish_draft_step(desk.cells, desk.tok, span, 2, Drafting::one_by_one, 0,
                    72);  // a recorded step behind the draft
  CHECK_EQ(desk.tok[12], 12);
}

// Pearl: pre-verify is a tail of one that judges next[0], post-verify a longer one.

TEST_CASE("all judged tokens hold and the draft survives as the new tail") {
  Desk desk(10, 3, 2);  // tail tok[9..11], next tok[12..13]
  const Verdict verdict = desk.walk(40);
  CHECK(verdict.survive);
  CHECK_EQ(verdict.count, 3);
  CHECK_EQ(verdict.judged, 3);
  CHECK_EQ(verdict.accepted, 3);
  const LogEntry& entry = desk.commit_verdict(verdict);
  CHECK_EQ(desk.cells.committed, 13);
  CHECK_EQ(desk.cells.tail, 2);
  CHECK_EQ(desk.cells.draft_kv, 13);  // all but next[1], which was never fed
  CHECK_EQ(desk.cells.drafted, 0);
  CHECK_EQ(entry.drafted, 2);
  CHECK_EQ(entry.count, 3);
}

TEST_CASE("a refused token is replaced and everything behind it is dropped") {
  for (const int32_t refused : {10, 11, 12}) {  // in the tail, its last, next[0]
    Desk desk(10, 3, 2);
    const Verdict verdict = desk.walk(refused);
    CHECK(!verdict.survive);
    CHECK_EQ(verdict.accepted, refused - 10);
    desk.commit_verdict(verdict);
    CHECK_EQ(desk.cells.committed, refused + 1);
    CHECK_EQ(desk.cells.tail, 1);
    CHECK_EQ(desk.tok[refused], 100);
    CHECK_EQ(desk.cells.draft_kv, refused);
    CHECK_EQ(desk.cells.draft_end, refused);  // also for a next round that does not draft
  }
}

TEST_CASE("with nothing drafted the last row gives a bonus token") {
  Desk desk(10, 3, 0);
  const Verdict verdict = desk.walk(12);
  CHECK(!verdict.survive);
  CHECK_EQ(verdict.count, 3);
  CHECK_EQ(verdict.judged, 2);
  CHECK_EQ(verdict.accepted, 2);
  desk.commit_verdict(verdict);
  CHECK_EQ(desk.cells.committed, 13);
  CHECK_EQ(desk.tok[12], 100);
}

TEST_CASE("the limit ends the walk on an accepted token, on next[0] and on the bonus") {
  for (const int32_t limit : {11, 12, 13}) {
    for (const int32_t drafted : {0, 2}) {
      Desk desk(10, 3, drafted);
      desk.cells.limit = limit;
      const Verdict verdict = desk.walk(40);
      CHECK(verdict.stop == Stop::limit);
      CHECK(!verdict.survive);
      CHECK_EQ(verdict.count, limit - 10);
      desk.commit_verdict(verdict);
      CHECK_EQ(desk.cells.committed, limit);
      CHECK(desk.cells.stop == Stop::limit);
      CHECK(desk.cells.draft_kv <= limit - 1);
    }
  }
}

TEST_CASE("an end of the sequence ends the walk where the target chooses it, not in the tail") {
  for (const int32_t end : {10, 11, 12}) {
    Desk desk(10, 3, 2);
    desk.cells.eos_count = 2;
    desk.cells.eos[0] = 33;
    desk.cells.eos[1] = end;
    const Verdict verdict = desk.walk(40);
    CHECK(verdict.stop == Stop::eos);
    CHECK_EQ(verdict.count, end - 9);
    CHECK_EQ(verdict.accepted, end - 9);
  }
  Desk refused(10, 3, 2);  // the end is drafted behind a refused token
  refused.cells.eos_count = 1;
  refused.cells.eos[0] = 11;
  CHECK(refused.walk(10).stop == Stop::running);
}

TEST_CASE("the end of the sequence wins over the limit") {
  Desk desk(10, 1, 0);
  desk.cells.limit = 11;
  desk.cells.eos_count = 1;
  desk.cells.eos[0] = 100;
  CHECK(desk.walk(10).stop == Stop::eos);
}

TEST_CASE("a draft at once feeds what is missing and masks for all but its last token") {
  Desk desk(6, 1, 0);
  StepSpan span;
  desk.cells.draft_kv = 3;  // tokens 3 to 5 are missing
  desk.cells.limit = 30;
  const DraftPlan plan{.capacity = 4,
                       .bonus_rows = 1,
                       .window = 40,
                       .catch_up_rows = 5,
                       .drafting = Drafting::at_once,
                       .mask_token = 99};
  begin_draft(desk.cells, desk.tok, span, plan);
  CHECK_EQ(span.base, 3);
  CHECK_EQ(span.rows, 3 + 3);
  for (int32_t i = 0; i < 3; ++i) CHECK_EQ(desk.tok[6 + i], 99);
  CHECK_EQ(desk.cells.draft_end, 6);  // nothing of the masks stays
  for (int32_t i = 0; i < 4; ++i) {
    CHECK_EQ(draft_row(desk.cells, span, i, Drafting::at_once), 2 + i);
    finish_draft_step(desk.cells, desk.tok, span, i, Drafting::at_once, 0, 70 + i);
    CHECK_EQ(desk.tok[6 + i], 70 + i);
    CHECK_EQ(span.rows, 6);
  }
  desk.cells.draft_kv = 0;  // more is missing than the step can feed
  begin_draft(desk.cells, desk.tok, span, plan);
  CHECK_EQ(span.rows, 5);
  CHECK_EQ(desk.cells.drafted, 0);
  CHECK_EQ(desk.cells.draft_end, 5);
  CHECK_EQ(desk.tok[6], 70);
}

TEST_CASE("pairs are fed up to the one before the last token, and masks behind it") {
  Desk desk(6, 1, 0);
  StepSpan span;
  desk.cells.draft_kv = 3;  // pairs 3 and 4 are missing
  desk.cells.limit = 30;
  DraftPlan plan{.capacity = 4,
                 .bonus_rows = 1,
                 .window = 8,
                 .catch_up_rows = 5,
                 .drafting = Drafting::at_once,
                 .mask_token = 99,
                 .token_shift = 1};
  begin_draft(desk.cells, desk.tok, span, plan);
  CHECK_EQ(span.base, 3);
  CHECK_EQ(span.rows, 2 + 3);
  for (int32_t i = 0; i < 3; ++i) CHECK_EQ(desk.tok[6 + i], 99);
  CHECK_EQ(desk.cells.draft_end, 5);
  CHECK_EQ(draft_row(desk.cells, span, 0, Drafting::at_once), 1);
  CHECK(has_features(desk.cells, 4));
  CHECK_FALSE(has_features(desk.cells, 5));
  plan.window = 7;  // the last mask would stand at position 7
  begin_draft(desk.cells, desk.tok, span, plan);
  CHECK_EQ(desk.cells.drafted, 3);
  begin_catch_up(desk.cells, span, 8, 40, 1);
  CHECK_EQ(span.rows, 1);  // pair 4 is left for the draft
  CHECK_EQ(desk.cells.draft_kv, 4);
}

TEST_CASE("without post-verify a draft waits until the tail is a single token") {
  for (const int32_t tail : {1, 3}) {
    Desk desk(10, tail, 0);
    desk.cells.phases = Phases::pre_verify_only;
    desk.cells.draft_end = desk.cells.draft_kv;
    StepSpan span;
    begin_draft(desk.cells, desk.tok, span, {.capacity = 4, .window = 40, .catch_up_rows = 8});
    CHECK_EQ(desk.cells.drafted, tail == 1 ? 4 : 0);
    CHECK_EQ(span.rows, tail == 1 ? 1 : 0);
    CHECK_EQ(ngram_room(desk.cells, {.capacity = 4}), tail == 1 ? 4 : 0);
    CHECK_EQ(desk.cells.draft_end, tail == 1 ? 13 : 9);
  }
}

TEST_CASE("without pre-verify a draft behind a single token joins the tail unjudged") {
  Desk desk(10, 1, 4);
  CHECK(!postpones_verdict(desk.cells));
  desk.cells.phases = Phases::post_verify_only;
  REQUIRE(postpones_verdict(desk.cells));
  postpone_verdict({.cells = &desk.cells, .tok = desk.tok, .log = desk.log, .log_slots = 4});
  CHECK_EQ(desk.cells.committed, 10);
  CHECK_EQ(desk.cells.tail, 5);
  CHECK_EQ(desk.cells.drafted, 0);
  CHECK_EQ(desk.cells.draft_kv, 13);  // all but the last, which was never fed
  CHECK_EQ(desk.log[0].drafted, 4);
  CHECK_EQ(desk.log[0].count, 0);
  CHECK(!postpones_verdict(desk.cells));
  CHECK(!postpones_verdict(Desk(10, 1, 0).cells));
}

TEST_CASE("Lockstep lets the draft join the tail and logs it as drafted") {
  Desk desk(10, 1, 4);
  append_draft(desk.cells);
  CHECK_EQ(desk.cells.tail, 5);
  CHECK_EQ(desk.cells.drafted, 0);
  StepSpan span;
  feed_tail(desk.cells, span);
  CHECK_EQ(span.base, 9);
  CHECK_EQ(span.rows, 5);
  const LogEntry& entry = desk.commit_verdict(desk.walk(14));
  CHECK_EQ(entry.drafted, 4);
  CHECK_EQ(entry.accepted, 4);
  CHECK_EQ(entry.count, 5);
  CHECK_EQ(desk.cells.draft_kv, 13);
}

}  // namespace
}  // namespace specrt
