// Weights on their way to the tensor cores: a ring in shared memory.
#pragma once

#include "cuda/chains.h"
#include "cuda/linear.h"
#include "cuda/ptx.h"

namespace specrt::cuda {

// Who fills and reads a ring: a warp, so that warps never wait for each other, or the whole block.
// One thread starts the copies, and a slot is free when all have met.
struct WarpReaders {
  static constexpr int32_t kSlotBytes = 4096;
  static __device__ __forceinline__ bool is_first() { return elect_lane0(); }
  static __device__ __forceinline__ void meet() { sync_warp(); }
};
struct BlockReaders {
  static constexpr int32_t kSlotBytes = 16384;
  static __device__ __forceinline__ bool is_first() { return threadIdx.x == 0; }
  static __device__ __forceinline__ void meet() { sync_block(); }
};

// The tiles of a range of blocks of columns, group after group of panels, block after block. They
// come by bulk copies, and a barrier of a slot says when they have come. All readers call every
// function. What was filled must be waited for: a block may not end before.
template <typename Readers, int kPanels, int kSlotCount>
class WeightStream {
 public:
  static constexpr int32_t kSlots = kSlotCount;
  static constexpr int32_t kSlotBytes = Readers::kSlotBytes;
  static constexpr int32_t kBlocks = kSlotBytes / kTileBytes / kPanels;  // a panel's in a slot
  static constexpr int32_t kRingBytes = kSlots * kSlotBytes;             // 16-byte aligned

  // `came` has one barrier a slot.
  __device__ WeightStream(std::byte* ring, uint64_t* came, const Weight& w, const BlockRange& range,
                          int32_t first_panel, const PanelGroups& groups)
      : groups_(groups),
        ring_(ring),
        came_(came),
        w_(w),
        range_(range),
        fill_panel_(range.begin < range.end ? first_panel : groups.end()),
        fill_block_(range.begin) {
    if (Readers::is_first()) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) mbar_init(came_ + slot, 1);
      fence_mbar_init();
    }
    Readers::meet();
  }

  // Starts as many copies as there are slots. Once, first.
  __device__ __forceinline__ void fill() {
    for (int32_t slot = 0; slot < kSlots; ++slot) filled_ += fill_slot(slot);
  }

  // The next slot, when its tiles have come: [panel][block][tile].
  __device__ __forceinline__ const std::byte* wait() const {
    mbar_wait(came_ + used_ % kSlots, used_ / kSlots % 2);
    return ring_ + used_ % kSlots * kSlotBytes;
  }

  // The readers have taken all they need from that slot, which is filled again.
  __device__ __forceinline__ void release() {
    Readers::meet();
    fill_slot(static_cast<int32_t>(used_++ % kSlots));
  }

  // Instead of everything after fill().
  __device__ __forceinline__ void abandon() const {
    for (int32_t slot = 0; slot < filled_; ++slot) mbar_wait(came_ + slot, 0);
  }

 private:
  // Slots filled: 1, or 0 when there is nothing more.
  __device__ __forceinline__ int32_t fill_slot(int32_t slot) {
    const int32_t panels = groups_.size(fill_panel_);
    if (panels == 0) return 0;
    const int32_t left = range_.end - fill_block_, blocks = left < kBlocks ? left : kBlocks;
    if (Readers::is_first()) start_copies(slot, panels, blocks * static_cast<int32_t>(kTileBytes));
    fill_block_ += blocks;
    if (blocks == left) {
      fill_block_ = range_.begin;
      fill_panel_ += panels;
    }
    return 1;
  }

  __device__ __forceinline__ void start_copies(int32_t slot, int32_t panels, int32_t bytes) const {
    std::byte* to = ring_ + slot * kSlotBytes;
    const int64_t panel_bytes = column_blocks(w_.cols) * kTileBytes;
    const std::byte* from = w_.data + fill_panel_ * panel_bytes + fill_block_ * kTileBytes;
    mbar_expect_tx(came_ + slot, static_cast<uint32_t>(panels * bytes));
    for (int32_t p = 0; p < panels; ++p) {
      bulk_g2s(to + p * kBlocks * kTileBytes, from + p * panel_bytes, static_cast<uint32_t>(bytes),
               came_ + slot, l2_evict_first());
    }
  }

  PanelGroups groups_;
  std::byte* ring_;
  uint64_t* came_;
  const Weight& w_;
  BlockRange range_;
  int32_t fill_panel_;
  int32_t fill_block_;
  int32_t filled_ = 0;  // slots, by fill()
  uint32_t used_ = 0;   // slots released; the next is used_ % kSlots in its phase used_ / kSlots
};

}  // namespace specrt::cuda
