// masked_attention on the GPU: what a launch is given, and the list of its tiles, made on the device. Knows no torch.
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

// --- on the host

// At most so many tiles of `tile` rows, whatever the segments say.
inline int64_t most_tiles(int64_t Tq, int64_t patients, int64_t modalities, bool exclude_own, int64_t tile) {
  return Tq / tile + patients * (exclude_own ? modalities : 1);
}

}  // namespace rmd::masked_attention::gpu
