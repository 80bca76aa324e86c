// Blocks of queries of a patient, and their rows: read, turned to columns, written, fetched ahead. Included
// once per instruction set.
#pragma once
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

}  // namespace
}  // namespace rmd::masked_attention::RMD_ISA
