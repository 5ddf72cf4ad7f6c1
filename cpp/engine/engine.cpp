#include "engine/engine.h"

#include <cstring>

#include "base/crc32.h"
#include "base/error.h"

namespace specrt {
namespace {

using format::FileHeader;

FileHeader read_header(const std::byte* data, size_t size) {
  FileHeader header;
  SPECRT_CHECK(size >= sizeof(header), "it is shorter than an engine header");
  std::memcpy(&header, data, sizeof(header));
  SPECRT_CHECK(std::memcmp(header.magic, format::kMagic, sizeof(header.magic)) == 0,
               "it is not a specrt engine");
  SPECRT_CHECK(header.format_version == format::kFormatVersion, "format version ",
               header.format_version, " where this specrt reads ", format::kFormatVersion,
               "; rebuild the bundle with `specrt build`");
  SPECRT_CHECK(header.backend == format::kBackendCpu || header.backend == format::kBackendCuda,
               "it is packed for backend ", header.backend,
               "; rebuild the bundle with `specrt build --backend cpu`");
  const bool is_cuda = header.backend == format::kBackendCuda;
  SPECRT_CHECK(
      header.layout_version == (is_cuda ? format::kCudaLayoutVersion : format::kCpuLayoutVersion),
      "it has layout ", header.layout_version, "; rebuild the bundle with `specrt build --backend ",
      is_cuda ? "cuda" : "cpu", "`");
  SPECRT_CHECK(header.file_bytes == size, "it has ", size, " bytes where its header says ",
               header.file_bytes, "; the file is truncated or damaged");
  SPECRT_CHECK(header.weights_begin <= size && header.weights_begin % 4096 == 0,
               "weights begin at byte ", header.weights_begin);
  return header;
}

void check_crc(const FileHeader& header, const std::byte* data) {
  FileHeader blank = header;
  blank.header_crc = 0;
  uint32_t crc = crc32(0, reinterpret_cast<const std::byte*>(&blank), sizeof(blank));
  crc = crc32(crc, data + sizeof(blank), header.weights_begin - sizeof(blank));
  SPECRT_CHECK(crc == header.header_crc, "its header checksum does not match; the file is damaged");
}

// Copies tables out of the file in order; every count is bounded before it is used.
class TableReader {
 public:
  TableReader(const std::byte* data, size_t begin, size_t end)
      : data_(data), at_(begin), end_(end) {}

  template <typename Record>
  void read(const char* what, uint32_t count, uint32_t most, std::vector<Record>& out) {
    SPECRT_CHECK(count <= most, count, " ", what, " where at most ", most, " are possible");
    SPECRT_CHECK(count <= (end_ - at_) / sizeof(Record), "the table of ", count, " ", what,
                 " does not fit");
    out.resize(count);
    if (count > 0) std::memcpy(out.data(), data_ + at_, count * sizeof(Record));
    at_ += count * sizeof(Record);
  }

  std::string text(uint64_t bytes) {
    SPECRT_CHECK(bytes <= format::kMaxMeta && bytes <= end_ - at_, "metadata of ", bytes, " bytes");
    const std::string text(reinterpret_cast<const char*>(data_ + at_), static_cast<size_t>(bytes));
    at_ += bytes;
    return text;
  }

  Vocabulary vocabulary(uint64_t bytes, int32_t size) const {
    SPECRT_CHECK(bytes <= format::kMaxText && bytes <= end_ - at_, "a token table of ", bytes,
                 " bytes");
    SPECRT_CHECK(size >= 1 && size <= format::kMaxVocab, "vocabulary of ", size);
    return {data_ + at_, static_cast<size_t>(bytes), size};
  }

 private:
  const std::byte* data_;
  size_t at_;
  size_t end_;
};

}  // namespace

Plan parse_plan(const std::byte* data, size_t size) {
  Plan plan;
  plan.header = read_header(data, size);
  const FileHeader& header = plan.header;
  SPECRT_CHECK(header.weights_begin >= sizeof(header), "weights begin inside of the header");
  check_crc(header, data);
  TableReader tables(data, sizeof(header), header.weights_begin);
  tables.read("tensors", header.tensor_count, format::kMaxTensors, plan.tensors);
  tables.read("buffers", header.buffer_count, format::kMaxBuffers, plan.buffers);
  tables.read("kv layers", header.kv_count, format::kMaxKvLayers, plan.kv);
  tables.read("ops", header.op_count, format::kMaxOps, plan.ops);
  plan.meta = tables.text(header.meta_bytes);
  if (header.text_bytes > 0) {
    plan.vocabulary = tables.vocabulary(header.text_bytes, header.vocab);
  }
  validate(plan);
  return plan;
}

Engine::Engine(const std::string& path) : file_(path) {
  try {
    plan_ = parse_plan(file_.data(), file_.size());
  } catch (const Error& error) {
    fail("cannot load the engine ", path, ": ", error.what());
  }
}

std::shared_ptr<const Engine> Engine::open(const std::string& path) {
  return std::shared_ptr<const Engine>(new Engine(path));
}

}  // namespace specrt
