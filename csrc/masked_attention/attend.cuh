// masked_attention on the GPU, forward: tensor cores, float16 and bfloat16. Knows no torch.
//
// A patient's query rows, end to end over the modalities present, are cut into tiles; `prepare` lists the
// tiles on the device and gives every row its answer for "nothing to see". A block of `attend` takes one
// tile and one head and walks over the patient's keys, end to end as well: an absent modality shortens the
// walk, nothing branches on it. Keys come in tiles through cp.async, STAGES under way; a query row's sums
// depend on its own patient's lengths alone, so its bits do too.
#pragma once
#include "keys.cuh"

namespace rmd::masked_attention::gpu {

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
