// masked_attention on the CPU, forward and backward: W queries to a vector, keys broadcast one number
// at a time, so that every query is a lane and softmax never looks across lanes. Scores are kept in
// units of ln 2. Compiled once per instruction set.
#include <rmd/masked_attention.h>
#include <rmd/math.h>
#include <rmd/tile.h>

namespace rmd::masked_attention::RMD_ISA {
namespace {

using namespace rmd::RMD_ISA;

constexpr int64_t LANES = TILE_COLUMNS * W;  // the queries of a block
constexpr int64_t KEYS = 64, MOST_KEYS = 72;  // the keys of a block; the last one takes up to MOST_KEYS
constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.69314718055994531f;

RMD_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
template <class T>
RMD_INLINE void fill(T* x, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) x[i] = value;
}

// Takes arrays off a piece of memory; with none it only counts.
struct Memory {
  float* base;
  int64_t used = 0;

  float* take(int64_t floats) {
    float* taken = base ? base + used : nullptr;
    used += padded(floats);
    return taken;
  }
};

// Queries of one patient that see the same keys: all but those from hidden_begin to hidden_end.
// With grouped heads the queries of all heads that share the keys follow each other.
struct Block {
  int64_t n;
  int64_t row[LANES], head[LANES];
  int32_t modality[LANES];
  int64_t hidden_begin, hidden_end;

  int64_t vectors() const { return (n + W - 1) / W; }
};

// work(block, the block after it or null), for the blocks of one item.
template <class Work>
void each_block(const Call& call, const Item& item, const Work& work) {
  const int64_t views = call.exclude_own ? call.M : 1, span = call.exclude_own ? 1 : call.Mq;
  const int64_t* q_first = call.q_rows.first + item.patient * call.Mq;
  const int64_t* k_first = call.k_rows.first + item.patient * call.M;
  const auto queries = [&](int64_t view) { return q_first[(view + 1) * span] - q_first[view * span]; };
  int64_t blocks = 0;
  for (int64_t view = 0; view < views; ++view) blocks += (queries(view) * group_of(call) + LANES - 1) / LANES;
  const int64_t begin = blocks * item.part / item.parts, end = blocks * (item.part + 1) / item.parts;
  int64_t number = 0;
  Block pair[2];
  Block *now = nullptr, *then = pair;
  for (int64_t view = 0; view < views; ++view) {
    const int64_t n = queries(view), units = n * group_of(call);
    for (int64_t first = 0; first < units; first += LANES, ++number) {
      if (number < begin || number >= end) continue;
      Block& block = *then;
      block.hidden_begin = call.exclude_own ? k_first[view] - k_first[0] : 0;
      block.hidden_end = call.exclude_own ? k_first[view + 1] - k_first[0] : 0;
      block.n = least(LANES, units - first);
      for (int64_t lane = 0; lane < block.n; ++lane) {
        const int64_t at = q_first[view * span] + (first + lane) % n;
        block.row[lane] = call.q_rows.row[at];
        block.modality[lane] = call.q_rows.modality[at];
        block.head[lane] = item.kv_head * group_of(call) + (first + lane) / n;
      }
      if (now) work(*now, then);
      now = then;
      then = pair + (now == pair);
    }
  }
  if (now) work(*now, nullptr);
}

template <class T>
T* row_of(const Tokens& x, int64_t row, int64_t head) {
  return static_cast<T*>(x.data) + row * x.row + head * x.head;
}

// The first n of W numbers; the others are 0, or stay as they are.
template <class T>
RMD_INLINE F load_first(const T* from, int64_t n) {
  if (n >= W) return load(from);
  T copy[W] = {};
  __builtin_memcpy(copy, from, n * sizeof(T));
  return load(copy);
}
template <class T>
RMD_INLINE void store_first(T* to, F x, int64_t n) {
  if (n >= W) return store(to, x);
  T copy[W];
  store(copy, x);
  __builtin_memcpy(to, copy, n * sizeof(T));
}

// One row of D numbers to float [padded D], padded with zeros.
template <class T>
RMD_INLINE void widen_row(const T* from, int64_t D, float* to, F factor) {
  for (int64_t d = 0; d < padded(D); d += W) store(to + d, d < D ? load_first(from + d, D - d) * factor : set(0.0f));
}

template <class T>
RMD_INLINE void narrow_row(const float* from, int64_t D, T* to) {
  for (int64_t d = 0; d < D; d += W) store_first(to + d, load(from + d), D - d);
}

// What an item does between its tiles, so that memory is waited for while arithmetic goes on: it copies
// the keys of the next item, one under the other as float [keys, padded D], and asks for the rows that
// this block of queries will write and the next one read.
template <class T>
struct Ahead {
  const Call& call;
  const Item* next;
  float *k, *v;                        // of the next item
  Tokens written, read[3];             // rows of queries
  int readers;
  int64_t keys, key = 0;
  const Block *now = nullptr, *then = nullptr;
  int64_t lane = LANES, tiles = 1, blocks = 1, key_due = 0, lane_due = 0;

