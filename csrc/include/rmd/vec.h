// W floats at a time: one set of names over AVX-512, AVX2 and plain C++. Knows no torch.
//
// A source that includes this is compiled once per instruction set with -DRMD_ISA=avx512|avx2|scalar
// and everything here lives in the namespace rmd::RMD_ISA, so that no inline function compiled for
// one machine is ever picked by the linker for another.
#pragma once
#include <rmd/half.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rmd::RMD_ISA {

#if defined(__AVX512F__)

constexpr int W = 16;
using F = __m512;
using U = __m512i;
using M = __mmask16;

RMD_INLINE F set(float x) { return _mm512_set1_ps(x); }
RMD_INLINE U set_u(uint32_t x) { return _mm512_set1_epi32(int(x)); }
RMD_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
RMD_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
RMD_INLINE F sqrt(F x) { return _mm512_sqrt_ps(x); }
RMD_INLINE F min(F bound, F x) { return _mm512_min_ps(bound, x); }  // a NaN in x stays NaN
RMD_INLINE F max(F bound, F x) { return _mm512_max_ps(bound, x); }
RMD_INLINE F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RMD_INLINE U add(U a, U b) { return _mm512_add_epi32(a, b); }
RMD_INLINE U sub(U a, U b) { return _mm512_sub_epi32(a, b); }
RMD_INLINE U bit_and(U a, U b) { return _mm512_and_si512(a, b); }
RMD_INLINE U xor3(U a, U b, U c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
template <int n> RMD_INLINE U shl(U a) { return _mm512_slli_epi32(a, n); }
template <int n> RMD_INLINE U shr(U a) { return _mm512_srli_epi32(a, n); }
template <int n> RMD_INLINE U sar(U a) { return _mm512_srai_epi32(a, n); }
RMD_INLINE F to_float(U a) { return _mm512_cvtepi32_ps(a); }  // signed
RMD_INLINE U to_int(F a) { return _mm512_cvtps_epi32(a); }    // nearest
RMD_INLINE F as_float(U a) { return _mm512_castsi512_ps(a); }
RMD_INLINE U as_bits(F a) { return _mm512_castps_si512(a); }
RMD_INLINE M any_bit(U a, uint32_t bits) { return _mm512_test_epi32_mask(a, set_u(bits)); }
RMD_INLINE F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
RMD_INLINE F flip_sign(F x, U top) {  // where the top bit of `top` is set
  return as_float(_mm512_ternarylogic_epi32(as_bits(x), top, set_u(0x80000000u), 0x78));
}
// W numbers ready to be multiplied to 64 bits: those of the even and of the odd lanes, each in the
// low half of a 64-bit slot. What the high halves hold never matters.
struct Wide { U even, odd; };
RMD_INLINE U odd_to_even(U a) { return _mm512_shuffle_epi32(a, _MM_PERM_DDBB); }
RMD_INLINE Wide spread(U a) { return {a, odd_to_even(a)}; }
RMD_INLINE U gather(Wide a) {
  return _mm512_mask_shuffle_epi32(a.even, 0xaaaa, a.odd, _MM_PERM_CCAA);
}
RMD_INLINE void multiply(Wide a, U b, Wide& high, Wide& low) {
  low = {_mm512_mul_epu32(a.even, b), _mm512_mul_epu32(a.odd, b)};
  high = {odd_to_even(low.even), odd_to_even(low.odd)};
}
RMD_INLINE Wide xor3(Wide a, Wide b, U c) { return {xor3(a.even, b.even, c), xor3(a.odd, b.odd, c)}; }
// Four vectors whose lane l holds elements 0..3 of group group_of_lanes()[l], turned in place into
// the 4 W elements in order. The lanes are numbered so that no value crosses 128 bits.
RMD_INLINE U group_of_lanes() {
  return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}
RMD_INLINE void to_order(F* x) {
  const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(x[0], x[1])), b = _mm512_castps_pd(_mm512_unpackhi_ps(x[0], x[1]));
  const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(x[2], x[3])), d = _mm512_castps_pd(_mm512_unpackhi_ps(x[2], x[3]));
  x[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
  x[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
  x[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
  x[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
}
// W vectors of W numbers, rows to columns.
RMD_INLINE void transpose(F* x) {
  F pair[16], four[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    pair[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {  // four[4 n + j], 128 bits k: column 4 k + j of rows 4 n to 4 n + 3
    const int from = i / 4 * 4 + i % 4 / 2;
    const __m512d a = _mm512_castps_pd(pair[from]), b = _mm512_castps_pd(pair[from + 2]);
    four[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
    four[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const F a = _mm512_shuffle_f32x4(four[j], four[4 + j], 0x88), b = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], 0x88);
    const F c = _mm512_shuffle_f32x4(four[j], four[4 + j], 0xdd), d = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], 0xdd);
    x[j] = _mm512_shuffle_f32x4(a, b, 0x88);
    x[4 + j] = _mm512_shuffle_f32x4(c, d, 0x88);
    x[8 + j] = _mm512_shuffle_f32x4(a, b, 0xdd);
    x[12 + j] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}
RMD_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
RMD_INLINE F load(const bf16* p) {
  return as_float(shl<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))));
}
RMD_INLINE F load(const f16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
RMD_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
RMD_INLINE void store(bf16* p, F x) {
  const U u = as_bits(x), even = bit_and(shr<16>(u), set_u(1));
  const U rounded = shr<16>(add(add(u, set_u(0x7fff)), even));
  const U kept = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), set_u(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(kept));
}
RMD_INLINE void store(f16* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
// Past the caches, to an address of whole vectors; written_out() comes before anyone reads it.
RMD_INLINE void stream(float* p, F x) { _mm512_stream_ps(p, x); }
RMD_INLINE void written_out() { _mm_sfence(); }
RMD_INLINE float sum(F x) { return _mm512_reduce_add_ps(x); }
// The first n < W elements, zeros behind them; what lies behind is not touched.
RMD_INLINE F load(const float* p, int n) { return _mm512_maskz_loadu_ps(M((1u << n) - 1), p); }
RMD_INLINE F load(const bf16* p, int n) {
  return as_float(shl<16>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(M((1u << n) - 1), p))));
}
RMD_INLINE F load(const f16* p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(M((1u << n) - 1), p));
}

