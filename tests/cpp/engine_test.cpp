// The engine reader: a good engine is read, everything else is refused with a message that says
// why.
#include "engine/engine.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "base/error.h"
#include "tiny_engine.h"

namespace specrt::testing {
namespace {

using format::FileHeader;

// Parses a copy that has exactly the file's bytes, so that sanitizers see reads behind its end.
Plan parse(const std::vector<std::byte>& file, size_t size) {
  const auto exact = std::make_unique<std::byte[]>(size);
  std::copy_n(file.begin(), size, exact.get());
  return parse_plan(exact.get(), size);
}

std::string refusal(const std::vector<std::byte>& file, size_t size) {
  try {
    parse(file, size);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::runtime);
    return error.what();
  }
  return "(accepted)";
}

std::string refusal(const std::vector<std::byte>& file) { return refusal(file, file.size()); }

// A good file with a changed header and a right checksum.
std::vector<std::byte> with_header(const std::function<void(FileHeader&)>& change) {
  std::vector<std::byte> file = tiny_engine(DType::bf16, 1).bytes();
  FileHeader header;
  std::memcpy(&header, file.data(), sizeof(header));
  change(header);
  std::memcpy(file.data(), &header, sizeof(header));
  seal(file);
  return file;
}

std::string header_refusal(const std::function<void(FileHeader&)>& change) {
  return refusal(with_header(change));
}

// The same for changes of the tables, from which the file is then laid out.
std::string table_refusal(const std::function<void(EngineImage&)>& change) {
  EngineImage image = tiny_engine(DType::bf16, 1);
  change(image);
  return refusal(image.bytes());
}

#define CHECK_SAYS(text, part) CHECK_MESSAGE((text).find(part) != std::string::npos, (text))

TEST_CASE("a good engine is read") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto engine = open_engine(tiny_engine(dtype, 1).bytes());
    const Plan& plan = engine->plan();
    CHECK_EQ(plan.ops.size(), 2 + 2 * 8 + 2);
    CHECK_EQ(plan.kv.size(), 2);
    CHECK_EQ(plan.buffers.size(), 8);
    CHECK_EQ(plan.header.vocab, 40);
    CHECK_EQ(plan.meta, R"({"name": "tiny"})");
    CHECK_EQ(kv_slots(plan), 160);  // context 96 and a step of 64 rows
    const int64_t element = dtype == DType::f32 ? 4 : 2;
    CHECK_EQ(kv_bytes(plan), 2 * 2 * 160 * 2 * 8 * element);
    CHECK_EQ(arena_bytes(plan, kMaxStepRows) % kRowAlignment, 0);
    CHECK(step_weight_bytes(plan) > 0);
  }
}

TEST_CASE("every truncation is refused") {
  const std::vector<std::byte> file = tiny_engine(DType::bf16, 1).bytes();
  for (size_t size = 0; size < file.size(); size += size < 5000 ? 1 : 61) {
    const std::string text = refusal(file, size);
    if (size < sizeof(FileHeader)) {
      REQUIRE_EQ(text, "it is shorter than an engine header");
    } else {
      REQUIRE_MESSAGE(text.find("truncated or damaged") != std::string::npos, text);
    }
  }
}

TEST_CASE("every truncation is refused, also when header and checksum agree with it") {
  const std::vector<std::byte> whole = tiny_engine(DType::bf16, 1).bytes();
  for (size_t size = sizeof(FileHeader); size + 64 < whole.size(); size += size < 5000 ? 1 : 61) {
    std::vector<std::byte> file(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    FileHeader header;
    std::memcpy(&header, file.data(), sizeof(header));
    header.file_bytes = size;
    std::memcpy(file.data(), &header, sizeof(header));
    seal(file);
    const std::string text = refusal(file);
    REQUIRE_MESSAGE(text != "(accepted)", "size ", size);
  }
}

TEST_CASE("every damaged byte of header and tables is noticed") {
  const std::vector<std::byte> good = tiny_engine(DType::bf16, 1).bytes();
  FileHeader header;
  std::memcpy(&header, good.data(), sizeof(header));
  for (size_t at = 0; at < header.weights_begin; ++at) {
    std::vector<std::byte> file = good;
    file[at] ^= std::byte{0x10};
    REQUIRE(refusal(file) != "(accepted)");
  }
  std::vector<std::byte> file = good;
  file[500] ^= std::byte{1};
  CHECK_EQ(refusal(file), "its header checksum does not match; the file is damaged");
}

TEST_CASE("a foreign or other-version file is refused with what to do") {
  CHECK_EQ(header_refusal([](FileHeader& h) { h.magic[0] = 'X'; }), "it is not a specrt engine");
  CHECK_EQ(header_refusal([](FileHeader& h) { h.format_version = 99; }),
           "format version 99 where this specrt reads 6; rebuild the bundle with `specrt build`");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.backend = 2; }), "specrt build --backend cpu");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.layout_version = 9; }), "layout 9");
}

