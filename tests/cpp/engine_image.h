// Builds engine files in memory for the tests: header, tables, tensors and checksum.
// The writer of real engines is python/specrt/build/engine_file.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/view.h"
#include "engine/engine.h"

namespace specrt::testing {

struct EngineImage {
  struct Tensor {
    format::TensorRecord record{};
    std::vector<std::byte> data;
  };

  EngineImage();

  // Each returns the id of the new record. `data` is cut or filled with zeros to the tensor's size.
  int32_t add_tensor(DType dtype, Layout layout, int32_t rows, int32_t cols,
                     std::vector<std::byte> data);
  int32_t add_buffer(DType dtype, int32_t cols);  // shares its bytes with no other buffer
  int32_t add_kv(DType dtype, int32_t kv_heads, int32_t head_dim, int32_t window);
  format::OpRecord& add_op(format::OpKind kind, int32_t out);

  // The file: counts, offsets, sizes and the checksum are filled in.
  std::vector<std::byte> bytes() const;

  format::FileHeader header{};
  std::vector<Tensor> tensors;
  std::vector<format::BufferRecord> buffers;
  std::vector<format::KvRecord> kv;
  std::vector<format::OpRecord> ops;
  std::string meta = "{}  ";  // a multiple of four bytes, so that the token table is aligned
  std::vector<std::byte> token_table;
};

// Computes the checksum of a changed file anew. Files shorter than a header stay as they are.
void seal(std::vector<std::byte>& file);

// A file that exists as long as the object.
class TempFile {
 public:
  explicit TempFile(const std::vector<std::byte>& content);
  ~TempFile();
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::shared_ptr<const Engine> open_engine(const std::vector<std::byte>& file);

}  // namespace specrt::testing
