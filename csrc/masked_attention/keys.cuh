// masked_attention on the GPU: the rows of a tile, the keys they see, and those keys on their way to shared memory.
#pragma once
#include "tiles.cuh"

namespace rmd::masked_attention::gpu {

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

}  // namespace rmd::masked_attention::gpu
