// The whole chain of up to ROWS rows: their activations stay in the cache, and each layer's weights pass by once an
// evaluation. Compiled once per instruction set.
#include <rmd/chain.h>
#include <rmd/philox.h>

namespace rmd::chain::RMD_ISA {
namespace {

using namespace rmd::RMD_ISA;

constexpr int VECTORS = PANEL / W;  // of a panel
constexpr int HIGH = 6;             // rows of a register tile

// Panels of a tile of R rows: enough sums to hide the latency of fma, and no more than there are registers.
constexpr int panels_of(int R) {
  if (W == 1) return 1;
  const int sums = W == 16 ? 24 : 12;
  return R == 1 ? 8 / VECTORS : R * 4 * VECTORS <= sums ? 4 : R * 2 * VECTORS <= sums ? 2 : 1;
}

// A packed layer, y = weights a + bias.
struct Layer {
  const float *bias, *weights;
  int64_t in, out;
};

// The layers of a network, one after the other.
struct Layers {
  const float* at;

  Layer next(int64_t in, int64_t out) {
    const float* bias = at;
    at += packed_size(in, out);
    return {bias, bias + padded(out, PANEL), in, out};
  }
};

// The weights that come next, fetched into the second cache a little at a time: while a panel is used again for other
// rows, nothing else would ask the memory for anything.
struct Ahead {
  const float* at;
  int64_t step;

