// Knowledge attention on CPU tensors: values checked, instruction set chosen, (block, chunk) tasks
// spread over threads. Which thread takes a task never changes a bit.
#include <rmd/isa.h>
#include <rmd/knowledge_attention.h>
#include <rmd/scratch.h>
#include <rmd/tensor.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <vector>

namespace rmd::knowledge {
namespace {

using Maybe = const std::optional<Tensor>&;

constexpr int64_t WAVE = int64_t(1) << 20;  // floats of partial results held at a time (one block may need more)
constexpr int64_t FEW = 1024;  // floats of scratch on the stack
constexpr int64_t GROUPS = 16;  // tasks wanted in the backward pass, where a table is too small to give them

struct Kernels {
  decltype(&scalar::spread) spread;
  decltype(&scalar::dot) dot;
  decltype(&scalar::attend) attend;
  decltype(&scalar::join) join;
  decltype(&scalar::differentiate) differentiate;
  decltype(&scalar::join_dq) join_dq;
  decltype(&scalar::weigh) weigh;
};

#define RMD_KERNELS_OF(isa) \
  Kernels { isa::spread, isa::dot, isa::attend, isa::join, isa::differentiate, isa::join_dq, isa::weigh }
Kernels kernels() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return RMD_KERNELS_OF(avx512);
    case Isa::avx2: return RMD_KERNELS_OF(avx2);
#endif
    default: return RMD_KERNELS_OF(scalar);
  }
}
#undef RMD_KERNELS_OF

// log_prior as float32; an error where it is NaN or +inf.
struct Prior {
  Floats copy;
  const float* values = nullptr;

  Prior(Maybe log_prior, int64_t k, const Tensor& q) {
    if (!log_prior) return;
    const ScalarType type = log_prior->scalar_type();
    const void* given = checked(*log_prior, "log_prior", type, &k, 1, q);
    if (type == ScalarType::Float) {
      values = static_cast<const float*>(given);
    } else {
      copy = floats(k);
      values = copy.get();
      if (type == ScalarType::Double) {
        std::copy_n(static_cast<const double*>(given), k, copy.get());
      } else if (type == ScalarType::BFloat16) {
        std::transform(static_cast<const bf16*>(given), static_cast<const bf16*>(given) + k, copy.get(),
                       [](bf16 x) { return widen(x); });
      } else if (type == ScalarType::Half) {
        std::transform(static_cast<const f16*>(given), static_cast<const f16*>(given) + k, copy.get(),
                       [](f16 x) { return widen(x); });
      } else {
        STD_TORCH_CHECK(false, "log_prior has dtype code ", int(type), ", expected a floating-point one");
      }
    }
    for (int64_t i = 0; i < k; ++i) {
      if (!(values[i] <= -LOWEST)) refuse(i);
    }
  }

  [[noreturn]] void refuse(int64_t i) const {
    std::ostringstream text;
    text << "knowledge_attention: log_prior[" << i << "] is " << values[i]
         << ", expected a finite number, or -inf for an absent concept";
    throw std::invalid_argument(text.str());
  }
};

Problem problem_of(const Tensor& q, const Tensor& concepts, const Prior& prior, double scale) {
  const Type type = type_of(q, "q");
  STD_TORCH_CHECK(q.dim() == 3 && q.size(2) >= 1, "q has shape ", shape_text(q), ", expected [rows, heads, width >= 1]");
  const int64_t k = concepts.dim() == 2 ? concepts.size(0) : 0;
  const int64_t shape[] = {k, q.size(2)};
  const void* rows = checked(concepts, "concepts", q.scalar_type(), shape, 2, q);
  STD_TORCH_CHECK(k >= 1, "concepts has shape ", shape_text(concepts), ", expected at least one concept");
  return {.q = checked_like(q, "q", q),
          .concepts = rows,
          .log_prior = prior.values,
          .rows = q.size(0) * q.size(1),
          .k = k,
          .d = q.size(2),
          .scale = float(scale),
          .type = type};
}

int64_t concepts_of(const Tensor& concepts) { return concepts.dim() == 2 ? concepts.size(0) : 0; }

// Tasks that a thread takes at least, given the products of a row and a concept that one task makes:
// waking a thread for less costs more than it saves.
int64_t grain_of(int64_t rows, int64_t concepts, int64_t d) {
  return std::max<int64_t>(1, (int64_t(1) << 21) / std::max<int64_t>(1, rows * concepts * d));
}

