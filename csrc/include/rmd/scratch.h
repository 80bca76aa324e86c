// Floats to work in, for as long as a pass takes. Knows no torch.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace rmd {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float[], Free>;

// Not initialised, and on a cache line of its own.
inline Floats floats(int64_t count) {
  void* p = std::aligned_alloc(64, size_t(count < 1 ? 64 : (count + 15) / 16 * 64));
  if (p == nullptr) throw std::bad_alloc();
  return Floats(static_cast<float*>(p));
}

// The same, up to `few` of them on the stack: malloc may cost a small call more than its arithmetic.
template <int64_t few>
class Scratch {
 public:
  explicit Scratch(int64_t count) : many_(count > few ? floats(count) : nullptr) {}
  float* get() { return many_ ? many_.get() : few_; }

 private:
  alignas(64) float few_[few];
  Floats many_;
};

}  // namespace rmd
