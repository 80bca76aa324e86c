// Knowledge attention on the CPU. Compiled once per instruction set.
//
// Two products do all the work, both with a register tile of M values times V vectors of lanes; a
// value is read from memory as it lies and meets V vectors. Neither concepts nor scores are packed.
#include <rmd/knowledge_attention.h>
#include <rmd/math.h>

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

void score(const float* const* rows, int64_t count, const Block& block, const float* lanes, int64_t d, float* scores) {
  for (int64_t first = 0; first < d; first += DEPTH) {
    tiles<rows_high>(count, block.stride / W, [&]<int M, int V>(int64_t c, int64_t lane) {
      score_tile<M, V>(rows + c, lanes + lane, block.stride, first, least(DEPTH, d - first),
                       scores + c * block.stride + lane);
    });
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

// The next concepts that are present, as float rows: where they lie, or widened.
struct Tile {
  const float* rows[TILE];
  float prior[TILE];
  int64_t concepts[TILE];
  int64_t count;
  const char* next;  // where the concepts after them lie
  int64_t next_bytes;

  int64_t fill(const Problem& problem, int64_t at, int64_t end, float* widened) {
    for (count = 0; at < end && count < TILE; ++at) {
      const float p = problem.log_prior ? problem.log_prior[at] : 0.0f;
      if (p < LOWEST) continue;
      concepts[count] = at;
      prior[count] = p;
      const int64_t first = at * problem.d;
      if (problem.type == Type::f32) {
        rows[count] = static_cast<const float*>(problem.concepts) + first;
      } else {
        float* row = widened + count * problem.d;
        if (problem.type == Type::bf16) {
          widen_row(static_cast<const bf16*>(problem.concepts) + first, problem.d, row);
        } else {
          widen_row(static_cast<const f16*>(problem.concepts) + first, problem.d, row);
        }
        rows[count] = row;
      }
      ++count;
    }
    const int64_t bytes = problem.d * (problem.type == Type::f32 ? 4 : 2);
    next = static_cast<const char*>(problem.concepts) + at * bytes;
    next_bytes = least(least(TILE, end - at) * bytes, 1 << 18);
    return at;
  }

  template <class T>
  static void widen_row(const T* from, int64_t d, float* to) {
    int64_t j = 0;
    for (; j + W <= d; j += W) store(to + j, load(from + j));
    for (; j < d; ++j) to[j] = widen(from[j]);
  }
};

// Adds the concepts of a tile to out; meanwhile the next ones come into the second cache.
void add_weighted(const Tile& tile, const Block& block, const float* weights, int64_t d, const float* keep, float* out) {
  tiles<columns_high>(d, block.stride / W, [&]<int M, int V>(int64_t j, int64_t lane) {
    for (int64_t at = tile.next_bytes * j / d; lane == 0 && at < tile.next_bytes * (j + M) / d; at += 64) {
      __builtin_prefetch(tile.next + at, 0, 2);
    }
    add_tile<M, V>(tile.rows, tile.count, weights + lane, block.stride, j, keep + lane, out + j * block.stride + lane);
  });
}

// Products to scores, and to weights exp(score - largest), perhaps in place; `keep` is what earlier
// weights are worth now.
void soften(const Tile& tile, const Problem& problem, int64_t stride, float* scores, float* weights, float* largest,
            float* sum, float* keep) {
  const F scale = set(problem.scale);
  for (int64_t lane = 0; lane < stride; lane += W) {
    const F before = load(largest + lane);
    F most = before;
    for (int64_t c = 0; c < tile.count; ++c) {
      float* at = scores + c * stride + lane;
      const F s = fma(load(at), scale, set(tile.prior[c]));
      store(at, s);
      most = max(most, s);
    }
    F total = set(0.0f);
    for (int64_t c = 0; c < tile.count; ++c) {
      const int64_t at = c * stride + lane;
      const F p = exp(load(scores + at) - most);
      store(weights + at, p);
      total = total + p;
    }
    const F factor = exp(before - most);
    store(largest + lane, most);
    store(keep + lane, factor);
    store(sum + lane, fma(load(sum + lane), factor, total));
  }
}

template <class T>
void spread_as(const T* x, int64_t rows, int64_t d, int64_t stride, float* lanes, float* as_rows, int64_t pitch) {
  if (rows < stride) fill(lanes, d * stride, 0.0f);
  for (int64_t first = 0; first < d; first += SLICE) {  // a line of each row at a time
    for (int64_t j = first; j < least(d, first + SLICE); ++j) {
      for (int64_t r = 0; r < rows; ++r) lanes[j * stride + r] = widen(x[r * d + j]);
    }
  }
  if (as_rows == nullptr) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < d; ++j) as_rows[r * pitch + j] = widen(x[r * d + j]);
    fill(as_rows + r * pitch + d, pitch - d, 0.0f);
  }
}

