// CRC-32 with zlib's polynomial (reflected 0xEDB88320), the checksum of engine headers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace specrt {

// `crc` is the checksum of the bytes before, 0 at the start.
uint32_t crc32(uint32_t crc, const std::byte* data, size_t size);

}  // namespace specrt