  void operator()() {
    __builtin_prefetch(at, 0, 2);
    at += step;
  }
};

// y [R][P PANEL] = bias + weights a; with `adds`, y + that. Every sum is one chain of multiply-adds in the order of
// the inputs, so that a row's bits do not depend on the rows that come with it.
template <int R, int P, bool adds>
__attribute__((noinline)) void tile(const Layer& layer, int64_t panel, const float* a, int64_t lda, float* y,
                                    int64_t ldy, Ahead ahead) {
  constexpr int V = P * VECTORS;
  const int64_t stride = layer.in * PANEL;
  const float* weights = layer.weights + panel * stride;
  F sum[R][V];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) {
    const int64_t column = panel * PANEL + v * W;
    const F bias = load(layer.bias + column);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) sum[r][v] = adds ? load(y + r * ldy + column) + bias : bias;
  }
  for (int64_t k = 0; k < layer.in; ++k) {
    F w[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) w[v] = load(weights + v / VECTORS * stride + k * PANEL + v % VECTORS * W);
    ahead();
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const F x = set(a[r * lda + k]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[r][v] = fma(x, w[v], sum[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(y + r * ldy + panel * PANEL + v * W, sum[r][v]);
  }
}

// `count` panels of R rows.
template <int R, bool adds>
void strip(const Layer& layer, int64_t panel, int64_t count, const float* a, int64_t lda, float* y, int64_t ldy,
           Ahead ahead) {
  constexpr int P = panels_of(R);
  int64_t p = 0;
  for (; p + P <= count; p += P) tile<R, P, adds>(layer, panel + p, a, lda, y, ldy, ahead);
  for (; p < count; ++p) tile<R, 1, adds>(layer, panel + p, a, lda, y, ldy, ahead);
}

template <int R, bool adds, class... Args>
void strip_of(int64_t rows, const Args&... args) {
  if constexpr (R == 1) {
    strip<1, adds>(args...);
  } else if (rows == R) {
    strip<R, adds>(args...);
  } else {
    strip_of<R - 1, adds>(rows, args...);
  }
}

// y [rows, ldy] = the layer of a [rows, lda], or y + that. The rows are cut into tiles of much the same height.
template <bool adds = false>
void apply(const Layer& layer, const float* a, int64_t lda, int64_t rows, float* y, int64_t ldy) {
  const int64_t panels = padded(layer.out, PANEL) / PANEL, tiles = (rows + HIGH - 1) / HIGH;
  const int64_t together = panels_of(rows / tiles >= 4 ? 4 : 1);  // no tile wants more
  for (int64_t panel = 0; panel < panels; panel += together) {
    const int64_t count = panel + together <= panels ? together : panels - panel;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t row = rows * i / tiles, end = rows * (i + 1) / tiles;
      const float* next = layer.weights + (panel + count) * layer.in * PANEL;
      const Ahead ahead{next + i * layer.in * PANEL / tiles, PANEL / tiles};
      strip_of<HIGH, adds>(end - row, layer, panel, count, a + row * lda, lda, y + row * ldy, ldy, ahead);
    }
  }
}

RMD_INLINE F silu(F x) { return x / (set(1.0f) + exp(set(0.0f) - x)); }

// x Phi(x). erfc(z) = t Q(t) exp(-z^2) with t = 1 / (1 + 0.4 z): Q by a least-squares fit to 0 <= z <= 9.4 whose
// largest relative error is 6e-8.
RMD_INLINE F gelu(F x) {
  const F z = max(set(0.0f) - x, x) * set(0.7071067811865476f);
  const F t = set(1.0f) / fma(set(0.4f), z, set(1.0f));
  F q = set(0.04005419835448265f);
  q = fma(q, t, set(-0.13441789150238037f));
  q = fma(q, t, set(0.07162880152463913f));
  q = fma(q, t, set(0.10230906307697296f));
  q = fma(q, t, set(0.06968958675861359f));
  q = fma(q, t, set(0.19775539636611938f));
  q = fma(q, t, set(0.20075079798698425f));
  q = fma(q, t, set(0.2266056388616562f));
  q = fma(q, t, set(0.22562448680400848f));
  const F tail = set(0.5f) * x * q * t * exp(set(0.0f) - z * z);  // x Phi(-|x|)
  return select(any_bit(as_bits(x), 0x80000000u), tail, x - tail);
}

template <class Each>
RMD_INLINE void each(float* x, int64_t count, const Each& f) {
  for (int64_t i = 0; i < count; i += W) store(x + i, f(load(x + i)));
}

// y = layer_norm(h) (1 + scale) + shift, all of `width`; torch's epsilon.
void modulate(const float* h, const float* shift, const float* scale, int64_t width, float* y) {
  F total = set(0.0f);
  for (int64_t j = 0; j < width; j += W) total = total + load(h + j);
  const F mean = set(sum(total) / float(width));
  F squares = set(0.0f);
  for (int64_t j = 0; j < width; j += W) {
    const F x = load(h + j) - mean;
    squares = fma(x, x, squares);
  }
  const F inverse = set(1.0f / __builtin_sqrtf(sum(squares) / float(width) + 1e-5f));
  for (int64_t j = 0; j < width; j += W) {
    const F x = (load(h + j) - mean) * inverse;
    store(y + j, fma(x, set(1.0f) + load(scale + j), load(shift + j)));
  }
}

// x and the network's output at this evaluation and at the one before, [rows, stride] each.
struct State {
  float *x, *output, *x_before, *output_before;
  int64_t stride;

  void step(const Chain& chain, int64_t evaluation, int64_t first, int64_t rows) {
    const float* row = chain.table + evaluation * COLUMNS;
    const F keep = set(row[X]), add = set(row[OUTPUT]), before = set(row[X_BEFORE]), said = set(row[OUTPUT_BEFORE]);
    const F sigma = set(row[SIGMA]);
    const bool draws = row[SIGMA] != 0.0f && chain.seed_offset != nullptr;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = r * stride;
      Stream stream{};
      if (draws) {
        const uint64_t seed = uint64_t(chain.seed_offset[0]);
        const int64_t id = chain.row_ids ? chain.row_ids[first + r] : first + r;
        stream = {{uint32_t(seed), uint32_t(seed >> 32)},
                  uint32_t(id),
                  uint32_t(evaluation),
                  uint32_t(chain.seed_offset[1])};
      }
      for (int64_t j = 0; j < chain.latent; j += 4 * W) {
        F z[4];
        if (draws) normals(stream, uint32_t(j / 4), z);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const int64_t k = at + j + i * W;
          F next = keep * load(x + k);
          next = fma(add, load(output + k), next);
          next = fma(before, load(x_before + k), next);
          next = fma(said, load(output_before + k), next);
          if (draws) next = fma(sigma, z[i], next);
          store(x_before + k, next);  // the place of what is no longer needed
        }
      }
    }
    float* next = x_before;
    x_before = x, x = next;
    next = output_before, output_before = output, output = next;
  }
};