#elif defined(__AVX2__)

constexpr int W = 8;
using F = __m256;
using U = __m256i;
using M = __m256;  // all bits of a lane

RMD_INLINE F set(float x) { return _mm256_set1_ps(x); }
RMD_INLINE U set_u(uint32_t x) { return _mm256_set1_epi32(int(x)); }
RMD_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
RMD_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
RMD_INLINE F sqrt(F x) { return _mm256_sqrt_ps(x); }
RMD_INLINE F min(F bound, F x) { return _mm256_min_ps(bound, x); }
RMD_INLINE F max(F bound, F x) { return _mm256_max_ps(bound, x); }
RMD_INLINE F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RMD_INLINE U add(U a, U b) { return _mm256_add_epi32(a, b); }
RMD_INLINE U sub(U a, U b) { return _mm256_sub_epi32(a, b); }
RMD_INLINE U bit_and(U a, U b) { return _mm256_and_si256(a, b); }
RMD_INLINE U xor3(U a, U b, U c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
template <int n> RMD_INLINE U shl(U a) { return _mm256_slli_epi32(a, n); }
template <int n> RMD_INLINE U shr(U a) { return _mm256_srli_epi32(a, n); }
template <int n> RMD_INLINE U sar(U a) { return _mm256_srai_epi32(a, n); }
RMD_INLINE F to_float(U a) { return _mm256_cvtepi32_ps(a); }
RMD_INLINE U to_int(F a) { return _mm256_cvtps_epi32(a); }
RMD_INLINE F as_float(U a) { return _mm256_castsi256_ps(a); }
RMD_INLINE U as_bits(F a) { return _mm256_castps_si256(a); }
RMD_INLINE M any_bit(U a, uint32_t bits) {
  const U zero = _mm256_cmpeq_epi32(bit_and(a, set_u(bits)), _mm256_setzero_si256());
  return as_float(_mm256_xor_si256(zero, _mm256_set1_epi32(-1)));
}
RMD_INLINE F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
RMD_INLINE F flip_sign(F x, U top) {
  return as_float(_mm256_xor_si256(as_bits(x), bit_and(top, set_u(0x80000000u))));
}
struct Wide { U even, odd; };
RMD_INLINE U odd_to_even(U a) { return _mm256_shuffle_epi32(a, 0xf5); }
RMD_INLINE Wide spread(U a) { return {a, odd_to_even(a)}; }
RMD_INLINE U gather(Wide a) { return _mm256_blend_epi32(a.even, _mm256_shuffle_epi32(a.odd, 0xa0), 0xaa); }
RMD_INLINE void multiply(Wide a, U b, Wide& high, Wide& low) {
  low = {_mm256_mul_epu32(a.even, b), _mm256_mul_epu32(a.odd, b)};
  high = {odd_to_even(low.even), odd_to_even(low.odd)};
}
RMD_INLINE Wide xor3(Wide a, Wide b, U c) { return {xor3(a.even, b.even, c), xor3(a.odd, b.odd, c)}; }
RMD_INLINE U group_of_lanes() { return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); }
RMD_INLINE void to_order(F* x) {
  const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(x[0], x[1])), b = _mm256_castps_pd(_mm256_unpackhi_ps(x[0], x[1]));
  const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(x[2], x[3])), d = _mm256_castps_pd(_mm256_unpackhi_ps(x[2], x[3]));
  x[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
  x[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
  x[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
  x[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
}
RMD_INLINE void transpose(F* x) {
  F pair[8], four[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    const int from = i / 4 * 4 + i % 4 / 2;
    const __m256d a = _mm256_castps_pd(pair[from]), b = _mm256_castps_pd(pair[from + 2]);
    four[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
    four[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    x[j] = _mm256_permute2f128_ps(four[j], four[4 + j], 0x20);
    x[4 + j] = _mm256_permute2f128_ps(four[j], four[4 + j], 0x31);
  }
}
RMD_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
RMD_INLINE F load(const bf16* p) {
  return as_float(shl<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
}
RMD_INLINE F load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
RMD_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
RMD_INLINE void store(bf16* p, F x) {
  const U u = as_bits(x), even = bit_and(shr<16>(u), set_u(1));
  const F rounded = as_float(shr<16>(add(add(u, set_u(0x7fff)), even)));
  const U kept = as_bits(select(_mm256_cmp_ps(x, x, _CMP_UNORD_Q), as_float(set_u(0x7fc0)), rounded));
  const U packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(kept, kept), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
RMD_INLINE void store(f16* p, F x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
RMD_INLINE void stream(float* p, F x) { _mm256_stream_ps(p, x); }
RMD_INLINE void written_out() { _mm_sfence(); }
RMD_INLINE float sum(F x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
template <class T>
RMD_INLINE F load(const T* p, int n) {
  T padded[W] = {};
  for (int i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}

#else

constexpr int W = 1;
using F = float;
using U = uint32_t;
using M = bool;

RMD_INLINE F set(float x) { return x; }
RMD_INLINE U set_u(uint32_t x) { return x; }
RMD_INLINE F fma(F a, F b, F c) { return a * b + c; }
RMD_INLINE F fnma(F a, F b, F c) { return c - a * b; }
RMD_INLINE F sqrt(F x) { return __builtin_sqrtf(x); }
RMD_INLINE F min(F bound, F x) { return bound < x ? bound : x; }
RMD_INLINE F max(F bound, F x) { return bound > x ? bound : x; }
RMD_INLINE F round(F x) { return __builtin_rintf(x); }
RMD_INLINE U add(U a, U b) { return a + b; }
RMD_INLINE U sub(U a, U b) { return a - b; }
RMD_INLINE U bit_and(U a, U b) { return a & b; }
RMD_INLINE U xor3(U a, U b, U c) { return a ^ b ^ c; }
template <int n> RMD_INLINE U shl(U a) { return a << n; }
template <int n> RMD_INLINE U shr(U a) { return a >> n; }
template <int n> RMD_INLINE U sar(U a) { return U(int32_t(a) >> n); }
RMD_INLINE F to_float(U a) { return F(int32_t(a)); }
RMD_INLINE U to_int(F a) { return U(int32_t(__builtin_rintf(a))); }
RMD_INLINE F as_float(U a) { return float_of(a); }
RMD_INLINE U as_bits(F a) { return bits_of(a); }
RMD_INLINE M any_bit(U a, uint32_t bits) { return (a & bits) != 0; }
RMD_INLINE F select(M m, F yes, F no) { return m ? yes : no; }
RMD_INLINE F flip_sign(F x, U top) { return float_of(bits_of(x) ^ (top & 0x80000000u)); }
using Wide = U;
RMD_INLINE Wide spread(U a) { return a; }
RMD_INLINE U gather(Wide a) { return a; }
RMD_INLINE void multiply(Wide a, U b, Wide& high, Wide& low) {
  const uint64_t product = uint64_t(a) * b;
  high = U(product >> 32);
  low = U(product);
}
RMD_INLINE U group_of_lanes() { return 0; }
RMD_INLINE void to_order(F*) {}
RMD_INLINE void transpose(F*) {}
template <class T> RMD_INLINE F load(const T* p) { return widen(*p); }
template <class T> RMD_INLINE void store(T* p, F x) { narrow(x, *p); }
RMD_INLINE void stream(float* p, F x) { *p = x; }
RMD_INLINE void written_out() {}
RMD_INLINE float sum(F x) { return x; }
template <class T> RMD_INLINE F load(const T* p, int n) { return n ? widen(*p) : 0.0f; }

#endif

template <class T>
RMD_INLINE void stream(T* p, F x) {  // 16 bits: half a vector, which the caches gather better
  store(p, x);
}

// The first n < W elements only.
template <class T>
RMD_INLINE void store(T* p, F x, int n) {
  T whole[W];
  store(whole, x);
  for (int i = 0; i < n; ++i) p[i] = whole[i];
}

}  // namespace rmd::RMD_ISA
