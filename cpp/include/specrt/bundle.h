// A bundle: the folder that `specrt build` makes, with a target engine and its drafters.
//
//   const specrt::Bundle bundle = specrt::open_bundle("bundle");
//   specrt::LLM llm(bundle.options());
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "specrt/export.h"
#include "specrt/llm.h"

namespace specrt {

struct BundleDrafter {
  std::string name;    // "draft"
  std::string method;  // as LLM in Python names it: "speculative", "parallel", "medusa", ...
  std::string engine;  // path of its engine
  int32_t heads = 0;   // tokens that it drafts with a head for each; 0: it is not made of heads
};

struct Bundle {
  std::string folder;
  std::string target;  // path of the engine
  std::vector<BundleDrafter> drafters;

  // What LLM needs to load the target with its draft model, or alone if the bundle has none: the
  // method `auto` before curves. Other fields may be set afterwards.
  SPECRT_API LLMOptions options() const;

  // The same with the drafter of that name; with none for an empty one. Throws an argument error
  // that lists the drafters.
  SPECRT_API LLMOptions options(std::string_view drafter) const;
};

// Reads `folder`/manifest.json, which may be hostile: at most 1 MiB of strict JSON, and the engines
// that it names must be files inside of the folder. Engines are checked when they are loaded.
// Throws specrt::Error that says what to do.
SPECRT_API Bundle open_bundle(const std::string& folder);

}  // namespace specrt
