// Rules `rejection` and `block`: speculative sampling that keeps the distribution of the target,
// not its tokens. Chains only. Pure functions, shared by backends and tests as rules.h is.
//   rejection  each drafted token is accepted with probability min(1, p/q); a refused one is
//              replaced by a draw from max(p - q, 0) (Leviathan et al. 2023, arXiv 2211.17192,
//              algorithm 1).
//   block      all drafted tokens are judged together, which accepts at least as many (Sun et al.
//              2024, "Block verification accelerates speculative decoding", arXiv 2403.10444).
// p are the target's probabilities and q the drafter's, both behind temperature and filters.
#pragma once

#include "base/rng.h"
#include "device/rules.h"

namespace specrt {

// What a random number is for. Keyed by position, not by round: a position is drafted again behind
// a refusal, but its earlier numbers never entered a decision. Under `block` they did, as the
// verdict depends on later drafts; so there the committed length of the round, the anchor, is part
// of the key.
struct DrawKey {
  Purpose purpose;
  int32_t position;
  int32_t anchor;
};

template <typename Weight>
SPECRT_HD inline double sum_weights(int32_t vocab, const Weight& weight) {
  double sum = 0;
  for (int32_t token = 0; token < vocab; ++token) sum += weight(token);
  return sum;
}

// Counter-based numbers: the same key, the same number.
class KeyedDraws {
 public:
  SPECRT_HD explicit KeyedDraws(uint64_t seed) : seed_(seed) {}

  // Of (0, 1).
  SPECRT_HD double uniform(const DrawKey& key) const {
    const Bits4 bits =
        philox(seed_, static_cast<uint32_t>(key.position), static_cast<uint32_t>(key.purpose), 0,
               static_cast<uint32_t>(key.anchor));
    return (static_cast<double>(bits.word[0]) + 0.5) * 2.3283064365386963e-10;  // 2^-32
  }

  // Whether a uniform number of (0, 1) lies below `threshold`.
  SPECRT_HD bool below(const DrawKey& key, double threshold) const {
    return uniform(key) < threshold;
  }

  // Sum of weight(token) over the vocabulary.
  template <typename Weight>
  SPECRT_HD double sum(int32_t vocab, const Weight& weight) const {
    return sum_weights(vocab, weight);
  }

  // A token with probability weight(token) / sum of all weights, none of which is negative.
  template <typename Weight>
  SPECRT_HD int32_t draw(const DrawKey& key, int32_t vocab, const Weight& weight) const {
    const double at = uniform(key) * sum(vocab, weight);
    double below = 0;
    int32_t last = 0;
    for (int32_t token = 0; token < vocab; ++token) {
      const double w = weight(token);
      if (!(w > 0)) continue;
      below += w;
      last = token;
      if (at < below) return token;
    }
    return last;
  }

 private:
  uint64_t seed_;
};

// The rows that a sequence keeps, for walk_rejection.
struct KeptRows {
  const ProbabilityRows& rows;

