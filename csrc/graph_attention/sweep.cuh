// graph_attention on the GPU: who takes which row, and how the parts of a row come together.
//
// A kind of work (forward.cuh, backward.cuh) has a State, what a lane holds of one task, and
//   start    reads the row and empties the sums
//   visit    takes EDGES edges for each group of lanes
//   merge    adds the sums of the lanes `mask` away
//   save     writes a group's sums as one partial result
//   combine  adds up `count` partial results at(0), at(1), ... in that order; writes a partial result to
//            `to`, or the result itself where `to` is null
// PARTIAL is the room for a partial result.
#pragma once
#include "rows.cuh"

namespace rmd::graph_attention::gpu {

// Part `part` of `parts` of the edges begin .. end - 1 of a task, by one warp, as one partial result.
template <class Work>
__device__ __forceinline__ void walk(const Work& work, int64_t item, int64_t begin, int64_t end, int part, int parts,
                                     float* to) {
  using L = typename Work::L;
  constexpr int STEP = L::GROUPS * EDGES;
  const int lane = threadIdx.x % 32, group = lane / L::LANES, head = int(item % work.rows.heads);
  typename Work::State state;
  work.start(state, item);
  for (int64_t first = begin + part * STEP; first < end; first += parts * STEP) {
    int64_t e[EDGES];
    bool valid[EDGES];
#pragma unroll
    for (int u = 0; u < EDGES; ++u) e[u] = first + u * L::GROUPS + group, valid[u] = e[u] < end;
    work.visit(state, head, e, valid);
  }
#pragma unroll
  for (int mask = L::LANES; mask < 32; mask *= 2) work.merge(state, mask);
  if (group == 0) work.save(state, to);
}

// The row that holds edge x, by one warp.
__device__ inline int64_t row_of(const Rows& rows, int64_t x) {
  const int lane = threadIdx.x % 32;
  int64_t low = 0, high = rows.n;  // rowptr[low] <= x < rowptr[high]
  while (high - low > 1) {
    const int64_t step = (high - low + 31) / 32, probe = low + (lane + 1) * step;
    const int below = __popc(ballot(probe < high && rows.rowptr[probe] <= x));
    high = min(low + (below + 1) * step, high);
    low += below * step;
  }
  return low;
}

struct Piece {
  int64_t row, begin, end;  // empty: begin == end

