// Attention of each patient's queries to the patient's own keys, as plain pointers. Knows no torch.
// The formulas are in docs/ops/masked_attention.md.
#pragma once
#include <rmd/half.h>

#include <cstdint>

namespace rmd::masked_attention {

// The log-sum-exp of a row that saw nothing: finite, so that no infinities are ever subtracted.
constexpr float NOTHING = -1e30f;

// [tokens, heads, D] of the call's type, D contiguous; strides in elements.
struct Tokens {
  void* data;
  int64_t row, head;
};

// The rows of one side, patient by patient and modality by modality (rmd/segments.h).
struct Listed {
  const int64_t* row;
  const int32_t* modality;  // of each listed row
  const int64_t* first;     // [B * modalities + 1]
};

struct Call {
  Type type;
  Tokens q, k, v;         // [Tq, H, D], [Tk, Hkv, D]
  const float* affinity;  // [H, Mq, M], or null
  float scale;
  bool exclude_own;
  int64_t H, Hkv, D, Mq, M;
  Listed q_rows, k_rows;
  int64_t most_keys;  // of any patient
};

struct Forward : Call {
  Tokens out;  // [Tq, H, D]
  float* lse;  // [Tq, H]
};

struct Backward : Call {
  Tokens grad_out, out;  // [Tq, H, D]
  const float* lse;      // [Tq, H]
  Tokens dq, dk, dv;
  float* daffinity;  // [items, group, Mq, M], each item its own; null without affinity
  float* partial;    // where patients cut into parts keep the parts' dk and dv, each [keys, padded D]
};

// One part of the query blocks of one patient and one head of keys. Nothing that an item computes
// depends on another item; how a patient is cut depends on that patient alone.
struct Item {
  int64_t patient, kv_head, part, parts;
  int64_t number;   // place in daffinity
  int64_t partial;  // offset of its dk and dv in `partial`, those of the parts one after another
};

RMD_INLINE int64_t padded(int64_t D) { return (D + 15) / 16 * 16; }
RMD_INLINE int64_t group_of(const Call& call) { return call.H / call.Hkv; }
RMD_INLINE int64_t queries_of(const Call& call, int64_t patient) {
  return call.q_rows.first[(patient + 1) * call.Mq] - call.q_rows.first[patient * call.Mq];
}
RMD_INLINE int64_t keys_of(const Call& call, int64_t patient) {
  return call.k_rows.first[(patient + 1) * call.M] - call.k_rows.first[patient * call.M];
}

// scratch: the floats that an item works in. run: the item after `done` others in the same scratch; it
// also copies the keys of `next` (or null), which runs there after it. add_parts: the sum of a
// patient's parts, in order, to dk and dv.
#define RMD_DECLARE(isa)                                                                  \
  namespace isa {                                                                         \
  int64_t scratch(const Forward&);                                                        \
  int64_t scratch(const Backward&);                                                       \
  void run(const Forward&, const Item&, const Item* next, int64_t done, float* scratch);  \
  void run(const Backward&, const Item&, const Item* next, int64_t done, float* scratch); \
  void add_parts(const Backward&, const Item&);                                           \
  }
RMD_DECLARE(scalar)
RMD_DECLARE(avx2)
RMD_DECLARE(avx512)
#undef RMD_DECLARE

}  // namespace rmd::masked_attention
