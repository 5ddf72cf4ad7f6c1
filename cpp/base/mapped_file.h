// A file mapped read-only into memory. Deleting or replacing (renaming over) the file changes
// nothing here. Cutting it short in place ends the process with SIGBUS when a page behind the new
// end is touched; so specrt never writes into a file that exists, it renames new ones into place.
#pragma once

#include <cstddef>
#include <string>

namespace specrt {

class MappedFile {
 public:
  // Throws specrt::Error when the file cannot be opened, is empty, is not a regular file, or finds
  // no room in the address space.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Gives the pages back to the system; they are read from the file again when they are touched.
  void evict() const;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace specrt
