// The CUDA backend: memory, streams and graphs of one device; each op is a launcher of kernels.h.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "cuda/check.h"
#include "cuda/image.h"
#include "cuda/kernels.h"
#include "cuda/stream.h"
#include "device/cuda_library.h"

namespace specrt {
namespace cuda {
namespace {

constexpr int kMajor = 9;  // Hopper: what the kernels are compiled for

std::string version_text(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

// The device's properties, or an error that says what is wrong with it.
cudaDeviceProp usable_device(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    SPECRT_CHECK(driver != 0,
                 "there is no NVIDIA driver; install it, or use a bundle built with --backend cpu");
    fail("the NVIDIA driver knows CUDA up to ", version_text(driver), ", specrt was built with ",
         version_text(runtime), "; update the driver, or use a bundle built with --backend cpu");
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    fail(
        "no CUDA device is visible; use a bundle built with --backend cpu, or check nvidia-smi "
        "and CUDA_VISIBLE_DEVICES");
  }
  CUDA_CHECK(status);
  if (device < 0 || device >= count) {
    fail_argument("device ", device, " of ", count, " CUDA devices");
  }
  CUDA_CHECK(cudaSetDevice(device));
  CUDA_CHECK(cudaFree(nullptr));  // makes the context, or tells what a kernel did to it before
  cudaDeviceProp properties{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  SPECRT_CHECK(properties.major == kMajor, "CUDA device ", device, " is sm_", properties.major,
               properties.minor, "; specrt's kernels are for sm_", kMajor,
               "0a (Hopper). Use a bundle built with --backend cpu");
  check_image();
  return properties;
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const CudaOptions& options)
      : properties_(usable_device(options.device)), device_(options.device) {
    setup_ = std::make_unique<CudaStream>(0);
  }

  std::string name() const override {
    return concat("cuda:sm_", properties_.major, properties_.minor, ":", properties_.name);
  }

  int cores() const override { return 0; }

  Layout weight_layout() const override { return Layout::tiles16x32; }

  bool joins_ops() const override { return true; }

  int32_t prompt_rows() const override { return kMaxPromptRows; }

  Buffer alloc(size_t bytes) override {
    if (bytes == 0) return {};
    Buffer buffer = uninitialized(bytes);
    CUDA_CHECK(cudaMemsetAsync(buffer.data(), 0, bytes, setup_->handle()));
    CUDA_CHECK(cudaStreamSynchronize(setup_->handle()));
    return buffer;
  }

  Buffer alloc_shared(size_t bytes) override {
    if (bytes == 0) return {};
    use_device();
    void* data = nullptr;
    const cudaError_t status =
        cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
    SPECRT_CHECK(status == cudaSuccess, "cannot pin ", bytes,
                 " bytes of host memory: ", cudaGetErrorString(status));
    auto* begin = static_cast<std::byte*>(data);
    std::fill_n(begin, bytes, std::byte{0});
    return {begin, bytes, [](std::byte* memory, size_t) { cudaFreeHost(memory); }};
  }

  Buffer place_weights(const std::byte* host, size_t bytes) override {
    if (bytes == 0) return {};
    Buffer buffer = uninitialized(bytes);
    CUDA_CHECK(
        cudaMemcpyAsync(buffer.data(), host, bytes, cudaMemcpyHostToDevice, setup_->handle()));
    CUDA_CHECK(cudaStreamSynchronize(setup_->handle()));
    return buffer;
  }

  size_t attention_scratch(const AttentionArgs& args) const override {
    return cuda::attention_scratch(args);
  }
  size_t pick_scratch(int32_t vocab) const override { return cuda::pick_scratch(vocab); }
  size_t head_bytes(int32_t vocab) const override { return cuda::head_bytes(vocab); }

  std::unique_ptr<Stream> make_stream(const StreamShare& share) override {
    use_device();
    return std::make_unique<CudaStream>(share.priority);
  }

  std::unique_ptr<RecordedWork> record(Stream& stream,
                                       const std::function<void()>& enqueue) override {
    use_device();
    CudaStream& own = own_stream(stream);
    own.begin_recording();
    try {
      enqueue();
    } catch (...) {
      own.abandon_recording();
      throw;
    }
    return std::make_unique<CudaRecordedWork>(own.end_recording());
  }

  void embed(Stream& stream, const EmbedArgs& args) override {
    check(args);
    cuda::embed(handle(stream), args);
  }
  void rope_angles(Stream& stream, const RopeAnglesArgs& args) override {
    check(args);
    cuda::rope_angles(handle(stream), args);
  }
  void rms_norm(Stream& stream, const RmsNormArgs& args) override {
    check(args);
    cuda::rms_norm(handle(stream), args);
  }
  void linear(Stream& stream, const LinearArgs& args) override {
    check(args);
    cuda::linear(handle(stream), args);
  }
  void rope_kv(Stream& stream, const RopeKvArgs& args) override {
    check(args);
    cuda::rope_kv(handle(stream), args);
  }
  void attention(Stream& stream, const AttentionArgs& args) override {
    check(args);
    cuda::attention(handle(stream), args);
  }
  void keep_features(Stream& stream, const KeepFeaturesArgs& args) override {
    check(args);
    cuda::keep_features(handle(stream), args);
  }
  void load_features(Stream& stream, const LoadFeaturesArgs& args) override {
    check(args);
    cuda::load_features(handle(stream), args);
  }
  void convert(Stream& stream, const ConvertArgs& args) override {
    check(args);
    cuda::convert(handle(stream), args);
  }
  void scatter(Stream& stream, const ScatterArgs& args) override {
    check(args);
    cuda::scatter(handle(stream), args);
  }
  void plan_streams(Stream& stream, const PlanStreamsArgs& args) override {
    check(args);
    cuda::plan_streams(handle(stream), args);
  }
  void insert_streams(Stream& stream, const InsertStreamsArgs& args) override {
    check(args);
    cuda::insert_streams(handle(stream), args);
  }
  void move_kv(Stream& stream, const MoveKvArgs& args) override {
    check(args);
    cuda::move_kv(handle(stream), args);
  }
  void move_features(Stream& stream, const MoveFeaturesArgs& args) override {
    check(args);
    cuda::move_features(handle(stream), args);
  }

  void copy_to_device(Stream& stream, const CopyToDeviceArgs& args) override {
    CUDA_CHECK(
        cudaMemcpyAsync(args.device, args.host, args.bytes, cudaMemcpyDefault, handle(stream)));
  }
  void copy_to_host(Stream& stream, const CopyToHostArgs& args) override {
    CUDA_CHECK(cudaMemcpyAsync(args.host, args.device, args.bytes, cudaMemcpyDeviceToHost,
                               handle(stream)));
  }

  void feed_prompt(Stream& stream, const FeedPromptArgs& args) override {
    SPECRT_CHECK(!own_stream(stream).is_recording(),
                 "feed_prompt: host constants cannot be recorded");
    cuda::feed_prompt(handle(stream), args);
  }
  void propose_ngram(Stream& stream, const ProposeNgramArgs& args) override {
    cuda::propose_ngram(handle(stream), args);
  }
  void begin_catch_up(Stream& stream, const BeginCatchUpArgs& args) override {
    cuda::begin_catch_up(handle(stream), args);
  }
  void begin_draft(Stream& stream, const BeginDraftArgs& args) override {
    cuda::begin_draft(handle(stream), args);
  }
  void pick_draft(Stream& stream, const PickDraftArgs& args) override {
    check(args);
    cuda::pick_draft(handle(stream), args);
  }
  void clock_step(Stream& stream, const ClockStepArgs& args) override {
    cuda::clock_step(handle(stream), args);
  }
  int64_t clock_offset() override {
    const Buffer now = alloc_shared(sizeof(uint64_t));
    return cuda::clock_offset(setup_->handle(), now.as<uint64_t>());
  }
  void pick_candidates(Stream& stream, const PickCandidatesArgs& args) override {
    check(args);
    cuda::pick_candidates(handle(stream), args);
  }
  void grow_tree(Stream& stream, const GrowTreeArgs& args) override {
    cuda::grow_tree(handle(stream), args);
  }
  void feed_tail(Stream& stream, const FeedTailArgs& args) override {
    cuda::feed_tail(handle(stream), args);
  }
  void judge(Stream& stream, const JudgeArgs& args) override {
    check(args);
    if (args.tree != nullptr) {
      cuda::judge_tree(handle(stream), args);
    } else {
      cuda::judge(handle(stream), args);
    }
  }

 private:
  // The device is a property of the calling thread.
  void use_device() const { CUDA_CHECK(cudaSetDevice(device_)); }

  cudaStream_t handle(Stream& stream) const {
    use_device();
    return own_stream(stream).handle();
  }

  Buffer uninitialized(size_t bytes) {
    use_device();
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is reported here, not by a later call
      size_t free_bytes = 0, total_bytes = 0;
      cudaMemGetInfo(&free_bytes, &total_bytes);
      fail("the GPU cannot hold another ", bytes, " bytes; ", free_bytes, " of ", total_bytes,
           " are free");
    }
    CUDA_CHECK(status);
    return {static_cast<std::byte*>(data), bytes,
            [](std::byte* memory, size_t) { cudaFree(memory); }};
  }

  cudaDeviceProp properties_;
  int device_;
  std::unique_ptr<CudaStream> setup_;  // for memory, outside of any request
};

std::unique_ptr<Backend> make_backend(const CudaOptions& options) {
  return std::make_unique<CudaBackend>(options);
}

}  // namespace
}  // namespace cuda

extern "C" __attribute__((visibility("default"))) const CudaEntry* specrt_cuda_entry() {
  static constexpr CudaEntry kEntry{SPECRT_VERSION, &cuda::make_backend};
  return &kEntry;
}

}  // namespace specrt