Floats widened_tile(const Problem& a) { return a.type == Type::f32 ? nullptr : floats(TILE * a.d); }

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& concepts, Maybe log_prior, double scale) {
  const Prior prior(log_prior, concepts_of(concepts), q);
  const Problem a = problem_of(q, concepts, prior, scale);
  const Kernels run = kernels();
  Tensor out = empty({q.size(0), q.size(1), a.d}, q.scalar_type(), q);
  Tensor lse = empty({q.size(0), q.size(1)}, ScalarType::Float, q);
  void* out_at = out.mutable_data_ptr();
  float* lse_at = static_cast<float*>(lse.mutable_data_ptr());
  const int64_t chunk = chunk_of(a.k), chunks = (a.k + chunk - 1) / chunk, blocks = (a.rows + ROWS - 1) / ROWS;
  const int64_t stride = stride_of(least(a.rows, ROWS)), slices = (a.d + SLICE - 1) / SLICE;
  const int64_t of_block = chunks * partial_size(stride, a.d);
  const int64_t wave = std::clamp<int64_t>(WAVE / std::max<int64_t>(1, of_block), 1, std::max<int64_t>(1, blocks));
  Scratch<FEW> partials(wave * of_block);
  for (int64_t first = 0; first < blocks; first += wave) {
    const int64_t count = least(wave, blocks - first);
    const auto block_of = [&](int64_t b, const float* lanes) {
      const int64_t row = (first + b) * ROWS, rows = least(ROWS, a.rows - row);
      return Block{row, rows, stride_of(rows), lanes};
    };
    const auto partial = [&](int64_t b, int64_t c) {
      return partials.get() + b * of_block + c * partial_size(block_of(b, nullptr).stride, a.d);
    };
    torch::stable::parallel_for(
        0, count * chunks, grain_of(stride, least(chunk, a.k), a.d), [&](int64_t begin, int64_t end) {
          Scratch<FEW> lanes(a.d * stride);
          const Floats widened = widened_tile(a);
          const WideRegisters wide;
          int64_t spread_block = -1;
          for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / chunks, c = task % chunks;
            const Block block = block_of(b, lanes.get());
            if (b != spread_block) {
              run.spread(a.q, a.type, block.first, block.rows, a.d, block.stride, lanes.get(), nullptr, 0);
              spread_block = b;
            }
            run.attend(a, block, c * chunk, least(a.k, (c + 1) * chunk), widened.get(), partial(b, c));
          }
        });
    torch::stable::parallel_for(0, count * slices, grain_of(stride, chunks, SLICE), [&](int64_t begin, int64_t end) {
      const WideRegisters wide;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / slices;
        run.join(a, block_of(b, nullptr), partial(b, 0), chunks, task % slices * SLICE, out_at, lse_at);
      }
    });
  }
  return {out, lse};
}

template <class T>
void add_up(const float* parts, int64_t count, int64_t size, T* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    float sum = parts[i];
    for (int64_t p = 1; p < count; ++p) sum += parts[p * size + i];
    if constexpr (std::is_same_v<T, double>) {
      out[i] = sum;
    } else {
      narrow(sum, out[i]);
    }
  }
}

// out[i] = sum over parts of part[i], in their order.
void add_up(const float* parts, int64_t count, int64_t size, Tensor& out) {
  void* to = out.mutable_data_ptr();
  if (to == parts) return;
  const ScalarType type = out.scalar_type();
  torch::stable::parallel_for(0, size, 1 << 15, [&](int64_t begin, int64_t end) {
    if (type == ScalarType::Double) return add_up(parts, count, size, static_cast<double*>(to), begin, end);
    if (type == ScalarType::Float) return add_up(parts, count, size, static_cast<float*>(to), begin, end);
    if (type == ScalarType::BFloat16) return add_up(parts, count, size, static_cast<bf16*>(to), begin, end);
    add_up(parts, count, size, static_cast<f16*>(to), begin, end);
  });
}