  static void ask(const Tokens& x, int64_t row, int64_t head, int64_t D) {
    const char* from = reinterpret_cast<const char*>(row_of<const T>(x, row, head));
    for (int64_t byte = 0; byte < D * int64_t(sizeof(T)); byte += 64) __builtin_prefetch(from + byte, 0, 2);
  }
  int64_t row(int64_t key) const { return call.k_rows.row[call.k_rows.first[next->patient * call.M] + key]; }

  void copy_key() {
    constexpr int64_t DISTANCE = 16;
    if (key + DISTANCE < keys) {
      ask(call.k, row(key + DISTANCE), next->kv_head, call.D);
      ask(call.v, row(key + DISTANCE), next->kv_head, call.D);
    }
    widen_row(row_of<const T>(call.k, row(key), next->kv_head), call.D, k + key * padded(call.D), set(1.0f));
    widen_row(row_of<const T>(call.v, row(key), next->kv_head), call.D, v + key * padded(call.D), set(1.0f));
    ++key;
  }
  void finish() {
    while (key < keys) copy_key();
  }

  // Before a block that sees so many keys, one of so many blocks.
  void begin(const Block& block, const Block* after, int64_t seen, int64_t of) {
    tiles = seen / TILE_ROWS + (seen + KEYS - 1) / KEYS * (call.D / TILE_ROWS) + 1;
    blocks = of;
    now = &block, then = after, lane = 0;
  }
  // Evenly over the tiles: a burst would fill the buffers that the tiles need themselves.
  void operator()() {
    for (key_due += keys; key_due >= tiles * blocks; key_due -= tiles * blocks) {
      if (key < keys) copy_key();
    }
    for (lane_due += LANES; lane_due >= tiles; lane_due -= tiles) {
      if (lane < now->n) ask(written, now->row[lane], now->head[lane], call.D);
      for (int i = 0; then && lane < then->n && i < readers; ++i) {
        ask(read[i], then->row[lane], then->head[lane], call.D);
      }
      ++lane;
    }
  }
};

// The queries of a block, one under the other, those that fill the last vector being 0.
template <class T>
void pack_queries(const Tokens& x, const Block& block, int64_t D, F factor, float* to) {
  for (int64_t lane = 0; lane < block.n; ++lane) {
    widen_row(row_of<const T>(x, block.row[lane], block.head[lane]), D, to + lane * padded(D), factor);
  }
  fill(to + block.n * padded(D), (block.vectors() * W - block.n) * padded(D), 0.0f);
}

// [lanes, padded D] to [padded D, LANES]
void to_columns(const float* rows, const Block& block, int64_t D, F factor, float* to) {
  for (int64_t lane = 0; lane < block.n; lane += W) {
    for (int64_t d = 0; d < D; d += W) {
      F x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) x[i] = load(rows + (lane + i) * padded(D) + d);
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(to + (d + i) * LANES + lane, x[i] * factor);
    }
  }
}

