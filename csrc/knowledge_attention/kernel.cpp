// Knowledge attention on the CPU. Compiled once per instruction set.
#include "products.h"

#include <rmd/math.h>

namespace rmd::knowledge::RMD_ISA {
namespace {

// The next concepts that are present, as float rows: where they lie, or widened.
struct Tile {
  const float* rows[TILE];
  float prior[TILE];
  int64_t concepts[TILE];
  int64_t count;
  Ahead next;  // the concepts after them

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
    const char* from = static_cast<const char*>(problem.concepts) + at * bytes;
    next = {from, from + least(least(TILE, end - at) * bytes, 1 << 18)};
    return at;
  }

  template <class T>
  static void widen_row(const T* from, int64_t d, float* to) {
    int64_t j = 0;
    for (; j + W <= d; j += W) store(to + j, load(from + j));
    for (; j < d; ++j) to[j] = widen(from[j]);
  }
};

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
    score(tile.rows, tile.count, block, block.q, problem.d, scores, tile.next);
    soften(tile, problem, stride, scores, scores, largest, sum, keep);
    add_weighted(tile.rows, tile.count, block, scores, problem.d, keep, weighted, tile.next);
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
    const bool nothing = total[r] == 0.0f || largest[r] == LOWEST;  // no concept, or every score is -inf
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
    score(tile.rows, tile.count, g.block, g.block.q, d, scores, tile.next);
    score(tile.rows, tile.count, g.block, g.grad, d, products, {});
    harden(tile, problem, g, fresh, scores, products, dprior);
    add_weighted(tile.rows, tile.count, g.block, products, d, keep, dq, tile.next);
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
  score(tile.rows, tile.count, block, block.q, problem.d, out.scores, tile.next);
  soften(tile, problem, block.stride, out.scores, weights, out.largest, out.sum, keep);
  out.count = tile.count;
  for (int64_t c = 0; c < tile.count; ++c) out.concepts[c] = tile.concepts[c];
  return begin;
}

}  // namespace rmd::knowledge::RMD_ISA
