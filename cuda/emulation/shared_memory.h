// The shared memory of a block: variables, then dynamic memory, between guard zones, poisoned at
// the start of every block.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace specrt::emulation {

inline constexpr size_t kStaticSharedBytes = 48 << 10;
inline constexpr size_t kMaxDynamicSharedBytes = 227 << 10;

class SharedMemory {
 public:
  SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  void begin(size_t dynamic_bytes);
  std::string end();  // what is wrong with the guard zones; empty if nothing is
  std::byte* dynamic() const { return dynamic_; }
  size_t dynamic_bytes() const { return dynamic_bytes_; }

  // The variable that `key` stands for; made at its first use in this block.
  std::byte* variable(const void* key, size_t bytes, size_t alignment);

  // Whether [data, data + bytes) lies in one variable or in dynamic memory.
  bool holds(const void* data, size_t bytes) const;
  size_t offset(const void* data) const;  // from the start of all shared memory
  std::byte* base() const { return base_; }

 private:
  struct Variable {
    const void* key;
    std::byte* data;
    size_t bytes;
  };

  std::string check_guards() const;

  std::unique_ptr<std::byte[]> storage_;
  size_t storage_bytes_;
  std::byte* base_ = nullptr;
  std::byte* dynamic_ = nullptr;
  size_t dynamic_bytes_ = 0;
  size_t static_used_ = 0;
  std::vector<Variable> variables_;
};

}  // namespace specrt::emulation
