// Products of small matrices of floats in registers. Knows no torch.
#pragma once
#include <rmd/vec.h>

namespace rmd::RMD_ISA {

// A tile is at most TILE_ROWS x TILE_COLUMNS vectors of sums in registers, beside a row of b and one
// number of a; a wider one of MOST_COLUMNS has fewer rows.
constexpr int TILE_ROWS = W == 16 ? 8 : 4, TILE_COLUMNS = 3, MOST_COLUMNS = 4;
constexpr int rows_of(int columns) { return columns <= TILE_COLUMNS ? TILE_ROWS : W == 16 ? 6 : 2; }

enum class Into { empty, sum, scaled };   // c = a b, c += a b, c = c factor + a b
enum class A { rows, columns };           // a(r, k) at a[r lda + k], or at a[k lda + r]

// c [R, C W] of row length ldc from a [R, depth] and b [depth, C W]; factor [C W]. Each element is one
// chain of fused multiply-adds over k = 0, 1, ..., whatever R and C are.
template <int R, int C, A layout, Into into>
RMD_INLINE void tile(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth,
                     const float* factor) {
  F sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) {
      if constexpr (into == Into::empty) {
        sum[r][n] = set(0.0f);
      } else {
        sum[r][n] = load(c + r * ldc + n * W);
        if constexpr (into == Into::scaled) sum[r][n] = sum[r][n] * load(factor + n * W);
      }
    }
  }
  for (int64_t k = 0; k < depth; ++k, b += ldb) {
    F row[C];
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) row[n] = load(b + n * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F x = set(layout == A::rows ? a[r * lda + k] : a[k * lda + r]);
#pragma GCC unroll 4
      for (int n = 0; n < C; ++n) sum[r][n] = fma(x, row[n], sum[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) store(c + r * ldc + n * W, sum[r][n]);
  }
}

struct Nothing {
  void operator()() const {}
};

// The same for any number of rows; between() is called after each whole tile.
template <int C, A layout, Into into, class Between = const Nothing>
void product(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
             int64_t depth, Between& between = Nothing{}, const float* factor = nullptr) {
  constexpr int R = rows_of(C);
  const int64_t step = layout == A::rows ? lda : 1;
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    tile<R, C, layout, into>(c + r * ldc, ldc, a + r * step, lda, b, ldb, depth, factor);
    between();
  }
  if (R > 4 && r + 4 <= rows) {
    tile<4, C, layout, into>(c + r * ldc, ldc, a + r * step, lda, b, ldb, depth, factor);
    r += 4;
  }
  for (; r < rows; ++r) tile<1, C, layout, into>(c + r * ldc, ldc, a + r * step, lda, b, ldb, depth, factor);
}

}  // namespace rmd::RMD_ISA
