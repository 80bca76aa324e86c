// One patient's diagnosis in a process that has libtorch, and neither Python nor robustmdiff.
//
//     diagnose exported/model.pt2 patient.pt
//
// model.pt2   what `robustmdiff export RUN --out exported --to aoti` wrote
// patient.pt  the inputs of the graph by name, as torch.save writes a dict of tensors (docs/deploy.md)

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

c10::impl::GenericDict tensors_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    return torch::jit::pickle_load(bytes).toGenericDict();
}

// The package says in which order it takes its inputs, and what its outputs and the classes are called.
std::vector<std::string> lines_of(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> found;
    for (std::string line; std::getline(stream, line);) found.push_back(line);
    return found;
}

void diagnose(const std::string& model, const std::string& patient) {
    torch::inductor::AOTIModelPackageLoader loader(model);
    auto said = loader.get_metadata();
    const auto given = tensors_of(patient);
    std::vector<at::Tensor> inputs;
    for (const auto& name : lines_of(said.at("inputs"))) inputs.push_back(given.at(name).toTensor().contiguous());

    const auto outputs = loader.run(inputs);
    const auto classes = lines_of(said.at("classes"));
    const at::Tensor probability = outputs.at(0), in_set = outputs.at(1);  // as docs/deploy.md lists them
    for (size_t c = 0; c < classes.size(); ++c) {
        const bool possible = in_set[0][c].item<bool>();
        std::printf("%.6f %s %s\n", probability[0][c].item<float>(), possible ? "+" : "-", classes[c].c_str());
    }
}

}  // namespace

int main(int count, char** arguments) try {
    if (count != 3) throw std::runtime_error("expected two arguments: model.pt2 patient.pt");
    diagnose(arguments[1], arguments[2]);
} catch (const c10::Error& error) {  // whose what() is a page
    std::fprintf(stderr, "%s\n", error.what_without_backtrace());
    return 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
