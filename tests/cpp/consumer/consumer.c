/* Uses the whole C ABI from C99: exits with 1 and says so where something is not as promised. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <specrt/specrt_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(holds)                                                              \
  do {                                                                              \
    if (!(holds)) {                                                                 \
      fprintf(stderr, "consumer.c:%d: %s (%s)\n", __LINE__, #holds, error.message); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

static specrt_error error;

struct heard {
  int32_t tokens[64];
  size_t count;
  int calls_left;
};

static int listen(const int32_t* tokens, size_t token_count, const char* text, size_t text_bytes,
                  void* user) {
  struct heard* heard = user;
  (void)text;
  (void)text_bytes;
  if (heard->count + token_count <= 64 && token_count > 0) {
    memcpy(heard->tokens + heard->count, tokens, token_count * sizeof(int32_t));
  }
  heard->count += token_count;
  return heard->calls_left-- > 0;
}

static void* cancel(void* canceller) {
  specrt_canceller_cancel(canceller);
  return NULL;
}

/* While the request runs, another thread cancels it. */
static int cancel_beside(const int32_t* tokens, size_t token_count, const char* text,
                         size_t text_bytes, void* user) {
  pthread_t thread;
  (void)tokens;
  (void)token_count;
  (void)text;
  (void)text_bytes;
  REQUIRE(pthread_create(&thread, NULL, cancel, user) == 0);
  REQUIRE(pthread_join(thread, NULL) == 0);
  return 1;
}

static const int32_t kPrompt[] = {3, 5, 7};

static void check_generating(specrt_llm* llm) {
  struct heard heard = {{0}, 0, 1000};
  specrt_params params;
  specrt_completion out, again;
  out.size = again.size = sizeof out;
  specrt_params_init(&params, sizeof params);
  params.max_tokens = 20;
  params.has_seed = 1;
  params.seed = 4;
  params.ignore_eos = 1;
  params.on_progress = listen;
  params.user = &heard;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &params, &out, &error) == SPECRT_OK);
  REQUIRE(out.token_count == 20 && heard.count == 20);
  REQUIRE(memcmp(out.token_ids, heard.tokens, 20 * sizeof(int32_t)) == 0);
  REQUIRE(out.finish_reason == SPECRT_FINISH_LENGTH && out.seed == 4 && out.prompt_tokens == 3);
  REQUIRE(out.rounds > 0 && out.accepted <= out.drafted && out.total_time > 0);
  REQUIRE(strlen(out.text) == out.text_bytes);
  params.on_progress = NULL;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &params, &again, NULL) == SPECRT_OK);
  REQUIRE(memcmp(out.token_ids, again.token_ids, 20 * sizeof(int32_t)) == 0);
  specrt_completion_free(&out);
  specrt_completion_free(&out);
  specrt_completion_free(&again);
  params.on_progress = listen;
  heard.calls_left = 0;
  heard.count = 0;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &params, &out, &error) == SPECRT_OK);
  REQUIRE(out.finish_reason == SPECRT_FINISH_CANCELLED && out.token_count == heard.count);
  specrt_completion_free(&out);
}

static void check_limits(specrt_llm* llm) {
  specrt_params params;
  specrt_canceller* canceller;
  specrt_completion out;
  out.size = sizeof out;
  specrt_params_init(&params, sizeof params);
  params.max_tokens = specrt_context(llm);
  params.ignore_eos = 1;
  params.deadline_ms = 0;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &params, &out, &error) == SPECRT_OK);
  REQUIRE(out.finish_reason == SPECRT_FINISH_DEADLINE && out.token_count == 0);
  specrt_completion_free(&out);
  params.deadline_ms = -1;
  REQUIRE(specrt_canceller_new(&canceller, &error) == SPECRT_OK);
  params.canceller = canceller;
  params.on_progress = cancel_beside;
  params.user = canceller;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &params, &out, &error) == SPECRT_OK);
  REQUIRE(out.finish_reason == SPECRT_FINISH_CANCELLED && out.token_count == 1);
  specrt_completion_free(&out);
  specrt_canceller_free(canceller);
}

static void check_errors(specrt_llm* llm) {
  const int32_t outside[] = {-1};
  specrt_params params;
  specrt_completion out;
  specrt_options options;
  specrt_llm* none = llm;
  out.size = sizeof out;
  specrt_params_init(&params, sizeof params);
  REQUIRE(specrt_generate(llm, outside, 1, &params, &out, &error) == SPECRT_ERROR_ARGUMENT);
  REQUIRE(strstr(error.message, "token -1") != NULL && out.owner == NULL);
  REQUIRE(specrt_generate(llm, NULL, 0, &params, &out, &error) == SPECRT_ERROR_ARGUMENT);
  REQUIRE(specrt_generate(llm, NULL, 3, &params, &out, &error) == SPECRT_ERROR_ARGUMENT);
  REQUIRE(specrt_generate(llm, kPrompt, 3, NULL, &out, &error) == SPECRT_ERROR_ARGUMENT);
  params.size = 0;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &params, &out, &error) == SPECRT_ERROR_ARGUMENT);
  out.size = 8;
  specrt_params_init(&params, sizeof params);
  REQUIRE(specrt_generate(llm, kPrompt, 3, &params, &out, &error) == SPECRT_ERROR_ARGUMENT);
  specrt_options_init(&options, sizeof options);
  REQUIRE(specrt_open(&options, &none, &error) == SPECRT_ERROR_ARGUMENT && none == NULL);
  options.bundle = "/nonexistent";
  REQUIRE(specrt_open(&options, &none, &error) == SPECRT_ERROR_RUNTIME);
  REQUIRE(strstr(error.message, "not a specrt bundle") != NULL);
}

/* A program of a later version: what this library does not know must be 0. */
static void check_later_struct(specrt_llm* llm) {
  struct later {
    specrt_params params;
    uint64_t unknown;
  } later;
  specrt_completion out;
  out.size = sizeof out;
  specrt_params_init(&later.params, sizeof later);
  later.params.max_tokens = 2;
  later.params.ignore_eos = 1;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &later.params, &out, &error) == SPECRT_OK);
  specrt_completion_free(&out);
  later.unknown = 1;
  REQUIRE(specrt_generate(llm, kPrompt, 3, &later.params, &out, &error) == SPECRT_ERROR_ARGUMENT);
}

int main(int count, char** arguments) {
  specrt_options options;
  specrt_llm* llm;
  specrt_memory memory;
  specrt_counters counters;
  if (count != 2) return 2;
  specrt_options_init(&options, sizeof options);
  options.bundle = arguments[1];
  memory.size = sizeof memory;
  counters.size = sizeof counters;
  REQUIRE(specrt_memory_needed(&options, &memory, &error) == SPECRT_OK);
  options.memory_limit = memory.weights;
  REQUIRE(specrt_open(&options, &llm, &error) == SPECRT_ERROR_RUNTIME);
  options.memory_limit = memory.weights + memory.kv_cache + memory.buffers;
  REQUIRE(specrt_open(&options, &llm, &error) == SPECRT_OK);
  REQUIRE(specrt_vocab(llm) > 0);
  check_generating(llm);
  check_limits(llm);
  check_errors(llm);
  check_later_struct(llm);
  REQUIRE(specrt_get_counters(llm, &counters, &error) == SPECRT_OK);
  REQUIRE(counters.length == 3 && counters.cancelled == 2 && counters.deadline == 1);
  REQUIRE(counters.active == 0);
  specrt_llm_free(llm);
  printf("consumer.c: all holds with specrt %s\n", specrt_version());
  return 0;
}
