// Graph attention on the CPU, all heads of an edge together. Compiled once per instruction set.
#include "rows.h"

namespace rmd::graph_attention::RMD_ISA {
namespace {

// Calls visit(row, first, last, whole) for the pieces that begin at the places begin .. end - 1.
template <class Visit>
void each_piece(const int64_t* rowptr, int64_t rows, int64_t begin, int64_t end, Visit visit) {
  int64_t row = 0;
  for (int64_t high = rows; row < high;) {  // the first row that ends at `begin` or later
    const int64_t middle = row + (high - row) / 2;
    if (middle + rowptr[middle + 1] < begin) row = middle + 1;
    else high = middle;
  }
  for (; row < rows && row + rowptr[row] < end; ++row) {
    const int64_t start = rowptr[row], edges = rowptr[row + 1] - start, n = pieces(edges);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t first = start + edges * i / n;
      if (row + first >= begin && row + first < end) visit(row, first, start + edges * (i + 1) / n, n == 1);
    }
  }
}

// WIDTH is the width of a head where it is known when compiling, else 0. Knowing it saves a third of the time
// at 32, a tenth at 64, and too little to count at 128.

// Forward. A piece leaves the sum of weight times v, the sum of weights and the largest score.

struct Softmax {
  float *value, *total, *largest;
  Softmax(float* state, const Inputs& in)
      : value(state), total(value + row_floats(in)), largest(total + padded(in.heads)) {}
};

void scale(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; i += W) store(x + i, set(factor) * load(x + i));
}

template <class T, int64_t WIDTH>
void accumulate(const Forward& at, int64_t row, int64_t first, int64_t last, float* state, float* scratch) {
  const Inputs& in = at.in;
  const int64_t heads = in.heads, width = WIDTH ? WIDTH : in.width, stride = padded(width);
  const Softmax s(state, in);
  float* query = scratch;
  float* scores = query + row_floats(in);
  const Ahead<T> ahead(in);
  widen_row(query, row_at<T>(in.q, row, in), in.scale, in);
  fill(s.value, 0.0f, row_floats(in));
  fill(s.total, 0.0f, heads);
  fill(s.largest, NOTHING, heads);
  for (int64_t from = first; from < last; from += BLOCK) {
    const int64_t n = last - from < BLOCK ? last - from : BLOCK;
    for (int64_t e = 0; e < n; ++e) {
      const T* k = row_at<T>(in.k, in.col[from + e], in);
      const T* next = row_at<T>(in.k, in.col[ahead(from + e)], in);
      for (int64_t h = 0; h < heads; ++h) {
        scores[e * heads + h] = dot(query + h * stride, k + h * width, next + h * width, width) + bias(in, h, from + e);
      }
    }
    for (int64_t h = 0; h < heads; ++h) {
      const float before = s.largest[h];
      float largest = before;
      for (int64_t i = h; i < n * heads; i += heads) largest = scores[i] > largest ? scores[i] : largest;
      for (int64_t i = h; i < n * heads; i += heads) scores[i] -= largest;
      s.largest[h] = largest;
      if (from == first || largest == before) continue;
      const float factor = shrink(before - largest);
      s.total[h] *= factor;
      scale(s.value + h * stride, factor, stride);
    }
    for (int64_t i = 0; i < n * heads; i += W) store(scores + i, weight_of(load(scores + i)));
    const T *rows[BLOCK], *next[BLOCK];
    for (int64_t e = 0; e < n; ++e) {
      rows[e] = row_at<T>(in.v, in.col[from + e], in);
      next[e] = row_at<T>(in.v, in.col[ahead(from + e)], in);
    }
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t e = 0; e < n; ++e) s.total[h] += scores[e * heads + h];
      add_rows(s.value + h * stride, scores + h, heads, rows, next, n, h * width, width);
    }
  }
}

void merge(const Forward& at, float* state, float* next) {
  const Inputs& in = at.in;
  const int64_t stride = padded(in.width);
  const Softmax a(state, in), b(next, in);
  for (int64_t h = 0; h < in.heads; ++h) {
    const float largest = a.largest[h] > b.largest[h] ? a.largest[h] : b.largest[h];
    const float of_a = shrink(a.largest[h] - largest), of_b = shrink(b.largest[h] - largest);
    scale(a.value + h * stride, of_a, stride);
    add(a.value + h * stride, of_b, b.value + h * stride, b.value + h * stride, stride);
    a.total[h] = of_a * a.total[h] + of_b * b.total[h];
    a.largest[h] = largest;
  }
}

