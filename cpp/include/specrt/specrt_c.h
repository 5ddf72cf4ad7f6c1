/* The C ABI of specrt, for C and for languages that call C.
 *
 * Every function that can fail returns a specrt_status; `error`, where it is not NULL, gets the
 * message. No C++ exception leaves a function, and none may leave a callback. All text is UTF-8 or
 * bytes of the model's tokens, never freed by the caller.
 *
 * Structs begin with `size`, sizeof of the struct as the caller was compiled: specrt_options_init
 * and specrt_params_init set it and the defaults, for results the caller sets it. Later versions
 * add fields at the end, so a program keeps working with a newer libspecrt of the same soname; an
 * older one refuses fields that it does not know.
 *
 * Threads: as in specrt/llm.h. All functions may be called from any thread at the same time, but
 * for specrt_llm_free and specrt_canceller_free, which end the life of their object. */
#ifndef SPECRT_SPECRT_C_H_
#define SPECRT_SPECRT_C_H_

#include <stddef.h>
#include <stdint.h>

#include "specrt/export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum specrt_status {
  SPECRT_OK = 0,
  SPECRT_ERROR_ARGUMENT = 1, /* the caller passed something out of range; nothing was changed */
  SPECRT_ERROR_RUNTIME = 2,  /* a file, the machine or the engine is at fault */
  SPECRT_ERROR_MEMORY = 3    /* no memory for this call */
} specrt_status;

typedef struct specrt_error {
  char message[1024]; /* ends with 0; cut if it is longer */
} specrt_error;

typedef struct specrt_llm specrt_llm;
typedef struct specrt_canceller specrt_canceller;

/* How to open a bundle. NULL and 0 mean what they mean in specrt::LLMOptions. */
typedef struct specrt_options {
  size_t size;
  const char* bundle;             /* folder */
  const char* drafter;            /* name in the bundle; NULL: its draft model, "": none */
  int32_t num_speculative_tokens; /* -1: 4 with a drafter, 0 without */
  int32_t threads;                /* 0: all that the process may run on */
  int32_t device;                 /* of a CUDA bundle */
  int32_t run_ahead;              /* 0 .. 8 */
  uint64_t memory_limit;          /* bytes; 0: none */
  void (*on_warning)(const char* message, void* user); /* while it opens; may be NULL */
  void* user;                                          /* handed to on_warning */
} specrt_options;

typedef enum specrt_finish_reason {
  SPECRT_FINISH_STOP = 0,
  SPECRT_FINISH_LENGTH = 1,
  SPECRT_FINISH_CANCELLED = 2,
  SPECRT_FINISH_DEADLINE = 3
} specrt_finish_reason;

/* What a round added: valid during the call. Returning 0 cancels the request. */
typedef int (*specrt_on_progress)(const int32_t* tokens, size_t token_count, const char* text,
                                  size_t text_bytes, void* user);

/* How tokens are chosen and when a completion ends: specrt::SamplingParams. */
typedef struct specrt_params {
  size_t size;
  float temperature; /* 0: greedy */
  int32_t top_k;
  float top_p;
  float min_p;
  int32_t max_tokens;
  int32_t min_tokens;
  int32_t has_seed; /* 0: drawn at random */
  uint64_t seed;
  int32_t ignore_eos; /* 0 or 1 */
  const int32_t* stop_token_ids;
  size_t stop_token_count;
  const char* const* stop; /* texts that end with 0 */
  size_t stop_count;
  int64_t deadline_ms;               /* from the call on; -1: none */
  const specrt_canceller* canceller; /* may be NULL; one may serve several requests */
  specrt_on_progress on_progress;    /* may be NULL */
  void* user;                        /* handed to on_progress */
} specrt_params;

/* Times in seconds. The pointers belong to the completion. */
typedef struct specrt_completion {
  size_t size;
  void* owner; /* of what the pointers show; for specrt_completion_free */
  const int32_t* token_ids;
  size_t token_count;
  const char* text; /* bytes, not always whole UTF-8; a 0 stands behind them */
  size_t text_bytes;
  int32_t finish_reason; /* specrt_finish_reason */
  int32_t prompt_tokens;
  uint64_t seed;
  int32_t cached_tokens;
  double waiting_time;
  double time_to_first_token;
  double total_time;
  uint64_t rounds;
  uint64_t drafted;
  uint64_t accepted;
} specrt_completion;

/* specrt::LLMCounters. */
typedef struct specrt_counters {
  size_t size;
  uint64_t stopped, length, cancelled, deadline, failed;
  uint64_t prompt_tokens, cached_tokens, generated_tokens;
  uint64_t rounds, drafted, judged, accepted;
  int32_t active;
} specrt_counters;

/* specrt::MemoryBytes. */
typedef struct specrt_memory {
  size_t size;
  uint64_t weights, kv_cache, buffers;
} specrt_memory;

SPECRT_API const char* specrt_version(void);

/* `size` is sizeof of the struct. */
SPECRT_API void specrt_options_init(specrt_options* options, size_t size);
SPECRT_API void specrt_params_init(specrt_params* params, size_t size);

/* What opening takes, without opening. */
SPECRT_API specrt_status specrt_memory_needed(const specrt_options* options, specrt_memory* memory,
                                              specrt_error* error);

/* On success *llm is an object for specrt_llm_free; else NULL. */
SPECRT_API specrt_status specrt_open(const specrt_options* options, specrt_llm** llm,
                                     specrt_error* error);
SPECRT_API void specrt_llm_free(specrt_llm* llm); /* NULL is fine */

SPECRT_API int32_t specrt_vocab(const specrt_llm* llm);
SPECRT_API int32_t specrt_context(const specrt_llm* llm);

/* Blocks until the request has had its turn and ended; cancelled and late ones succeed too, with
 * what came before. On success the completion is for specrt_completion_free; else it is empty. */
SPECRT_API specrt_status specrt_generate(specrt_llm* llm, const int32_t* prompt,
                                         size_t prompt_count, const specrt_params* params,
                                         specrt_completion* completion, specrt_error* error);
SPECRT_API void specrt_completion_free(specrt_completion* completion); /* twice is fine */

SPECRT_API specrt_status specrt_get_counters(const specrt_llm* llm, specrt_counters* counters,
                                             specrt_error* error);

/* Cancels the requests that were given the canceller, those to come included. */
SPECRT_API specrt_status specrt_canceller_new(specrt_canceller** canceller, specrt_error* error);
SPECRT_API void specrt_canceller_cancel(specrt_canceller* canceller);
SPECRT_API void specrt_canceller_free(specrt_canceller* canceller); /* NULL is fine */

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SPECRT_SPECRT_C_H_ */
