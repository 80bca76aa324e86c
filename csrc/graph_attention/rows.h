// Rows of q, k, v and their gradients: read, added up, written. Included once per instruction set.
//
// The gathered rows decide the time. Each is read from memory once (a block of edges stays in the first
// cache), and is fetched AHEAD bytes before it is used, into the second cache: the first one soon waits
// for a place to fetch to. Line by line between the arithmetic, because a burst of fetches would hold that up.
#pragma once
#include <rmd/graph_attention.h>
#include <rmd/math.h>

namespace rmd::graph_attention::RMD_ISA {
namespace {

using namespace rmd::RMD_ISA;

constexpr int64_t AHEAD = 16384;

RMD_INLINE void fetch(const void* line) { __builtin_prefetch(line, 0, 2); }

template <class T>
const T* row_at(const void* base, int64_t row, const Inputs& in) {
  return static_cast<const T*>(base) + row * in.heads * in.width;
}

template <class T>
T* row_at(void* base, int64_t row, const Inputs& in) {
  return static_cast<T*>(base) + row * in.heads * in.width;
}

// The edge whose rows are fetched while those of `edge` are used.
template <class T>
struct Ahead {
  int64_t edges, last;
  explicit Ahead(const Inputs& in) : edges(AHEAD / (in.heads * in.width * int64_t(sizeof(T)))), last(in.edges - 1) {
    edges = edges < 2 ? 2 : edges > 64 ? 64 : edges;
  }
  int64_t operator()(int64_t edge) const { return edge + edges < last ? edge + edges : last; }
};

// The row as floats times `factor`, each head padded with zeros.
template <class T>
void widen_row(float* to, const T* from, float factor, const Inputs& in) {
  const int64_t whole = in.width / W * W, stride = padded(in.width);
  const int rest = int(in.width - whole);
  const F f = set(factor);
  for (int64_t h = 0; h < in.heads; ++h, to += stride, from += in.width) {
    for (int64_t d = 0; d < whole; d += W) store(to + d, f * load(from + d));
    if (rest) store(to + whole, f * load(from + whole, rest));
  }
}

// The row times the factor of each head, in the type of the tensors.
template <class T, class Factor>
void narrow_row(T* to, const float* from, Factor factor, const Inputs& in) {
  const int64_t whole = in.width / W * W, stride = padded(in.width);
  const bool past_caches = in.large && in.width % 16 == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
  const int rest = int(in.width - whole);
  for (int64_t h = 0; h < in.heads; ++h, from += stride, to += in.width) {
    const F f = set(factor(h));
    if (past_caches) {
      for (int64_t d = 0; d < whole; d += W) stream(to + d, f * load(from + d));
    } else {
      for (int64_t d = 0; d < whole; d += W) store(to + d, f * load(from + d));
    }
    if (rest) store(to + whole, f * load(from + whole), rest);
  }
}

template <class T>
void zero_row(T* to, const Inputs& in) {
  __builtin_memset(to, 0, in.heads * in.width * sizeof(T));
}

void fill(float* to, float x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = x;
}

// The product of a and b, while as many elements of `next` are fetched.
template <class T>
RMD_INLINE float dot(const float* a, const T* b, const T* next, int64_t width) {
  F s[4] = {set(0.0f), set(0.0f), set(0.0f), set(0.0f)};
  int64_t d = 0;
  for (; d + 4 * W <= width; d += 4 * W) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (i * W * sizeof(T) % 64 == 0) fetch(next + d + i * W);
      s[i] = fma(load(a + d + i * W), load(b + d + i * W), s[i]);
    }
  }
  if (d < width) fetch(next + d);
  for (; d + W <= width; d += W) s[0] = fma(load(a + d), load(b + d), s[0]);
  if (d < width) s[1] = fma(load(a + d), load(b + d, int(width - d)), s[1]);
  return sum((s[0] + s[1]) + (s[2] + s[3]));
}

// sums += weight x, while as many elements of `next` are fetched.
template <class T>
RMD_INLINE void add(float* sums, float weight, const T* x, const T* next, int64_t width) {
  const F w = set(weight);
  int64_t d = 0;
  for (; d + 4 * W <= width; d += 4 * W) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (i * W * sizeof(T) % 64 == 0) fetch(next + d + i * W);
      store(sums + d + i * W, fma(w, load(x + d + i * W), load(sums + d + i * W)));
    }
  }
  if (d < width) fetch(next + d);
  for (; d + W <= width; d += W) store(sums + d, fma(w, load(x + d), load(sums + d)));
  if (d < width) store(sums + d, fma(w, load(x + d, int(width - d)), load(sums + d)));
}

// sums += a part of each row times its weight, weights[e * heads], with the sums in registers.
template <class T>
RMD_INLINE void add_rows(float* sums, const float* weights, int64_t heads, const T* const* rows, const T* const* next,
                         int64_t n, int64_t begin, int64_t width) {
  int64_t d = 0;
  for (; d + 4 * W <= width; d += 4 * W) {
    F s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) s[i] = load(sums + d + i * W);
    for (int64_t e = 0; e < n; ++e) {
      const F weight = set(weights[e * heads]);
      const T *x = rows[e] + begin + d, *of_next = next[e] + begin + d;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (i * W * sizeof(T) % 64 == 0) fetch(of_next + i * W);
        s[i] = fma(weight, load(x + i * W), s[i]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store(sums + d + i * W, s[i]);
  }
  if (d == width) return;
  for (int64_t e = 0; e < n; ++e) {
    add(sums + d, weights[e * heads], rows[e] + begin + d, next[e] + begin + d, width - d);
  }
}

// Exactly 0 from -87 down, where `exp` stops.
RMD_INLINE F weight_of(F x) { return exp(x) - exp(set(-87.0f)); }

RMD_INLINE float shrink(float x) {  // the same of one number
  float lanes[W];
  store(lanes, weight_of(set(x)));
  return lanes[0];
}

RMD_INLINE float bias(const Inputs& in, int64_t h, int64_t edge) {
  return in.relation ? in.relation_bias[h * in.relations + in.relation[edge]] : 0.0f;
}

}  // namespace
}  // namespace rmd::graph_attention::RMD_ISA
