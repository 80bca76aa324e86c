// The backward pass of one item, and the sum of a patient's parts. Included once per instruction set.
#pragma once
#include "rows.h"

namespace rmd::masked_attention::RMD_ISA {
namespace {

struct BackwardMemory {
  float *k[2], *v[2];                    // [keys, padded D], of this item and of the next
  float *dk, *dv;                        // [keys, padded D]
  float *q_rows, *g_rows;                // [LANES, padded D]; g is the gradient of the output
  float *q, *g, *dq;                     // [padded D, LANES]
  float *p, *ds;                         // [MOST_KEYS, LANES]
  float *lse, *delta, *factor;           // [LANES]
  float *bias, *dbias;                   // [M, LANES]

  BackwardMemory(Memory& memory, const Backward& call)
      : k{memory.take(call.most_keys * padded(call.D)), memory.take(call.most_keys * padded(call.D))},
        v{memory.take(call.most_keys * padded(call.D)), memory.take(call.most_keys * padded(call.D))},
        dk(memory.take(call.most_keys * padded(call.D))),
        dv(memory.take(call.most_keys * padded(call.D))),
        q_rows(memory.take(LANES * padded(call.D))),
        g_rows(memory.take(LANES * padded(call.D))),
        q(memory.take(LANES * padded(call.D))),
        g(memory.take(LANES * padded(call.D))),
        dq(memory.take(LANES * padded(call.D))),
        p(memory.take(MOST_KEYS * LANES)),
        ds(memory.take(MOST_KEYS * LANES)),
        lse(memory.take(LANES)),
        delta(memory.take(LANES)),
        factor(memory.take(LANES)),
        bias(memory.take(call.affinity ? call.M * LANES : 0)),
        dbias(memory.take(call.affinity ? call.M * LANES : 0)) {}
};

// p = exp(scores - lse), ds = p (g v - delta), for n keys.
template <int C>
void differentiate(const BackwardMemory& at, const int32_t* modality, bool biased, int64_t n) {
  F lse[C], delta[C];
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) lse[c] = load(at.lse + c * W), delta[c] = load(at.delta + c * W);
  for (int64_t key = 0; key < n; ++key) {
    float *p = at.p + key * LANES, *ds = at.ds + key * LANES;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      F x = load(p + c * W);
      if (biased) x = x + load(at.bias + modality[key] * LANES + c * W);
      const F weight = exp2(min(set(0.0f), x - lse[c]));
      const F slope = weight * (load(ds + c * W) - delta[c]);
      store(p + c * W, weight);
      store(ds + c * W, slope);
      if (biased) {
        float* sum = at.dbias + modality[key] * LANES + c * W;
        store(sum, load(sum) + slope);
      }
    }
  }
}

// c [keys, D] += a^T b over the queries of a block: a [keys, LANES], b [lanes, padded D]
void add_over_queries(float* c, const float* a, const float* b, int64_t keys, int64_t lanes, int64_t D) {
  int64_t left = (D + W - 1) / W, tiles = (left + MOST_COLUMNS - 1) / MOST_COLUMNS;
  for (; tiles > 0; --tiles) {
    const int64_t columns = (left + tiles - 1) / tiles;
    if (columns == 1) product<1, A::rows, Into::sum>(c, padded(D), a, LANES, b, padded(D), keys, lanes);
    if (columns == 2) product<2, A::rows, Into::sum>(c, padded(D), a, LANES, b, padded(D), keys, lanes);
    if (columns == 3) product<3, A::rows, Into::sum>(c, padded(D), a, LANES, b, padded(D), keys, lanes);
    if (columns == 4) product<4, A::rows, Into::sum>(c, padded(D), a, LANES, b, padded(D), keys, lanes);
    left -= columns;
    c += columns * W;
    b += columns * W;
  }
}

template <int C, class Between>
void attend_backward(const BackwardMemory& at, int turn, float* dk, float* dv, const int32_t* modality, bool biased,
                     int64_t begin, int64_t end, int64_t lanes, int64_t D, Between& between) {
  for (int64_t key = begin, n; key < end; key += n) {
    n = end - key <= MOST_KEYS ? end - key : KEYS;
    const int64_t first = key * padded(D);
    product<C, A::rows, Into::empty>(at.p, LANES, at.k[turn] + first, padded(D), at.q, LANES, n, D, between);
    product<C, A::rows, Into::empty>(at.ds, LANES, at.v[turn] + first, padded(D), at.g, LANES, n, D, between);
    differentiate<C>(at, modality + key, biased, n);
    add_over_queries(dv + first, at.p, at.g_rows, n, lanes, D);
    add_over_queries(dk + first, at.ds, at.q_rows, n, lanes, D);
    product<C, A::columns, Into::sum>(at.dq, LANES, at.k[turn] + first, padded(D), at.ds, LANES, D, n);
  }
}

// delta = g out, summed over the width, one lane a query.
template <class T>
void deltas(const Backward& call, const Block& block, const float* g_rows, float* delta) {
  for (int64_t lane = 0; lane < block.n; lane += W) {
    F x[W];
    for (int64_t i = 0; i < W; ++i) {
      x[i] = set(0.0f);
      if (lane + i >= block.n) continue;
      const T* out = row_of<const T>(call.out, block.row[lane + i], block.head[lane + i]);
      for (int64_t d = 0; d < call.D; d += W) {
        x[i] = fma(load(g_rows + (lane + i) * padded(call.D) + d), load_first(out + d, call.D - d), x[i]);
      }
    }
    transpose(x);
    for (int i = 1; i < W; ++i) x[0] = x[0] + x[i];
    store(delta + lane, x[0]);
  }
}