// Blocks of rows are dealt to `groups` that share nothing: a group sums its own dconcepts, block after
// block. How many groups there are depends on the shapes alone.
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_out, const Tensor& out, const Tensor& lse,
                                            const Tensor& q, const Tensor& concepts, Maybe log_prior, double scale) {
  const Prior prior(log_prior, concepts_of(concepts), q);
  const Problem a = problem_of(q, concepts, prior, scale);
  const void* grad_at = checked_like(grad_out, "grad_out", q);
  const void* out_at = checked_like(out, "out", q);
  const float* lse_at = data<float>(lse, "lse", {q.size(0), q.size(1)}, q);
  const Kernels run = kernels();
  Tensor dq = empty({q.size(0), q.size(1), a.d}, q.scalar_type(), q), dconcepts = empty({a.k, a.d}, q.scalar_type(), q);
  Tensor dprior = empty({log_prior ? a.k : 0}, (log_prior ? *log_prior : q).scalar_type(), q);
  if (a.rows == 0) {
    torch::stable::zero_(dq), torch::stable::zero_(dconcepts), torch::stable::zero_(dprior);
    return {dq, dconcepts, dprior};
  }
  const int64_t chunk = chunk_of(a.k), chunks = (a.k + chunk - 1) / chunk, blocks = (a.rows + ROWS - 1) / ROWS;
  const int64_t wanted = std::clamp<int64_t>(GROUPS / chunks, 1, blocks), per_group = (blocks + wanted - 1) / wanted;
  const int64_t groups = (blocks + per_group - 1) / per_group;  // so that none is empty
  const int64_t stride = stride_of(least(a.rows, ROWS)), slices = (a.d + SLICE - 1) / SLICE, pitch = round_up(a.d, 16);
  // A block's inputs, as lanes and as rows, then its dq of each chunk.
  const int64_t inputs = 2 * stride * a.d + 2 * ROWS * pitch + 2 * ROWS, of_dq = stride * a.d;
  const int64_t of_block = inputs + chunks * of_dq;
  const int64_t wave = std::clamp<int64_t>(WAVE / (groups * of_block), 1, per_group);  // blocks of a group at a time
  const Floats scratch = floats(groups * wave * of_block);
  const bool direct = groups == 1 && a.type == Type::f32;
  const Floats parts = direct ? nullptr : floats(groups * a.k * a.d);
  float* const dk = direct ? static_cast<float*>(dconcepts.mutable_data_ptr()) : parts.get();
  const Floats prior_parts = log_prior ? floats(groups * a.k) : nullptr;
  for (int64_t first = 0; first < per_group; first += wave) {
    // Slot s holds block (first + s % wave) of group s / wave, where there is one.
    const auto gradient_of = [&](int64_t slot) {
      const int64_t within = first + slot % wave, row = (slot / wave * per_group + within) * ROWS;
      const int64_t rows = within < per_group ? std::clamp<int64_t>(a.rows - row, 0, ROWS) : 0;
      float* at = scratch.get() + slot * of_block;
      Gradient g{};
      g.block = {row, rows, stride_of(rows), at}, g.pitch = pitch;
      g.grad = at += stride * a.d;
      g.q_rows = at += stride * a.d;
      g.grad_rows = at += ROWS * pitch;
      g.lse = at += ROWS * pitch;
      g.delta = at += ROWS;
      return g;
    };
    const auto dq_of = [&](int64_t slot, int64_t c) { return scratch.get() + slot * of_block + inputs + c * of_dq; };
    const int64_t slots = groups * wave;
    torch::stable::parallel_for(0, slots, grain_of(stride, 8, a.d), [&](int64_t begin, int64_t end) {
      const Floats out_lanes = floats(stride * a.d);
      const WideRegisters wide;
      for (int64_t slot = begin; slot < end; ++slot) {
        const Gradient g = gradient_of(slot);
        const Block& b = g.block;
        if (b.rows == 0) continue;
        const auto writable = [](const float* p) { return const_cast<float*>(p); };
        run.spread(a.q, a.type, b.first, b.rows, a.d, b.stride, writable(b.q), writable(g.q_rows), pitch);
        run.spread(grad_at, a.type, b.first, b.rows, a.d, b.stride, writable(g.grad), writable(g.grad_rows), pitch);
        run.spread(out_at, a.type, b.first, b.rows, a.d, b.stride, out_lanes.get(), nullptr, 0);
        run.dot(g.grad, out_lanes.get(), a.d, b.stride, writable(g.delta));
        std::fill_n(writable(g.lse), b.stride, -LOWEST);
        std::copy_n(lse_at + b.first, b.rows, writable(g.lse));
      }
    });
    torch::stable::parallel_for(
        0, groups * chunks, grain_of(stride * wave, least(chunk, a.k), a.d), [&](int64_t begin, int64_t end) {
          const Floats widened = widened_tile(a);
          const WideRegisters wide;
          for (int64_t task = begin; task < end; ++task) {
            const int64_t group = task / chunks, c = task % chunks;
            for (int64_t slot = group * wave; slot < (group + 1) * wave; ++slot) {
              const Gradient g = gradient_of(slot);
              if (g.block.rows == 0) break;
              const bool fresh = first == 0 && slot == group * wave;
              run.differentiate(a, g, c * chunk, least(a.k, (c + 1) * chunk), fresh, widened.get(), dq_of(slot, c),
                                dk + group * a.k * a.d, prior_parts ? prior_parts.get() + group * a.k : nullptr);
            }
          }
        });
    torch::stable::parallel_for(0, slots * slices, grain_of(stride, chunks, SLICE), [&](int64_t begin, int64_t end) {
      const WideRegisters wide;
      for (int64_t task = begin; task < end; ++task) {
        const Block b = gradient_of(task / slices).block;
        if (b.rows == 0) continue;
        run.join_dq(a, b, dq_of(task / slices, 0), chunks, of_dq, task % slices * SLICE, dq.mutable_data_ptr());
      }
    });
  }
  add_up(dk, groups, a.k * a.d, dconcepts);
  if (log_prior) add_up(prior_parts.get(), groups, a.k, dprior);
  return {dq, dconcepts, dprior};
}