template <class T>
void finish(const Forward& at, int64_t row, const float* state) {
  const Inputs& in = at.in;
  const Softmax s(const_cast<float*>(state), in);
  narrow_row(row_at<T>(at.out, row, in), s.value, [&](int64_t h) { return s.total[h] == 0.0f ? 0.0f : 1.0f / s.total[h]; },
             in);
  for (int64_t h = 0; h < in.heads; ++h) {
    at.lse[row * in.heads + h] = s.total[h] == 0.0f ? NOTHING : s.largest[h] + __builtin_logf(s.total[h]);
  }
}

template <class T>
void nothing(const Forward& at, int64_t row) {
  zero_row(row_at<T>(at.out, row, at.in), at.in);
  fill(at.lse + row * at.in.heads, NOTHING, at.in.heads);
}

// Backward along the in-edges. A piece leaves the sum of score gradients times k.

template <class T, int64_t WIDTH>
void accumulate(const ByTarget& pass, int64_t row, int64_t first, int64_t last, float* dq, float* scratch) {
  const Backward& at = pass.at;
  const Inputs& in = at.in;
  const int64_t heads = in.heads, width = WIDTH ? WIDTH : in.width, stride = padded(width);
  float* query = scratch;
  float* grad = query + row_floats(in);
  float* scores = grad + row_floats(in);
  float* dweights = scores + padded(BLOCK * heads);
  float* delta = dweights + padded(BLOCK * heads);
  const float* lse = at.lse + row * heads;
  const Ahead<T> ahead(in);
  widen_row(query, row_at<T>(in.q, row, in), in.scale, in);
  widen_row(grad, row_at<T>(at.grad_out, row, in), 1.0f, in);
  for (int64_t h = 0; h < heads; ++h) {
    const T* out = row_at<T>(at.out, row, in) + h * width;
    delta[h] = dot(grad + h * stride, out, out, width);
  }
  fill(dq, 0.0f, row_floats(in));
  for (int64_t from = first; from < last; from += BLOCK) {
    const int64_t n = last - from < BLOCK ? last - from : BLOCK;
    for (int64_t e = 0; e < n; ++e) {
      const T* k = row_at<T>(in.k, in.col[from + e], in);
      const T* v = row_at<T>(in.v, in.col[from + e], in);
      const int64_t next = in.col[ahead(from + e)];
      const T *next_k = row_at<T>(in.k, next, in), *next_v = row_at<T>(in.v, next, in);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = h * width;
        scores[e * heads + h] = dot(query + h * stride, k + at, next_k + at, width) + bias(in, h, from + e) - lse[h];
        dweights[e * heads + h] = dot(grad + h * stride, v + at, next_v + at, width) - delta[h];
      }
    }
    for (int64_t i = 0; i < n * heads; i += W) store(scores + i, weight_of(load(scores + i)));
    for (int64_t e = 0; e < n; ++e) {
      const T* k = row_at<T>(in.k, in.col[from + e], in);
      float* weights = pass.weights + 2 * heads * (from + e);
      for (int64_t h = 0; h < heads; ++h) {
        const float weight = scores[e * heads + h], dscore = weight * dweights[e * heads + h];
        weights[h] = weight;
        weights[heads + h] = dscore;
        add(dq + h * stride, dscore, k + h * width, k + h * width, width);
      }
    }
  }
}

void merge(const ByTarget& pass, float* dq, const float* next) { add(dq, 1.0f, next, next, row_floats(pass.at.in)); }

template <class T>
void finish(const ByTarget& pass, int64_t row, const float* dq) {
  const Inputs& in = pass.at.in;
  narrow_row(row_at<T>(pass.at.dq, row, in), dq, [&](int64_t) { return in.scale; }, in);
}

template <class T>
void nothing(const ByTarget& pass, int64_t row) {
  zero_row(row_at<T>(pass.at.dq, row, pass.at.in), pass.at.in);
}

// Backward along the out-edges. A piece leaves its sums of dk and dv.

template <class T, int64_t WIDTH>
void accumulate(const BySource& pass, int64_t, int64_t first, int64_t last, float* dk, float*) {
  const Backward& at = pass.at;
  const Inputs& in = at.in;
  const int64_t heads = in.heads, width = WIDTH ? WIDTH : in.width, stride = padded(width);
  float* dv = dk + row_floats(in);
  const Ahead<T> ahead(in);
  fill(dk, 0.0f, 2 * row_floats(in));
  for (int64_t e = first; e < last; ++e) {
    const T* q = row_at<T>(in.q, in.out_target[e], in);
    const T* grad = row_at<T>(at.grad_out, in.out_target[e], in);
    const T* next_q = row_at<T>(in.q, in.out_target[ahead(e)], in);
    const T* next_grad = row_at<T>(at.grad_out, in.out_target[ahead(e)], in);
    const float* weights = pass.weights + 2 * heads * in.out_edge[e];
    fetch(pass.weights + 2 * heads * in.out_edge[ahead(e)]);
    for (int64_t h = 0; h < heads; ++h) {
      add(dk + h * stride, weights[heads + h], q + h * width, next_q + h * width, width);
      add(dv + h * stride, weights[h], grad + h * width, next_grad + h * width, width);
    }
  }
}

