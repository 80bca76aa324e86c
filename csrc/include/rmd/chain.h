// A whole chain of a sampler around a residual network, as plain pointers. Knows no torch. The formulas are in
// docs/ops/chain.md.
#pragma once
#include <cstdint>

namespace rmd::chain {

// Columns of the table, a row an evaluation (robustmdiff/ops/chain/arguments.py).
enum Column { INPUT, X, OUTPUT, X_BEFORE, OUTPUT_BEFORE, SIGMA, COLUMNS };

// Outputs of a layer whose weights lie side by side. A packed layer is its bias [outputs], then its weights
// [outputs / PANEL][inputs][PANEL], the outputs padded with 0 to a multiple of PANEL.
constexpr int64_t PANEL = 16;
constexpr int64_t ROWS = 48;  // that go through the network together, at most

constexpr int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
constexpr int64_t packed_size(int64_t in, int64_t out) { return padded(out, PANEL) * (in + 1); }

struct Chain {
  const float *x, *told;        // [rows, latent], [rows, told_size]
  const float* network;         // its packed layers, in the order in which they are read
  const float* times;           // [evaluations, width], what the first layer makes of the time
  const float* table;           // [evaluations, COLUMNS]
  const int64_t* seed_offset;   // [2], null where nothing is drawn
  const int64_t* row_ids;       // [rows], or null for 0, 1, ...
  float* out;                   // [rows, latent]
  int64_t rows, latent, told_size, width, hidden, blocks, evaluations;

  // Floats of all layers: told, condition, enter, (modulate, up, down) of each block, leave.
  int64_t network_size() const {
    return packed_size(told_size, width) + packed_size(width, width) + packed_size(latent, width) +
           blocks * (packed_size(width, 2 * width) + packed_size(width, hidden) + packed_size(hidden, width)) +
           packed_size(width, latent);
  }
  // Floats to work in, for `count` rows at a time.
  int64_t scratch_size(int64_t count) const {
    return count * (told_size + 6 * width + (hidden > width ? hidden : width) + 5 * padded(latent, 64));
  }
  int64_t flops_of_row() const { return 2 * evaluations * network_size(); }
};

// `count` rows, at most ROWS.
#define RMD_CHAIN_KERNELS(isa)                                          \
  namespace isa {                                                       \
  void run(const Chain&, int64_t first, int64_t count, float* scratch); \
  }
RMD_CHAIN_KERNELS(avx512)
RMD_CHAIN_KERNELS(avx2)
RMD_CHAIN_KERNELS(scalar)
#undef RMD_CHAIN_KERNELS

}  // namespace rmd::chain
