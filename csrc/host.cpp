// robustmdiff._host: work on the host over numpy buffers; never a tensor on a hot path.
#include <rmd/csr.h>
#include <rmd/isa.h>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;
using Ints = py::array_t<int64_t, py::array::c_style>;

namespace {

// Edges sorted by `group` (stable): pointers [nodes + 1], the other end of each edge, and where each
// edge stood in the list.
py::tuple compressed(const Ints& group, const char* group_name, const Ints& other, const char* other_name,
                     int64_t nodes) {
  if (group.ndim() != 1 || other.ndim() != 1 || group.size() != other.size()) {
    throw py::value_error(std::string(group_name) + " and " + other_name + " have " + std::to_string(group.size()) +
                          " and " + std::to_string(other.size()) + " entries, expected two lists of equal length");
  }
  if (nodes < 0) throw py::value_error("num_nodes is " + std::to_string(nodes) + ", expected 0 or more");
  const int64_t edges = group.size();
  rmd::check_range(group.data(), edges, nodes, group_name);
  rmd::check_range(other.data(), edges, nodes, other_name);
  Ints pointers(nodes + 1), ends(edges), order(edges);
  rmd::compress(group.data(), other.data(), edges, nodes, pointers.mutable_data(), ends.mutable_data(),
                order.mutable_data());
  return py::make_tuple(pointers, ends, order);
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Host-side work over numpy buffers.";
  m.def(
      "csr",
      [](const Ints& source, const Ints& target, int64_t num_nodes) {
        return compressed(target, "target", source, "source", num_nodes);
      },
      py::arg("source").noconvert(), py::arg("target").noconvert(), py::arg("num_nodes"),
      "In-edges of every node: (rowptr int64[n + 1], col int64[E] the sources, order int64[E] each edge's place in\n"
      "the list). Edges of one node keep the order of the list. ValueError names an edge out of range.");
  m.def(
      "csc",
      [](const Ints& source, const Ints& target, int64_t num_nodes) {
        return compressed(source, "source", target, "target", num_nodes);
      },
      py::arg("source").noconvert(), py::arg("target").noconvert(), py::arg("num_nodes"),
      "Out-edges of every node: (colptr int64[n + 1], row int64[E] the targets, order int64[E]).");
  m.def("cpu_isa", [] { return rmd::name(rmd::isa()); }, "Instruction set the CPU kernels use: avx512, avx2 or scalar.");
}
