// The engine file, byte for byte. Written by python/specrt/build/engine_file.py, read by
// engine.cpp. Little endian. Everything before `weights_begin` is header and tables and is covered
// by the CRC-32 (zlib's polynomial) in `header_crc`, computed with that field zero.
//
//   FileHeader | TensorRecord[] | BufferRecord[] | KvRecord[] | OpRecord[] | meta (JSON) | token
//   table | padding weights_begin (multiple of 4096): tensors, each at a multiple of 64 | end of
//   file
//
// `meta` holds names, source hashes and versions for people; the runtime never reads it.
#pragma once

#include <cstdint>

namespace specrt::format {

inline constexpr char kMagic[8] = {'S', 'P', 'E', 'C', 'R', 'T', '\x1a', '\n'};
inline constexpr uint32_t kFormatVersion = 6;
inline constexpr uint32_t kCpuLayoutVersion = 1;   // packing of the x86 engines (view.h, panels16)
inline constexpr uint32_t kCudaLayoutVersion = 1;  // packing of CUDA engines (view.h, tiles16x32)
inline constexpr uint32_t kBackendCpu = 0;
inline constexpr uint32_t kBackendCuda = 1;
inline constexpr int32_t kNone = -1;

// Sanity limits: a table larger than these is refused before anything is allocated.
inline constexpr uint32_t kMaxTensors = 65536;
inline constexpr uint32_t kMaxBuffers = 4096;
inline constexpr uint32_t kMaxKvLayers = 1024;
inline constexpr uint32_t kMaxOps = 65536;
inline constexpr uint64_t kMaxMeta = 64u << 20;
inline constexpr uint64_t kMaxText = 256u << 20;
inline constexpr int32_t kMaxVocab = 1 << 22;
inline constexpr int32_t kMaxContext = 1 << 22;
inline constexpr int32_t kMaxDim = 1 << 20;

struct FileHeader {
  char magic[8];
  uint32_t format_version;
  uint32_t header_crc;
  uint64_t file_bytes;
  uint64_t weights_begin;
  uint64_t meta_bytes;
  uint32_t backend;
  uint32_t layout_version;
  uint32_t dtype;  // of the weights: 0 f32, 1 bf16
  int32_t vocab;
  int32_t context;  // most positions that a sequence may have
  uint32_t tensor_count;
  uint32_t buffer_count;
  uint32_t kv_count;
  uint32_t op_count;
  int32_t logits_buffer;  // f32 (rows, vocab), written by the head
  int32_t head_begin;     // ops from here on run only for the rows whose logits are wanted
  int32_t eos_count;
  int32_t eos[16];
  uint64_t text_bytes;   // of the token table behind meta (vocabulary.h); 0: none
  int32_t mask_token;    // of a drafter that fills masks, plus one; 0: none
  int32_t feature_cols;  // of the hidden states that a target keeps and its drafter reads; 0: none
  uint32_t feature_dtype;     // as dtype; 0 without features
  int32_t streams;            // of a target with streams in its last layers, of a row; 0: none
  uint32_t stream_positions;  // of rotary embedding: 0 as the row, 1 shifted; 0 without streams
  uint8_t reserved[60];       // zero
};
static_assert(sizeof(FileHeader) == 240);

struct TensorRecord {
  uint64_t offset;  // from the start of the file
  uint64_t bytes;
  uint32_t dtype;
  uint32_t layout;  // 0 row_major, 1 panels16, 2 tiles16x32
  int32_t rows;
  int32_t cols;
  int32_t pair_stride;  // of tiles (Weight); 0 for other layouts
  uint32_t reserved;
};
static_assert(sizeof(TensorRecord) == 40);

// An activation: `cols` elements a row, rows padded to 64 bytes. `offset` is in bytes per row of
// capacity: with capacity n the buffer is n rows from arena + offset * n. Buffers whose lifetimes
// do not meet may share offsets.
struct BufferRecord {
  uint64_t offset;
  uint32_t dtype;
  int32_t cols;
};
static_assert(sizeof(BufferRecord) == 16);

struct KvRecord {
  int32_t kv_heads;
  int32_t head_dim;
  uint32_t dtype;
  int32_t window;  // a row sees this many positions, itself included; 0: all
};
static_assert(sizeof(KvRecord) == 16);

enum class OpKind : uint32_t {
  embed = 0,          // out; tensor table
  rope_angles = 1,    // out; tensor inv_freq (1, e/2) f32 row_major; real[0] = scaling
  rms_norm = 2,       // in[0] x, out; tensor gain (1, d) f32 row_major; real[0] = eps
  linear = 3,         // in[0] x, out; tensor packed weight; integer: epilogue (0 to 3), bias
  rope_kv = 4,        // in[0] qkv, in[1] angles, out q; kv; integer: query heads, gains of queries
                      // and keys; real[0] = eps of their norm
  attention = 5,      // in[0] q, out; kv; integer[0] = query heads; real[0] = scale
  keep_features = 6,  // in[0] x, no out; integer: first column, slots ahead: 0 and not in the head
                      // of a target, 1 and in the head of a drafter, whose estimates they are
  load_features = 7,  // out; integer: first column, MissingFeatures; tensor mask (1, d) f32
                      // row_major with MissingFeatures::mask, else none
  // Once each in a target with streams, in this order and before the head. What stands behind
  // insert_streams runs for the rows of the layers with streams, and does not embed.
  plan_streams = 8,    // in[0] exit, no out; tensor table
  insert_streams = 9,  // in[0] x, out; tensor embeddings (streams, d) f32 row_major
  convert = 10,        // in[0] x, out
  scatter = 11,        // in[0] x, out; tensor ids (1, columns of x) f32 row_major
};

// Which rows an op runs for.
enum class OpRows : uint32_t {
  all = 0,
  streams = 1,  // only streams; behind insert_streams
  scored = 2,   // all, in steps that score rows; before plan_streams
  draft = 3,    // of a draft made at once only the one that drafts token OpRecord::draft; the head
};

// Unused ids are kNone and unused numbers 0. A bias or gain among the integers is the id of a
// tensor plus one, or 0 for none: (1, rows of the weight) or (1, head dim), f32 row_major.
struct OpRecord {
  OpKind kind;
  int32_t in[2];
  int32_t out;
  int32_t tensor;
  int32_t kv;
  int32_t integer[4];
  float real[2];
  OpRows rows;
  int32_t draft;  // with OpRows::draft, from 0; else 0
  uint32_t reserved[2];
};
static_assert(sizeof(OpRecord) == 64);

}  // namespace specrt::format
