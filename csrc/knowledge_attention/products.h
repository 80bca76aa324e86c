// The two products of knowledge attention, concepts times rows: scores, and sums of weighted concepts.
//
// With many rows of queries both have a register tile of M values times V vectors of lanes; a value is read
// from memory as it lies and meets V vectors. Neither concepts nor scores are packed. With few rows most
// lanes would be empty: there the lanes are concepts, or columns of theirs. Every sum is the same chain of
// fused multiply-adds in both, so a row's bits do not depend on how many rows come with it.
#pragma once
#include <rmd/knowledge_attention.h>
#include <rmd/vec.h>

namespace rmd::knowledge::RMD_ISA {
namespace {

using namespace rmd::RMD_ISA;

constexpr int PANEL = W == 16 ? 4 : 2;  // V at most
// M at most: 24 accumulators of 32 registers or 12 of 16; enough of them to hide the latency of fma, and
// no more row pointers than there are registers.
constexpr int rows_high(int v) { return v == 1 ? 8 : 6; }
constexpr int columns_high(int v) { return v == 1 || (v == 2 && W == 16) ? 12 : 6; }
// Terms of a score that are summed before they are added to the rest: DEPTH x PANEL vectors of lanes stay
// in the first cache while all concepts of a tile pass by.
constexpr int64_t DEPTH = 128;

// Nothing of the standard library here: its inline functions have one name for all instruction sets.
RMD_INLINE void fill(float* to, int64_t count, float value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// sum[m][v] = sum over i < depth of rows[m][i] lanes[i][v]
template <int M, int V>
RMD_INLINE void by_rows(const float* const* rows, const float* lanes, int64_t stride, int64_t depth, F (&sum)[M][V]) {
  const float* row[M];
  for (int m = 0; m < M; ++m) row[m] = rows[m];
  for (int64_t i = 0; i < depth; ++i) {
    F b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b[v] = load(lanes + i * stride + v * W);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const F a = set(row[m][i]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] = fma(a, b[v], sum[m][v]);
    }
  }
}

// sum[m][v] = sum over i < depth of rows[i][column + m] lanes[i][v]
template <int M, int V>
RMD_INLINE void by_columns(const float* const* rows, int64_t column, const float* lanes, int64_t stride, int64_t depth,
                           F (&sum)[M][V]) {
  for (int64_t i = 0; i < depth; ++i) {
    const float* row = rows[i] + column;
    F b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b[v] = load(lanes + i * stride + v * W);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const F a = set(row[m]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] = fma(a, b[v], sum[m][v]);
    }
  }
}

template <int M, int V>
RMD_INLINE void clear(F (&sum)[M][V]) {
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[m][v] = set(0.0f);
  }
}

// work<n>() for the n at hand, 1 <= n <= most.
template <int most, class Work>
RMD_INLINE void sized(int64_t n, const Work& work) {
  if constexpr (most == 1) {
    work.template operator()<1>();
  } else if (n >= most) {
    work.template operator()<most>();
  } else {
    sized<most - 1>(n, work);
  }
}

// work<M, V>(i, v) over all register tiles of `count` values times `vectors` vectors.
template <int (*high)(int), class Work>
RMD_INLINE void tiles(int64_t count, int64_t vectors, const Work& work) {
  for (int64_t v = 0; v < vectors; v += PANEL) {
    sized<PANEL>(vectors - v, [&]<int V>() {
      for (int64_t i = 0; i < count; i += high(V)) {
        sized<high(V)>(count - i, [&]<int M>() { work.template operator()<M, V>(i, v * W); });
      }
    });
  }
}

// scores[c][lane] (+)= the sum over columns first .. first + depth - 1 of rows[c][j] lanes[j][lane]
template <int M, int V>
__attribute__((noinline)) void score_tile(const float* const* rows, const float* lanes, int64_t stride, int64_t first,
                                          int64_t depth, float* scores) {
  const float* at[M];
  for (int m = 0; m < M; ++m) at[m] = rows[m] + first;
  F sum[M][V];
  clear(sum);
  by_rows(at, lanes + first * stride, stride, depth, sum);
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* to = scores + m * stride + v * W;
      store(to, first == 0 ? sum[m][v] : load(to) + sum[m][v]);
    }
  }
}

// out[j][lane] = out[j][lane] keep[lane] + sum over c of rows[c][j] weights[c][lane]
template <int M, int V>
__attribute__((noinline)) void add_tile(const float* const* rows, int64_t count, const float* weights, int64_t stride,
                                        int64_t column, const float* keep, float* out) {
  F sum[M][V];
  clear(sum);
  by_columns(rows, column, weights, stride, count, sum);
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* to = out + m * stride + v * W;
      store(to, fma(load(to), load(keep + v * W), sum[m][v]));
    }
  }
}

// As many rows as this are few.
constexpr int FEW = W == 1 ? 0 : 4;

