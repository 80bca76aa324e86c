// Segments: which rows of a flat token axis hold modality i of patient b. Knows no torch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace rmd {

// One side of a batch, its rows listed patient by patient and modality by modality.
struct Rows {
  std::vector<int64_t> row;
  std::vector<int32_t> modality;  // of each listed row
  std::vector<int64_t> first;     // [B * M + 1]: where modality i of patient b begins in the list, at b * M + i
  std::vector<int64_t> gaps;      // begin and end of each stretch of rows in no segment
};

[[noreturn]] inline void refuse(const std::string& name, const int32_t* segments, int64_t M, int64_t at, int64_t other,
                                int64_t rows) {
  const auto place = [&](int64_t i) {
    return name + "[" + std::to_string(i / M) + ", " + std::to_string(i % M) + "]";
  };
  const auto value = [&](int64_t i) {
    return "(start " + std::to_string(segments[2 * i]) + ", length " + std::to_string(segments[2 * i + 1]) + ")";
  };
  if (other < 0) {
    throw std::invalid_argument("masked_attention: " + place(at) + " is " + value(at) +
                                ", expected length >= 0 and a segment within the " + std::to_string(rows) +
                                " rows of the flat axis");
  }
  throw std::invalid_argument("masked_attention: " + place(at) + " = " + value(at) + " and " + place(other) + " = " +
                              value(other) + " overlap, expected segments that share no row");
}

// segments [B, M, 2], (start, length) on an axis of `rows` rows; the start of an empty one is not looked at.
// Throws std::invalid_argument, before anything else is touched, unless each lies on the axis and no
// two share a row.
inline Rows list_rows(const char* name, const int32_t* segments, int64_t B, int64_t M, int64_t rows) {
  Rows found;
  std::vector<int64_t> order;
  found.first.reserve(B * M + 1);
  found.first.push_back(0);
  order.reserve(B * M);
  for (int64_t i = 0; i < B * M; ++i) {
    const int64_t start = segments[2 * i], length = segments[2 * i + 1];
    if (length < 0 || (length > 0 && (start < 0 || start + length > rows))) refuse(name, segments, M, i, -1, rows);
    found.first.push_back(found.first.back() + length);
    if (length > 0) order.push_back(i);
  }
  const auto start = [&](int64_t i) { return int64_t(segments[2 * i]); };
  std::sort(order.begin(), order.end(),
            [&](int64_t i, int64_t j) { return start(i) != start(j) ? start(i) < start(j) : i < j; });
  int64_t end = 0;
  for (size_t n = 0; n < order.size(); ++n) {
    if (start(order[n]) < end) refuse(name, segments, M, order[n - 1], order[n], rows);
    if (start(order[n]) > end) found.gaps.insert(found.gaps.end(), {end, start(order[n])});
    end = start(order[n]) + segments[2 * order[n] + 1];
  }
  if (end < rows) found.gaps.insert(found.gaps.end(), {end, rows});

  found.row.resize(found.first.back());
  found.modality.resize(found.first.back());
  for (int64_t i = 0; i < B * M; ++i) {
    for (int64_t n = found.first[i]; n < found.first[i + 1]; ++n) {
      found.row[n] = start(i) + n - found.first[i];
      found.modality[n] = int32_t(i % M);
    }
  }
  return found;
}

}  // namespace rmd
