#include "cpu/cpu_backend.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "cpu/stream.h"

namespace specrt {
namespace cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kCopiedShare = 4;  // weights up to a quarter of the machine's memory are copied

struct Isa {
  const Kernels* kernels;
  bool supported;
};

// Best first.
std::vector<Isa> all_isas() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return {{&cpu::avx512bf16::kernels, avx512bf16},
          {&cpu::avx512::kernels, avx512},
          {&cpu::avx2::kernels, avx2},
          {&cpu::portable::kernels, true}};
}

const Kernels& kernels_of(const std::string& isa) {
  std::string choices;
  for (const Isa& candidate : all_isas()) {
    if (!candidate.supported) continue;
    if (isa.empty() || isa == candidate.kernels->isa) return *candidate.kernels;
    choices += concat(choices.empty() ? "" : ", ", candidate.kernels->isa);
  }
  fail_argument("instruction set \"", isa, "\" is not available here; choose from: ", choices);
}

size_t machine_memory() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
}

// Zero-filled pages, huge ones for large memory where the system has them.
std::byte* map_pages(size_t bytes) {
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* data =
      mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SPECRT_CHECK(data != MAP_FAILED, "cannot allocate ", bytes, " bytes of memory");
  auto* begin = static_cast<std::byte*>(data);
  if (slack == 0) return begin;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  const size_t head = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  std::byte* aligned = begin + head;
  std::byte* end = aligned + (bytes + page - 1) / page * page;
  std::byte* mapped_end = begin + (bytes + slack + page - 1) / page * page;
  if (head > 0) munmap(begin, head);
  if (end < mapped_end) munmap(end, static_cast<size_t>(mapped_end - end));
  madvise(aligned, bytes, MADV_HUGEPAGE);
  return aligned;
}

CpuStream& own_stream(Stream& stream) {
  auto* own = dynamic_cast<CpuStream*>(&stream);
  if (own == nullptr) fail_argument("the stream belongs to another backend");
  return *own;
}

class CpuRecordedWork : public RecordedWork {
 public:
  explicit CpuRecordedWork(Ops ops) : ops_(std::make_shared<const Ops>(std::move(ops))) {}
  void launch(Stream& stream) override { own_stream(stream).launch(ops_); }

 private:
  std::shared_ptr<const Ops> ops_;  // shared with launches that are still queued
};

class CpuBackend : public Backend {
 public:
  CpuBackend(const Kernels& kernels, int threads) : kernels_(kernels), threads_(threads) {}

  std::string name() const override { return concat("cpu:", kernels_.isa); }

  int cores() const override { return threads_; }

  Layout weight_layout() const override { return Layout::panels16; }

  Buffer alloc(size_t bytes) override {
    if (bytes == 0) return {};
    SPECRT_CHECK(bytes <= machine_memory(), "cannot allocate ", bytes,
                 " bytes of memory; this machine has ", machine_memory());
    return {map_pages(bytes), bytes, [](std::byte* data, size_t size) { munmap(data, size); }};
  }

  Buffer alloc_shared(size_t bytes) override { return alloc(bytes); }

  // Weights are copied out of the engine's file: its mapping has small pages, and with huge pages a
  // step is a tenth to a fifth faster. Very large ones are read where they are.
  Buffer place_weights(const std::byte* host, size_t bytes) override {
    if (bytes > machine_memory() / kCopiedShare) {
      return {const_cast<std::byte*>(host), bytes, [](std::byte*, size_t) {}};
    }
    Buffer copy = alloc(bytes);
    if (bytes > 0) std::memcpy(copy.data(), host, bytes);
    return copy;
  }

  // The members of a team have scratch memory of their own.
  size_t attention_scratch(const AttentionArgs&) const override { return 0; }
  size_t pick_scratch(int32_t) const override { return 0; }

  std::unique_ptr<Stream> make_stream(const StreamShare& share) override {
    const int cores = share.cores == 0 ? threads_ - share.first_core : share.cores;
    if (share.first_core < 0 || cores < 1 || share.first_core + cores > threads_) {
      fail_argument("a stream on cores [", share.first_core, ", ", share.first_core + cores,
                    ") of a backend with ", threads_);
    }
    const Spinning spinning = cores < threads_ ? Spinning::patient : Spinning::brief;
    return std::make_unique<CpuStream>(kernels_, cores, spinning);
  }

