#include "bindings.h"

NB_MODULE(_core, module) {
  module.doc() = "The compiled part of specrt.";
  specrt::bindings::init_errors(module);
  specrt::bindings::init_engine(module);
  specrt::bindings::init_llm(module);
  specrt::bindings::init_ops(module);
}