  SPECRT_HD int32_t vocab() const { return rows.vocab; }
  SPECRT_HD double target(int32_t row, int32_t token) const {
    return rows.target[static_cast<int64_t>(row) * rows.vocab + token];
  }
  SPECRT_HD double draft(int32_t position, int32_t token) const {
    const int32_t slot = position % rows.slots, sure = rows.sure[slot];
    if (sure >= 0) return sure == token ? 1.0 : 0.0;
    return rows.draft[static_cast<int64_t>(slot) * rows.vocab + token];
  }
};

SPECRT_HD inline int32_t anchor_of(const Cells& s) {
  return s.rule == Rule::block ? s.committed : 0;
}

SPECRT_HD inline DrawKey draft_key(const Cells& s, int32_t position) {
  return {Purpose::draft, position, anchor_of(s)};
}

// Drafted tokens that can be judged: those in the tail behind its first token, and the first one
// of a draft that is not in the tail; none beyond the limit.
SPECRT_HD inline int32_t judged_tokens(const Cells& s) {
  const int32_t waiting = s.tail - 1 + (s.drafted > 0 ? 1 : 0);
  return min_i32(waiting, s.limit - s.committed);
}

// Drafted tokens that hold, from the first on, and the scale w of the residual max(w p - q, 0)
// behind them.
struct Accepted {
  int32_t count = 0;
  double scale = 1;
};

template <typename Rows, typename Draws>
SPECRT_HD inline Accepted test_tokens(const Cells& s, const Cell<int32_t>* tok, const Rows& rows,
                                      const Draws& draws) {
  const int32_t committed = s.committed, judged = judged_tokens(s);
  Accepted out;
  while (out.count < judged) {
    const int32_t position = committed + out.count, token = tok[position];
    const double p = rows.target(out.count, token), q = rows.draft(position, token);
    if (!draws.below({Purpose::accept, position, 0}, q > 0 ? p / q : 1.0)) break;
    ++out.count;
  }
  return out;
}

// Token i holds with all before it if u_i < h_i; the last such i counts, whatever lies before.
//   w_i = min(1, w_(i-1) p_i(d_i) / q_i(d_i)),  S_i = sum_x max(w_i p_(i+1)(x) - q_(i+1)(x), 0),
//   h_i = S_i / (S_i + 1 - w_i), for the last token h = w.
template <typename Rows, typename Draws>
SPECRT_HD inline Accepted test_block(const Cells& s, const Cell<int32_t>* tok, const Rows& rows,
                                     const Draws& draws) {
  const int32_t committed = s.committed, judged = judged_tokens(s);
  Accepted out;
  double w = 1;
  for (int32_t i = 0; i < judged; ++i) {
    const int32_t position = committed + i, token = tok[position];
    const double p = rows.target(i, token), q = rows.draft(position, token);
    w = q > 0 && w * p < q ? w * p / q : 1.0;
    double h = w;
    if (i + 1 < judged) {
      const double excess = draws.sum(rows.vocab(), [&](int32_t x) {
        const double more = w * rows.target(i + 1, x) - rows.draft(position + 1, x);
        return more > 0 ? more : 0.0;
      });
      const double all = excess + 1 - w;
      h = all > 0 ? excess / all : 1.0;
    }
    if (draws.below({Purpose::accept, position, committed}, h)) out = {i + 1, w};
  }
  return out;
}

// The token behind the accepted ones: a bonus from the target's row, or where the next drafted
// token was refused a draw from what the draft left over.
template <typename Rows, typename Draws>
SPECRT_HD inline int32_t draw_last(const Cells& s, const Rows& rows, const Draws& draws,
                                   const Accepted& accepted) {
  const int32_t row = accepted.count, position = s.committed + row;
  const DrawKey key{Purpose::residual, position, 0};
  const auto target = [&](int32_t x) { return static_cast<double>(rows.target(row, x)); };
  if (row == judged_tokens(s)) return draws.draw(key, rows.vocab(), target);
  const auto left_over = [&](int32_t x) {
    const double more = accepted.scale * rows.target(row, x) - rows.draft(position, x);
    return more > 0 ? more : 0.0;
  };
  // Nothing is left over where p and q differ by rounding alone.
  const bool any = draws.sum(rows.vocab(), left_over) > 0;
  return any ? draws.draw(key, rows.vocab(), left_over) : draws.draw(key, rows.vocab(), target);
}

// The verdict under rules `rejection` and `block`. `rows` gives probabilities:
//   rows.target(i, token)         of the row of tail[i]
//   rows.draft(position, token)   that the token at `position` was drawn from
//   rows.vocab()
// `draws` gives below, sum and draw as KeyedDraws does. A block of threads may call this together,
// if all of them get the same from it.
template <typename Rows, typename Draws>
SPECRT_HD inline Verdict walk_rejection(const Cells& s, const Cell<int32_t>* tok, const Rows& rows,
                                        const Draws& draws) {
  const Accepted accepted =
      s.rule == Rule::block ? test_block(s, tok, rows, draws) : test_tokens(s, tok, rows, draws);
  const int32_t committed = s.committed;
  Verdict v;
  const auto add = [&](int32_t token) {
    v.tokens[v.count++] = token;
    if (is_eos(s, token)) {
      v.stop = Stop::eos;
    } else if (committed + v.count == s.limit) {
      v.stop = Stop::limit;
    }
  };
  while (v.count < accepted.count && v.stop == Stop::running) add(tok[committed + v.count]);
  v.accepted = v.count;
  v.judged = v.count;
  if (v.stop != Stop::running) return v;
  v.judged = min_i32(judged_tokens(s), v.accepted + 1);
  v.survive = v.accepted == s.tail;
  if (!v.survive) add(draw_last(s, rows, draws, accepted));
  return v;
}

}  // namespace specrt
