// masked_attention, forward and backward, against a softmax over the keys that each query sees; and the check of
// segments against one that marks rows.
#include <rmd/masked_items.h>
#include <rmd/segments.h>

#include "fuzz.h"

#include <optional>

namespace rmd::fuzz {
namespace {

using namespace rmd::masked_attention;

// Where [tokens, heads, D] lies: tokens or heads outermost, with room behind each row that nobody may touch.
struct Layout {
  int64_t tokens, heads, D, room, row, head;

  Layout(Case& c, int64_t tokens, int64_t heads, int64_t D)
      : tokens(tokens), heads(heads), D(D), room(c.random.chance(0.5) ? c.random.between(0, 9) : 0) {
    const bool by_token = c.random.chance(0.5);
    head = by_token ? D + room : tokens * (D + room);
    row = by_token ? heads * (D + room) : D + room;
  }
  int64_t size() const { return tokens * heads * (D + room) - (tokens > 0 ? room : 0); }
  int64_t at(int64_t token, int64_t h) const { return token * row + h * head; }
  int64_t room_at(int64_t token, int64_t h) const { return at(token, h) + D < size() ? room : 0; }
};

struct Placed : Layout, Values {
  Placed(Case& c, const Layout& layout, Type type) : Layout(layout), Values(c.random, layout.size(), type) {}
  Tokens tokens_of() { return {data, row, head}; }
  // An input: the rows that are read, and nothing else.
  void draw_rows(Case& c, const std::vector<bool>& read, bool wild) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        if (read[t * heads + h]) draw(c.random, at(t, h), D, wild && c.random.chance(0.1));
      }
    }
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        if (!read[t * heads + h]) absent(c.random, at(t, h), D);
        absent(c.random, at(t, h) + D, room_at(t, h));
      }
    }
  }
  // An output: what is not a listed row is as it was.
  void expect_untouched(const char* name, const std::vector<bool>& listed) const {
    const auto untouched = [&](int64_t first, int64_t count) {
      const int64_t size = type == Type::f32 ? 4 : 2;
      for (int64_t i = first * size; i < (first + count) * size; ++i) {
        expect(uint8_t(data[i]) == 0xff, name, " is written at element ", i / size, ", which is in no row");
      }
    };
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        if (!listed[t * heads + h]) untouched(at(t, h), D);
        untouched(at(t, h) + D, room_at(t, h));
      }
    }
  }
};

// [B, M, 2]: segments of drawn lengths in a drawn order, here and there a gap.
std::vector<int32_t> draw_segments(Case& c, int64_t B, int64_t M, int64_t longest, int64_t& tokens) {
  std::vector<int32_t> segments(2 * B * M);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < B * M; ++i) order.insert(order.begin() + c.random.between(0, i), i);
  tokens = 0;
  for (int64_t i : order) {
    const int64_t length = c.random.chance(0.6) ? c.random.between(1, longest) : 0;
    if (c.random.chance(0.3)) tokens += c.random.between(1, 3);
    segments[2 * i] = length ? int32_t(tokens) : int32_t(c.random.bits());  // that of an empty one is not looked at
    segments[2 * i + 1] = int32_t(length);
    tokens += length;
  }
  if (c.random.chance(0.3)) tokens += c.random.between(1, 3);
  return segments;
}

std::vector<bool> listed_rows(const Rows& rows, int64_t tokens, int64_t heads) {
  std::vector<bool> listed(tokens * heads);
  for (int64_t row : rows.row) std::fill_n(listed.begin() + row * heads, heads, true);
  return listed;
}

struct Inputs {
  int64_t B, Mq, M, Hkv, group, H, D, Tq = 0, Tk = 0;
  bool exclude_own, wild, with_affinity;
  Type type;
  Rows q_rows, k_rows;
  std::vector<bool> q_listed, k_listed, seeing;  // [tokens * heads]; seeing: of queries, those that see a key
  Array<float> affinity;
  std::optional<Placed> q, k, v, grad_out;
  std::optional<Layout> out, dk;
  Call call{};

