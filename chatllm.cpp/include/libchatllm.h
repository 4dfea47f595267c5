/* libchatllm: speech recognition with Qwen3-ASR on a processor, behind chatllm.cpp's C interface.
 *
 * Threads: an object may be used by one thread at a time; different objects by different threads at once.
 * Only chatllm_abort_generation and chatllm_destroy may be called while another call on the same object runs,
 * and nothing once chatllm_destroy has been called. Callbacks come on the calling thread, before the call
 * returns; within them only statistics, memory_needs, tokenize, detokenize, get_cursor, set_gen_max_tokens
 * and abort may be called on the same object, anything else is an error line. Strings are UTF-8 and borrowed
 * for the call. There is no process-wide state.
 *
 *     struct chatllm_obj *obj = chatllm_create();
 *     chatllm_append_param(obj, "-m");
 *     chatllm_append_param(obj, "model.bin");
 *     if (chatllm_start(obj, print, end, user) == 0)             // loads; a failure is a line of type 2
 *         chatllm_user_input(obj, "{{audio:/clips/a.wav}}");     // text comes as type 0, then end
 *     chatllm_destroy(obj);                                      // always: gives everything back
 */
#ifndef LIBCHATLLM_H
#define LIBCHATLLM_H

#include <stdint.h>

#if defined(__GNUC__)
#define CHATLLM_API __attribute__((visibility("default")))
#else
#define CHATLLM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What `print` is called with. */
enum PrintType {
    PRINT_CHAT_CHUNK = 0,   /* a piece of generated text, whole characters */
    PRINTLN_META = 1,       /* a line of information */
    PRINTLN_ERROR = 2,      /* a line that says what went wrong */
    PRINTLN_TOKEN_IDS = 10, /* ids, as in "1,3,5" */
    PRINTLN_LOGGING = 11,   /* a log line, its level in the first character */
    PRINTLN_MODEL_INFO = 13 /* facts about the model, as JSON */
};

typedef void (*f_chatllm_print)(void *user_data, int print_type, const char *utf8_str);
typedef void (*f_chatllm_end)(void *user_data);

struct chatllm_obj;

/* Process-wide options: accepted for harnesses that give some; this engine has none. Returns 0. */
CHATLLM_API void chatllm_append_init_param(const char *utf8_str);
CHATLLM_API int chatllm_init(void);

/* A new object, or null when there is no memory for it. */
CHATLLM_API struct chatllm_obj *chatllm_create(void);

/* Adds one word of a command line. Words ('-' and '_' mean the same within names):
 *   -m FILE                      the model
 *   -n THREADS                   default: the processors that the process may use
 *   -l TOKENS, -c TOKENS         longest context, the smaller of the two; default: what the file says
 *   -s TEXT                      system prompt: words and names to expect
 *   --set language NAME|CODE     "auto" by default
 *   --set encoder_window windowed|full   attention of the encoder; windowed, as trained, by default
 *   --preload                    the load reads and maps all weights; else they are read as they are used
 *   --lock                       the same, and keeps them in memory until unload, if RLIMIT_MEMLOCK allows
 *   --max_new_tokens N           512 by default; -1: as many as fit
 *   --temp T, --seed N           T = 0, greedy, by default
 *   --multimedia_file_tags OPEN CLOSE    "{{" and "}}" by default
 *   --format chat, --hide_banner, -i, --log_level N      accepted, without effect
 * The environment variable CHATLLM_ISA (scalar, avx2, avxvnni, avx512, neon) chooses the instruction set;
 * default: the fastest there is. */
CHATLLM_API void chatllm_append_param(struct chatllm_obj *obj, const char *utf8_str);

/* Reads the options and loads the model, once an object: a second call fails and changes no callback. `print`
 * and `end` may be null. Returns 0, or -1 after an error line; the object can then only be destroyed. */
CHATLLM_API int chatllm_start(struct chatllm_obj *obj, f_chatllm_print f_print, f_chatllm_end f_end,
                              void *user_data);

/* Transcribes "{{audio:PATH}}", a 16 kHz WAV file (16, 24, 32-bit PCM or 32-bit float), and returns after
 * `end`. Other text in the input becomes part of the user's turn. Each input begins with an empty context.
 * Returns 0, or -1 after an error line ("aborted" after chatllm_abort_generation). Do not truncate a model or
 * a clip while it is in use: as with every mapped file, reading what is gone is a fault. */
CHATLLM_API int chatllm_user_input(struct chatllm_obj *obj, const char *utf8_str);

/* The same for a message in pieces: type "text" with text, or "audio" with a WAV file in base64. append
 * returns 0, or -1 after an error line. */
CHATLLM_API void chatllm_multimedia_msg_prepare(struct chatllm_obj *obj);
CHATLLM_API int chatllm_multimedia_msg_append(struct chatllm_obj *obj, const char *type,
                                              const char *utf8_str);
