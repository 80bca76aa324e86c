// masked_attention on the GPU, forward: tensor cores, float16 and bfloat16. Knows no torch.
//
// A patient's query rows, end to end over the modalities present, are cut into tiles; `prepare` lists the
// tiles on the device and gives every row its answer for "nothing to see". A block of `attend` takes one
// tile and one head and walks over the patient's keys, end to end as well: an absent modality shortens the
// walk, nothing branches on it. Keys come in tiles through cp.async, STAGES under way; a query row's sums
// depend on its own patient's lengths alone, so its bits do too.
#pragma once
#include <rmd/device.h>

namespace rmd::masked_attention::gpu {

using namespace rmd::device;

constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int MODALITIES = 64;  // at most
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

struct Segment {
  int start, length;
};

struct Segments {
  const int32_t* data;  // [B, modalities, 2]
  int64_t rows;         // of the flat axis
  int modalities;

  // Within the flat axis, whatever the values.
  __device__ Segment at(int64_t patient, int i) const {
    const int32_t* p = data + (patient * modalities + i) * 2;
    const int64_t start = min(int64_t(max(p[0], 0)), rows), length = max(p[1], 0);
    return {int(start), int(min(length, rows - start))};
  }
};

struct Work {
  const void *q, *k, *v;  // [Tq, heads, width], [Tk, kv_heads, width]
  Segments q_segments, k_segments;
  const float* affinity;  // [heads, Mq, M], or null
  void* out;
  float* lse;  // [Tq, heads]
  int2* tiles;  // [1 + max_tiles]: (how many, 0), then of each its patient and its first row among the patient's
  int64_t patients, max_tiles;
  int heads, kv_heads, width;
  float scale;
  bool exclude_own;  // then all rows of a tile are of one modality
};

__host__ __device__ constexpr int64_t tiles_for(int64_t rows, int64_t tile) { return (rows + tile - 1) / tile; }

// Block 0 lists the tiles of `tile` rows; the others write 0 to out and NOTHING to lse.
static __global__ void __launch_bounds__(256) prepare(Work work, int tile) {
  if (blockIdx.x > 0) {
    const int64_t thread = (blockIdx.x - 1) * 256 + threadIdx.x, threads = (gridDim.x - 1) * int64_t(256);
    const int64_t rows = work.q_segments.rows * work.heads;
    for (int64_t i = thread; i < rows * work.width / 8; i += threads) static_cast<uint4*>(work.out)[i] = uint4{};
    for (int64_t i = thread; i < rows; i += threads) work.lse[i] = NOTHING;
    return;
  }
  __shared__ int64_t sum[256];
  int64_t listed = 0;
  for (int64_t first = 0; first < work.patients; first += 256) {
    const int64_t patient = first + threadIdx.x;
    int64_t count = 0;
    if (patient < work.patients) {
      int64_t rows = 0, keys = 0;
      for (int i = 0; i < work.q_segments.modalities; ++i) {
        const int length = work.q_segments.at(patient, i).length;
        rows += length;
        if (work.exclude_own) count += tiles_for(length, tile);
      }
      for (int j = 0; j < work.k_segments.modalities; ++j) keys += work.k_segments.at(patient, j).length;
      if (!work.exclude_own) count = tiles_for(rows, tile);
      if (keys == 0) count = 0;
    }
    sum[threadIdx.x] = count;
    __syncthreads();
    for (int step = 1; step < 256; step *= 2) {
      const int64_t before = int(threadIdx.x) >= step ? sum[threadIdx.x - step] : 0;
      __syncthreads();
      sum[threadIdx.x] += before;
      __syncthreads();
    }
    int64_t place = listed + sum[threadIdx.x] - count;
    const auto list = [&](int64_t rows, int64_t begin) {
      for (int64_t row = 0; row < rows; row += tile, ++place) {
        if (place < work.max_tiles) work.tiles[1 + place] = {int(patient), int(begin + row)};
      }
    };
    if (count > 0) {
      int64_t rows = 0;
      for (int i = 0; i < work.q_segments.modalities; ++i) {
        const int length = work.q_segments.at(patient, i).length;
        if (work.exclude_own) list(length, rows);
        rows += length;
      }
      if (!work.exclude_own) list(rows, 0);
    }
    listed += sum[255];
    __syncthreads();
  }
  if (threadIdx.x == 0) work.tiles[0] = {int(min(listed, work.max_tiles)), 0};
}

// The present modalities of a patient's keys, end to end.
struct Keys {
  int runs, total;
  int first[MODALITIES + 1];  // of each run, its first row among the patient's keys; then the total
  int start[MODALITIES];      // ... and on the flat axis
  int modality[MODALITIES];
};

// Where a walk over the keys stands. With an affinity a tile of keys keeps to one modality.
struct Cursor {
  int row = 0, run = 0, count = 0;  // rows row .. row + count - 1 of the patient's keys; count 0: at the end

