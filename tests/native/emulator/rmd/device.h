// A GPU on the CPU, slow and exact: stands in for csrc/include/rmd/device.h, so that the CUDA kernels run
// in tests on machines without one. Blocks run one after another; the threads of a block are fibers that
// hand over at every barrier, a warp's exchange included. Shared memory starts as NaN in every block's
// dynamic part, and reads of it are checked.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#include "../../../../csrc/include/rmd/half.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct int2 { int x, y; };
struct uint4 { uint32_t x, y, z, w; };

inline dim3 threadIdx, blockIdx, gridDim;

namespace rmd::device {

using std::max;
using std::min;

constexpr float NOTHING = -1e30f;

template <class Bits>
struct Stored {
  Bits bits;
  Stored() = default;
  explicit Stored(float x) { rmd::narrow(x, bits); }
  operator float() const { return rmd::widen(bits); }
};
using bf16 = Stored<rmd::bf16>;
using f16 = Stored<rmd::f16>;

template <class T>
T narrow(float x) { return T(x); }
template <class T>
uint32_t narrow_two(float x, float y, T) {
  const T two[2] = {T(x), T(y)};
  uint32_t packed;
  std::memcpy(&packed, two, 4);
  return packed;
}

// --- the machine

struct Barrier {
  int waiting = 0;
  long passed = 0;
};

// A fiber begins with swapcontext and goes on with longjmp, which is twenty times as quick.
struct Fiber {
  std::vector<char> stack = std::vector<char>(1 << 16);
  ucontext_t first;
  jmp_buf at;
  bool begun = false, finished = false;
};

struct Machine {
  std::vector<Fiber> fibers;
  ucontext_t begin;
  jmp_buf main;
  int threads = 0, now = 0;
  Barrier block;
  std::vector<Barrier> warps;
  std::vector<unsigned char> shared;
  std::vector<uint64_t> slots;  // what each thread lends its warp: 8 values, twice
  std::function<void()> kernel;
};
inline Machine machine;

inline void give_way() {
  if (_setjmp(machine.fibers[machine.now].at) == 0) _longjmp(machine.main, 1);
}
inline void wait_at(Barrier& barrier, int all) {
  const long passed = barrier.passed;
  if (++barrier.waiting == all) {
    barrier.waiting = 0;
    ++barrier.passed;
  }
  while (barrier.passed == passed) give_way();
}
inline int lanes_of_warp() { return std::min(32, machine.threads - machine.now / 32 * 32); }
inline void wait_warp() { wait_at(machine.warps[machine.now / 32], lanes_of_warp()); }

inline void fiber_main() {
  machine.kernel();
  machine.fibers[machine.now].finished = true;
  give_way();
}

__attribute__((noinline)) inline void go_on(Fiber& fiber) {
  if (_setjmp(machine.main) != 0) return;
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  swapcontext(&machine.begin, &fiber.first);
}

inline void run_block() {
  Machine& m = machine;
  for (Fiber& fiber : m.fibers) {
    fiber.begun = fiber.finished = false;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = fiber.stack.data();
    fiber.first.uc_stack.ss_size = fiber.stack.size();
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, fiber_main, 0);
  }
  for (bool more = true; more;) {
    more = false;
    for (m.now = 0; m.now < m.threads; ++m.now) {
      if (m.fibers[m.now].finished) continue;
      more = true;
      threadIdx.x = unsigned(m.now);
      go_on(m.fibers[m.now]);
    }
  }
}

inline void launch(dim3 grid, int threads, uint32_t shared_bytes, const std::function<void()>& kernel) {
  Machine& m = machine;
  m.kernel = kernel;
  m.threads = threads;
  m.fibers.resize(threads);
  m.slots.resize(size_t(threads) * 16);
  gridDim = grid;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        m.shared.assign(shared_bytes, 0xff);
        m.block = {};
        m.warps.assign((threads + 31) / 32, {});
        run_block();
      }
    }
  }
}

// --- what the kernels ask for

