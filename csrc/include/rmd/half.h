// Storage formats of 16 bits. Arithmetic is always in float. Knows no torch.
#pragma once
#include <cstdint>

#define RMD_INLINE static inline __attribute__((always_inline))

namespace rmd {

enum class Type { f32, bf16, f16 };

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

RMD_INLINE uint32_t bits_of(float x) { uint32_t u; __builtin_memcpy(&u, &x, 4); return u; }
RMD_INLINE float float_of(uint32_t u) { float x; __builtin_memcpy(&x, &u, 4); return x; }

RMD_INLINE float widen(float x) { return x; }
RMD_INLINE float widen(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
RMD_INLINE float widen(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | (magnitude << 13));  // infinite, NaN
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));  // subnormals too
}

// Round to nearest, ties to even; NaN stays NaN.
RMD_INLINE void narrow(float x, float& out) { out = x; }
RMD_INLINE void narrow(float x, bf16& out) {
  const uint32_t u = bits_of(x);
  out.bits = x != x ? 0x7fc0 : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
RMD_INLINE void narrow(float x, f16& out) {
  const uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000;
  uint32_t magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    magnitude = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds past 65504
    magnitude = 0x7c00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: the addition aligns and rounds the mantissa
    magnitude = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    magnitude = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  out.bits = uint16_t(sign | magnitude);
}

}  // namespace rmd
