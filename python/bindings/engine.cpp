// Engines as Python sees them: what the C++ parser accepts, and the facts of the plan.
#include "engine/engine.h"

#include <nanobind/stl/string.h>

#include "bindings.h"

namespace nb = nanobind;

namespace specrt::bindings {

void init_engine(nb::module_& module) {
  module.def(
      "inspect_engine",
      [](const std::string& path) {
        const auto engine = Engine::open(path);
        const Plan& plan = engine->plan();
        nb::dict facts;
        facts["file_bytes"] = engine->file_bytes();
        facts["ops"] = plan.ops.size();
        facts["vocab"] = plan.header.vocab;
        facts["context"] = plan.header.context;
        facts["step_weight_bytes"] = step_weight_bytes(plan);
        facts["kv_bytes"] = kv_bytes(plan);
        const bool is_cuda = plan.header.backend == format::kBackendCuda;
        facts["activation_bytes"] = arena_bytes(plan, is_cuda ? kMaxPromptRows : kMaxStepRows);
        return facts;
      },
      nb::arg("path"),
      "Validates the engine at `path` as loading does and returns its sizes in bytes. "
      "Raises specrt.Error when the file is damaged or made by another version.");
}

}  // namespace specrt::bindings