TEST_CASE("numbers of the header out of bounds are refused") {
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.weights_begin = 0; }), "inside of the header");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.weights_begin = 4097; }), "begin at byte 4097");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.weights_begin = ~0ull << 12; }), "begin at byte");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.tensor_count = ~0u; }), "tensors where at most");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.tensor_count = 60000; }), "does not fit");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.buffer_count = 5000; }), "buffers where at most");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.kv_count = 2000; }), "kv layers where at most");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.op_count = 65536; }), "65536 ops does not fit");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.meta_bytes = ~0ull; }), "metadata");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.meta_bytes = 4096; }), "metadata of 4096");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.dtype = 2; }), "unknown weight dtype 2");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.vocab = 0; }), "vocabulary of 0");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.vocab = 1 << 30; }), "vocabulary of 1073741824");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.vocab = 41, h.text_bytes = 0; }),
             "logits buffer is not f32");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.text_bytes = ~0ull; }), "token table of");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.text_bytes = 8; }), "cannot hold 40 tokens");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.context = 1; }), "context of 1");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.context = 2147483647; }),
             "context of 2147483647");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.eos_count = 17; }), "17 end-of-sequence tokens");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.eos_count = -1; }), "-1 end-of-sequence tokens");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.eos[0] = 40; }), "end-of-sequence token 40");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.head_begin = 21; }), "head begins at op 21");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.head_begin = -1; }), "head begins at op -1");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.logits_buffer = 8; }), "logits buffer 8 of 8");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.logits_buffer = -1; }), "logits buffer -1 of 8");
  CHECK_SAYS(header_refusal([](FileHeader& h) { h.logits_buffer = 1; }), "not f32");
}

TEST_CASE("tensors out of bounds are refused") {
  const auto tensor = [](const std::function<void(format::TensorRecord&)>& change) {
    std::vector<std::byte> file = tiny_engine(DType::bf16, 1).bytes();
    format::TensorRecord record;
    std::memcpy(&record, file.data() + sizeof(FileHeader), sizeof(record));
    change(record);
    std::memcpy(file.data() + sizeof(FileHeader), &record, sizeof(record));
    seal(file);
    return refusal(file);
  };
  CHECK_EQ(tensor([](format::TensorRecord&) {}), "(accepted)");
  CHECK_SAYS(tensor([](auto& t) { t.offset = 64; }), "engine tensor 0: bytes [64");
  CHECK_SAYS(tensor([](auto& t) { t.offset += 1; }), "outside of the weights");
  CHECK_SAYS(tensor([](auto& t) { t.offset = ~0ull << 6; }), "outside of the weights");
  CHECK_SAYS(tensor([](auto& t) { t.offset = 1 << 20; }), "outside of the weights");
  CHECK_SAYS(tensor([](auto& t) { t.bytes -= 1; }), "bytes where its shape needs");
  CHECK_SAYS(tensor([](auto& t) { t.dtype = 7; }), "unknown dtype 7");
  CHECK_SAYS(tensor([](auto& t) { t.layout = 3; }), "unknown layout 3");
  CHECK_SAYS(tensor([](auto& t) { t.rows = 0; }), "shape 0 x 24");
  CHECK_SAYS(tensor([](auto& t) { t.cols = -4; }), "shape 40 x -4");
  CHECK_SAYS(tensor([](auto& t) { t.cols = 1 << 21; }), "shape 40 x 2097152");
  CHECK_SAYS(tensor([](auto& t) {
               t.rows = format::kMaxVocab;
               t.cols = format::kMaxDim;
             }),
             "bytes where its shape needs");
}