template <class Work>
void typed(Type type, const Work& work) {
  if (type == Type::f32) return work(static_cast<float*>(nullptr));
  if (type == Type::bf16) return work(static_cast<bf16*>(nullptr));
  work(static_cast<f16*>(nullptr));
}

// Columns column .. of sum over chunks of weight[chunk] times its partial [d][stride], as rows.
void join_columns(const Problem& problem, const Block& block, const float* first, int64_t step, int64_t chunks,
                  const float* weights, int64_t column, void* out) {
  const int64_t columns = least(SLICE, problem.d - column), stride = block.stride;
  alignas(64) float sum[SLICE * ROWS] = {};
  for (int64_t c = 0; c < chunks; ++c) {
    const float* from = first + c * step + column * stride;
    for (int64_t lane = 0; lane < stride; lane += W) {
      const F weight = weights ? load(weights + c * stride + lane) : set(1.0f);
      for (int64_t j = 0; j < columns; ++j) {
        float* to = sum + j * stride + lane;
        store(to, fma(weight, load(from + j * stride + lane), load(to)));
      }
    }
  }
  typed(problem.type, [&]<class T>(T*) {
    for (int64_t r = 0; r < block.rows; ++r) {
      T* row = static_cast<T*>(out) + (block.first + r) * problem.d + column;
      for (int64_t j = 0; j < columns; ++j) narrow(sum[j * stride + r], row[j]);
    }
  });
}

// dconcepts[c][j] (+)= sum over rows r of p[c][r] grad[r][j] + ds[c][r] q[r][j]
template <int M, int V>
__attribute__((noinline)) void dconcepts_tile(const Gradient& g, const float* p, const float* ds, const int64_t* concepts,
                                              int64_t column, int64_t d, bool fresh, float* dconcepts) {
  const float *p_rows[M], *ds_rows[M];
  for (int m = 0; m < M; ++m) p_rows[m] = p + m * g.block.stride, ds_rows[m] = ds + m * g.block.stride;
  F sum[M][V];
  clear(sum);
  by_rows(p_rows, g.grad_rows + column, g.pitch, g.block.rows, sum);
  by_rows(ds_rows, g.q_rows + column, g.pitch, g.block.rows, sum);
  const bool whole = column + V * W <= d;
  alignas(64) float last[M][V * W];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m) {
    float* to = dconcepts + concepts[m] * d + column;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t at = v * W;
      if (whole) {
        store(to + at, fresh ? sum[m][v] : load(to + at) + sum[m][v]);
      } else {
        store(last[m] + at, sum[m][v]);
      }
    }
  }
  if (whole) return;
  for (int m = 0; m < M; ++m) {
    float* to = dconcepts + concepts[m] * d + column;
    for (int64_t j = 0; j < d - column; ++j) to[j] = fresh ? last[m][j] : to[j] + last[m][j];
  }
}

// Weights and the gradients of the scores, in place of scores and of grad . concept.
void harden(const Tile& tile, const Problem& problem, const Gradient& g, bool fresh, float* scores, float* products,
            float* dprior) {
  const int64_t stride = g.block.stride;
  const F scale = set(problem.scale);
  for (int64_t c = 0; c < tile.count; ++c) {
    const F prior = set(tile.prior[c]);
    F sum = set(0.0f);
    for (int64_t lane = 0; lane < stride; lane += W) {
      const int64_t at = c * stride + lane;
      const F p = exp(fma(load(scores + at), scale, prior) - load(g.lse + lane));
      const F ds = p * (load(products + at) - load(g.delta + lane));
      store(scores + at, p);
      store(products + at, ds * scale);
      sum = sum + ds;
    }
    if (dprior == nullptr) continue;
    alignas(64) float lanes[W];
    store(lanes, sum);
    float total = 0.0f;
    for (int i = 0; i < W; ++i) total += lanes[i];
    float& to = dprior[tile.concepts[c]];
    to = fresh ? total : to + total;
  }
}

}  // namespace

void spread(const void* x, Type type, int64_t first, int64_t rows, int64_t d, int64_t stride, float* lanes,
            float* as_rows, int64_t pitch) {
  typed(type, [&]<class T>(T*) {
    spread_as(static_cast<const T*>(x) + first * d, rows, d, stride, lanes, as_rows, pitch);
  });
}

// In the order of score_tile: where one concept has nearly all the weight, `out` is nearly that concept,
// and the difference of the two products must vanish with their roundings.
void dot(const float* a, const float* b, int64_t d, int64_t stride, float* out) {
  for (int64_t lane = 0; lane < stride; lane += W) {
    F total = set(0.0f);
    for (int64_t first = 0; first < d; first += DEPTH) {
      F sum = set(0.0f);
      for (int64_t j = first; j < least(d, first + DEPTH); ++j) {
        sum = fma(load(b + j * stride + lane), load(a + j * stride + lane), sum);
      }
      total = first == 0 ? sum : total + sum;
    }
    store(out + lane, total);
  }
}

