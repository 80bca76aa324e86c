// knowledge_attention, forward, backward and the weights of knowledge_top, against
// softmax(scale q K^T + log_prior) K, one row at a time.
#include <rmd/knowledge_attention.h>

#include "fuzz.h"

#include <memory>
#include <optional>

namespace rmd::fuzz {
namespace {

using namespace rmd::knowledge;

struct Inputs {
  int64_t rows, k, d;
  Type type;
  Values q, concepts, grad_out;
  Array<float> prior;
  bool with_prior, wild;
  float scale;
  Problem problem;
  std::vector<int64_t> present;  // concepts

  explicit Inputs(Case& c)
      : rows(c.say("rows", c.random.chance(0.8) ? c.random.between(1, 20) : c.random.between(60, 140))),
        k(c.say("k", c.random.chance(0.7) ? c.random.between(0, 60) : c.random.between(90, 700))),
        d(c.say("d", rows * k < 4000 && c.random.chance(0.3) ? c.random.between(120, 290) : c.random.between(1, 40))),
        type(c.random.type()),
        q(c.random, rows * d, type),
        concepts(c.random, k * d, type),
        grad_out(c.random, rows * d, type),
        prior(c.random, k),
        with_prior(c.say("prior", c.random.chance(0.8))),
        wild(c.say("wild", c.random.chance(0.3))),
        scale(float(c.random.uniform(0.1, 2) / std::sqrt(double(d)))),
        problem{q.data, concepts.data, with_prior ? prior.begin() : nullptr, rows, k, d, scale, type} {
    c.say("type", int(type));
    const double absent = c.random.between(0, 4) / 4.0, height = c.random.chance(0.2) ? 200 : 3;
    for (int64_t i = 0; i < k; ++i) {
      const bool here = !with_prior || !c.random.chance(absent);
      prior[i] = here ? float(c.random.uniform(-height, height)) : -INFINITY;
      if (here) {
        concepts.draw(c.random, i * d, d, wild && c.random.chance(0.02));
        present.push_back(i);
      } else {
        concepts.absent(c.random, i * d, d);
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      q.draw(c.random, row * d, d, wild && c.random.chance(0.2));
      grad_out.draw(c.random, row * d, d, wild && c.random.chance(0.2));
    }
  }

  Sum score(int64_t row, int64_t i) const {
    Sum s;
    for (int64_t j = 0; j < d; ++j) s.add(scale * q[row * d + j] * concepts[i * d + j]);
    if (with_prior) s.add(problem.log_prior[i]);
    return s;
  }

  std::vector<Softmax> softmax() const {
    std::vector<Softmax> of_rows;
    for (int64_t row = 0; row < rows; ++row) {
      std::vector<Sum> scores;
      for (int64_t i : present) scores.push_back(score(row, i));
      of_rows.emplace_back(scores);
    }
    return of_rows;
  }

  Block block(int64_t number, const float* lanes) const {
    const int64_t first = number * ROWS, count = least(ROWS, rows - first);
    return {first, count, stride_of(count), lanes};
  }
};

struct Results {
  Values out, dq, dconcepts, dprior, lse;
  Results(Case& c, const Inputs& a)
      : out(c.random, a.rows * a.d, a.type),
        dq(c.random, a.rows * a.d, a.type),
        dconcepts(c.random, a.k * a.d, Type::f32),
        dprior(c.random, a.with_prior ? a.k : 0, Type::f32),
        lse(c.random, a.rows, Type::f32) {}

  std::vector<std::pair<const char*, Values*>> all() {
    return {{"out", &out}, {"lse", &lse}, {"dq", &dq}, {"dconcepts", &dconcepts}, {"dprior", &dprior}};
  }
  static float* floats(Values& x) { return reinterpret_cast<float*>(x.data); }
};

// One block's rows as lanes, as the driver in knowledge_attention/cpu.cpp prepares them.
struct Lanes {
  Block block;
  int64_t pitch;
  Array<float> q, grad, q_rows, grad_rows, lse, delta;