template <class T>
void run_as(const Backward& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  const int64_t keys = keys_of(call, item.patient), D = call.D, first = call.k_rows.first[item.patient * call.M];
  const int32_t* modality = call.k_rows.modality + first;
  Memory memory{scratch};
  const BackwardMemory at(memory, call);
  const int64_t size = keys * padded(D), affinities = group_of(call) * call.Mq * call.M;
  float* dk = item.parts == 1 ? at.dk : call.partial + item.partial + 2 * item.part * size;
  float* dv = item.parts == 1 ? at.dv : dk + size;
  float* daffinity = call.affinity ? call.daffinity + item.number * affinities : nullptr;
  fill(dk, size, 0.0f);
  fill(dv, size, 0.0f);
  if (daffinity) fill(daffinity, affinities, 0.0f);
  const int turn = done % 2;
  if (done == 0) Ahead<T>{call, &item, at.k[0], at.v[0], {}, {}, 0, keys}.finish();
  Ahead<T> ahead{call, next, at.k[1 - turn], at.v[1 - turn], call.dq, {call.q, call.grad_out, call.out}, 3,
                 next ? keys_of(call, next->patient) : 0};
  const int64_t blocks = queries_of(call, item.patient) * group_of(call) / item.parts / LANES + 1;
  each_block(call, item, [&](const Block& block, const Block* then) {
    const int64_t seen = keys - (block.hidden_end - block.hidden_begin);
    if (seen == 0) return zero_rows<T>(block, D, call.dq);
    ahead.begin(block, then, seen, blocks);
    pack_queries<T>(call.q, block, D, set(call.scale), at.q_rows);
    pack_queries<T>(call.grad_out, block, D, set(1.0f), at.g_rows);
    fill(at.lse, LANES, 0.0f);
    for (int64_t lane = 0; lane < block.n; ++lane) {
      const float lse = call.lse[block.row[lane] * call.H + block.head[lane]];
      if (lse == NOTHING) fill(at.g_rows + lane * padded(D), padded(D), 0.0f);  // it read nothing
      at.lse[lane] = lse * LOG2_E;
    }
    to_columns(at.q_rows, block, D, set(LOG2_E), at.q);
    to_columns(at.g_rows, block, D, set(1.0f), at.g);
    deltas<T>(call, block, at.g_rows, at.delta);
    if (call.affinity) {
      bias_of(call, block, at.bias);
      fill(at.dbias, call.M * LANES, 0.0f);
    }
    fill(at.dq, padded(D) * LANES, 0.0f);
    const auto sweep = [&](int64_t begin, int64_t end) {
      const int64_t vectors = block.vectors();
      const bool biased = call.affinity;
      if (vectors == 1) return attend_backward<1>(at, turn, dk, dv, modality, biased, begin, end, block.n, D, ahead);
      if (vectors == 2) return attend_backward<2>(at, turn, dk, dv, modality, biased, begin, end, block.n, D, ahead);
      attend_backward<3>(at, turn, dk, dv, modality, biased, begin, end, block.n, D, ahead);
    };
    sweep(0, block.hidden_begin);
    sweep(block.hidden_end, keys);
    fill(at.factor, LANES, call.scale);
    to_rows<T>(at.dq, at.factor, block, D, call.dq);
    for (int64_t lane = 0; daffinity && lane < block.n; ++lane) {
      const int64_t head = block.head[lane] - item.kv_head * group_of(call);
      float* of_lane = daffinity + (head * call.Mq + block.modality[lane]) * call.M;
      for (int64_t j = 0; j < call.M; ++j) of_lane[j] += at.dbias[j * LANES + lane];
    }
  });
  ahead.finish();
  for (int64_t key = 0; item.parts == 1 && key < keys; ++key) {
    const int64_t row = call.k_rows.row[first + key];
    narrow_row(dk + key * padded(D), D, row_of<T>(call.dk, row, item.kv_head));
    narrow_row(dv + key * padded(D), D, row_of<T>(call.dv, row, item.kv_head));
  }
}

template <class T>
void add_parts_as(const Backward& call, const Item& item) {
  const int64_t keys = keys_of(call, item.patient), D = call.D, size = keys * padded(D);
  float* sum = call.partial + item.partial;
  for (int64_t part = 1; part < item.parts; ++part) {
    for (int64_t i = 0; i < 2 * size; i += W) {
      store(sum + i, load(sum + i) + load(sum + 2 * part * size + i));
    }
  }
  for (int64_t key = 0; key < keys; ++key) {
    const int64_t row = call.k_rows.row[call.k_rows.first[item.patient * call.M] + key];
    narrow_row(sum + key * padded(D), D, row_of<T>(call.dk, row, item.kv_head));
    narrow_row(sum + size + key * padded(D), D, row_of<T>(call.dv, row, item.kv_head));
  }
}

}  // namespace
}  // namespace rmd::masked_attention::RMD_ISA
