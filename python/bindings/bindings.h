// The topics of the extension module.
#pragma once

#include <nanobind/nanobind.h>

namespace specrt::bindings {

void init_errors(nanobind::module_& module);
void init_engine(nanobind::module_& module);
void init_llm(nanobind::module_& module);
void init_ops(nanobind::module_& module);

}  // namespace specrt::bindings