TEST_CASE("buffers and KV layers out of bounds are refused") {
  CHECK_SAYS(table_refusal([](auto& e) { e.buffers[0].offset = 32; }), "buffer 0: offset 32");
  CHECK_SAYS(table_refusal([](auto& e) { e.buffers[2].offset = 1ull << 32; }), "buffer 2: offset");
  CHECK_SAYS(table_refusal([](auto& e) { e.buffers[1].dtype = 2; }), "buffer 1: unknown dtype 2");
  CHECK_SAYS(table_refusal([](auto& e) { e.buffers[1].cols = 0; }), "buffer 1: 0 columns");
  CHECK_SAYS(table_refusal([](auto& e) { e.buffers[1].cols = 1 << 23; }), "8388608 columns");
  CHECK_SAYS(table_refusal([](auto& e) { e.kv[1].kv_heads = 0; }), "kv layer 1: 0 heads of 8");
  CHECK_SAYS(table_refusal([](auto& e) { e.kv[0].head_dim = 7; }), "kv layer 0: 2 heads of 7");
  CHECK_SAYS(table_refusal([](auto& e) { e.kv[0].head_dim = 514; }), "2 heads of 514");
  CHECK_SAYS(table_refusal([](auto& e) { e.kv[0].kv_heads = 1 << 20; }), "heads of 8");
  CHECK_SAYS(table_refusal([](auto& e) { e.kv[0].dtype = 3; }), "kv layer 0: unknown dtype 3");
  CHECK_SAYS(table_refusal([](auto& e) { e.kv[1].window = -1; }), "a window of -1 positions");
  CHECK_SAYS(table_refusal([](auto& e) {
               e.header.context = format::kMaxContext;
               e.kv.assign(8, {.kv_heads = 1 << 19, .head_dim = 2, .dtype = 0, .window = 0});
             }),
             "a KV cache of");
}

// Ops of the tiny engine: 0 embed, 1 rope_angles, 2 rms_norm, 3 linear (qkv), 4 rope_kv,
// 5 attention, 6 linear (add), 7 rms_norm, 8 linear (swiglu), 9 linear (add).
std::string op_refusal(size_t index, const std::function<void(format::OpRecord&)>& change) {
  return table_refusal([&](EngineImage& image) { change(image.ops[index]); });
}

TEST_CASE("ops that name what does not exist are refused") {
  CHECK_SAYS(op_refusal(0, [](auto& op) { op.kind = static_cast<format::OpKind>(12); }),
             "op 0: unknown op kind 12");
  CHECK_SAYS(op_refusal(0, [](auto& op) { op.out = 8; }), "op 0: output 8 of 8");
  CHECK_SAYS(op_refusal(2, [](auto& op) { op.out = -1; }), "op 2: output -1 of 8");
  CHECK_SAYS(op_refusal(2, [](auto& op) { op.in[0] = -7; }), "op 2: input -7 of 8");
  CHECK_SAYS(op_refusal(2, [](auto& op) { op.in[1] = 0; }), "op 2: unused input is 0");
  CHECK_SAYS(op_refusal(3, [](auto& op) { op.tensor = 99; }), "op 3: tensor 99 of");
  CHECK_SAYS(op_refusal(3, [](auto& op) { op.kv = 0; }), "op 3: unused kv layer is 0");
  CHECK_SAYS(op_refusal(4, [](auto& op) { op.kv = 2; }), "op 4: kv layer 2 of 2");
  CHECK_SAYS(op_refusal(4, [](auto& op) { op.tensor = 0; }), "op 4: unused tensor is 0");
}

