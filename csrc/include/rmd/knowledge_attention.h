// softmax(scale q K^T + log_prior) K on the CPU, as plain pointers. Knows no torch.
//
// Lanes are query rows: a block of up to ROWS rows is turned to [d][stride], so that one value of K,
// read straight from the table, meets W rows at once. A lane never meets another one, so a row's
// bits do not depend on its batch mates.
//
// Work is cut into (block of rows, chunk of concepts). A chunk leaves a partial result per block;
// partial results are joined in the order of the chunks, so no bit depends on who computed what.
#pragma once
#include <rmd/half.h>

#include <cstdint>

namespace rmd::knowledge {

constexpr int64_t ROWS = 64;   // query rows of a block
constexpr int64_t TILE = 96;   // concepts that are scored before they are summed
constexpr int64_t SLICE = 16;  // columns that are joined at a time
constexpr float LOWEST = -3.402823466e38f;  // the largest score of nothing; exp(LOWEST - x) is harmless
constexpr float NOTHING = -1e30f;           // the log-sum-exp of a row that saw nothing

constexpr int64_t CHUNKS = 64;  // at most

RMD_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
RMD_INLINE int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// Concepts of a chunk: nearly even shares of the table, in whole register tiles. Depends on k alone,
// and so do the bits of a row.
RMD_INLINE int64_t chunk_of(int64_t k) {
  const int64_t chunks = least(CHUNKS, (k + 2 * TILE - 1) / (2 * TILE));
  return chunks <= 1 ? 2 * TILE : round_up((k + chunks - 1) / chunks, 6);
}

struct Problem {
  const void* q;           // [rows, d]
  const void* concepts;    // [k, d]
  const float* log_prior;  // [k], -inf = absent, never read; null: all are present
  int64_t rows, k, d;
  float scale;
  Type type;
};

// Rows first .. first + rows - 1, spread over `stride` lanes; those past `rows` hold 0.
struct Block {
  int64_t first, rows, stride;
  const float* q;  // [d][stride]
};

RMD_INLINE int64_t stride_of(int64_t rows) { return round_up(rows, 16); }  // a multiple of every W

// What a chunk leaves for a block: [stride] largest score, [stride] sum of exp(score - largest),
// [d][stride] the sum of concepts weighted with exp(score - largest).
RMD_INLINE int64_t partial_size(int64_t stride, int64_t d) { return (d + 2) * stride; }

// What the backward pass needs besides. `pitch`: d rounded up to 16, padded with 0.
struct Gradient {
  Block block;
  int64_t pitch;
  const float* grad;       // [d][stride]
  const float* q_rows;     // [rows][pitch]
  const float* grad_rows;  // [rows][pitch]
  const float* lse;        // [stride], -LOWEST past the rows
  const float* delta;      // [stride], grad . out
};

// Concepts that are present, their scores [count][stride], and the softmax over all tiles so far.
struct Scored {
  int64_t count;
  int64_t concepts[TILE];
  float scores[TILE * ROWS];
  float largest[ROWS], sum[ROWS];
};

#define RMD_KNOWLEDGE_KERNELS(isa)                                                                             \
  namespace isa {                                                                                              \
  /* rows of x [.., d] as lanes [d][stride], and if asked as rows [rows][pitch] */                             \
  void spread(const void* x, Type, int64_t first, int64_t rows, int64_t d, int64_t stride, float* lanes,       \
              float* as_rows, int64_t pitch);                                                                  \
  /* out[lane] = the sum over j of a[j][lane] b[j][lane], in the order in which scores are summed */          \
  void dot(const float* a, const float* b, int64_t d, int64_t stride, float* out);                             \
  void attend(const Problem&, const Block&, int64_t begin, int64_t end, float* widened, float* partial);       \
  void join(const Problem&, const Block&, const float* partials, int64_t chunks, int64_t column, void* out,    \
            float* lse);                                                                                       \
  /* dq [d][stride] of this chunk; dconcepts [k][d] and dprior [k] are written if `fresh`, else added to */    \
  void differentiate(const Problem&, const Gradient&, int64_t begin, int64_t end, bool fresh, float* widened,  \
                     float* dq, float* dconcepts, float* dprior);                                              \
  void join_dq(const Problem&, const Block&, const float* partials, int64_t chunks, int64_t step,              \
               int64_t column, void* dq);                                                                      \
  /* scores the tile that starts at concept `begin`; returns where the next one starts */                      \
  int64_t weigh(const Problem&, const Block&, int64_t begin, float* widened, Scored&);                         \
  }
RMD_KNOWLEDGE_KERNELS(avx512)
RMD_KNOWLEDGE_KERNELS(avx2)
RMD_KNOWLEDGE_KERNELS(scalar)
#undef RMD_KNOWLEDGE_KERNELS

}  // namespace rmd::knowledge