  Lanes(Case& c, Inputs& a, int64_t number, Results& found)
      : block(a.block(number, nullptr)),
        pitch(round_up(a.d, 16)),
        q(c.random, a.d * block.stride),
        grad(c.random, a.d * block.stride),
        q_rows(c.random, block.rows * pitch),
        grad_rows(c.random, block.rows * pitch),
        lse(c.random, block.stride),
        delta(c.random, block.stride) {
    Array<float> out(c.random, a.d * block.stride);
    const auto spread = [&](const Values& x, Array<float>& lanes, float* rows) {
      RMD_ON(c.isa, spread(x.data, a.type, block.first, block.rows, a.d, block.stride, lanes.begin(), rows, pitch));
    };
    spread(a.q, q, q_rows.begin());
    spread(a.grad_out, grad, grad_rows.begin());
    spread(found.out, out, nullptr);
    RMD_ON(c.isa, dot(grad.begin(), out.begin(), a.d, block.stride, delta.begin()));
    for (int64_t i = 0; i < block.stride; ++i) {
      lse[i] = i < block.rows ? Results::floats(found.lse)[block.first + i] : -LOWEST;
    }
    block.q = q.begin();
  }
  Gradient gradient() {
    return {block, pitch, grad.begin(), q_rows.begin(), grad_rows.begin(), lse.begin(), delta.begin()};
  }
};

Array<float> widened_tile(Case& c, const Inputs& a) { return {c.random, a.type == Type::f32 ? 0 : TILE * a.d}; }

void forward(Case& c, Inputs& a, int64_t parts, Results& found) {
  const int64_t chunk = chunk_of(a.k), chunks = (a.k + chunk - 1) / chunk, blocks = (a.rows + ROWS - 1) / ROWS;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t stride = a.block(b, nullptr).stride, size = partial_size(stride, a.d);
    Array<float> lanes(c.random, a.d * stride), partials(c.random, chunks * size);
    const Block block = a.block(b, lanes.begin());
    RMD_ON(c.isa, spread(a.q.data, a.type, block.first, block.rows, a.d, stride, lanes.begin(), nullptr, 0));
    split(c.random, chunks, parts, [&](int64_t begin, int64_t end) {
      Array<float> widened = widened_tile(c, a);
      for (int64_t i = begin; i < end; ++i) {
        RMD_ON(c.isa, attend(a.problem, block, i * chunk, least(a.k, (i + 1) * chunk), widened.begin(),
                             partials.begin() + i * size));
      }
    });
    split(c.random, (a.d + SLICE - 1) / SLICE, parts, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        RMD_ON(c.isa, join(a.problem, block, partials.begin(), chunks, i * SLICE, found.out.data,
                           Results::floats(found.lse)));
      }
    });
  }
}

void backward(Case& c, Inputs& a, int64_t parts, Results& found) {
  const int64_t chunk = chunk_of(a.k), chunks = (a.k + chunk - 1) / chunk, blocks = (a.rows + ROWS - 1) / ROWS;
  for (int64_t b = 0; b < blocks; ++b) {
    Lanes lanes(c, a, b, found);
    const Gradient gradient = lanes.gradient();
    const int64_t size = a.d * lanes.block.stride;
    Array<float> partials(c.random, chunks * size);
    split(c.random, chunks, parts, [&](int64_t begin, int64_t end) {
      Array<float> widened = widened_tile(c, a);
      for (int64_t i = begin; i < end; ++i) {
        RMD_ON(c.isa, differentiate(a.problem, gradient, i * chunk, least(a.k, (i + 1) * chunk), b == 0,
                                    widened.begin(), partials.begin() + i * size, Results::floats(found.dconcepts),
                                    a.with_prior ? Results::floats(found.dprior) : nullptr));
      }
    });
    split(c.random, (a.d + SLICE - 1) / SLICE, parts, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        RMD_ON(c.isa, join_dq(a.problem, lanes.block, partials.begin(), chunks, size, i * SLICE, found.dq.data));
      }
    });
  }
}

