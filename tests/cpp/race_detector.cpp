#include "race_detector.h"

#include <algorithm>
#include <cstddef>

#include "base/error.h"

namespace specrt::testing {
namespace {

const std::byte* bytes_of(const void* address) { return static_cast<const std::byte*>(address); }

std::string actor_name(size_t actor) {
  return actor == kHost ? "the host" : concat("stream ", actor);
}

}  // namespace

void VectorClock::join(const VectorClock& other) {
  for (size_t i = 0; i < kMaxActors; ++i) at[i] = std::max(at[i], other.at[i]);
}

void RaceDetector::watch(const std::byte* data, size_t size) {
  regions_.push_back({.data = data, .size = size, .words = std::vector<Word>((size + 3) / 4)});
}

void RaceDetector::name_sequence(const std::string& label, const SequenceCells& sequence,
                                 int32_t context) {
  const Cells& s = *sequence.cells;
  const auto cell = [&](const char* field, const auto& member) {
    names_.push_back({bytes_of(&member), sizeof(member), label + "." + field, 0});
  };
  cell("committed", s.committed);
  cell("tail", s.tail);
  cell("drafted", s.drafted);
  cell("appended", s.appended);
  cell("draft_kv", s.draft_kv);
  cell("draft_end", s.draft_end);
  cell("snap_begin", s.snap_begin);
  cell("snap_count", s.snap_count);
  cell("limit", s.limit);
  cell("stop", s.stop);
  cell("round", s.round);
  cell("seed", s.seed);
  cell("phases", s.phases);
  cell("eos_count", s.eos_count);
  cell("eos", s.eos);
  cell("sampling", s.sampling);
  names_.push_back({bytes_of(sequence.tok), sizeof(Cell<int32_t>) * static_cast<size_t>(context),
                    label + ".tok", sizeof(Cell<int32_t>)});
  names_.push_back({bytes_of(sequence.log), sizeof(LogEntry) * sequence.log_slots, label + ".log",
                    sizeof(LogEntry)});
}

void RaceDetector::name_span(const std::string& label, const StepSpan& span) {
  names_.push_back({bytes_of(&span.base), sizeof(span.base), label + ".base", 0});
  names_.push_back({bytes_of(&span.rows), sizeof(span.rows), label + ".rows", 0});
}

RaceDetector::Region* RaceDetector::region_of(const std::byte* address) {
  const auto holds = [&](const Region& region) {
    return address >= region.data && address < region.data + region.size;
  };
  if (last_region_ < regions_.size() && holds(regions_[last_region_])) {
    return &regions_[last_region_];
  }
  const auto found = std::find_if(regions_.begin(), regions_.end(), holds);
  if (found == regions_.end()) return nullptr;
  last_region_ = static_cast<size_t>(found - regions_.begin());
  return &*found;
}

void RaceDetector::access(const void* address, CellAccess kind) {
  Region* region = region_of(bytes_of(address));
  if (region == nullptr) return;
  Word& word = region->words[static_cast<size_t>(bytes_of(address) - region->data) / 4];
  const VectorClock& now = clocks_[actor_];
  if (word.written > now.at[word.writer]) race(address, kind, word.writer, "written");
  if (kind == CellAccess::read) {
    word.read[actor_] = now.at[actor_];
    return;
  }
  for (size_t other = 0; other < kMaxActors; ++other) {
    if (word.read[other] > now.at[other]) race(address, kind, other, "read");
  }
  word.writer = static_cast<uint32_t>(actor_);
  word.written = now.at[actor_];
  word.read.fill(0);
}

VectorClock RaceDetector::release(size_t actor) {
  VectorClock& clock = clocks_[actor];
  const VectorClock before = clock;
  ++clock.at[actor];
  return before;
}

void RaceDetector::race(const void* address, CellAccess kind, size_t other, const char* what) {
  report_(concat("race: ", name_of(bytes_of(address)), " is ",
                 kind == CellAccess::read ? "read" : "written", " by ", actor_name(actor_),
                 " and was ", what, " by ", actor_name(other), " in no order"));
}

std::string RaceDetector::name_of(const std::byte* address) const {
  for (const Name& name : names_) {
    if (address < name.data || address >= name.data + name.size) continue;
    if (name.stride == 0) return name.label;
    return concat(name.label, "[", static_cast<size_t>(address - name.data) / name.stride, "]");
  }
  return "device memory";
}

}  // namespace specrt::testing