  __device__ __forceinline__ void settle(const Keys& keys, int tile, bool one_run) {
    while (row < keys.total && row >= keys.first[run + 1]) ++run;
    count = row < keys.total ? min(tile, (one_run ? keys.first[run + 1] : keys.total) - row) : 0;
  }
};

// Chunk c (16 bytes) of row r lies where eight rows of one chunk, or eight chunks of one row, meet no bank twice.
template <int D>
__device__ __forceinline__ uint32_t place(int r, int c) {
  constexpr int CHUNKS = D / 8;
  const int turned = CHUNKS % 8 == 0 ? c ^ (r & 7) : c ^ ((r >> 1) & 3);
  return uint32_t(r * CHUNKS + turned) * 16;
}

// D: the width in shared memory; M: tiles of 16 rows a warp; KEYS a tile.
template <class T_, int D_, int M_, int KEYS_, int STAGES_>
struct Shape {
  using T = T_;
  static constexpr int D = D_, M = M_, KEYS = KEYS_, STAGES = STAGES_;
  static constexpr int ROWS = 16 * M * WARPS, CHUNKS = D / 8;
  static constexpr uint32_t Q_BYTES = ROWS * D * 2, KEY_BYTES = KEYS * D * 2;
  static constexpr uint32_t BYTES = Q_BYTES + STAGES * 2 * KEY_BYTES;
  static constexpr bool HOLD_Q = D <= 128;  // in registers
};

// The rows of a tile, their modalities, and the keys they see.
template <class S>
struct Tile {
  int row[S::ROWS];  // on the flat axis; -1: none
  int modality[S::ROWS];
  Keys keys;
};

template <class S>
__device__ __forceinline__ void find(const Work& work, int2 entry, Tile<S>& tile) {
  __shared__ Segment q[MODALITIES], k[MODALITIES];
  const int Mq = work.q_segments.modalities, Mk = work.k_segments.modalities, thread = threadIdx.x;
  if (thread < Mq) q[thread] = work.q_segments.at(entry.x, thread);
  if (thread < Mk) k[thread] = work.k_segments.at(entry.x, thread);
  __syncthreads();
  int own = 0;  // the modality of the tile's first row
  if (thread < S::ROWS) {
    int64_t begin = 0;
    const int64_t wanted = int64_t(entry.y) + thread;
    tile.row[thread] = -1;
    tile.modality[thread] = 0;
    for (int i = 0; i < Mq; ++i) {
      const int64_t end = begin + q[i].length;
      if (entry.y >= begin && entry.y < end) own = i;
      if (wanted >= begin && wanted < end && !(work.exclude_own && i != own)) {
        tile.row[thread] = int(q[i].start + wanted - begin);
        tile.modality[thread] = i;
      }
      begin = end;
    }
  }
  if (thread == 0) {
    Keys& keys = tile.keys;
    int runs = 0, total = 0;
    for (int j = 0; j < Mk; ++j) {
      const int length = int(min(int64_t(k[j].length), work.k_segments.rows - total));
      if (length == 0 || (work.exclude_own && j == own)) continue;
      keys.first[runs] = total, keys.start[runs] = k[j].start, keys.modality[runs] = j;
      total += length, ++runs;
    }
    keys.first[runs] = total;
    keys.runs = runs, keys.total = total;
  }
  __syncthreads();
}

// The rows under `cursor` of k or v, on their way to `to`; zeros past the end, so that 0 x what was there is 0.
template <class S>
__device__ __forceinline__ void fetch(const Work& work, const Keys& keys, const Cursor& cursor, int head, uint32_t to) {
  using T = typename S::T;
  const T *k = static_cast<const T*>(work.k), *v = static_cast<const T*>(work.v);
  for (int i = threadIdx.x; i < S::KEYS * S::CHUNKS; i += THREADS) {
    const int r = i / S::CHUNKS, c = i % S::CHUNKS;
    const bool valid = r < cursor.count && c * 8 < work.width;
    int64_t from = 0;
    if (valid) {
      int run = cursor.run;
      while (cursor.row + r >= keys.first[run + 1]) ++run;
      const int64_t row = int64_t(keys.start[run]) + cursor.row + r - keys.first[run];
      from = (row * work.kv_heads + head) * work.width + c * 8;
    }
    copy_async(to + place<S::D>(r, c), k + from, valid);
    copy_async(to + S::KEY_BYTES + place<S::D>(r, c), v + from, valid);
  }
}

template <class S>
__global__ void __launch_bounds__(THREADS) attend(Work work) {
  using T = typename S::T;
  __shared__ Tile<S> tile;
  if (int(blockIdx.x) >= work.tiles[0].x) return;
  find(work, work.tiles[1 + blockIdx.x], tile);

  const int warp = warp_of_block(), lane = threadIdx.x % 32, head = blockIdx.y;
  const int kv_head = head / (work.heads / work.kv_heads), first_row = warp * 16 * S::M;
  const Keys& keys = tile.keys;
  const int Mk = work.k_segments.modalities;
  const float* affinity = work.affinity + int64_t(head) * work.q_segments.modalities * Mk;
  const uint32_t shared_q = dynamic_shared(), shared_keys = shared_q + S::Q_BYTES;

  for (int i = threadIdx.x; i < S::ROWS * S::CHUNKS; i += THREADS) {
    const int r = i / S::CHUNKS, c = i % S::CHUNKS, row = tile.row[r];
    const bool valid = row >= 0 && c * 8 < work.width;
    const int64_t from = valid ? (int64_t(row) * work.heads + head) * work.width + c * 8 : 0;
    copy_async(shared_q + place<S::D>(r, c), static_cast<const T*>(work.q) + from, valid);
  }
  copy_commit();

  const bool one_run = work.affinity != nullptr;
  Cursor now, ahead;
  now.settle(keys, S::KEYS, one_run);
  ahead = now;
  const auto fetch_ahead = [&](int stage) {
    if (ahead.count > 0) {
      fetch<S>(work, keys, ahead, kv_head, shared_keys + stage * 2 * S::KEY_BYTES);
      ahead.row += ahead.count;
      ahead.settle(keys, S::KEYS, one_run);
    }
    copy_commit();  // a group each time, so that counting them tells which tile is there
  };
#pragma unroll
  for (int stage = 0; stage < S::STAGES - 1; ++stage) fetch_ahead(stage);

  // Fragments: this lane holds of each 16 x 8 tile the rows lane / 4 and lane / 4 + 8, columns lane % 4 * 2 and + 1.
  uint32_t q[S::M][S::HOLD_Q ? S::D / 16 : 1][4];
  const auto load_q = [&](uint32_t(&to)[4], int m, int step) {
    load_matrices(to, shared_q + place<S::D>(first_row + m * 16 + lane % 16, step * 2 + lane / 16));
  };
  copy_wait<S::STAGES - 1>();
  __syncthreads();
  if constexpr (S::HOLD_Q) {
#pragma unroll
    for (int m = 0; m < S::M; ++m) {
#pragma unroll
      for (int step = 0; step < S::D / 16; ++step) load_q(q[m][step], m, step);
    }
  }

  float out[S::M][S::D / 8][4] = {}, largest[S::M][2], total[S::M][2] = {};
  int modality[S::M][2];  // of this lane's rows
#pragma unroll
  for (int m = 0; m < S::M; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[m][half] = NOTHING;
      modality[m][half] = tile.modality[first_row + m * 16 + half * 8 + lane / 4];
    }
  }