// [padded D, LANES], each lane times its factor, to the rows of the queries
template <class T>
void to_rows(const float* columns, const float* factor, const Block& block, int64_t D, const Tokens& to) {
  for (int64_t lane = 0; lane < block.n; lane += W) {
    const F by = load(factor + lane);
    for (int64_t d = 0; d < D; d += W) {
      F x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) x[i] = load(columns + (d + i) * LANES + lane) * by;
      transpose(x);
      const int64_t n = least(W, block.n - lane);
      for (int64_t i = 0; i < n; ++i) {
        store_first(row_of<T>(to, block.row[lane + i], block.head[lane + i]) + d, x[i], D - d);
      }
    }
  }
}

template <class T>
void zero_rows(const Block& block, int64_t D, const Tokens& to) {
  for (int64_t lane = 0; lane < block.n; ++lane) {
    T* row = row_of<T>(to, block.row[lane], block.head[lane]);
    fill(row, D, T{});
  }
}

// [M, LANES]: what each lane adds to its scores of the keys of each modality.
void bias_of(const Call& call, const Block& block, float* bias) {
  fill(bias, call.M * LANES, 0.0f);
  for (int64_t lane = 0; lane < block.n; ++lane) {
    const float* of_lane = call.affinity + (block.head[lane] * call.Mq + block.modality[lane]) * call.M;
    for (int64_t j = 0; j < call.M; ++j) bias[j * LANES + lane] = of_lane[j] * LOG2_E;
  }
}

// --- forward ---------------------------------------------------------------------------------------

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
    for (int64_t lane = 0; lane < block.n; lane += W) {
      const F sum = load(at.sum + lane);
      store(at.factor + lane, set(1.0f) / sum);
      store(at.largest + lane, fma(load(at.largest + lane), set(LN_2), log(sum)));
    }
    to_rows<T>(at.out, at.factor, block, D, call.out);
    for (int64_t lane = 0; lane < block.n; ++lane) {
      call.lse[block.row[lane] * call.H + block.head[lane]] = at.largest[lane];
    }
  });
  ahead.finish();
}

// --- backward --------------------------------------------------------------------------------------

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
    to_columns(at.q_rows, block, D, set(LOG2_E), at.q);
    to_columns(at.g_rows, block, D, set(1.0f), at.g);
    deltas<T>(call, block, at.g_rows, at.delta);
    fill(at.lse, LANES, 0.0f);
    for (int64_t lane = 0; lane < block.n; ++lane) {
      at.lse[lane] = call.lse[block.row[lane] * call.H + block.head[lane]] * LOG2_E;
    }
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

template <class AnyCall>
void run_type(const AnyCall& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  if (call.type == Type::f32) return run_as<float>(call, item, next, done, scratch);
  if (call.type == Type::bf16) return run_as<bf16>(call, item, next, done, scratch);
  run_as<f16>(call, item, next, done, scratch);
}

}  // namespace

int64_t scratch(const Forward& call) {
  Memory memory{nullptr};
  ForwardMemory(memory, call);
  return memory.used;
}

int64_t scratch(const Backward& call) {
  Memory memory{nullptr};
  BackwardMemory(memory, call);
  return memory.used;
}

void run(const Forward& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  run_type(call, item, next, done, scratch);
}
void run(const Backward& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  run_type(call, item, next, done, scratch);
}

void add_parts(const Backward& call, const Item& item) {
  if (call.type == Type::f32) return add_parts_as<float>(call, item);
  if (call.type == Type::bf16) return add_parts_as<bf16>(call, item);
  add_parts_as<f16>(call, item);
}

}  // namespace rmd::masked_attention::RMD_ISA