  __device__ bool any() const { return begin < end; }
};

// A piece is kept by the cell of PIECE edges in which it begins. A cell holds the beginning of at most one
// row of more than PIECE edges, and of at most one later piece of such a row.
__device__ inline Piece first_piece(const Rows& rows, int64_t cell) {
  const int64_t x = cell * PIECE;
  if (x + PIECE >= rows.E) return {0, 0, 0};
  const int64_t row = row_of(rows, x + PIECE), begin = rows.begin(row), end = rows.begin(row + 1);
  if (begin < x || begin >= x + PIECE || end - begin <= PIECE) return {0, 0, 0};
  return {row, begin, begin + PIECE};
}
__device__ inline Piece later_piece(const Rows& rows, int64_t cell) {
  const int64_t x = cell * PIECE, row = row_of(rows, x), begin = rows.begin(row), end = rows.begin(row + 1);
  if (begin >= x || end - begin <= PIECE) return {0, 0, 0};
  const int64_t first = begin + (x - begin + PIECE - 1) / PIECE * PIECE;
  return {row, first, min(first + PIECE, max(first, end))};
}

template <class Work>
__device__ float* partial_of(const Work& work, int64_t which, int64_t cell, int head) {
  return work.partial + ((which * work.rows.cells() + cell) * work.rows.heads + head) * work.partial_size();
}

// The first `piece_blocks` blocks (cells x heads, or none) take pieces, the others short rows.
template <class Work>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) sweep(Work work, int64_t piece_blocks) {
  __shared__ float partial[WARPS][Work::PARTIAL];
  __shared__ Piece pieces[2];
  const Rows& rows = work.rows;
  const int warp = warp_of_block();
  const auto of_warp = [&](int j) { return &partial[j][0]; };

  if (blockIdx.x < piece_blocks) {
    const int64_t cell = blockIdx.x / rows.heads;
    const int head = int(blockIdx.x % rows.heads);
    if (warp < 2) {
      const Piece found = warp == 0 ? first_piece(rows, cell) : later_piece(rows, cell);
      if (threadIdx.x % 32 == 0) pieces[warp] = found;
    }
    __syncthreads();
    for (int which = 0; which < 2; ++which) {
      const Piece piece = pieces[which];
      if (!piece.any()) continue;
      const int64_t item = piece.row * rows.heads + head;
      walk(work, item, piece.begin, piece.end, warp, WARPS, partial[warp]);
      __syncthreads();
      work.combine(of_warp, WARPS, item, partial_of(work, which, cell, head), threadIdx.x, THREADS);
      __syncthreads();
    }
    return;
  }

  const int64_t items = rows.n * rows.heads, stride = (int64_t(gridDim.x) - piece_blocks) * WARPS;
  for (int64_t first = (blockIdx.x - piece_blocks) * WARPS; first < items; first += stride) {
    // Each warp its own row; then all of them together each row that was too long for one.
    for (int task = 0; task <= WARPS; ++task) {
      const bool alone = task == 0;
      const int64_t item = first + (alone ? warp : task - 1);
      if (item >= items) continue;
      const int64_t row = item / rows.heads, begin = rows.begin(row), end = rows.begin(row + 1);
      const int64_t degree = end - begin;
      if (alone ? degree > WARP_ROW : degree <= WARP_ROW || degree > PIECE) continue;
      const int parts = alone ? 1 : WARPS;
      if (degree > 0) walk(work, item, begin, end, alone ? 0 : warp, parts, partial[warp]);
      if (alone) {
        __syncwarp();
        work.combine([&](int) { return &partial[warp][0]; }, degree > 0 ? 1 : 0, item, nullptr, threadIdx.x % 32, 32);
        __syncwarp();
      } else {
        __syncthreads();
        work.combine(of_warp, WARPS, item, nullptr, threadIdx.x, THREADS);
        __syncthreads();
      }
    }
  }
}

// Adds up the pieces of the rows of more than PIECE edges; a block for each cell and head.
template <class Work>
__global__ void __launch_bounds__(THREADS) combine(Work work) {
  __shared__ Piece shared;
  const Rows& rows = work.rows;
  const int64_t cell = blockIdx.x / rows.heads;
  const int head = int(blockIdx.x % rows.heads);
  if (threadIdx.x < 32) {
    const Piece found = first_piece(rows, cell);
    if (threadIdx.x == 0) shared = found;
  }
  __syncthreads();
  const Piece first = shared;
  if (!first.any()) return;
  const int count = int((rows.begin(first.row + 1) - first.begin + PIECE - 1) / PIECE);
  const auto at = [&](int j) { return partial_of(work, j > 0, cell + j, head); };
  work.combine(at, count, first.row * rows.heads + head, nullptr, threadIdx.x, THREADS);
}

// --- on the host; launch(kernel, grid, threads, arguments...) starts a kernel

inline int64_t cells_of(int64_t E) { return E > PIECE ? (E + PIECE - 1) / PIECE : 0; }  // 0: no row is that long

// The room for the partial results of `size` numbers each.
inline int64_t partials_of(int64_t E, int64_t heads, int64_t size) { return 2 * cells_of(E) * heads * size; }

template <class Work, class Launch>
void run(const Work& work, Launch launch) {
  const int64_t items = work.rows.n * work.rows.heads, pieces = cells_of(work.rows.E) * work.rows.heads;
  if (items == 0) return;
  const int64_t blocks = pieces + min((items + WARPS - 1) / WARPS, int64_t(1) << 24);
  launch(sweep<Work>, dim3(unsigned(blocks)), THREADS, work, pieces);
  if (pieces > 0) launch(combine<Work>, dim3(unsigned(pieces)), THREADS, work);
}

}  // namespace rmd::graph_attention::gpu
