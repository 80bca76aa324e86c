// masked_attention on the CPU, forward and backward: W queries to a vector, keys broadcast one number
// at a time, so that every query is a lane and softmax never looks across lanes. Scores are kept in
// units of ln 2. Compiled once per instruction set.
#include "backward.h"
#include "forward.h"

namespace rmd::masked_attention::RMD_ISA {
namespace {

template <class AnyCall>
void run_type(const AnyCall& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  if (call.type == Type::f32) return run_as<float>(call, item, next, done, scratch);
  if (call.type == Type::bf16) return run_as<bf16>(call, item, next, done, scratch);
  run_as<f16>(call, item, next, done, scratch);
}

}  // namespace

int64_t scratch(const Forward& call) {
  Memory memory{nullptr};
  ForwardMemory(memory, call);
  return memory.used;
}

int64_t scratch(const Backward& call) {
  Memory memory{nullptr};
  BackwardMemory(memory, call);
  return memory.used;
}

void run(const Forward& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  run_type(call, item, next, done, scratch);
}
void run(const Backward& call, const Item& item, const Item* next, int64_t done, float* scratch) {
  run_type(call, item, next, done, scratch);
}

void add_parts(const Backward& call, const Item& item) {
  if (call.type == Type::f32) return add_parts_as<float>(call, item);
  if (call.type == Type::bf16) return add_parts_as<bf16>(call, item);
  add_parts_as<f16>(call, item);
}

}  // namespace rmd::masked_attention::RMD_ISA
