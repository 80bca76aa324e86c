// Tensors of the stable ABI, checked into pointers. An error names the argument, what it is and what
// was expected.
#pragma once
#include <rmd/half.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>

namespace rmd {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Type type_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::BFloat16: return Type::bf16;
    case ScalarType::Half: return Type::f16;
    default: break;
  }
  STD_TORCH_CHECK(false, name, " has dtype code ", int(x.scalar_type()), ", expected float32, bfloat16 or float16");
}

inline std::string shape_text(const int64_t* sizes, size_t dim) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < dim; ++i) text << (i ? ", " : "") << sizes[i];
  text << "]";
  return text.str();
}

inline std::string shape_text(const Tensor& x) { return shape_text(x.sizes().data(), x.dim()); }

// The data of x: contiguous, of this type, on the device of `like`, with this shape.
inline const void* checked(const Tensor& x, const char* name, ScalarType type, const int64_t* sizes, size_t dim,
                           const Tensor& like) {
  STD_TORCH_CHECK(x.scalar_type() == type, name, " has dtype code ", int(x.scalar_type()), ", expected ", int(type));
  const bool same = size_t(x.dim()) == dim && std::equal(sizes, sizes + dim, x.sizes().data());
  STD_TORCH_CHECK(same, name, " has shape ", shape_text(x), ", expected ", shape_text(sizes, dim));
  STD_TORCH_CHECK(x.is_contiguous(), name, " of shape ", shape_text(x), " is strided, expected contiguous");
  STD_TORCH_CHECK(x.is_cuda() == like.is_cuda() && x.get_device_index() == like.get_device_index(), name,
                  " is on another device than the first argument");
  return x.const_data_ptr();
}

// As above, shaped and typed like `like`.
inline const void* checked_like(const Tensor& x, const char* name, const Tensor& like) {
  return checked(x, name, like.scalar_type(), like.sizes().data(), like.dim(), like);
}

inline const void* checked_like(const std::optional<Tensor>& x, const char* name, const Tensor& like) {
  return x ? checked_like(*x, name, like) : nullptr;
}

template <class T>
constexpr ScalarType scalar_type_of() {
  if constexpr (std::is_same_v<T, int64_t>) return ScalarType::Long;
  if constexpr (std::is_same_v<T, float>) return ScalarType::Float;
}

using Sizes = std::initializer_list<int64_t>;

template <class T>
const T* data(const Tensor& x, const char* name, Sizes sizes, const Tensor& like) {
  return static_cast<const T*>(checked(x, name, scalar_type_of<T>(), sizes.begin(), sizes.size(), like));
}

template <class T>
const T* data(const std::optional<Tensor>& x, const char* name, Sizes sizes, const Tensor& like) {
  return x ? data<T>(*x, name, sizes, like) : nullptr;
}

// x itself, or a contiguous copy of it where x is strided.
template <class T>  // Tensor or std::optional<Tensor>
class Packed {
 public:
  explicit Packed(const T& x) : x_(x) {
    if constexpr (std::is_same_v<T, Tensor>) {
      if (!x.is_contiguous()) copy_ = torch::stable::contiguous(x);
    } else {
      if (x && !x->is_contiguous()) copy_ = T(torch::stable::contiguous(*x));
    }
  }
  operator const T&() const { return copy_ ? *copy_ : x_; }

 private:
  const T& x_;
  std::optional<T> copy_;
};

// `op` with its tensors packed; those it takes by value, to write to, and its settings as they are.
template <auto op>
struct OnPacked;
template <class Result, class... Args, Result (*op)(Args...)>
struct OnPacked<op> {
  static Result call(Args... args) { return op(pack<Args>(args)...); }

 private:
  template <class Arg, class Given>
  static auto pack(Given& x) {
    if constexpr (std::is_reference_v<Arg>) {
      return Packed<std::remove_cvref_t<Arg>>(x);
    } else {
      return x;
    }
  }
};

// A new contiguous tensor beside `like`. Without the dispatcher: on small inputs that costs more than the work.
inline Tensor empty(const int64_t* sizes, size_t dim, ScalarType type, const Tensor& like) {
  int64_t strides[64];
  STD_TORCH_CHECK(dim <= 64, "a tensor has ", dim, " dimensions, expected at most 64");
  for (size_t i = dim, stride = 1; i-- > 0; stride *= std::max<int64_t>(1, sizes[i])) strides[i] = stride;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      int64_t(dim), sizes, strides, int32_t(type),
      like.is_cuda() ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu(), like.get_device_index(), &handle));
  return Tensor(handle);
}

inline Tensor empty(Sizes sizes, ScalarType type, const Tensor& like) {
  return empty(sizes.begin(), sizes.size(), type, like);
}

// The functional form of an op that fills `out`, its first argument, like its second.
template <auto op>
struct Allocated;
template <class... Rest, void (*op)(Tensor, const Tensor&, Rest...)>
struct Allocated<op> {
  static Tensor call(const Tensor& like, Rest... rest) {
    Tensor out = empty(like.sizes().data(), like.dim(), like.scalar_type(), like);
    op(out, like, rest...);
    return out;
  }
};

}  // namespace rmd