TEST_CASE("ops whose shapes do not fit together are refused") {
  CHECK_SAYS(op_refusal(0, [](auto& op) { op.out = 3; }), "embed: out must have 24 columns");
  CHECK_SAYS(op_refusal(0, [](auto& op) { op.tensor = 1; }), "the embedding has 1 rows");
  CHECK_SAYS(op_refusal(1, [](auto& op) { op.tensor = 2; }), "must be one f32 row of 4");
  CHECK_SAYS(op_refusal(2, [](auto& op) { op.tensor = 1; }), "must be one f32 row of 24");
  CHECK_SAYS(op_refusal(2, [](auto& op) { op.in[0] = 1; }), "rms_norm: x must be f32, not bf16");
  CHECK_SAYS(op_refusal(3, [](auto& op) { op.out = 0; }), "linear: out must have 64 columns");
  CHECK_SAYS(op_refusal(3, [](auto& op) { op.integer[0] = 4; }), "linear: unknown epilogue 4");
  CHECK_SAYS(op_refusal(3, [](auto& op) { op.integer[0] = 3; }), "64 outputs do not add to 24");
  CHECK_SAYS(op_refusal(3, [](auto& op) { op.integer[0] = -1; }), "linear: unknown epilogue -1");
  CHECK_SAYS(op_refusal(3, [](auto& op) { op.tensor = 1, op.integer[1] = 0; }),
             "linear: the weight is not packed");
  CHECK_SAYS(op_refusal(8, [](auto& op) { op.integer[0] = 0; }), "linear: out must have 64");
  CHECK_SAYS(op_refusal(6, [](auto& op) { op.integer[0] = 2; }), "swiglu needs whole panel pairs");
  for (const size_t index : {4, 5}) {
    CHECK_SAYS(op_refusal(index, [](auto& op) { op.integer[0] = 3; }),
               "3 query heads cannot share");
    CHECK_SAYS(op_refusal(index, [](auto& op) { op.integer[0] = 0; }),
               "0 query heads cannot share");
    CHECK_SAYS(op_refusal(index, [](auto& op) { op.integer[0] = -2; }), "-2 query heads");
    CHECK_SAYS(op_refusal(index, [](auto& op) { op.integer[0] = 8; }), "columns, not");
    CHECK_SAYS(op_refusal(index, [](auto& op) { op.integer[0] = 2147483646; }), "columns, not");
  }
}

TEST_CASE("biases and gains that do not exist or do not fit are refused") {
  for (const size_t index : {3, 4}) {
    const std::string cols = index == 3 ? "64" : "8";
    for (const int field : index == 3 ? std::vector{1} : std::vector{1, 2}) {
      const auto says = [&](int32_t number) {
        return op_refusal(index, [&](auto& op) { op.integer[field] = number; });
      };
      CHECK_EQ(says(0), "(accepted)");
      CHECK_SAYS(says(-1), "bias or gain -1 of");
      CHECK_SAYS(says(std::numeric_limits<int32_t>::min()), "bias or gain -2147483648 of");
      CHECK_SAYS(says(99), "bias or gain 99 of");
      CHECK_SAYS(says(1), "tensor 0 must be one f32 row of " + cols);  // the embedding
      CHECK_SAYS(says(2), "tensor 1 must be one f32 row of " + cols);  // four frequencies
    }
  }
}

// Ops of the target: 2 and 11 keep features. Of the drafter: 2 loads them, 3 multiplies them.
std::string feature_refusal(EngineImage image, const std::function<void(EngineImage&)>& change) {
  change(image);
  return refusal(image.bytes());
}

TEST_CASE("features that do not fit are refused") {
  const auto target = [](const std::function<void(EngineImage&)>& change) {
    return feature_refusal(tiny_target(DType::bf16, 1), change);
  };
  CHECK_EQ(target([](auto&) {}), "(accepted)");
  CHECK_SAYS(target([](auto& e) { e.header.feature_cols = 0; }), "features of 0 columns");
  CHECK_SAYS(target([](auto& e) { e.header.feature_cols = -48; }), "-48 columns of features");
  CHECK_SAYS(target([](auto& e) { e.header.feature_cols = 47; }),
             "op 11: keep_features: columns [24, +24) of 47");
  CHECK_SAYS(target([](auto& e) { e.header.feature_dtype = 2; }), "unknown dtype 2 of features");
  CHECK_SAYS(target([](auto& e) { e.ops[2].integer[0] = -1; }), "columns [-1, +24)");
  CHECK_SAYS(target([](auto& e) { e.ops[2].integer[0] = 2147483647; }),
             "columns [2147483647, +24)");
  CHECK_SAYS(target([](auto& e) { e.ops[2].out = 0; }), "op 2: unused output is 0");
  CHECK_SAYS(target([](auto& e) { e.ops[2].in[0] = 1; }), "keep_features: x must be f32");
  CHECK_SAYS(target([](auto& e) { e.header.head_begin = 11; }),
             "engine op 11: the head keeps features");
}

