// graph_attention, forward and backward, against a softmax over the in-edges of each node; and the checks of
// indices against plain ones.
#include <rmd/csr.h>
#include <rmd/graph_attention.h>

#include "fuzz.h"

#include <optional>

namespace rmd::fuzz {
namespace {

using namespace rmd::graph_attention;

struct Graph {
  int64_t nodes, edges, heads;
  bool large;  // in a row of whole vectors, at an aligned address, a result is then written past the caches
  int64_t width, relations;
  Type type;
  bool wild;
  Array<int64_t> rowptr, col, relation, out_rowptr, out_target, out_edge;
  Array<float> bias;
  Values q, k, v, grad_out;
  graph_attention::Inputs in{};

  int64_t draw_width(Random& random) const {
    if (large) return 16 * random.between(1, 5);
    if (edges > SPLIT) return random.between(1, 9);
    return random.chance(0.2) ? 32 * random.between(1, 2) : random.between(1, 70);
  }

  explicit Graph(Case& c)
      : nodes(c.say("nodes", c.random.between(1, 40))),
        edges(c.say("edges", c.random.chance(0.9) ? c.random.between(0, 150) : SPLIT * c.random.between(1, 3) + 40)),
        heads(c.say("heads", c.random.between(1, 3))),
        large(c.say("large", c.random.chance(0.3))),
        width(c.say("width", draw_width(c.random))),
        relations(c.say("relations", c.random.chance(0.5) ? c.random.between(1, 3) : 0)),
        type(c.random.type()),
        wild(c.say("wild", c.random.chance(0.3))),
        rowptr(c.random, nodes + 1),
        col(c.random, edges),
        relation(c.random, edges),
        out_rowptr(c.random, nodes + 1),
        out_target(c.random, edges),
        out_edge(c.random, edges),
        bias(c.random, heads * relations),
        q(c.random, nodes * heads * width, type),
        k(c.random, nodes * heads * width, type),
        v(c.random, nodes * heads * width, type),
        grad_out(c.random, nodes * heads * width, type) {
    c.say("type", int(type));
    // Half of the edges come to one node, half go out from one, so that rows of all lengths are there.
    const int64_t sink = c.random.between(0, nodes - 1), source = c.random.between(0, nodes - 1);
    const double skew = c.random.chance(0.5) ? 0.98 : 0.3;
    std::vector<int64_t> from(edges), to(edges), order(edges), targets(edges);
    for (int64_t e = 0; e < edges; ++e) {
      from[e] = c.random.chance(skew) ? source : c.random.between(0, nodes - 1);
      to[e] = c.random.chance(skew) ? sink : c.random.between(0, nodes - 1);
      if (relations) relation[e] = c.random.between(0, relations - 1);
    }
    compress(to.data(), from.data(), edges, nodes, rowptr.begin(), col.begin(), order.data());
    for (int64_t node = 0; node < nodes; ++node) {
      std::fill(targets.begin() + rowptr[node], targets.begin() + rowptr[node + 1], node);
    }
    compress(col.begin(), targets.data(), edges, nodes, out_rowptr.begin(), out_target.begin(), out_edge.begin());
    check_pointers(rowptr.begin(), nodes, edges, "rowptr");
    check_pointers(out_rowptr.begin(), nodes, edges, "out_rowptr");
    for (int64_t i = 0; i < heads * relations; ++i) bias[i] = float(c.random.uniform(-3, 3));
    const int64_t size = heads * width;
    for (int64_t node = 0; node < nodes; ++node) {  // a node that no edge reaches, or none leaves, is not read there
      for (Values* x : {&q, &grad_out}) {
        if (rowptr[node] < rowptr[node + 1]) x->draw(c.random, node * size, size, wild && c.random.chance(0.1));
      }
      for (Values* x : {&k, &v}) {
        if (out_rowptr[node] < out_rowptr[node + 1]) x->draw(c.random, node * size, size, wild && c.random.chance(0.1));
      }
    }
    for (int64_t node = 0; node < nodes; ++node) {
      for (Values* x : {&q, &grad_out}) {
        if (rowptr[node] == rowptr[node + 1]) x->absent(c.random, node * size, size);
      }
      for (Values* x : {&k, &v}) {
        if (out_rowptr[node] == out_rowptr[node + 1]) x->absent(c.random, node * size, size);
      }
    }
    in.q = q.data, in.k = k.data, in.v = v.data;
    in.rowptr = rowptr.begin(), in.col = col.begin(), in.relation = relations ? relation.begin() : nullptr;
    in.out_rowptr = out_rowptr.begin(), in.out_target = out_target.begin(), in.out_edge = out_edge.begin();
    in.relation_bias = relations ? bias.begin() : nullptr;
    in.nodes = nodes, in.edges = edges, in.heads = heads, in.width = width, in.relations = relations;
    in.scale = float(c.random.uniform(0.1, 2) / std::sqrt(double(width))), in.type = type, in.large = large;
  }
};

struct Results {
  Values out, lse, dq, dk, dv, weights;
  Results(Case& c, const Graph& g)
      : out(c.random, g.nodes * g.heads * g.width, g.type),
        lse(c.random, g.nodes * g.heads, Type::f32),
        dq(c.random, g.nodes * g.heads * g.width, g.type),
        dk(c.random, g.nodes * g.heads * g.width, g.type),
        dv(c.random, g.nodes * g.heads * g.width, g.type),
        weights(c.random, 2 * g.edges * g.heads, Type::f32) {}
  std::vector<std::pair<const char*, Values*>> all() {
    return {{"out", &out}, {"lse", &lse}, {"dq", &dq}, {"dk", &dk}, {"dv", &dv}, {"weights", &weights}};
  }
};

template <class Pass>
void sweep(Case& c, const Graph& g, const Pass& pass, const int64_t* rowptr, int64_t parts) {
  Array<float> slots(c.random, slots_floats(g.in));
  split(c.random, g.nodes + g.edges, parts, [&](int64_t begin, int64_t end) {
    Array<float> scratch(c.random, scratch_floats(g.in));
    RMD_ON(c.isa, run(pass, begin, end, slots.begin(), scratch.begin()));
  });
  for (int64_t row : rows_longer_than(SPLIT, rowptr, g.nodes)) RMD_ON(c.isa, combine(pass, row, slots.begin()));
}

void run(Case& c, const Graph& g, int64_t parts, Results& found) {
  float *lse = reinterpret_cast<float*>(found.lse.data), *weights = reinterpret_cast<float*>(found.weights.data);
  sweep(c, g, Forward{g.in, found.out.data, lse}, g.in.rowptr, parts);
  const Backward backward{g.in, g.grad_out.data, found.out.data, lse, found.dq.data, found.dk.data, found.dv.data, nullptr};
  sweep(c, g, ByTarget{backward, weights}, g.in.rowptr, parts);
  sweep(c, g, BySource{backward, weights}, g.in.out_rowptr, parts);
}

void check(const Graph& g, const Results& found) {
  const int64_t size = g.nodes * g.heads * g.width;
  std::vector<Sum> out(size), dq(size), dk(size), dv(size);
  const auto product = [&](const Values& x, int64_t i, const Values& y, int64_t j, double scale) {
    Sum sum;
    for (int64_t d = 0; d < g.width; ++d) sum.add(scale * x[i + d] * y[j + d]);
    return sum;
  };
  for (int64_t node = 0; node < g.nodes; ++node) {
    for (int64_t h = 0; h < g.heads; ++h) {
      const int64_t first = g.in.rowptr[node], edges = g.in.rowptr[node + 1] - first, at = (node * g.heads + h) * g.width;
      std::vector<Sum> scores;
      const auto source = [&](int64_t e) { return (g.in.col[first + e] * g.heads + h) * g.width; };
      for (int64_t e = 0; e < edges; ++e) {
        scores.push_back(product(g.q, at, g.k, source(e), g.in.scale));
        if (g.relations) scores.back().add(g.in.relation_bias[h * g.relations + g.in.relation[first + e]]);
      }
      const Softmax softmax(scores);
      const double worth = softmax.worth;
      expect_close("lse", node * g.heads + h, found.lse[node * g.heads + h], {softmax.lse, worth}, Type::f32);
      if (edges == 0) continue;
      const Sum delta = product(g.grad_out, at, found.out, at, 1);
      for (int64_t e = 0; e < edges; ++e) {
        const double w = softmax.weight[e];
        const Sum slope = product(g.grad_out, at, g.v, source(e), 1);
        const double ds = w * (slope.value - delta.value), terms = w * worth * (slope.terms + delta.terms);
        const int64_t of_edge = 2 * (first + e) * g.heads + h;
        expect_close("weights", of_edge, found.weights[of_edge], {w, worth * w}, Type::f32);
        expect_close("dscores", of_edge + g.heads, found.weights[of_edge + g.heads], {ds, terms}, Type::f32);
        for (int64_t d = 0; d < g.width; ++d) {
          const int64_t i = source(e) + d;
          const double s = g.in.scale, grad = g.grad_out[at + d];
          out[at + d].add(w * g.v[i], worth * w * std::abs(g.v[i]));
          dq[at + d].add(s * ds * g.k[i], s * terms * std::abs(g.k[i]));
          dk[i].add(s * ds * g.q[at + d], s * terms * std::abs(g.q[at + d]));
          dv[i].add(w * grad, worth * w * std::abs(grad));
        }
      }
    }
  }
  for (int64_t i = 0; i < size; ++i) {
    expect_close("out", i, found.out[i], out[i], g.type);
    expect_close("dq", i, found.dq[i], dq[i], g.type);
    expect_close("dk", i, found.dk[i], dk[i], g.type);
    expect_close("dv", i, found.dv[i], dv[i], g.type);
  }
}

// Indices and pointers of any kind: refused if and only if they leave the range or fall.
void check_indices(Case& c) {
  const int64_t nodes = c.random.between(0, 4), edges = c.random.between(0, 6);
  Array<int64_t> pointers(c.random, nodes + 1), indices(c.random, edges);
  bool rising = true, inside = true;
  for (int64_t i = 0, at = 0; i <= nodes; ++i) {
    pointers[i] = i == 0 ? 0 : i == nodes ? edges : c.random.between(at, edges);
    if (c.random.chance(0.05)) pointers[i] = int64_t(c.random.bits());
    rising = rising && pointers[i] >= at && (i > 0 || pointers[i] == 0) && pointers[i] <= edges;
    at = std::clamp<int64_t>(pointers[i], 0, edges);
  }
  rising = rising && pointers[nodes] == edges;
  for (int64_t i = 0; i < edges; ++i) {
    indices[i] = c.random.chance(0.05) || nodes == 0 ? int64_t(c.random.bits()) : c.random.between(0, nodes - 1);
    inside = inside && indices[i] >= 0 && indices[i] < nodes;
  }
  const auto taken = [](const auto& check) {
    try {
      check();
    } catch (const std::invalid_argument&) {
      return false;
    }
    return true;
  };
  expect(taken([&] { check_pointers(pointers.begin(), nodes, edges, "rowptr"); }) == rising, "pointers: expected ", rising);
  expect(taken([&] { check_range(indices.begin(), edges, nodes, "col"); }) == inside, "indices: expected ", inside);
}

}  // namespace

void graph_attention(Case& c) {
  check_indices(c);
  const Graph g(c);
  std::optional<Results> first;
  for (int64_t parts : SPLITS) {
    Results again(c, g);
    Results& found = first ? again : first.emplace(c, g);
    run(c, g, parts, found);
    const auto expected = first->all(), got = found.all();
    for (size_t i = 0; i < got.size(); ++i) expect_same_bits(got[i].first, *got[i].second, *expected[i].second, parts);
  }
  check(g, *first);
}

}  // namespace rmd::fuzz