// Two sets of slots take turns, so that one barrier an exchange is enough: nobody writes a set again
// before all have read it.
inline long turn() { return machine.warps[machine.now / 32].passed % 2; }
inline uint64_t* slot(int lane, long turn) {
  return &machine.slots[size_t(machine.now / 32 * 32 + lane) * 16 + size_t(turn) * 8];
}
inline int own_lane() { return machine.now % 32; }

// Every lane lends `x`; the turn in which the others' values lie.
template <class X>
long exchange(const X& x) {
  const long set = turn();
  std::memcpy(slot(own_lane(), set), &x, sizeof x);
  wait_warp();
  return set;
}
template <class X>
X from_lane_any(X x, int lane) {
  const long set = exchange(x);
  X found;
  std::memcpy(&found, slot(lane, set), sizeof found);
  return found;
}
inline float from_lane_xor(float x, int mask) { return from_lane_any(x, own_lane() ^ mask); }
inline int from_lane(int x, int lane) { return from_lane_any(x, lane); }
inline int warp_of_block() { return from_lane(machine.now / 32, 0); }
inline uint32_t ballot(bool x) {
  const long set = exchange(uint64_t(x));
  uint32_t bits = 0;
  for (int lane = 0; lane < lanes_of_warp(); ++lane) bits |= uint32_t(*slot(lane, set)) << lane;
  return bits;
}

inline float exp2_fast(float x) { return std::exp2(x); }

inline uint32_t dynamic_shared() { return 0; }
inline unsigned char* shared_at(uint32_t address, uint32_t bytes) {
  if (address % bytes != 0 || address + bytes > machine.shared.size()) throw std::out_of_range("shared memory");
  return machine.shared.data() + address;
}
inline void copy_async(uint32_t to, const void* from, bool valid) {
  if (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0) throw std::out_of_range("copy_async: alignment");
  if (valid) std::memcpy(shared_at(to, 16), from, 16);
  else std::memset(shared_at(to, 16), 0, 16);
}
inline void copy_commit() {}
template <int pending>
void copy_wait() {}
inline void store_shared(uint32_t to, uint32_t x) { std::memcpy(shared_at(to, 4), &x, 4); }
inline uint4 load_shared(uint32_t from) {
  uint4 x;
  std::memcpy(&x, shared_at(from, 16), 16);
  return x;
}

inline void load_matrices_any(uint32_t (&x)[4], uint32_t row, bool transposed) {
  const long set = exchange(uint64_t(row));
  const int a = own_lane() / 4, b = own_lane() % 4 * 2;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t two[2];
    for (int i = 0; i < 2; ++i) {
      const int r = transposed ? b + i : a, c = transposed ? a : b + i;
      std::memcpy(&two[i], shared_at(uint32_t(*slot(matrix * 8 + r, set)), 16) + 2 * c, 2);
    }
    std::memcpy(&x[matrix], two, 4);
  }
  wait_warp();  // before anybody may overwrite shared memory, as ldmatrix reads for all lanes at once
}
inline void load_matrices(uint32_t (&x)[4], uint32_t row) { load_matrices_any(x, row, false); }
inline void load_matrices_transposed(uint32_t (&x)[4], uint32_t row) { load_matrices_any(x, row, true); }

template <class T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  struct Operands {
    uint32_t a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const long set = exchange(mine);
  const auto element = [set](int lane, int word, int half) {
    T x;
    std::memcpy(&x, reinterpret_cast<const char*>(slot(lane, set)) + word * 4 + half * 2, 2);
    return float(x);
  };
  for (int i = 0; i < 4; ++i) {
    const int row = own_lane() / 4 + i / 2 * 8, column = own_lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int in_pair = k % 8 / 2, word_a = row / 8 + k / 8 * 2, word_b = 4 + k / 8;
      c[i] += element(row % 8 * 4 + in_pair, word_a, k % 2) * element(column * 4 + in_pair, word_b, k % 2);
    }
  }
}

}  // namespace rmd::device

inline void __syncthreads() { rmd::device::wait_at(rmd::device::machine.block, rmd::device::machine.threads); }
inline void __syncwarp() { rmd::device::wait_warp(); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __ffs(uint32_t x) { return __builtin_ffs(int(x)); }