TEST_CASE("a drafter whose features do not fit is refused") {
  const auto drafter = [](const std::function<void(EngineImage&)>& change) {
    return feature_refusal(tiny_eagle(DType::bf16, 1), change);
  };
  CHECK_EQ(drafter([](auto&) {}), "(accepted)");
  CHECK_SAYS(drafter([](auto& e) { e.header.feature_cols = 47; }),
             "op 2: load_features: columns [0, +48) of 47");
  CHECK_SAYS(drafter([](auto& e) { e.header.feature_dtype = 0; }),
             "load_features: out must be f32, not bf16");
  CHECK_SAYS(drafter([](auto& e) { e.header.mask_token = 0; }), "read without a mask token");
  CHECK_SAYS(drafter([](auto& e) { e.ops[2].tensor = 1; }), "must be one f32 row of 48");
  CHECK_SAYS(drafter([](auto& e) { e.ops[2].tensor = -2; }), "op 2: tensor -2 of");
  CHECK_SAYS(
      drafter([](auto& e) { e.add_op(format::OpKind::keep_features, format::kNone).in[0] = 0; }),
      "keeps features and reads those of another");
  CHECK_SAYS(
      feature_refusal(tiny_engine(DType::bf16, 1), [](auto& e) { e.header.feature_cols = 24; }),
      "features of 24 columns in an engine that does not use them");
}

TEST_CASE("estimates of features that do not fit are refused") {
  const auto estimating = [](const std::function<void(EngineImage&)>& change) {
    return feature_refusal(tiny_estimating(DType::bf16, 1), change);
  };
  CHECK_EQ(estimating([](auto&) {}), "(accepted)");
  CHECK_SAYS(estimating([](auto& e) { e.header.mask_token = 2; }),
             "without a mask token or estimates, or with both");
  CHECK_SAYS(estimating([](auto& e) { e.ops[2].integer[1] = 4; }),
             "unknown way 4 to do without features");
  CHECK_SAYS(estimating([](auto& e) { e.ops[e.ops.size() - 4].integer[1] = 2; }),
             "features 2 slots ahead");
  CHECK_SAYS(estimating([](auto& e) { e.ops[e.ops.size() - 3].in[0] = 1; }),
             "convert: x must be f32, not bf16");
}

TEST_CASE("scores of a reduced vocabulary that do not fit are refused") {
  const auto reduced = [](const std::function<void(EngineImage&)>& change) {
    return feature_refusal(tiny_engine(DType::bf16, 1), [&](auto& e) {
      const int32_t scores = e.add_buffer(DType::f32, 8);
      const int32_t ids = e.add_tensor(DType::f32, Layout::row_major, 1, 8, {});
      format::OpRecord& op = e.add_op(format::OpKind::scatter, e.header.logits_buffer);
      op.in[0] = scores;
      op.tensor = ids;
      change(e);
    });
  };
  CHECK_EQ(reduced([](auto&) {}), "(accepted)");
  CHECK_SAYS(reduced([](auto& e) { e.ops.back().tensor = 1; }), "must be one f32 row of 8");
}

TEST_CASE("heads of drafts that do not fit are refused") {
  using format::OpRows;
  const auto heads = [](const std::function<void(EngineImage&)>& change) {
    return feature_refusal(tiny_medusa(DType::bf16, 1), change);
  };
  const std::string outside = ": rows of drafts outside of a drafter's head";
  CHECK_EQ(heads([](auto&) {}), "(accepted)");
  CHECK_EQ(heads([](auto& e) { e.ops[1].draft = -1; }), "engine op 1: draft token -1");
  CHECK_EQ(heads([](auto& e) { e.ops[1].draft = kMaxStepRows; }), "engine op 1: draft token 64");
  CHECK_EQ(heads([](auto& e) { e.ops[3].rows = OpRows::all; }), "engine op 3: draft token 1");
  CHECK_EQ(heads([](auto& e) { e.header.head_begin = 2; }), "engine op 1" + outside);
  CHECK_EQ(op_refusal(18, [](auto& op) { op.rows = OpRows::draft; }), "engine op 18" + outside);
}

