// Compressed rows from a list of edges. Knows neither torch nor Python.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace rmd {

inline void check_range(const int64_t* index, int64_t count, int64_t end, const char* name,
                        const char* end_name = "num_nodes") {
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] >= 0 && index[i] < end) continue;
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(index[i]) +
                                ", expected 0 to " + std::to_string(end - 1) + " (" + end_name + " is " +
                                std::to_string(end) + ")");
  }
}

// Pointers [nodes + 1] into the edges: from 0 to `edges`, never falling.
inline void check_pointers(const int64_t* pointers, int64_t nodes, int64_t edges, const char* name) {
  for (int64_t i = 0; i <= nodes; ++i) {
    const int64_t low = i == 0 ? 0 : pointers[i - 1], high = i == 0 ? 0 : edges;
    if (pointers[i] >= low && pointers[i] <= high && (i < nodes || pointers[i] == edges)) continue;
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(pointers[i]) +
                                ", expected " + std::to_string(i == nodes ? edges : low) +
                                (i == nodes || low == high ? "" : " to " + std::to_string(high)));
  }
}

inline std::vector<int64_t> rows_longer_than(int64_t edges, const int64_t* pointers, int64_t nodes) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < nodes; ++row) {
    if (pointers[row + 1] - pointers[row] > edges) rows.push_back(row);
  }
  return rows;
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
