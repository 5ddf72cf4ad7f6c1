// generate BUNDLE TOKEN...: completes a prompt of token ids and prints the text as it comes.
#include <specrt/specrt.h>

#include <cstdio>
#include <cstdlib>

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: generate BUNDLE TOKEN...\n");
    return 2;
  }
  try {
    std::vector<int32_t> prompt;
    for (int i = 2; i < count; ++i) prompt.push_back(std::atoi(arguments[i]));
    specrt::LLM llm(specrt::open_bundle(arguments[1]).options());
    const auto print = [](const specrt::Progress& progress) {
      std::fwrite(progress.text.data(), 1, progress.text.size(), stdout);
      return std::fflush(stdout) == 0;  // nobody reads any more: cancel
    };
    const specrt::Completion out =
        llm.generate(prompt, {.temperature = 0, .max_tokens = 64}, print);
    std::printf("\n%zu tokens in %zu rounds, %.0f ms\n", out.token_ids.size(),
                out.metrics.rounds.size(), 1000 * out.metrics.total_time);
  } catch (const specrt::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
