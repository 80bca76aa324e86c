// A batch of masked attention cut into items. Not for the kernels: it needs the standard library.
#pragma once
#include <rmd/masked_attention.h>

#include <algorithm>
#include <vector>

namespace rmd::masked_attention {

struct Items {
  std::vector<Item> items;
  int64_t partial = 0;    // floats that the parts' dk and dv take
  int64_t most_keys = 0;  // of any patient
};

// parts_of(queries): how many parts a patient with so many rows of queries for a head of keys is cut into.
template <class PartsOf>
Items cut(const Call& call, int64_t patients, const PartsOf& parts_of) {
  Items found;
  found.items.reserve(patients * call.Hkv);
  for (int64_t b = 0; b < patients; ++b) {
    const int64_t queries = queries_of(call, b) * group_of(call), keys = keys_of(call, b);
    if (queries + keys == 0) continue;
    found.most_keys = std::max(found.most_keys, keys);
    const int64_t parts = parts_of(queries);
    for (int64_t head = 0; head < call.Hkv; ++head) {
      for (int64_t part = 0; part < parts; ++part) {
        found.items.push_back({b, head, part, parts, int64_t(found.items.size()), found.partial});
      }
      if (parts > 1) found.partial += 2 * parts * keys * padded(call.D);
    }
  }
  return found;
}

}  // namespace rmd::masked_attention
