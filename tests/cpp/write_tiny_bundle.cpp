// write_tiny_bundle FOLDER: a bundle for programs that are tested against the installed package.
#include <cstdio>
#include <exception>

#include "tiny_bundle.h"

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: write_tiny_bundle FOLDER\n");
    return 2;
  }
  try {
    specrt::testing::write_tiny_bundle(arguments[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