// The n heaviest of all concepts offered to one row, by score and then by index.
class Heaviest {
 public:
  void offer(float score, int64_t concept_, int64_t n) {
    if (int64_t(heap_.size()) == n) {
      if (!(score > heap_.front().first)) return;
      std::pop_heap(heap_.begin(), heap_.end(), heavier);
      heap_.pop_back();
    }
    heap_.emplace_back(score, concept_);
    std::push_heap(heap_.begin(), heap_.end(), heavier);
  }

  // Where there were fewer than n, absent concepts follow with weight 0.
  void finish(float largest, float sum, int64_t n, const std::vector<int64_t>& absent, int64_t* index, float* weight) {
    std::sort_heap(heap_.begin(), heap_.end(), heavier);
    const int64_t found = heap_.size();
    for (int64_t i = 0; i < n; ++i) {
      index[i] = i < found ? heap_[i].second : absent[i - found];
      weight[i] = i < found ? std::exp(heap_[i].first - largest) / sum : 0.0f;
    }
  }

 private:
  using Entry = std::pair<float, int64_t>;
  static bool heavier(const Entry& a, const Entry& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  }
  std::vector<Entry> heap_;  // its front is the lightest
};

std::tuple<Tensor, Tensor> top(const Tensor& q, const Tensor& concepts, Maybe log_prior, double scale, int64_t n) {
  const Prior prior(log_prior, concepts_of(concepts), q);
  const Problem a = problem_of(q, concepts, prior, scale);
  STD_TORCH_CHECK(n >= 1 && n <= a.k, "n is ", n, ", expected 1 to k = ", a.k);
  const Kernels run = kernels();
  Tensor index = empty({q.size(0), q.size(1), n}, ScalarType::Long, q);
  Tensor weight = empty({q.size(0), q.size(1), n}, ScalarType::Float, q);
  int64_t* index_at = static_cast<int64_t*>(index.mutable_data_ptr());
  float* weight_at = static_cast<float*>(weight.mutable_data_ptr());
  std::vector<int64_t> absent;
  for (int64_t i = 0; a.log_prior && i < a.k && int64_t(absent.size()) < n; ++i) {
    if (a.log_prior[i] < LOWEST) absent.push_back(i);
  }
  // A lane knows nothing of the block it is in, so that the size of blocks may follow the threads.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t size = std::clamp<int64_t>(round_up((a.rows + threads - 1) / threads, 16), 16, ROWS);
  torch::stable::parallel_for(
      0, (a.rows + size - 1) / size, grain_of(size, a.k, a.d), [&](int64_t begin, int64_t end) {
        const Floats lanes = floats(a.d * size), widened = widened_tile(a);
        const auto scored = std::make_unique<Scored>();
        const WideRegisters wide;
        for (int64_t b = begin; b < end; ++b) {
          const int64_t first = b * size, rows = least(size, a.rows - first), stride = stride_of(rows);
          const Block block{first, rows, stride, lanes.get()};
          run.spread(a.q, a.type, first, rows, a.d, stride, lanes.get(), nullptr, 0);
          std::fill(scored->largest, scored->largest + ROWS, LOWEST);
          std::fill(scored->sum, scored->sum + ROWS, 0.0f);
          std::vector<Heaviest> best(rows);
          for (int64_t at = 0; at < a.k;) {
            at = run.weigh(a, block, at, widened.get(), *scored);
            for (int64_t c = 0; c < scored->count; ++c) {
              for (int64_t r = 0; r < rows; ++r) best[r].offer(scored->scores[c * stride + r], scored->concepts[c], n);
            }
          }
          for (int64_t r = 0; r < rows; ++r) {
            const int64_t to = (first + r) * n;
            best[r].finish(scored->largest[r], scored->sum[r], n, absent, index_at + to, weight_at + to);
          }
        }
      });
  return {index, weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CPU, m) {
  m.impl("knowledge_attention_fwd", TORCH_BOX(&OnPacked<&forward>::call));
  m.impl("knowledge_attention_bwd", TORCH_BOX(&OnPacked<&backward>::call));
  m.impl("knowledge_top", TORCH_BOX(&OnPacked<&top>::call));
}

}  // namespace rmd::knowledge
