// What the GPU kernels ask of the GPU: storage types, shuffles, cp.async, ldmatrix, mma. sm_80 and later.
// Knows no torch. tests/native/emulator/rmd/device.h stands in for it, so that the same kernels run on a CPU.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace rmd::device {

using bf16 = __nv_bfloat16;
using f16 = __half;

// The log-sum-exp of a row that saw nothing: finite, so that no infinities are ever subtracted.
constexpr float NOTHING = -1e30f;

template <class T>
__device__ __forceinline__ T narrow(float x) {
  return T(x);
}
// Two floats in one register, the first in the low half.
__device__ __forceinline__ uint32_t narrow_two(float x, float y, f16) {
  const __half2 packed = __floats2half2_rn(x, y);
  return reinterpret_cast<const uint32_t&>(packed);
}
__device__ __forceinline__ uint32_t narrow_two(float x, float y, bf16) {
  const __nv_bfloat162 packed = __floats2bfloat162_rn(x, y);
  return reinterpret_cast<const uint32_t&>(packed);
}

// Of every lane of the warp, together.
__device__ __forceinline__ float from_lane_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
__device__ __forceinline__ int from_lane(int x, int lane) { return __shfl_sync(~0u, x, lane); }
// Which warp of the block this is; the shuffle tells the compiler that its lanes agree and stay together.
__device__ __forceinline__ int warp_of_block() { return from_lane(int(threadIdx.x) / 32, 0); }
__device__ __forceinline__ uint32_t ballot(bool x) { return __ballot_sync(~0u, x); }

// 2^x to 2 ulp; 0 for minus infinity.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Shared memory whose size the launch decides, and addresses in it.
extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
__device__ __forceinline__ uint32_t dynamic_shared() {
  return uint32_t(__cvta_generic_to_shared(dynamic_shared_memory));
}

// 16 bytes from global to shared memory, in the background; zeros, and nothing read, if not `valid`.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of this thread's groups are under way.
template <int pending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t to, uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}
__device__ __forceinline__ uint4 load_shared(uint32_t from) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(from)
               : "memory");
  return x;
}

// Four 8 x 8 matrices of 16 bits; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&x)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(row)
               : "memory");
}

// c[16, 8] += a[16, 16] b[16, 8]; fragments as PTX's mma.m16n8k16 lays them out.
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, f16) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bf16) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace rmd::device