  std::unique_ptr<RecordedWork> record(Stream& stream,
                                       const std::function<void()>& enqueue) override {
    CpuStream& own = own_stream(stream);
    Ops ops;
    own.begin_recording(ops);
    try {
      enqueue();
    } catch (...) {
      own.end_recording();
      throw;
    }
    own.end_recording();
    return std::make_unique<CpuRecordedWork>(std::move(ops));
  }

  void embed(Stream& stream, const EmbedArgs& args) override { checked(stream, args); }
  void rope_angles(Stream& stream, const RopeAnglesArgs& args) override { checked(stream, args); }
  void rms_norm(Stream& stream, const RmsNormArgs& args) override { checked(stream, args); }
  void linear(Stream& stream, const LinearArgs& args) override { checked(stream, args); }
  void rope_kv(Stream& stream, const RopeKvArgs& args) override { checked(stream, args); }
  void attention(Stream& stream, const AttentionArgs& args) override { checked(stream, args); }
  void keep_features(Stream& stream, const KeepFeaturesArgs& args) override {
    checked(stream, args);
  }
  void load_features(Stream& stream, const LoadFeaturesArgs& args) override {
    checked(stream, args);
  }
  void convert(Stream& stream, const ConvertArgs& args) override { checked(stream, args); }
  void scatter(Stream& stream, const ScatterArgs& args) override { checked(stream, args); }
  void plan_streams(Stream& stream, const PlanStreamsArgs& args) override { checked(stream, args); }
  void insert_streams(Stream& stream, const InsertStreamsArgs& args) override {
    checked(stream, args);
  }
  void move_kv(Stream& stream, const MoveKvArgs& args) override {
    check(args);
    MoveKvOp op{.args = args, .layers = {args.layers, args.layers + args.layer_count}};
    own_stream(stream).enqueue(std::move(op));
  }
  void move_features(Stream& stream, const MoveFeaturesArgs& args) override {
    checked(stream, args);
  }
  void pick_draft(Stream& stream, const PickDraftArgs& args) override { checked(stream, args); }
  void pick_candidates(Stream& stream, const PickCandidatesArgs& args) override {
    checked(stream, args);
  }
  void judge(Stream& stream, const JudgeArgs& args) override { checked(stream, args); }

  void copy_to_device(Stream& stream, const CopyToDeviceArgs& args) override {
    own_stream(stream).enqueue(args);
  }
  void copy_to_host(Stream& stream, const CopyToHostArgs& args) override {
    own_stream(stream).enqueue(args);
  }
  void feed_prompt(Stream& stream, const FeedPromptArgs& args) override {
    CpuStream& own = own_stream(stream);
    SPECRT_CHECK(!own.is_recording(), "feed_prompt: host constants cannot be recorded");
    own.enqueue(args);
  }
  void propose_ngram(Stream& stream, const ProposeNgramArgs& args) override {
    own_stream(stream).enqueue(args);
  }
  void begin_catch_up(Stream& stream, const BeginCatchUpArgs& args) override {
    own_stream(stream).enqueue(args);
  }
  void begin_draft(Stream& stream, const BeginDraftArgs& args) override {
    own_stream(stream).enqueue(args);
  }
  void feed_tail(Stream& stream, const FeedTailArgs& args) override {
    own_stream(stream).enqueue(args);
  }
  void grow_tree(Stream& stream, const GrowTreeArgs& args) override {
    own_stream(stream).enqueue(args);
  }
  void clock_step(Stream& stream, const ClockStepArgs& args) override {
    own_stream(stream).enqueue(args);
  }

 private:
  template <typename Args>
  static void checked(Stream& stream, const Args& args) {
    check(args);
    own_stream(stream).enqueue(args);
  }

  const Kernels& kernels_;
  int threads_;
};

}  // namespace
}  // namespace cpu

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (const cpu::Isa& isa : cpu::all_isas()) {
    if (isa.supported) names.push_back(isa.kernels->isa);
  }
  return names;
}

int available_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  SPECRT_CHECK(sched_getaffinity(0, sizeof(mask), &mask) == 0, "sched_getaffinity failed");
  return CPU_COUNT(&mask);
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 0) fail_argument("threads must not be negative: ", options.threads);
  const char* env = std::getenv("SPECRT_CPU_ISA");
  const std::string isa = options.isa.empty() && env != nullptr ? env : options.isa;
  const cpu::Kernels& kernels = cpu::kernels_of(isa);
  const int threads = options.threads == 0 ? available_cores() : options.threads;
  return std::make_unique<cpu::CpuBackend>(kernels, threads);
}

}  // namespace specrt