  explicit Inputs(Case& c)
      : B(c.say("B", c.random.between(0, 3))),
        Mq(c.say("Mq", c.random.between(1, 3))),
        M(c.say("M", c.random.chance(0.5) ? Mq : c.random.between(1, 3))),
        Hkv(c.say("Hkv", c.random.between(1, 2))),
        group(c.say("group", c.random.between(1, 3))),
        H(Hkv * group),
        D(c.say("D", c.random.chance(0.8) ? c.random.between(1, 40) : c.random.between(60, 130))),
        exclude_own(c.say("exclude_own", M == Mq && c.random.chance(0.5))),
        wild(c.say("wild", c.random.chance(0.3))),
        with_affinity(c.say("affinity", c.random.chance(0.5))),
        type(c.random.type()),
        affinity(c.random, H * Mq * M) {
    c.say("type", int(type));
    const int64_t longest = D > 40 || c.random.chance(0.7) ? 9 : 70;
    const std::vector<int32_t> of_q = draw_segments(c, B, Mq, longest, Tq), of_k = draw_segments(c, B, M, longest, Tk);
    q_rows = list_rows("q_segments", of_q.data(), B, Mq, c.say("Tq", Tq));
    k_rows = list_rows("k_segments", of_k.data(), B, M, c.say("Tk", Tk));
    call.type = type, call.H = H, call.Hkv = Hkv, call.D = D, call.Mq = Mq, call.M = M;
    call.scale = float(c.random.uniform(0.1, 2) / std::sqrt(double(D)));
    call.exclude_own = exclude_own;
    call.q_rows = {q_rows.row.data(), q_rows.modality.data(), q_rows.first.data()};
    call.k_rows = {k_rows.row.data(), k_rows.modality.data(), k_rows.first.data()};
    for (int64_t i = 0; i < H * Mq * M; ++i) affinity[i] = float(c.random.uniform(-3, 3));
    call.affinity = with_affinity ? affinity.begin() : nullptr;

    q_listed = listed_rows(q_rows, Tq, H), k_listed = listed_rows(k_rows, Tk, Hkv);
    seeing.resize(Tq * H);
    each_query([&](int64_t row, int64_t h, int64_t, int64_t, const std::vector<int64_t>& keys) {
      seeing[row * H + h] = !keys.empty();
    });
    q.emplace(c, Layout(c, Tq, H, D), type), grad_out.emplace(c, Layout(c, Tq, H, D), type);
    k.emplace(c, Layout(c, Tk, Hkv, D), type), v.emplace(c, Layout(c, Tk, Hkv, D), type);
    q->draw_rows(c, q_listed, wild), k->draw_rows(c, k_listed, wild), v->draw_rows(c, k_listed, wild);
    grad_out->draw_rows(c, seeing, wild);
    call.q = q->tokens_of(), call.k = k->tokens_of(), call.v = v->tokens_of();
    out.emplace(c, Tq, H, D), dk.emplace(c, Tk, Hkv, D);
  }

  // visit(row, head, patient, modality, the places of its keys in k_rows)
  template <class Visit>
  void each_query(const Visit& visit) const {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t at = q_rows.first[b * Mq]; at < q_rows.first[(b + 1) * Mq]; ++at) {
        std::vector<int64_t> keys;
        for (int64_t key = k_rows.first[b * M]; key < k_rows.first[(b + 1) * M]; ++key) {
          if (!exclude_own || k_rows.modality[key] != q_rows.modality[at]) keys.push_back(key);
        }
        for (int64_t h = 0; h < H; ++h) visit(q_rows.row[at], h, b, q_rows.modality[at], keys);
      }
    }
  }
};

struct Results {
  Placed out, dq, dk, dv;
  Values lse, daffinity;
  Results(Case& c, const Inputs& a, int64_t items)
      : out(c, *a.out, a.type),
        dq(c, *a.out, a.type),
        dk(c, *a.dk, a.type),
        dv(c, *a.dk, a.type),
        lse(c.random, a.Tq * a.H, Type::f32),
        daffinity(c.random, a.with_affinity ? items * a.group * a.Mq * a.M : 0, Type::f32) {}
  std::vector<std::pair<const char*, Values*>> all() {
    return {{"out", &out}, {"lse", &lse}, {"dq", &dq}, {"dk", &dk}, {"dv", &dv}, {"daffinity", &daffinity}};
  }
};