void merge(const BySource& pass, float* dk, const float* next) { add(dk, 1.0f, next, next, 2 * row_floats(pass.at.in)); }

template <class T>
void finish(const BySource& pass, int64_t row, const float* dk) {
  const Inputs& in = pass.at.in;
  narrow_row(row_at<T>(pass.at.dk, row, in), dk, [&](int64_t) { return in.scale; }, in);
  narrow_row(row_at<T>(pass.at.dv, row, in), dk + row_floats(in), [](int64_t) { return 1.0f; }, in);
}

template <class T>
void nothing(const BySource& pass, int64_t row) {
  zero_row(row_at<T>(pass.at.dk, row, pass.at.in), pass.at.in);
  zero_row(row_at<T>(pass.at.dv, row, pass.at.in), pass.at.in);
}

template <class T, int64_t WIDTH, class Pass>
void run_width(const Pass& pass, const Inputs& in, const int64_t* rowptr, int64_t begin, int64_t end, float* slots,
               float* scratch) {
  each_piece(rowptr, in.nodes, begin, end, [&](int64_t row, int64_t first, int64_t last, bool whole) {
    if (first == last) return nothing<T>(pass, row);
    float* state = whole ? scratch : slots + slot(first) * slot_floats(in);
    accumulate<T, WIDTH>(pass, row, first, last, state, scratch + slot_floats(in));
    if (whole) finish<T>(pass, row, state);
  });
  written_out();
}

template <class T, class Pass>
void run_as(const Pass& pass, const Inputs& in, const int64_t* rowptr, int64_t begin, int64_t end, float* slots,
            float* scratch) {
  if (in.width == 32) return run_width<T, 32>(pass, in, rowptr, begin, end, slots, scratch);
  if (in.width == 64) return run_width<T, 64>(pass, in, rowptr, begin, end, slots, scratch);
  run_width<T, 0>(pass, in, rowptr, begin, end, slots, scratch);
}

template <class Pass>
void run_type(const Pass& pass, const Inputs& in, const int64_t* rowptr, int64_t begin, int64_t end, float* slots,
              float* scratch) {
  if (in.type == Type::f32) return run_as<float>(pass, in, rowptr, begin, end, slots, scratch);
  if (in.type == Type::bf16) return run_as<bf16>(pass, in, rowptr, begin, end, slots, scratch);
  run_as<f16>(pass, in, rowptr, begin, end, slots, scratch);
}

template <class Pass>
void combine_type(const Pass& pass, const Inputs& in, const int64_t* rowptr, int64_t row, float* slots) {
  const int64_t start = rowptr[row], edges = rowptr[row + 1] - start, n = pieces(edges);
  const auto state = [&](int64_t i) { return slots + slot(start + edges * i / n) * slot_floats(in); };
  for (int64_t i = 1; i < n; ++i) merge(pass, state(0), state(i));
  if (in.type == Type::f32) finish<float>(pass, row, state(0));
  if (in.type == Type::bf16) finish<bf16>(pass, row, state(0));
  if (in.type == Type::f16) finish<f16>(pass, row, state(0));
  written_out();
}

}  // namespace

void run(const Forward& p, int64_t begin, int64_t end, float* slots, float* scratch) {
  run_type(p, p.in, p.in.rowptr, begin, end, slots, scratch);
}
void run(const ByTarget& p, int64_t begin, int64_t end, float* slots, float* scratch) {
  run_type(p, p.at.in, p.at.in.rowptr, begin, end, slots, scratch);
}
void run(const BySource& p, int64_t begin, int64_t end, float* slots, float* scratch) {
  run_type(p, p.at.in, p.at.in.out_rowptr, begin, end, slots, scratch);
}

void combine(const Forward& p, int64_t row, float* slots) { combine_type(p, p.in, p.in.rowptr, row, slots); }
void combine(const ByTarget& p, int64_t row, float* slots) { combine_type(p, p.at.in, p.at.in.rowptr, row, slots); }
void combine(const BySource& p, int64_t row, float* slots) { combine_type(p, p.at.in, p.at.in.out_rowptr, row, slots); }

}  // namespace rmd::graph_attention::RMD_ISA