// The scores, and their largest and sum, from which knowledge_top takes its weights.
void check_weigh(Case& c, Inputs& a, const std::vector<Softmax>& rows) {
  for (int64_t b = 0; b * ROWS < a.rows; ++b) {
    const int64_t stride = a.block(b, nullptr).stride;
    Array<float> lanes(c.random, a.d * stride), widened = widened_tile(c, a);
    const Block block = a.block(b, lanes.begin());
    RMD_ON(c.isa, spread(a.q.data, a.type, block.first, block.rows, a.d, stride, lanes.begin(), nullptr, 0));
    const auto scored = std::make_unique<Scored>();
    std::fill_n(scored->largest, ROWS, LOWEST);
    std::fill_n(scored->sum, ROWS, 0.0f);
    size_t next = 0;  // of those that are present
    for (int64_t at = 0; at < a.k;) {
      at = RMD_ON(c.isa, weigh(a.problem, block, at, widened.begin(), *scored));
      for (int64_t n = 0; n < scored->count; ++n, ++next) {
        const int64_t i = next < a.present.size() ? a.present[next] : -1;
        expect(scored->concepts[n] == i, "weigh gives concept ", scored->concepts[n], ", expected ", i);
        for (int64_t r = 0; r < block.rows; ++r) {
          expect_close("score", i, scored->scores[n * stride + r], a.score(block.first + r, i), Type::f32);
        }
      }
    }
    expect(next == a.present.size(), "weigh gives ", next, " concepts, expected ", a.present.size());
    for (int64_t r = 0; r < block.rows && next > 0; ++r) {
      const Softmax& row = rows[block.first + r];
      expect_close("weigh's log-sum-exp", block.first + r, scored->largest[r] + std::log(double(scored->sum[r])),
                   {row.lse, row.worth}, Type::f32);
    }
  }
}

void check_forward(const Inputs& a, const std::vector<Softmax>& rows, const Results& found) {
  for (int64_t r = 0; r < a.rows; ++r) {
    expect_close("lse", r, found.lse[r], {rows[r].lse, rows[r].worth}, Type::f32);
    for (int64_t j = 0; j < a.d; ++j) {
      Sum out;
      for (size_t n = 0; n < a.present.size(); ++n) {
        const double x = rows[r].weight[n] * a.concepts[a.present[n] * a.d + j];
        out.add(x, rows[r].worth * std::abs(x));
      }
      expect_close("out", r * a.d + j, found.out[r * a.d + j], out, a.type);
    }
  }
}

void check_backward(const Inputs& a, const std::vector<Softmax>& rows, const Results& found) {
  std::vector<Sum> dq(a.rows * a.d), dconcepts(a.k * a.d), dprior(a.k);
  for (int64_t r = 0; r < a.rows; ++r) {
    Sum delta;
    for (int64_t j = 0; j < a.d; ++j) delta.add(a.grad_out[r * a.d + j] * found.out[r * a.d + j]);
    for (size_t n = 0; n < a.present.size(); ++n) {
      const int64_t i = a.present[n];
      Sum product;
      for (int64_t j = 0; j < a.d; ++j) product.add(a.grad_out[r * a.d + j] * a.concepts[i * a.d + j]);
      const double p = rows[r].weight[n], worth = rows[r].worth;
      const double ds = p * (product.value - delta.value), terms = p * worth * (product.terms + delta.terms);
      dprior[i].add(ds, terms);
      for (int64_t j = 0; j < a.d; ++j) {
        const double g = a.grad_out[r * a.d + j], q = a.scale * a.q[r * a.d + j], x = a.scale * a.concepts[i * a.d + j];
        dq[r * a.d + j].add(ds * x, terms * std::abs(x));
        dconcepts[i * a.d + j].add(p * g + ds * q, worth * p * std::abs(g) + terms * std::abs(q));
      }
    }
  }
  for (int64_t i = 0; i < a.rows * a.d; ++i) expect_close("dq", i, found.dq[i], dq[i], a.type);
  for (int64_t i = 0; i < a.k * a.d; ++i) expect_close("dconcepts", i, found.dconcepts[i], dconcepts[i], Type::f32);
  for (int64_t i = 0; a.with_prior && i < a.k; ++i) expect_close("dprior", i, found.dprior[i], dprior[i], Type::f32);
}

}  // namespace

void knowledge_attention(Case& c) {
  Inputs a(c);
  std::optional<Results> first;
  for (int64_t parts : SPLITS) {
    Results again(c, a);
    Results& found = first ? again : first.emplace(c, a);
    forward(c, a, parts, found);
    if (a.k > 0) backward(c, a, parts, found);  // without concepts the driver writes zeros
    const auto expected = first->all(), got = found.all();
    for (size_t i = 0; i < got.size(); ++i) expect_same_bits(got[i].first, *got[i].second, *expected[i].second, parts);
  }
  const std::vector<Softmax> rows = a.softmax();
  check_forward(a, rows, *first);
  if (a.k > 0) check_backward(a, rows, *first);
  check_weigh(c, a, rows);
}

}  // namespace rmd::fuzz