template <class AnyCall>
void run_items(Case& c, const AnyCall& call, const std::vector<Item>& items, int64_t parts) {
  const int64_t floats = RMD_ON(c.isa, scratch(call));
  split(c.random, int64_t(items.size()), parts, [&](int64_t begin, int64_t end) {
    Array<float> scratch(c.random, floats);
    for (int64_t i = begin; i < end; ++i) {
      const Item* next = i + 1 < end ? &items[i + 1] : nullptr;
      RMD_ON(c.isa, run(call, items[i], next, i - begin, scratch.begin()));
    }
  });
}

void run(Case& c, Inputs& a, const std::vector<Item>& items, int64_t partial, int64_t parts, Results& found) {
  Forward forward{a.call, found.out.tokens_of(), reinterpret_cast<float*>(found.lse.data)};
  run_items(c, forward, items, parts);
  Array<float> partials(c.random, partial);
  Backward backward{a.call, a.grad_out->tokens_of(), forward.out, forward.lse, found.dq.tokens_of(),
                    found.dk.tokens_of(), found.dv.tokens_of(),
                    a.with_affinity ? reinterpret_cast<float*>(found.daffinity.data) : nullptr, partials.begin()};
  run_items(c, backward, items, parts);
  for (const Item& item : items) {
    if (item.parts > 1 && item.part == 0) RMD_ON(c.isa, add_parts(backward, item));
  }
}

void check(const Inputs& a, const std::vector<Item>& items, const Results& found) {
  std::vector<Sum> dk(a.Tk * a.Hkv * a.D), dv(dk), daffinity(a.H * a.Mq * a.M);
  const auto product = [&](const Placed& x, int64_t i, const Placed& y, int64_t j, double scale) {
    Sum sum;
    for (int64_t d = 0; d < a.D; ++d) sum.add(scale * x[i + d] * y[j + d]);
    return sum;
  };
  a.each_query([&](int64_t row, int64_t h, int64_t, int64_t modality, const std::vector<int64_t>& keys) {
    const int64_t of_q = a.q->at(row, h), of_out = found.out.at(row, h), kv = h / a.group;
    std::vector<Sum> out(a.D), dq(a.D), scores;
    for (int64_t key : keys) {
      scores.push_back(product(*a.q, of_q, *a.k, a.k->at(a.k_rows.row[key], kv), a.call.scale));
      if (a.with_affinity) scores.back().add(a.call.affinity[(h * a.Mq + modality) * a.M + a.k_rows.modality[key]]);
    }
    const Softmax softmax(scores);
    const double worth = softmax.worth;
    for (size_t i = 0; i < keys.size(); ++i) {
      const int64_t of_v = a.v->at(a.k_rows.row[keys[i]], kv);
      for (int64_t d = 0; d < a.D; ++d) {
        const double x = softmax.weight[i] * (*a.v)[of_v + d];
        out[d].add(x, worth * std::abs(x));
      }
    }
    expect_close("lse", row * a.H + h, found.lse[row * a.H + h], {softmax.lse, worth}, Type::f32);
    for (int64_t d = 0; d < a.D; ++d) expect_close("out", of_out + d, found.out[of_out + d], out[d], a.type);
    if (!keys.empty()) {
      const int64_t of_g = a.grad_out->at(row, h);
      const Sum delta = product(*a.grad_out, of_g, found.out, of_out, 1);
      for (size_t i = 0; i < keys.size(); ++i) {
        const int64_t key = a.k_rows.row[keys[i]], of_k = a.k->at(key, kv), of_v = a.v->at(key, kv);
        const Sum slope = product(*a.grad_out, of_g, *a.v, of_v, 1);
        const double p = softmax.weight[i], ds = p * (slope.value - delta.value);
        const double terms = p * worth * (slope.terms + delta.terms);
        daffinity[(h * a.Mq + modality) * a.M + a.k_rows.modality[keys[i]]].add(ds, terms);
        for (int64_t d = 0; d < a.D; ++d) {
          const double g = (*a.grad_out)[of_g + d], s = a.call.scale;
          const int64_t at = (key * a.Hkv + kv) * a.D + d;
          dq[d].add(s * ds * (*a.k)[of_k + d], s * terms * std::abs((*a.k)[of_k + d]));
          dk[at].add(s * ds * (*a.q)[of_q + d], s * terms * std::abs((*a.q)[of_q + d]));
          dv[at].add(p * g, worth * p * std::abs(g));
        }
      }
    }
    for (int64_t d = 0; d < a.D; ++d) expect_close("dq", of_out + d, found.dq[of_out + d], dq[d], a.type);
  });
  for (int64_t i = 0; i < a.Tk * a.Hkv * a.D; ++i) {
    const int64_t row = i / a.D / a.Hkv, h = i / a.D % a.Hkv, at = found.dk.at(row, h) + i % a.D;
    if (!a.k_listed[row * a.Hkv + h]) continue;
    expect_close("dk", at, found.dk[at], dk[i], a.type);
    expect_close("dv", at, found.dv[at], dv[i], a.type);
  }
  for (int64_t i = 0; a.with_affinity && i < a.H * a.Mq * a.M; ++i) {
    const int64_t size = a.group * a.Mq * a.M;
    double sum = 0;
    for (const Item& item : items) {
      if (item.kv_head == i / size) sum += found.daffinity[item.number * size + i % size];
    }
    expect_close("daffinity", i, sum, daffinity[i], Type::f32);
  }
}