  for (int t = 0; now.count > 0; ++t) {
    copy_wait<S::STAGES - 2>();
    __syncthreads();  // the tile is there for everybody, and everybody has left the one before
    fetch_ahead((t + S::STAGES - 1) % S::STAGES);
    const uint32_t shared_k = shared_keys + t % S::STAGES * 2 * S::KEY_BYTES, shared_v = shared_k + S::KEY_BYTES;

    float score[S::M][S::KEYS / 8][4] = {};
#pragma unroll
    for (int step = 0; step < S::D / 16; ++step) {
      if constexpr (!S::HOLD_Q) {
#pragma unroll
        for (int m = 0; m < S::M; ++m) load_q(q[m][0], m, step);
      }
#pragma unroll
      for (int n = 0; n < S::KEYS / 16; ++n) {
        uint32_t b[4];
        load_matrices(b, shared_k + place<S::D>(n * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < S::M; ++m) {
          const auto& a = q[m][S::HOLD_Q ? step : 0];
          multiply_add(score[m][2 * n], a, b[0], b[1], T{});
          multiply_add(score[m][2 * n + 1], a, b[2], b[3], T{});
        }
      }
    }

    // In powers of 2 from here on.
    const float scale = work.scale * LOG2_E;
#pragma unroll
    for (int m = 0; m < S::M; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float bias = work.affinity ? affinity[modality[m][half] * Mk + keys.modality[now.run]] * LOG2_E : 0.0f;
        float top = largest[m][half];
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) score[m][n][i] = fmaf(score[m][n][i], scale, bias);
        }
        if (now.count < S::KEYS) {
#pragma unroll
          for (int n = 0; n < S::KEYS / 8; ++n) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
              if (n * 8 + lane % 4 * 2 + i % 2 >= now.count) score[m][n][i] = -INFINITY;
            }
          }
        }
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; ++n) top = fmaxf(top, fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
        top = fmaxf(top, from_lane_xor(top, 1));
        top = fmaxf(top, from_lane_xor(top, 2));
        const float keep = exp2_fast(largest[m][half] - top);
        largest[m][half] = top;
        total[m][half] *= keep;
#pragma unroll
        for (int n = 0; n < S::D / 8; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) out[m][n][i] *= keep;
        }
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            float& x = score[m][n][i];
            x = exp2_fast(x - top);
            total[m][half] += x;
          }
        }
      }
    }

