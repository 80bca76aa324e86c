// log, sin, cos, exp and 2^x of W floats: the polynomials of Cephes (S. Moshier), errors below 1.5 ulp on
// the ranges named. Knows no torch.
#pragma once
#include <rmd/vec.h>

namespace rmd::RMD_ISA {

// Natural logarithm of a positive normal float.
RMD_INLINE F log(F x) {
  const U shifted = sub(as_bits(x), set_u(0x3f3504f3));  // m in [sqrt(1/2), sqrt(2)): exact near 1
  const U e = sar<23>(shifted);
  const F m = as_float(add(bit_and(shifted, set_u(0x7fffff)), set_u(0x3f3504f3))) - set(1.0f);
  const F z = m * m, exponent = to_float(e);
  F p = set(7.0376836292e-2f);
  p = fma(p, m, set(-1.1514610310e-1f));
  p = fma(p, m, set(1.1676998740e-1f));
  p = fma(p, m, set(-1.2420140846e-1f));
  p = fma(p, m, set(1.4249322787e-1f));
  p = fma(p, m, set(-1.6668057665e-1f));
  p = fma(p, m, set(2.0000714765e-1f));
  p = fma(p, m, set(-2.4999993993e-1f));
  p = fma(p, m, set(3.3333331174e-1f));
  p = p * m * z;
  p = fma(exponent, set(-2.12194440e-4f), p);
  p = fnma(set(0.5f), z, p);
  return fma(exponent, set(0.693359375f), m + p);
}

// sin and cos of pi * int32(turn) / 2^31. The quarter turn is taken off in integers, exactly.
RMD_INLINE void sincos(U turn, F& sine, F& cosine) {
  const U rounded = add(turn, set_u(1u << 29));  // its two top bits count the quarter turns
  const U rest = sub(bit_and(rounded, set_u((1u << 30) - 1)), set_u(1u << 29));
  const F x = to_float(rest) * set(1.46291807926716e-9f);  // pi / 2^31
  const F z = x * x;
  F s = fma(set(-1.9515295891e-4f), z, set(8.3321608736e-3f));
  s = fma(fma(s, z, set(-1.6666654611e-1f)), z * x, x);
  F c = fma(set(2.443315711809948e-5f), z, set(-1.388731625493765e-3f));
  c = fma(fma(c, z, set(4.166664568298827e-2f)), z * z, fnma(set(0.5f), z, set(1.0f)));
  const M odd = any_bit(rounded, 1u << 30);
  sine = flip_sign(select(odd, c, s), rounded);
  cosine = flip_sign(select(odd, s, c), add(rounded, set_u(1u << 30)));
}

// exp(x); x is clamped to where the answer is a normal float.
RMD_INLINE F exp(F x) {
  x = min(set(88.0f), max(set(-87.0f), x));
  const F n = round(x * set(1.44269504088896341f));
  F r = fnma(n, set(0.693359375f), x);
  r = fnma(n, set(-2.12194440e-4f), r);
  F p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = fma(p, r * r, r) + set(1.0f);
  return as_float(add(as_bits(p), shl<23>(to_int(n))));
}

// 2^x for x up to 127; below -126 it is 2^-126. A NaN stays NaN.
RMD_INLINE F exp2(F x) {
  x = max(set(-126.0f), x);
  const F shifted = x + set(0x1.8p23f + 127.0f);  // its low bits are the exponent field of 2^round(x)
  const F r = x - (shifted - set(0x1.8p23f + 127.0f));
  F p = set(1.535336188319500e-4f);
  p = fma(p, r, set(1.339887440266574e-3f));
  p = fma(p, r, set(9.618437357674640e-3f));
  p = fma(p, r, set(5.550332471162809e-2f));
  p = fma(p, r, set(2.402264791363012e-1f));
  p = fma(p, r, set(6.931472028550421e-1f));
  p = fma(p, r, set(1.0f));
  return p * as_float(shl<23>(as_bits(shifted)));
}

}  // namespace rmd::RMD_ISA
