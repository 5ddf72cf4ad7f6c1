#include "engine_image.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/crc32.h"
#include "base/error.h"

namespace specrt::testing {
namespace {

using format::FileHeader;

uint64_t aligned(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

void append(std::vector<std::byte>& file, const void* data, size_t size) {
  const size_t begin = file.size();
  file.resize(begin + size);
  if (size > 0) std::memcpy(file.data() + begin, data, size);
}

template <typename Record>
void append_table(std::vector<std::byte>& file, const std::vector<Record>& table) {
  append(file, table.data(), table.size() * sizeof(Record));
}

}  // namespace

EngineImage::EngineImage() {
  std::memcpy(header.magic, format::kMagic, sizeof(header.magic));
  header.format_version = format::kFormatVersion;
  header.backend = format::kBackendCpu;
  header.layout_version = format::kCpuLayoutVersion;
}

int32_t EngineImage::add_tensor(DType dtype, Layout layout, int32_t rows, int32_t cols,
                                std::vector<std::byte> data) {
  Tensor tensor;
  tensor.record.bytes = static_cast<uint64_t>(weight_bytes(dtype, layout, rows, cols));
  tensor.record.dtype = static_cast<uint32_t>(dtype);
  tensor.record.layout = static_cast<uint32_t>(layout);
  tensor.record.rows = rows;
  tensor.record.cols = cols;
  tensor.data = std::move(data);
  tensor.data.resize(tensor.record.bytes);
  tensors.push_back(std::move(tensor));
  return static_cast<int32_t>(tensors.size()) - 1;
}

int32_t EngineImage::add_buffer(DType dtype, int32_t cols) {
  uint64_t offset = 0;
  for (const format::BufferRecord& buffer : buffers) {
    offset +=
        static_cast<uint64_t>(padded_row_bytes(static_cast<DType>(buffer.dtype), buffer.cols));
  }
  buffers.push_back({.offset = offset, .dtype = static_cast<uint32_t>(dtype), .cols = cols});
  return static_cast<int32_t>(buffers.size()) - 1;
}

int32_t EngineImage::add_kv(DType dtype, int32_t kv_heads, int32_t head_dim, int32_t window) {
  kv.push_back({.kv_heads = kv_heads,
                .head_dim = head_dim,
                .dtype = static_cast<uint32_t>(dtype),
                .window = window});
  return static_cast<int32_t>(kv.size()) - 1;
}

format::OpRecord& EngineImage::add_op(format::OpKind kind, int32_t out) {
  ops.push_back({.kind = kind,
                 .in = {format::kNone, format::kNone},
                 .out = out,
                 .tensor = format::kNone,
                 .kv = format::kNone,
                 .integer = {},
                 .real = {},
                 .rows = format::OpRows::all,
                 .draft = 0,
                 .reserved = {}});
  return ops.back();
}

std::vector<std::byte> EngineImage::bytes() const {
  std::vector<format::TensorRecord> records;
  for (const Tensor& tensor : tensors) records.push_back(tensor.record);
  FileHeader head = header;
  head.tensor_count = static_cast<uint32_t>(records.size());
  head.buffer_count = static_cast<uint32_t>(buffers.size());
  head.kv_count = static_cast<uint32_t>(kv.size());
  head.op_count = static_cast<uint32_t>(ops.size());
  head.meta_bytes = meta.size();
  head.text_bytes = token_table.size();
  head.weights_begin = aligned(
      sizeof(head) + records.size() * sizeof(format::TensorRecord) +
          buffers.size() * sizeof(format::BufferRecord) + kv.size() * sizeof(format::KvRecord) +
          ops.size() * sizeof(format::OpRecord) + meta.size() + token_table.size(),
      4096);
  uint64_t end = head.weights_begin;
  for (format::TensorRecord& record : records) {
    record.offset = end;
    end = aligned(end + record.bytes, 64);
  }
  head.file_bytes = end;
  std::vector<std::byte> file;
  file.reserve(end);
  append(file, &head, sizeof(head));
  append_table(file, records);
  append_table(file, buffers);
  append_table(file, kv);
  append_table(file, ops);
  append(file, meta.data(), meta.size());
  append(file, token_table.data(), token_table.size());
  file.resize(head.weights_begin);
  for (size_t i = 0; i < tensors.size(); ++i) {
    file.resize(records[i].offset);
    append(file, tensors[i].data.data(), tensors[i].data.size());
  }
  file.resize(end);
  seal(file);
  return file;
}

void seal(std::vector<std::byte>& file) {
  FileHeader header;
  if (file.size() < sizeof(header)) return;
  std::memcpy(&header, file.data(), sizeof(header));
  header.header_crc = 0;
  std::memcpy(file.data(), &header, sizeof(header));
  const size_t covered = std::clamp<uint64_t>(header.weights_begin, sizeof(header), file.size());
  header.header_crc = crc32(0, file.data(), covered);
  std::memcpy(file.data(), &header, sizeof(header));
}

TempFile::TempFile(const std::vector<std::byte>& content)
    : path_((std::filesystem::temp_directory_path() / "specrt-test-XXXXXX").string()) {
  const int descriptor = ::mkstemp(path_.data());
  SPECRT_CHECK(descriptor >= 0, "cannot make a file in ", path_);
  size_t written = 0;
  while (written < content.size()) {
    const ssize_t count = ::write(descriptor, content.data() + written, content.size() - written);
    if (count <= 0) break;
    written += static_cast<size_t>(count);
  }
  ::close(descriptor);
  SPECRT_CHECK(written == content.size(), "cannot write ", path_);
}

TempFile::~TempFile() { ::unlink(path_.c_str()); }

std::shared_ptr<const Engine> open_engine(const std::vector<std::byte>& file) {
  const TempFile temp(file);
  return Engine::open(temp.path());  // the mapping outlives the name
}

}  // namespace specrt::testing
