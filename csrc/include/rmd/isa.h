// Which instruction set the CPU kernels use. Knows no torch.
#pragma once
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace rmd {

enum class Isa { scalar = 0, avx2 = 1, avx512 = 2 };

inline const char* name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "scalar";
}

inline Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return Isa::avx2;
  }
#endif
  return Isa::scalar;
}

// The best the machine has, or what RMD_CPU_ISA asks for. Read at each call, so that a test can
// go through all of them in one process.
inline Isa isa() {
  static const Isa best = best_isa();
  const char* asked = std::getenv("RMD_CPU_ISA");
  if (asked == nullptr || *asked == '\0') return best;
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (std::string(asked) != name(isa)) continue;
    if (isa > best) {
      throw std::runtime_error(std::string("RMD_CPU_ISA is ") + asked + ", this machine has at most " + name(best));
    }
    return isa;
  }
  throw std::runtime_error(std::string("RMD_CPU_ISA is ") + asked + ", expected scalar, avx2 or avx512");
}

// Held while kernels run on a thread. GCC 12 returns from some of them without vzeroupper, after which
// each change between SSE and AVX in whoever runs next waits: 1.2 us of a 5 us call.
struct WideRegisters {
  ~WideRegisters() {
#if defined(__x86_64__)
    static const bool wide = best_isa() != Isa::scalar;
    if (wide) asm volatile("vzeroupper");
#endif
  }
};

}  // namespace rmd