// Segments of any kind: refused if and only if one is not on the axis or two share a row.
void check_segments(Case& c) {
  const int64_t B = c.random.between(0, 3), M = c.random.between(1, 3), rows = c.random.between(0, 12);
  Array<int32_t> segments(c.random, 2 * B * M);
  const auto any = [&](int64_t low, int64_t high) {
    return c.random.chance(0.02) ? int32_t(c.random.bits()) : int32_t(c.random.between(low, high));
  };
  bool good = true;
  std::vector<int> marks(rows);
  for (int64_t i = 0; i < B * M; ++i) {
    const int64_t start = segments[2 * i] = any(-1, rows);
    const int64_t length = segments[2 * i + 1] = any(c.random.chance(0.1) ? -1 : 0, 3);
    good = good && length >= 0 && (length == 0 || (start >= 0 && start + length <= rows));
    for (int64_t row = start; good && row < start + length; ++row) good = ++marks[row] == 1;
  }
  bool taken = true;
  try {
    list_rows("segments", segments.begin(), B, M, rows);
  } catch (const std::invalid_argument& error) {
    taken = false;
    expect(std::string(error.what()).find("segments[") != std::string::npos, "no place in: ", error.what());
  }
  expect(taken == good, "segments are ", taken ? "taken" : "refused", ", expected the contrary");
}

}  // namespace

void masked_attention(Case& c) {
  check_segments(c);
  Inputs a(c);
  const Items cut_up = cut(a.call, a.B, [&](int64_t) { return c.say("parts", c.random.between(1, 3)); });
  const std::vector<Item>& items = cut_up.items;
  a.call.most_keys = cut_up.most_keys;
  std::optional<Results> first;
  for (int64_t parts : SPLITS) {
    Results again(c, a, int64_t(items.size()));
    Results& found = first ? again : first.emplace(c, a, int64_t(items.size()));
    run(c, a, items, cut_up.partial, parts, found);
    const auto expected = first->all(), got = found.all();
    for (size_t i = 0; i < got.size(); ++i) expect_same_bits(got[i].first, *got[i].second, *expected[i].second, parts);
  }
  first->out.expect_untouched("out", a.q_listed), first->dq.expect_untouched("dq", a.q_listed);
  first->dk.expect_untouched("dk", a.k_listed), first->dv.expect_untouched("dv", a.k_listed);
  check(a, items, *first);
}

}  // namespace rmd::fuzz
