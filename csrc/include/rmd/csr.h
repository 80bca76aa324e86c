// Compressed rows from a list of edges. Knows neither torch nor Python.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace rmd {

inline void check_range(const int64_t* node, int64_t edges, int64_t nodes, const char* name) {
  for (int64_t e = 0; e < edges; ++e) {
    if (node[e] >= 0 && node[e] < nodes) continue;
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(e) + "] is " + std::to_string(node[e]) +
                                ", expected 0 to " + std::to_string(nodes - 1) + " (num_nodes is " +
                                std::to_string(nodes) + ")");
  }
}

// A counting sort of the edges by `group`: stable, O(nodes + edges).
inline void compress(const int64_t* group, const int64_t* other, int64_t edges, int64_t nodes,
                     int64_t* pointers,  // [nodes + 1]
                     int64_t* ends,      // [edges]
                     int64_t* order) {   // [edges]
  for (int64_t n = 0; n <= nodes; ++n) pointers[n] = 0;
  for (int64_t e = 0; e < edges; ++e) ++pointers[group[e] + 1];
  for (int64_t n = 0; n < nodes; ++n) pointers[n + 1] += pointers[n];
  for (int64_t e = 0; e < edges; ++e) {
    const int64_t place = pointers[group[e]]++;  // each pointer walks to the next one's start ...
    ends[place] = other[e];
    order[place] = e;
  }
  for (int64_t n = nodes; n > 0; --n) pointers[n] = pointers[n - 1];  // ... and is put back
  pointers[0] = 0;
}

}  // namespace rmd
