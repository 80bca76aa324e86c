// Fuzzes the CPU kernels: drawn shapes, strides, alignments and absences, each result against a plain loop in
// double. Built with sanitizers (make fuzz), so that memory that is not the kernel's stops it.
//
//   fuzz [cases]          so many seeds of every op on every instruction set of this machine
//   fuzz <op> <seed>      one of them again
#include "fuzz.h"

#include <chrono>
#include <csignal>
#include <cstdio>

// Sanitizers end in abort(), so that the case can be named: the only way out that both of them have.
#define RMD_EXPORT extern "C" __attribute__((visibility("default")))
RMD_EXPORT const char* __asan_default_options() { return "abort_on_error=1"; }
RMD_EXPORT const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using namespace rmd;
using namespace rmd::fuzz;

struct Op {
  const char* name;
  void (*fuzz)(Case&);
};
constexpr Op OPS[] = {{"chain", chain},
                      {"ddpm", ddpm},
                      {"graph_attention", graph_attention},
                      {"knowledge_attention", knowledge_attention},
                      {"masked_attention", masked_attention}};

// What runs now, for the report of a sanitizer.
struct {
  const char* op;
  uint64_t seed;
  const Case* at;
} now;

void report() {
  if (now.at == nullptr) return;
  std::fprintf(stderr, "reproduce: fuzz %s %llu\n%s:%s\n", now.op, (unsigned long long)now.seed, name(now.at->isa),
               now.at->text.c_str());
}

bool passes(const Op& op, Isa isa, uint64_t seed) {
  Case one{Random(seed), isa, ""};
  now = {op.name, seed, &one};
  bool passed = true;
  try {
    op.fuzz(one);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    report();
    passed = false;
  }
  now.at = nullptr;
  return passed;
}

int usage() {
  std::fprintf(stderr, "usage: fuzz [cases] | fuzz <op> <seed>, where op is one of");
  for (const Op& op : OPS) std::fprintf(stderr, " %s", op.name);
  std::fprintf(stderr, "\n");
  return 2;
}

}  // namespace

int main(int count, char** words) {
  std::signal(SIGABRT, [](int) { report(); });
  const Isa best = best_isa();
  const std::string asked = count == 3 ? words[1] : "";
  char* end = nullptr;
  const uint64_t number = count > 1 ? std::strtoull(words[count - 1], &end, 10) : 400;
  bool known = asked.empty();
  for (const Op& op : OPS) known = known || asked == op.name;
  if (count > 3 || !known || (end && *end)) return usage();
  for (const Op& op : OPS) {
    if (!asked.empty() && asked != op.name) continue;
    for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
      if (isa > best) {
        std::printf("%-20s %-7s not on this machine\n", op.name, name(isa));
        continue;
      }
      const auto start = std::chrono::steady_clock::now();
      const uint64_t first = asked.empty() ? 0 : number, last = asked.empty() ? number : number + 1;
      for (uint64_t seed = first; seed < last; ++seed) {
        if (!passes(op, isa, seed)) return 1;
      }
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::printf("%-20s %-7s %5llu cases %6.1f s\n", op.name, name(isa), (unsigned long long)(last - first),
                  seconds.count());
      std::fflush(stdout);
    }
  }
}
