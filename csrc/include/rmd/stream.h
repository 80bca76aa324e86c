// Where a CUDA kernel runs: the device of a tensor, and the stream that torch works on there.
#pragma once
#include <cuda_runtime.h>
#include <rmd/tensor.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cstdlib>
#include <cstring>

namespace rmd {

// While it lives, the device of `x` is the current one.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x) : guard_(x.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 grid, int threads, uint32_t shared, Arguments... arguments) const {
    constexpr uint32_t WITHOUT_ASKING = 48 * 1024;
    if (shared > WITHOUT_ASKING) {
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    }
    kernel<<<grid, threads, shared, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// RMD_CHECK=1: values that kernels otherwise clamp are checked on the device first, and a wrong one is an error.
inline bool checking() {
  static const bool on = [] {
    const char* value = std::getenv("RMD_CHECK");
    return value && *value && std::strcmp(value, "0") != 0;
  }();
  return on;
}

}  // namespace rmd
