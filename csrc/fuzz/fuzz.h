// What the fuzzers of all ops share: draws, memory that ends where it says, comparisons.
#pragma once
#include <rmd/half.h>
#include <rmd/isa.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// The call in the namespace of the instruction set.
#if defined(__x86_64__)
#define RMD_ON(isa, call) ((isa) == Isa::avx512 ? avx512::call : (isa) == Isa::avx2 ? avx2::call : scalar::call)
#else
#define RMD_ON(isa, call) scalar::call
#endif

namespace rmd::fuzz {

// splitmix64 (Steele et al. 2014): the same draws with every compiler and library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int64_t between(int64_t low, int64_t high) { return low + int64_t(bits() % uint64_t(high - low + 1)); }  // inclusive
  double uniform(double low, double high) { return low + (high - low) * double(bits() >> 11) * 0x1p-53; }
  bool chance(double p) { return uniform(0, 1) < p; }
  Type type() { return Type(between(0, 2)); }

 private:
  uint64_t state_;
};

// `count` elements whose last byte is the last of the allocation, so that one element further is caught.
// Their address is aligned to the element and, most times, to nothing more; one in five times to a cache line.
class Memory {
 public:
  Memory(Random& random, int64_t count, int64_t size) : bytes(count * size) {
    const int64_t offset = random.chance(0.2) ? 0 : random.between(0, 15) * size;
    void* base = nullptr;
    if (posix_memalign(&base, 64, size_t(offset + bytes)) != 0) throw std::bad_alloc();
    base_ = static_cast<char*>(base);
    data = base_ + offset;
    std::memset(data, 0xff, size_t(bytes));  // NaN in every type
    ASAN_POISON_MEMORY_REGION(base_, offset);
  }
  Memory(const Memory&) = delete;
  ~Memory() { std::free(base_); }
  // Whoever reads or writes these bytes from now on stops the program.
  void forbid(int64_t first, int64_t count) { ASAN_POISON_MEMORY_REGION(data + first, count); }
  bool operator==(const Memory& other) const { return bytes == other.bytes && !std::memcmp(data, other.data, bytes); }

  char* data;
  int64_t bytes;

 private:
  char* base_;
};

template <class T>
class Array : public Memory {
 public:
  Array(Random& random, int64_t count) : Memory(random, count, sizeof(T)) {}
  Array(Random& random, const std::vector<T>& from) : Array(random, int64_t(from.size())) {
    std::copy(from.begin(), from.end(), begin());
  }
  T* begin() { return reinterpret_cast<T*>(data); }
  T& operator[](int64_t i) { return begin()[i]; }
};

// Numbers in the storage type of a call.
class Values : public Memory {
 public:
  Values(Random& random, int64_t count, Type type) : Memory(random, count, type == Type::f32 ? 4 : 2), type(type) {}
  double operator[](int64_t i) const {
    if (type == Type::f32) return raw<float>(i);
    return type == Type::bf16 ? widen(raw<bf16>(i)) : widen(raw<f16>(i));
  }
  void set(int64_t i, double x) {
    if (type == Type::f32) raw<float>(i) = float(x);
    if (type == Type::bf16) narrow(float(x), raw<bf16>(i));
    if (type == Type::f16) narrow(float(x), raw<f16>(i));
  }
  // `wild`: now and then NaN or an infinity.
  void draw(Random& random, int64_t first, int64_t count, bool wild) {
    for (int64_t i = first; i < first + count; ++i) {
      set(i, wild && random.chance(0.01) ? not_finite(random) : random.uniform(-2, 2));
    }
  }
  // Memory of what is absent.
  void absent(Random& random, int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) set(i, not_finite(random));
    const int64_t size = type == Type::f32 ? 4 : 2;
    forbid(first * size, count * size);
  }

  const Type type;

 private:
  template <class T>
  T& raw(int64_t i) const { return reinterpret_cast<T*>(data)[i]; }
  static double not_finite(Random& random) {
    const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    const int64_t which = random.between(0, 2);
    return which == 0 ? nan : which == 1 ? infinity : -infinity;
  }
};

// A case: its draws, and what it says of itself when it fails.
struct Case {
  Random random;
  Isa isa;
  std::string text;

  template <class T>
  T say(const char* name, T value) {
    std::ostringstream out;
    out << " " << name << "=" << +value;
    text += out.str();
    return value;
  }
};

template <class... Words>
void expect(bool holds, const Words&... words) {
  if (holds) return;
  std::ostringstream out;
  (out << ... << words);
  throw std::runtime_error(out.str());
}

// How the error of a float sum grows with its length, where roundings do not conspire.
inline double growth(double length) { return 1 + std::sqrt(length) / 4; }

// A sum in double, the size of its terms and their number: what the roundings of a float sum are measured against.
struct Sum {
  double value = 0, terms = 0, length = 0;
  void add(double x) { add(x, std::abs(x)); }
  void add(double x, double size) { value += x, terms += size, ++length; }
};

// Weights of scores in double; none: -1e30. `worth`: what an error of one rounding in each score is worth.
struct Softmax {
  std::vector<double> weight;
  double lse = -1e30, worth = 1;

  explicit Softmax(const std::vector<Sum>& scores) : weight(scores.size()) {
    double largest = -std::numeric_limits<double>::infinity(), total = 0;
    for (const Sum& s : scores) {
      largest = std::max(largest, s.value);
      if (std::isfinite(s.terms)) worth = std::max(worth, 1 + s.terms * growth(s.length));
    }
    worth *= growth(double(scores.size()));
    for (size_t i = 0; i < scores.size(); ++i) total += weight[i] = std::exp(scores[i].value - largest);
    for (double& w : weight) w /= total;
    if (!scores.empty()) lse = largest + std::log(total);
  }
};

constexpr double TOLERANCE = 1e-6;  // sixteen roundings of float

// Where the definition gives NaN or an infinity nothing is expected but that it stays there.
inline void expect_close(const char* name, int64_t i, double found, const Sum& exact, Type type) {
  if (!std::isfinite(exact.value)) return;
  const double rounding = type == Type::f32 ? 0x1p-24 : type == Type::bf16 ? 0x1p-8 : 0x1p-11;
  const double budget = rounding * std::abs(exact.value) + TOLERANCE * growth(exact.length) * exact.terms +
                        (type == Type::f16 ? 0x1p-24 : 1e-35);  // subnormals; weights that are not quite 0
  expect(std::abs(found - exact.value) <= budget, name, "[", i, "] is ", found, ", expected ", exact.value, " to ", budget);
}

inline void expect_same_bits(const char* name, const Memory& found, const Memory& expected, int64_t parts) {
  expect(found == expected, name, " has other bits when the work is split in ", parts);
}

// [0, count) in `parts` ranges of drawn lengths, the ranges one after another in a drawn order: what
// threads may do, but the same each time.
template <class Work>
void split(Random& random, int64_t count, int64_t parts, const Work& work) {
  std::vector<int64_t> cuts{0, count}, order;
  for (int64_t i = 1; i < parts; ++i) cuts.push_back(random.between(0, count));
  std::sort(cuts.begin(), cuts.end());
  for (int64_t i = 0; i < parts; ++i) order.insert(order.begin() + random.between(0, i), i);
  for (int64_t i : order) {
    if (cuts[i] < cuts[i + 1]) work(cuts[i], cuts[i + 1]);
  }
}
constexpr int64_t SPLITS[] = {1, 2, 3, 8};

void chain(Case&);
void ddpm(Case&);
void graph_attention(Case&);
void knowledge_attention(Case&);
void masked_attention(Case&);

}  // namespace rmd::fuzz