// Ops of the engine with streams: 10 to 13 score, 14 plans, 15 inserts, 16 rope_angles, 19 the
// first of the streams alone, 31 norm and 32 product of the head.
TEST_CASE("streams that do not fit are refused") {
  const auto streaming = [](const std::function<void(EngineImage&)>& change) {
    return feature_refusal(tiny_streaming(DType::bf16, 1), change);
  };
  CHECK_EQ(streaming([](auto&) {}), "(accepted)");
  CHECK_SAYS(streaming([](auto& e) { e.header.streams = 17; }), "17 streams of at most 16");
  CHECK_SAYS(streaming([](auto& e) { e.header.streams = -1; }), "-1 streams of at most 16");
  CHECK_SAYS(streaming([](auto& e) { e.header.streams = 3; }), "op 15: tensor");
  CHECK_SAYS(streaming([](auto& e) { e.header.streams = 3; }), "must be 3 f32 rows of 24");
  CHECK_SAYS(streaming([](auto& e) { e.header.stream_positions = 2; }),
             "stream positions 2 of 4 streams");
  CHECK_SAYS(streaming([](auto& e) { e.header.streams = 0; }), "stream positions 1 of 0 streams");
  CHECK_SAYS(streaming([](auto& e) { e.header.streams = e.header.stream_positions = 0; }),
             "an engine with 0 streams plans them 1 times and inserts them 1 times");
  CHECK_SAYS(feature_refusal(tiny_engine(DType::bf16, 1), [](auto& e) { e.header.streams = 4; }),
             "engine op 18: the head begins before streams are inserted");
  CHECK_SAYS(streaming([](auto& e) { e.ops[14].in[0] = 1; }),
             "op 14: plan_streams: exit must be f32, not bf16");
  CHECK_SAYS(streaming([](auto& e) { e.ops[14].out = 0; }), "op 14: unused output is 0");
  CHECK_SAYS(streaming([](auto& e) { e.ops[14].tensor = 1; }), "the embedding has 1 rows");
  CHECK_SAYS(streaming([](auto& e) { e.ops[15].tensor = 0; }), "must be 4 f32 rows of 24");
  CHECK_SAYS(streaming([](auto& e) { e.ops[15].in[0] = 2; }),
             "op 15: insert_streams: out must have 8 columns, not 24");
  CHECK_SAYS(streaming([](auto& e) { e.ops[15].out = 2; }), "must be 4 f32 rows of 8");
}

TEST_CASE("ops out of their place beside the streams are refused") {
  using format::OpRows;
  const auto streaming = [](const std::function<void(EngineImage&)>& change) {
    return feature_refusal(tiny_streaming(DType::bf16, 1), change);
  };
  const auto misplaced = [](size_t op) {
    return concat("engine op ", op, ": out of its place beside the streams");
  };
  CHECK_EQ(streaming([](auto& e) { std::swap(e.ops[14], e.ops[15]); }), misplaced(14));
  CHECK_EQ(streaming([](auto& e) { e.ops[16] = e.ops[14]; }), misplaced(16));
  CHECK_EQ(streaming([](auto& e) { e.ops[16] = e.ops[15]; }), misplaced(16));
  CHECK_EQ(streaming([](auto& e) { e.ops[16] = e.ops[0]; }), misplaced(16));  // embeds a stream
  CHECK_EQ(streaming([](auto& e) { e.ops[9].rows = OpRows::streams; }), misplaced(9));
  CHECK_EQ(streaming([](auto& e) { e.ops[15].rows = OpRows::streams; }), misplaced(15));
  CHECK_EQ(streaming([](auto& e) { e.ops[16].rows = OpRows::scored; }), misplaced(16));
  CHECK_EQ(streaming([](auto& e) { e.ops[14].rows = OpRows::scored; }), misplaced(14));
  CHECK_EQ(streaming([](auto& e) { e.ops[3].rows = static_cast<OpRows>(4); }), misplaced(3));
  CHECK_EQ(op_refusal(3, [](auto& op) { op.rows = OpRows::streams; }), misplaced(3));
  CHECK_EQ(streaming([](auto& e) { e.ops[22].kv = 0; }),
           "engine op 22: kv layer 0 does not lie behind 0, which is before the streams");
  CHECK_EQ(streaming([](auto& e) { e.ops[4].kv = 1; }),
           "engine op 21: kv layer 1 does not lie behind 1, which is before the streams");
  CHECK_EQ(streaming([](auto& e) { e.header.head_begin = 15; }),
           "engine op 15: the head begins before streams are inserted");
}

TEST_CASE("a file that cannot be opened is named") {
  const auto message = [](const std::string& path) -> std::string {
    try {
      Engine::open(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "(accepted)";
  };
  CHECK_EQ(message("/nowhere/x.engine"),
           "cannot open /nowhere/x.engine: No such file or directory");
  const std::string folder = std::filesystem::temp_directory_path().string();
  CHECK_EQ(message(folder), "cannot read " + folder + ": not a file with content");
  const TempFile empty({});
  CHECK_EQ(message(empty.path()), "cannot read " + empty.path() + ": not a file with content");
  const TempFile other(std::vector<std::byte>(300));
  CHECK_EQ(message(other.path()),
           "cannot load the engine " + other.path() + ": it is not a specrt engine");
}

}  // namespace
}  // namespace specrt::testing