CHATLLM_API int chatllm_user_input_multimedia_msg(struct chatllm_obj *obj);

/* New tokens for each input; -1: as many as fit. */
CHATLLM_API void chatllm_set_gen_max_tokens(struct chatllm_obj *obj, int gen_max_tokens);

/* Clears the context and gives its memory back; null keeps the system prompt. */
CHATLLM_API void chatllm_restart(struct chatllm_obj *obj, const char *utf8_sys_prompt);

/* Ends the input in progress, from any thread; it answers within 250 ms. */
CHATLLM_API void chatllm_abort_generation(struct chatllm_obj *obj);

/* Unloads: memory, mappings, threads and descriptors are what they were before chatllm_create. Takes null. An
 * input in progress on another thread is aborted and waited for. Returns 0, or -1 when called from within a
 * callback of the same object. */
CHATLLM_API int chatllm_destroy(struct chatllm_obj *obj);

/* Tokens in the KV cache, or -1 when no model is loaded. */
CHATLLM_API int chatllm_get_cursor(struct chatllm_obj *obj);

/* Prints where the last input's time went, as lines of type 1. */
CHATLLM_API void chatllm_show_statistics(struct chatllm_obj *obj);

/* Prints the ids of a text as a line of type 10, added tokens in it recognised, and returns their number, or
 * -1. */
CHATLLM_API int chatllm_text_tokenize(struct chatllm_obj *obj, const char *utf8_str);

/* Facts about a model file as JSON, {"error": ...} when it cannot be read. Valid until the next call on this
 * thread. */
CHATLLM_API const char *chatllm_inspect_model(const char *utf8_path);

/* Beyond chatllm.cpp's interface: anonymous memory of a loaded model, in bytes; its weights are not in it. */
struct chatllm_ext_memory {
    int64_t loaded;   /* from load to unload: tables, scratch, stacks */
    int64_t clip;     /* samples, log-mel and encoded audio */
    int64_t encoder;  /* workspace, until the clip is encoded */
    int64_t decoder;  /* workspace, from then on */
    int64_t kv_cache; /* likewise, for all positions */
    int64_t peak;     /* the most of all that at one time */
};
/* What an input of `seconds` of audio with `new_tokens` new tokens (-1: as many as fit) takes at most.
 * Returns 0, or -1 when no model is loaded or `seconds` is no length. */
CHATLLM_API int chatllm_ext_memory_needs(struct chatllm_obj *obj, double seconds, int new_tokens,
                                         struct chatllm_ext_memory *needs);

/* Beyond chatllm.cpp's interface: shows tensors from inside each later input, in single precision, row-major,
 * on the calling thread, valid for the call: mel [bands, frames]; enc_in, enc_out [tokens, width]; prompt_ids
 * [n]; and for each step logits [vocabulary], token [1]. Null ends it. Returns 0, or -1 on a null object. */
typedef void (*f_chatllm_ext_trace)(void *user_data, const char *name, const float *data,
                                    const int64_t *shape, int n_dims);
CHATLLM_API int chatllm_ext_set_trace(struct chatllm_obj *obj, f_chatllm_ext_trace f_trace, void *user_data);

/* Beyond chatllm.cpp's interface: the bytes of n_ids tokens, added tokens as they are written, handed to
 * f_bytes in one call; they need not be whole characters. Ids that name no token give nothing. Returns their
 * number, or -1. */
typedef void (*f_chatllm_ext_bytes)(void *user_data, const char *bytes, int n_bytes);
CHATLLM_API int chatllm_ext_detokenize(struct chatllm_obj *obj, const int32_t *ids, int n_ids,
                                       f_chatllm_ext_bytes f_bytes, void *user_data);

/* Beyond chatllm.cpp's interface: what this processor can do at best, for the statistics' operations and
 * bytes to be held against. `kind` is "read" (bytes a second from memory) or "int8", "bf16", "f32"
 * (operations a second; a multiplication and an addition are two), with the fastest instructions for it,
 * which chatllm_ext_ceiling_isa names; bf16 is measured as f32 where the processor has no instruction for it.
 * Runs n_threads threads at once for n_slices slices of slice_ms milliseconds, after one that does not count,
 * and writes the rate of each slice, summed over the threads, to `rates`. Needs no object; up to 512 MiB are
 * taken and given back for "read". Returns 0, or -1 for an unknown kind (whose name is null), a number that
 * makes no sense, or want of memory or threads. */
CHATLLM_API const char *chatllm_ext_ceiling_isa(const char *kind);
CHATLLM_API int chatllm_ext_measure_ceiling(const char *kind, int n_threads, int n_slices, double slice_ms,
                                            double *rates);

#ifdef __cplusplus
}
#endif

#endif
