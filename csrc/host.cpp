// robustmdiff._host: work on the host over numpy buffers; never a tensor on a hot path.
#include <rmd/csr.h>
#include <rmd/isa.h>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;
using Ints = py::array_t<int64_t, py::array::c_style>;

namespace {

// In-edges of every node: pointers [nodes + 1], the source of each edge, and where it stood in the list.
py::tuple csr(const Ints& source, const Ints& target, int64_t nodes) {
  if (source.ndim() != 1 || target.ndim() != 1 || source.size() != target.size()) {
    throw py::value_error("source and target have " + std::to_string(source.size()) + " and " +
                          std::to_string(target.size()) + " entries, expected two lists of equal length");
  }
  if (nodes < 0) throw py::value_error("num_nodes is " + std::to_string(nodes) + ", expected 0 or more");
  const int64_t edges = target.size();
  rmd::check_range(target.data(), edges, nodes, "target");
  rmd::check_range(source.data(), edges, nodes, "source");
  Ints pointers(nodes + 1), sources(edges), order(edges);
  rmd::compress(target.data(), source.data(), edges, nodes, pointers.mutable_data(), sources.mutable_data(),
                order.mutable_data());
  return py::make_tuple(pointers, sources, order);
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Host-side work over numpy buffers.";
  m.def("csr", csr, py::arg("source").noconvert(), py::arg("target").noconvert(), py::arg("num_nodes"),
        "In-edges of every node: (rowptr int64[n + 1], col int64[E] the sources, order int64[E] each edge's place in\n"
        "the list). Edges of one node keep the order of the list. ValueError names an edge out of range.");
  m.def("cpu_isa", [] { return rmd::name(rmd::isa()); }, "Instruction set the CPU kernels use: avx512, avx2 or scalar.");
}
