// Each op's cpu.cpp and cuda.cu registers its own kernels under schemas written in Python. This file
// says what the library as a whole needs: the torch whose stable ABI it was compiled for.
#include <torch/csrc/stable/library.h>

extern "C" __attribute__((visibility("default"))) unsigned long long rmd_torch_target() { return TORCH_TARGET_VERSION; }