void attend(const Problem& problem, const Block& block, int64_t begin, int64_t end, float* widened, float* partial) {
  const int64_t stride = block.stride;
  float *largest = partial, *sum = partial + stride, *weighted = partial + 2 * stride;
  fill(largest, stride, LOWEST);
  fill(sum, (problem.d + 1) * stride, 0.0f);
  alignas(64) float scores[TILE * ROWS], keep[ROWS];
  Tile tile;
  while (begin < end) {
    begin = tile.fill(problem, begin, end, widened);
    if (tile.count == 0) break;
    score(tile.rows, tile.count, block, block.q, problem.d, scores);
    soften(tile, problem, stride, scores, scores, largest, sum, keep);
    add_weighted(tile, block, scores, problem.d, keep, weighted);
  }
}

void join(const Problem& problem, const Block& block, const float* partials, int64_t chunks, int64_t column, void* out,
          float* lse) {
  const int64_t stride = block.stride, step = partial_size(stride, problem.d);
  alignas(64) float weights[CHUNKS * ROWS], largest[ROWS], total[ROWS];
  for (int64_t lane = 0; lane < stride; lane += W) {
    F most = set(LOWEST), sum = set(0.0f);
    for (int64_t c = 0; c < chunks; ++c) most = max(most, load(partials + c * step + lane));
    for (int64_t c = 0; c < chunks; ++c) {
      const F weight = exp(load(partials + c * step + lane) - most);
      store(weights + c * stride + lane, weight);
      sum = fma(weight, load(partials + c * step + stride + lane), sum);
    }
    store(largest + lane, most);
    store(total + lane, sum);
  }
  for (int64_t r = 0; r < stride; ++r) {
    const bool nothing = total[r] == 0.0f;
    const float share = nothing ? 0.0f : 1.0f / total[r];
    for (int64_t c = 0; c < chunks; ++c) weights[c * stride + r] *= share;
    if (r < block.rows && column == 0) lse[block.first + r] = nothing ? NOTHING : largest[r] + __builtin_logf(total[r]);
  }
  join_columns(problem, block, partials + 2 * stride, step, chunks, weights, column, out);
}

void differentiate(const Problem& problem, const Gradient& g, int64_t begin, int64_t end, bool fresh, float* widened,
                   float* dq, float* dconcepts, float* dprior) {
  const int64_t stride = g.block.stride, d = problem.d;
  fill(dq, d * stride, 0.0f);
  alignas(64) float scores[TILE * ROWS], products[TILE * ROWS], keep[ROWS];
  fill(keep, ROWS, 1.0f);
  Tile tile;
  while (begin < end) {
    const int64_t from = begin;
    begin = tile.fill(problem, begin, end, widened);
    if (fresh) {  // absent concepts: gradient 0
      for (int64_t c = 0, at = from; at < begin; ++at) {
        if (c < tile.count && tile.concepts[c] == at) {
          ++c;
          continue;
        }
        fill(dconcepts + at * d, d, 0.0f);
        if (dprior) dprior[at] = 0.0f;
      }
    }
    if (tile.count == 0) break;
    score(tile.rows, tile.count, g.block, g.block.q, d, scores);
    score(tile.rows, tile.count, g.block, g.grad, d, products);
    harden(tile, problem, g, fresh, scores, products, dprior);
    add_weighted(tile, g.block, products, d, keep, dq);
    tiles<rows_high>(tile.count, g.pitch / W, [&]<int M, int V>(int64_t c, int64_t column) {
      dconcepts_tile<M, V>(g, scores + c * stride, products + c * stride, tile.concepts + c, column, d, fresh, dconcepts);
    });
  }
}

void join_dq(const Problem& problem, const Block& block, const float* partials, int64_t chunks, int64_t step,
             int64_t column, void* dq) {
  join_columns(problem, block, partials, step, chunks, nullptr, column, dq);
}

int64_t weigh(const Problem& problem, const Block& block, int64_t begin, float* widened, Scored& out) {
  alignas(64) float weights[TILE * ROWS], keep[ROWS];
  Tile tile;
  begin = tile.fill(problem, begin, problem.k, widened);
  score(tile.rows, tile.count, block, block.q, problem.d, out.scores);
  soften(tile, problem, block.stride, out.scores, weights, out.largest, out.sum, keep);
  out.count = tile.count;
  for (int64_t c = 0; c < tile.count; ++c) out.concepts[c] = tile.concepts[c];
  return begin;
}

}  // namespace rmd::knowledge::RMD_ISA
