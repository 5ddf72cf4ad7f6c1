// An engine: a compiled model on disk, mapped and validated. It belongs to no device. Header,
// tables and token table are copied while it is opened; after that only the weights lie in the
// file, and only for a backend that has not copied them (mapped_file.h says what happens to such a
// file).
#pragma once

#include <memory>
#include <string>

#include "base/mapped_file.h"
#include "engine/plan.h"

namespace specrt {

class Engine {
 public:
  // Maps `path` and checks header, checksum, tables and every op. A file that is truncated,
  // corrupted or hostile throws specrt::Error and leaves nothing behind. Weights are not hashed.
  static std::shared_ptr<const Engine> open(const std::string& path);

  const Plan& plan() const { return plan_; }
  const std::byte* file() const { return file_.data(); }
  size_t file_bytes() const { return file_.size(); }

  // For a backend that has copied the weights: their pages need not stay in memory twice.
  void evict() const { file_.evict(); }

 private:
  explicit Engine(const std::string& path);

  MappedFile file_;
  Plan plan_;
};

// Reads header and tables from the bytes of an engine file and validates them.
Plan parse_plan(const std::byte* data, size_t size);

}  // namespace specrt
