// Device memory with one owner.
#pragma once

#include <cstddef>
#include <utility>

namespace specrt {

class Buffer {
 public:
  using Release = void (*)(std::byte* data, size_t size);

  Buffer() = default;
  Buffer(std::byte* data, size_t size, Release release)
      : data_(data), size_(size), release_(release) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        release_(other.release_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release_(data_, size_);
  }

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  Release release_ = nullptr;
};

}  // namespace specrt
