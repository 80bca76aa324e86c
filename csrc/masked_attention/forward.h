// The forward pass of one item. Included once per instruction set.
#pragma once
#include "rows.h"

#include <cmath>

namespace rmd::masked_attention::RMD_ISA {
namespace {

struct ForwardMemory {
  float *k[2], *v[2];        // [keys, padded D], of this item and of the next
  float *rows;               // [LANES, padded D]
  float *q, *out;            // [padded D, LANES]
  float *s;                  // [MOST_KEYS, LANES] scores, then weights
  float *largest, *sum, *factor;  // [LANES]
  float *bias;               // [M, LANES]

  ForwardMemory(Memory& memory, const Forward& call)
      : k{memory.take(call.most_keys * padded(call.D)), memory.take(call.most_keys * padded(call.D))},
        v{memory.take(call.most_keys * padded(call.D)), memory.take(call.most_keys * padded(call.D))},
        rows(memory.take(LANES * padded(call.D))),
        q(memory.take(LANES * padded(call.D))),
        out(memory.take(LANES * padded(call.D))),
        s(memory.take(MOST_KEYS * LANES)),
        largest(memory.take(LANES)),
        sum(memory.take(LANES)),
        factor(memory.take(LANES)),
        bias(memory.take(call.affinity ? call.M * LANES : 0)) {}
};

// Scores of n keys to weights relative to the largest score so far; `factor` brings what was summed
// before to that same scale.
template <int C>
void soften(const ForwardMemory& at, const int32_t* modality, bool biased, int64_t n) {
  F largest[C], sum[C];
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) largest[c] = load(at.largest + c * W), sum[c] = set(0.0f);
  for (int64_t key = 0; key < n; ++key) {
    float* s = at.s + key * LANES;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      F x = load(s + c * W);
      if (biased) {
        x = x + load(at.bias + modality[key] * LANES + c * W);
        store(s + c * W, x);
      }
      largest[c] = max(largest[c], x);
    }
  }
  for (int64_t key = 0; key < n; ++key) {
    float* s = at.s + key * LANES;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const F p = exp2(load(s + c * W) - largest[c]);
      store(s + c * W, p);
      sum[c] = sum[c] + p;
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    const F factor = exp2(load(at.largest + c * W) - largest[c]);
    store(at.factor + c * W, factor);
    store(at.sum + c * W, fma(load(at.sum + c * W), factor, sum[c]));
    store(at.largest + c * W, largest[c]);
  }
}

template <int C, class Between>
void attend(const ForwardMemory& at, int turn, const int32_t* modality, bool biased, int64_t begin, int64_t end,
            int64_t D, Between& between) {
  for (int64_t key = begin, n; key < end; key += n) {
    n = end - key <= MOST_KEYS ? end - key : KEYS;
    product<C, A::rows, Into::empty>(at.s, LANES, at.k[turn] + key * padded(D), padded(D), at.q, LANES, n, D, between);
    soften<C>(at, modality + key, biased, n);
    product<C, A::columns, Into::scaled>(at.out, LANES, at.v[turn] + key * padded(D), padded(D), at.s, LANES, D, n,
                                         between, at.factor);
  }
}

template <class T>
void run_as(const Forward& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  const int64_t keys = keys_of(call, item.patient), D = call.D;
  const int32_t* modality = call.k_rows.modality + call.k_rows.first[item.patient * call.M];
  Memory memory{scratch};
  const ForwardMemory at(memory, call);
  const int turn = done % 2;
  if (done == 0) Ahead<T>{call, &item, at.k[0], at.v[0], {}, {}, 0, keys}.finish();
  Ahead<T> ahead{call, next, at.k[1 - turn], at.v[1 - turn], call.out, {call.q}, 1,
                 next ? keys_of(call, next->patient) : 0};
  const int64_t blocks = queries_of(call, item.patient) * group_of(call) / item.parts / LANES + 1;
  each_block(call, item, [&](const Block& block, const Block* then) {
    const int64_t seen = keys - (block.hidden_end - block.hidden_begin);
    if (seen == 0) {
      zero_rows<T>(block, D, call.out);
      for (int64_t lane = 0; lane < block.n; ++lane) call.lse[block.row[lane] * call.H + block.head[lane]] = NOTHING;
      return;
    }
    ahead.begin(block, then, seen, blocks);
    pack_queries<T>(call.q, block, D, set(call.scale), at.rows);
    to_columns(at.rows, block, D, set(LOG2_E), at.q);
    if (call.affinity) bias_of(call, block, at.bias);
    fill(at.out, padded(D) * LANES, 0.0f);
    fill(at.largest, LANES, NOTHING);
    fill(at.sum, LANES, 0.0f);
    const auto sweep = [&](int64_t begin, int64_t end) {
      if (block.vectors() == 1) return attend<1>(at, turn, modality, call.affinity, begin, end, D, ahead);
      if (block.vectors() == 2) return attend<2>(at, turn, modality, call.affinity, begin, end, D, ahead);
      attend<3>(at, turn, modality, call.affinity, begin, end, D, ahead);
    };
    sweep(0, block.hidden_begin);
    sweep(block.hidden_end, keys);
    for (int64_t lane = 0; lane < block.n; ++lane) {
      if (at.largest[lane] == NOTHING) at.sum[lane] = INFINITY;  // every score is -inf: the row reads 0
    }
    for (int64_t lane = 0; lane < block.n; lane += W) {
      const F sum = load(at.sum + lane);
      store(at.factor + lane, set(1.0f) / sum);
      store(at.largest + lane, fma(load(at.largest + lane), set(LN_2), log(sum)));
    }
    to_rows<T>(at.out, at.factor, block, D, call.out);
    for (int64_t lane = 0; lane < block.n; ++lane) {
      call.lse[block.row[lane] * call.H + block.head[lane]] = at.sum[lane] == INFINITY ? NOTHING : at.largest[lane];
    }
  });
  ahead.finish();
}

}  // namespace
}  // namespace rmd::masked_attention::RMD_ISA