// What is read after the concepts at hand: it comes into the second cache a little at a time, because a burst
// of fetches would hold the arithmetic up.
struct Ahead {
  const char *at, *end;

  void operator()(int64_t lines) {
    for (; lines > 0 && at < end; --lines, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

// x[r] holds W values of row r, for r < R. Turned: x[i] holds value i of each row, 0 in the lanes past R.
template <int R>
RMD_INLINE void to_lanes(F (&x)[W]) {
#pragma GCC unroll 16
  for (int r = R; r < W; ++r) x[r] = set(0.0f);
  transpose(x);
}

// The scores of up to W concepts; sums grow in the order of score_tile.
template <int R>
__attribute__((noinline)) void score_few(const float* const* rows, int64_t count, const float* lanes, int64_t stride,
                                         int64_t d, float* scores, Ahead& ahead) {
  F total[R] = {};
  for (int64_t first = 0; first < d; first += DEPTH) {
    const int64_t end = least(d, first + DEPTH);
    F sum[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r] = set(0.0f);
    for (int64_t j = first; j < end; j += W) {
      const int64_t columns = least(W, end - j);
      F x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        const float* from = rows[least(i, count - 1)] + j;
        x[i] = columns == W ? load(from) : load(from, int(columns));
      }
      ahead(W);
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        if (i >= columns) break;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r] = fma(x[i], set(lanes[(j + i) * stride + r]), sum[r]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) total[r] = first == 0 ? sum[r] : total[r] + sum[r];
  }
  F x[W];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) x[r] = total[r];
  to_lanes<R>(x);
  for (int i = 0; i < least(W, count); ++i) {
    for (int64_t lane = 0; lane < stride; lane += W) store(scores + i * stride + lane, lane == 0 ? x[i] : set(0.0f));
  }
}

// add_tile for W V columns (or fewer, the last ones), the rows in lanes 0 to R - 1.
template <int R, int V>
__attribute__((noinline)) void add_few(const float* const* rows, int64_t count, const float* weights, int64_t stride,
                                       int64_t column, int64_t d, const float* keep, float* out) {
  F sum[R][V];
  clear(sum);
  const bool whole = column + V * W <= d;
  for (int64_t c = 0; c < count; ++c) {
    const float* row = rows[c] + column;
    F b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b[v] = whole ? load(row + v * W) : load(row, int(d - column));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const F weight = set(weights[c * stride + r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = fma(b[v], weight, sum[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    F x[W];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) x[r] = sum[r][v];
    to_lanes<R>(x);
    float* to = out + (column + v * W) * stride;
    for (int i = 0; i < least(W, d - column - v * W); ++i) {
      store(to + i * stride, fma(load(to + i * stride), load(keep), x[i]));
    }
  }
}

// scores [count][stride] of concepts given as rows.
void score(const float* const* rows, int64_t count, const Block& block, const float* lanes, int64_t d, float* scores,
           Ahead ahead) {
  if constexpr (FEW > 0) {
    if (block.rows <= FEW) {
      for (int64_t c = 0; c < count; c += W) {
        sized<FEW>(block.rows, [&]<int R>() {
          score_few<R>(rows + c, count - c, lanes, block.stride, d, scores + c * block.stride, ahead);
        });
      }
      return;
    }
  }
  for (int64_t first = 0; first < d; first += DEPTH) {
    tiles<rows_high>(count, block.stride / W, [&]<int M, int V>(int64_t c, int64_t lane) {
      score_tile<M, V>(rows + c, lanes + lane, block.stride, first, least(DEPTH, d - first),
                       scores + c * block.stride + lane);
    });
  }
}

// out [d][stride] times `keep`, plus the concepts times their weights [count][stride].
void add_weighted(const float* const* rows, int64_t count, const Block& block, const float* weights, int64_t d,
                  const float* keep, float* out, Ahead ahead) {
  if constexpr (FEW > 0) {
    if (block.rows <= FEW) {
      sized<FEW>(block.rows, [&]<int R>() {
        for (int64_t j = 0, columns; j < d; j += columns) {
          columns = d - j >= PANEL * W ? PANEL * W : least(W, d - j);
          if (columns == PANEL * W) {
            add_few<R, PANEL>(rows, count, weights, block.stride, j, d, keep, out);
          } else {
            add_few<R, 1>(rows, count, weights, block.stride, j, d, keep, out);
          }
        }
      });
      return;
    }
  }
  const int64_t lines = (ahead.end - ahead.at) / 64;
  tiles<columns_high>(d, block.stride / W, [&]<int M, int V>(int64_t j, int64_t lane) {
    if (lane == 0) ahead(lines * M / d + 1);
    add_tile<M, V>(rows, count, weights + lane, block.stride, j, keep + lane, out + j * block.stride + lane);
  });
}

}  // namespace
}  // namespace rmd::knowledge::RMD_ISA
