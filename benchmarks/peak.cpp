// The most that the machine does: multiply-adds in registers, nothing loaded, nothing stored; and loads, from
// wherever what is read lies. Compiled once per instruction set by peak.py.
#if !defined(WIDTH)
#error "WIDTH: floats in a register"
#endif
#include <cstdint>

typedef float F __attribute__((vector_size(4 * WIDTH)));
typedef float Anywhere __attribute__((vector_size(4 * WIDTH), aligned(4)));

// Chains that do not wait for each other: more than latency times units (4 cycles x 2), fewer than registers.
constexpr int CHAINS = 12;

// 2 * WIDTH * CHAINS * rounds floating-point operations on each thread.
extern "C" float multiply_add(int64_t rounds, int threads) {
  float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    F x[CHAINS], a = F{} + 0.999f, b = F{} + 0.001f, sum{};
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) x[i] = F{} + float(i);
    for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
      for (int i = 0; i < CHAINS; ++i) {
        asm volatile("vfmadd213ps %2, %1, %0" : "+v"(x[i]) : "v"(a), "v"(b));  // x = x a + b
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) sum += x[i];
    for (int j = 0; j < WIDTH; ++j) total += sum[j];
  }
  return total;
}

// The sum of x [count], `times` over; count is a multiple of WIDTH * CHAINS.
extern "C" float add_up(const float* x, int64_t count, int64_t times) {
  F sums[CHAINS] = {};
  for (int64_t t = 0; t < times; ++t) {
    for (int64_t i = 0; i < count; i += WIDTH * CHAINS) {
#pragma GCC unroll 12
      for (int j = 0; j < CHAINS; ++j) sums[j] += *reinterpret_cast<const Anywhere*>(x + i + j * WIDTH);
    }
    asm volatile("" ::: "memory");  // read it again
  }
  float total = 0;
  for (const F& sum : sums) {
    for (int j = 0; j < WIDTH; ++j) total += sum[j];
  }
  return total;
}
