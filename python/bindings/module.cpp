#include "bindings.h"

namespace nb = nanobind;

NB_MODULE(_core, module) {
  nb::set_leak_warnings(false);  // what a daemon thread holds when Python ends is no leak
  module.doc() = "The compiled part of specrt.";
  specrt::bindings::init_errors(module);
  specrt::bindings::init_engine(module);
  specrt::bindings::init_llm(module);
  specrt::bindings::init_ops(module);
}