// Which rows are told the same: draws of one patient and one class are, and share their condition.
struct Told {
  int64_t count = 0;        // different ones
  int64_t first[ROWS];      // of each, the first row
  int64_t of[ROWS];         // of each row, which it is

  Told(const float* told, int64_t rows, int64_t size) {
    const uint64_t bytes = uint64_t(size) * sizeof(float);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t i = 0;
      while (i < count && __builtin_memcmp(told + first[i] * size, told + r * size, bytes) != 0) ++i;
      if (i == count) first[count++] = r;
      of[r] = i;
    }
  }
};

constexpr int64_t stride_of(int64_t latent) { return padded(latent, 64); }  // 4 W at most

}  // namespace

void run(const Chain& a, int64_t first, int64_t rows, float* scratch) {
  const int64_t width = a.width, inner = a.hidden > width ? a.hidden : width, stride = stride_of(a.latent);
  const auto take = [&](int64_t columns) {
    float* taken = scratch;
    scratch += rows * columns;
    return taken;
  };
  float *known = take(a.told_size), *told = take(width), *condition = take(width), *modulation = take(2 * width);
  float *h = take(width), *y = take(width), *u = take(inner);
  float* input = take(stride);
  State state{take(stride), take(stride), take(stride), take(stride), stride};
  for (int64_t i = 0; i < rows * stride; ++i) {
    state.x[i] = state.output[i] = state.x_before[i] = state.output_before[i] = input[i] = 0.0f;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < a.latent; ++j) state.x[r * stride + j] = a.x[(first + r) * a.latent + j];
  }
  const float* given = a.told + first * a.told_size;
  const Told same(given, rows, a.told_size);
  for (int64_t i = 0; i < same.count; ++i) {
    for (int64_t j = 0; j < a.told_size; ++j) known[i * a.told_size + j] = given[same.first[i] * a.told_size + j];
  }
  Layers start{a.network};
  apply(start.next(a.told_size, width), known, a.told_size, same.count, told, width);
  for (int64_t e = 0; e < a.evaluations; ++e) {
    Layers layers = start;
    const float* time = a.times + e * width;
    for (int64_t i = 0; i < same.count; ++i) {
      for (int64_t j = 0; j < width; j += W) {
        store(y + i * width + j, silu(load(told + i * width + j) + load(time + j)));
      }
    }
    apply(layers.next(width, width), y, width, same.count, condition, width);
    each(condition, same.count * width, silu);
    const F c_in = set(a.table[e * COLUMNS + INPUT]);
    for (int64_t i = 0; i < rows * stride; i += W) store(input + i, c_in * load(state.x + i));
    apply(layers.next(a.latent, width), input, stride, rows, h, width);
    for (int64_t block = 0; block < a.blocks; ++block) {
      apply(layers.next(width, 2 * width), condition, width, same.count, modulation, 2 * width);
      for (int64_t r = 0; r < rows; ++r) {
        const float* shift = modulation + same.of[r] * 2 * width;
        modulate(h + r * width, shift, shift + width, width, y + r * width);
      }
      apply(layers.next(width, a.hidden), y, width, rows, u, a.hidden);
      each(u, rows * a.hidden, gelu);
      apply<true>(layers.next(a.hidden, width), u, a.hidden, rows, h, width);
    }
    apply(layers.next(width, a.latent), h, width, rows, state.output, stride);
    state.step(a, e, first, rows);
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < a.latent; ++j) a.out[(first + r) * a.latent + j] = state.x[r * stride + j];
  }
}

}  // namespace rmd::chain::RMD_ISA
