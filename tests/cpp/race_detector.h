// Vector clocks over the host and the streams: reports every pair of accesses to one word of device
// memory, at least one of them a write, that no event or queue puts in order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "device/cells.h"

namespace specrt::testing {

inline constexpr size_t kHost = 0;  // the streams are the actors from 1 on
inline constexpr size_t kMaxActors = 5;

struct VectorClock {
  std::array<uint32_t, kMaxActors> at{};

  void join(const VectorClock& other);
};

class RaceDetector {
 public:
  explicit RaceDetector(std::function<void(const std::string&)> report)
      : report_(std::move(report)) {
    for (size_t actor = 0; actor < kMaxActors; ++actor) clocks_[actor].at[actor] = 1;
  }

  // Words of [data, data + size) are checked from now on.
  void watch(const std::byte* data, size_t size);
  // Names for reports: the cells and the tokens of a sequence, the span of a lane.
  void name_sequence(const std::string& label, const SequenceCells& sequence, int32_t context);
  void name_span(const std::string& label, const StepSpan& span);
  void name_rows(const std::string& label, const std::byte* data, size_t size, size_t stride) {
    names_.push_back({data, size, label, stride});
  }

  // The running actor touches the word at `address`. Unwatched memory is ignored.
  void access(const void* address, CellAccess kind);

  size_t actor() const { return actor_; }
  void set_actor(size_t actor) { actor_ = actor; }

  // What has happened before work that the actor hands on; its later accesses are not part of it.
  VectorClock release(size_t actor);
  void acquire(size_t actor, const VectorClock& clock) { clocks_[actor].join(clock); }

 private:
  struct Word {
    uint32_t writer = 0;
    uint32_t written = 0;  // the writer's clock then; 0: never
    std::array<uint32_t, kMaxActors> read{};
  };
  struct Region {
    const std::byte* data;
    size_t size;
    std::vector<Word> words;
  };
  struct Name {
    const std::byte* data;
    size_t size;
    std::string label;
    size_t stride;  // of an array's elements; 0: one word
  };

  Region* region_of(const std::byte* address);
  void race(const void* address, CellAccess kind, size_t other, const char* what);
  std::string name_of(const std::byte* address) const;

  std::function<void(const std::string&)> report_;
  std::array<VectorClock, kMaxActors> clocks_{};
  size_t actor_ = kHost;
  size_t last_region_ = 0;
  std::vector<Region> regions_;
  std::vector<Name> names_;
};

}  // namespace specrt::testing