#pragma unroll
    for (int step = 0; step < S::KEYS / 16; ++step) {
      uint32_t p[S::M][4];
#pragma unroll
      for (int m = 0; m < S::M; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&x)[4] = score[m][2 * step + i / 2];
          p[m][i] = narrow_two(x[i % 2 * 2], x[i % 2 * 2 + 1], T{});
        }
      }
#pragma unroll
      for (int n = 0; n < S::D / 16; ++n) {
        uint32_t b[4];
        load_matrices_transposed(b, shared_v + place<S::D>(step * 16 + lane % 16, n * 2 + lane / 16));
#pragma unroll
        for (int m = 0; m < S::M; ++m) {
          multiply_add(out[m][2 * n], p[m], b[0], b[1], T{});
          multiply_add(out[m][2 * n + 1], p[m], b[2], b[3], T{});
        }
      }
    }
    now.row += now.count;
    now.settle(keys, S::KEYS, one_run);
  }

  // Through the warp's own rows of shared q, so that global memory sees 16 bytes at a time.
  __syncwarp();
#pragma unroll
  for (int m = 0; m < S::M; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[m][half];
      sum += from_lane_xor(sum, 1);
      sum += from_lane_xor(sum, 2);
      const int r = first_row + m * 16 + half * 8 + lane / 4, row = tile.row[r];
      const float by = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
      for (int n = 0; n < S::D / 8; ++n) {
        const float(&x)[4] = out[m][n];
        store_shared(shared_q + place<S::D>(r, n) + lane % 4 * 4, narrow_two(x[2 * half] * by, x[2 * half + 1] * by, T{}));
      }
      if (lane % 4 == 0 && row >= 0) {
        work.lse[int64_t(row) * work.heads + head] = sum == 0.0f ? NOTHING : (largest[m][half] + log2f(sum)) * LN_2;
      }
    }
  }
  __syncwarp();
  for (int i = lane; i < 16 * S::M * S::CHUNKS; i += 32) {
    const int r = first_row + i / S::CHUNKS, c = i % S::CHUNKS, row = tile.row[r];
    if (row < 0 || c * 8 >= work.width) continue;
    T* to = static_cast<T*>(work.out) + (int64_t(row) * work.heads + head) * work.width + c * 8;
    *reinterpret_cast<uint4*>(to) = load_shared(shared_q + place<S::D>(r, c));
  }
}

// --- on the host; launch(kernel, grid, threads, bytes of shared memory, arguments...) starts a kernel

// At most so many tiles of `tile` rows, whatever the segments say.
inline int64_t most_tiles(int64_t Tq, int64_t patients, int64_t modalities, bool exclude_own, int64_t tile) {
  return Tq / tile + patients * (exclude_own ? modalities : 1);
}

template <class S, class Launch>
void run(const Work& work, Launch launch) {
  const int64_t numbers = work.q_segments.rows * work.heads;
  if (numbers == 0) return;
  const int64_t clearing = min((numbers * work.width / 8 + 255) / 256, int64_t(1) << 12);
  launch(prepare, dim3(unsigned(1 + clearing)), 256, 0, work, S::ROWS);
  launch(attend<S>, dim3(unsigned(work.max_tiles), unsigned(work.heads)), THREADS, S::BYTES, work);
}

// The shape of the kernel for heads of `width`, given to `use`.
template <class T, class Use>
void with_shape(int width, Use use) {
  if (width <= 32) {
    use(Shape<T, 32, 2, 64, 3>());
  } else if (width <= 64) {
    use(Shape<T, 64, 2, 64, 3>());
  } else if (width <= 96) {
    use(Shape<T, 96, 1, 64, 2>());
  } else if (width <= 128) {
    use(Shape<T, 128, 1, 64, 2>());
  } else {
    use(Shape<T, 256, 1, 32, 2>());
  }
}

}  // namespace rmd::masked_attention::gpu
