// Philox4x32-10 (Salmon et al. 2011) and its normals, W groups of four at a time. Knows no torch.
//
// Contract (the same on every backend; definition: robustmdiff/ops/philox.py):
//   key     = the two halves of the seed, low half first
//   counter = (element / 4, row id, step, offset), the low 32 bits of each
//   word j of a group belongs to element 4 * group + j
//   words (w0, w1) give two normals sqrt(-2 ln u) (cos a, sin a), u = ((w0 >> 8) + 1) / 2^24,
//   a = pi int32(w1) / 2^31; words (w2, w3) the next two.
#pragma once
#include <rmd/math.h>

namespace rmd::RMD_ISA {

struct Stream {  // everything of key and counter but the group
  uint32_t key[2], row, step, offset;
};

// The four words of groups first .. first + W - 1, lane l holding group first + group_of_lanes()[l].
RMD_INLINE void philox(const Stream& stream, uint32_t first, U words[4]) {
  Wide c0 = spread(add(set_u(first), group_of_lanes()));
  Wide c1 = spread(set_u(stream.row)), c2 = spread(set_u(stream.step)), c3 = spread(set_u(stream.offset));
  uint32_t k0 = stream.key[0], k1 = stream.key[1];
  const U m0 = set_u(0xD2511F53u), m1 = set_u(0xCD9E8D57u);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    Wide high0, low0, high1, low1;
    multiply(c0, m0, high0, low0);
    multiply(c2, m1, high1, low1);
    c0 = xor3(high1, c1, set_u(k0));
    c1 = low1;
    c2 = xor3(high0, c3, set_u(k1));
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = gather(c0), words[1] = gather(c1), words[2] = gather(c2), words[3] = gather(c3);
}

RMD_INLINE void box_muller(U w0, U w1, F& z0, F& z1) {
  const F u = to_float(add(shr<8>(w0), set_u(1))) * set(0x1p-24f);
  const F radius = sqrt(set(-2.0f) * log(u));
  F sine, cosine;
  sincos(w1, sine, cosine);
  z0 = radius * cosine, z1 = radius * sine;
}

// Normals of elements 4 * first .. 4 * (first + W) - 1, in order.
RMD_INLINE void normals(const Stream& stream, uint32_t first, F z[4]) {
  U words[4];
  philox(stream, first, words);
  box_muller(words[0], words[1], z[0], z[1]);
  box_muller(words[2], words[3], z[2], z[3]);
  to_order(z);
}

}  // namespace rmd::RMD_ISA
