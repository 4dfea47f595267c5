/* A library with chatllm.cpp's C interface and no model: it does what the lines of its "model file" tell it.
 *
 *   text=TEXT          the transcript                     header=none|whole|split   how the header comes
 *   pieces=N           bytes in a text callback           delay_ms=N                before each text callback
 *   leak=N             bytes never freed, each load       hoard=N                   mappings never unmapped, each load
 *   retain=N           KiB that malloc keeps back after each unload: freed below a block that stays
 *   noise=1            print on stdout                    statistics=LINE           for chatllm_show_statistics
 *   stderr_error=1     report an error and return 0       error_leak=N              bytes never freed, each error
 *   error_input=1      say what was being transcribed in an error
 *   crash|abort|error|hang=load|transcribe|restart|unload
 *   once=FILE          misbehave only while FILE is missing, and create it
 *   ready=FILE         create FILE when a hang begins
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef void (*print_function)(void *user, int type, const char *text);
typedef void (*end_function)(void *user);

struct chatllm_obj {
    char *script;
    char *seen; /* the words given, for a test to read */
    print_function print;
    end_function end;
    void *user;
    void **retained; /* n_retained blocks of 1 KiB */
    long n_retained;
};

/* Value of `key=` in the script, in a static buffer, or an empty string. */
static const char *setting(const struct chatllm_obj *object, const char *key) {
    static char value[4096];
    size_t length = strlen(key);
    value[0] = 0;
    for (const char *line = object->script; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            size_t size = strcspn(line + length + 1, "\n");
            memcpy(value, line + length + 1, size);
            value[size] = 0;
            break;
        }
    }
    return value;
}

static void touch(const char *path) {
    FILE *file = fopen(path, "w");
    if (file) {
        fclose(file);
    }
}

static void wait_ms(long ms) {
    struct timespec time = {ms / 1000, (ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

/* Misbehave in this phase if the script says so; non-zero for an error to return. */
static int misbehave(struct chatllm_obj *object, const char *phase, const char *input) {
    static const char *const kinds[] = {"crash", "abort", "error", "hang"};
    for (int kind = 0; kind < 4; kind++) {
        if (strcmp(setting(object, kinds[kind]), phase) != 0) {
            continue;
        }
        const char *once = setting(object, "once");
        if (*once) {
            if (access(once, F_OK) == 0) {
                return 0;
            }
            touch(once);
        }
        if (kind == 0) {
            raise(SIGSEGV);
        } else if (kind == 1) {
            abort();
        } else if (kind == 2) {
            long leak = atol(setting(object, "error_leak"));
            if (leak > 0) {
                memset(malloc((size_t)leak), 1, (size_t)leak);
            }
            object->print(object->user, 2, "told to fail");
            if (*setting(object, "error_input")) {
                object->print(object->user, 2, "at");
                object->print(object->user, 2, input);
            }
            return 1;
        } else {
            const char *ready = setting(object, "ready");
            if (*ready) {
                touch(ready);
            }
            for (;;) {
                wait_ms(1000);
            }
        }
    }
    return 0;
}

/* With FAKE_DIES=FILE in the environment, the library kills whoever opens it while FILE is there. */
__attribute__((constructor)) static void open_library(void) {
    const char *file = getenv("FAKE_DIES");
    if (file && access(file, F_OK) == 0) {
        abort();
    }
}

struct chatllm_obj *chatllm_create(void) {
    struct chatllm_obj *object = calloc(1, sizeof *object);
    object->seen = strdup("");
    return object;
}

void chatllm_append_param(struct chatllm_obj *object, const char *word) {
    char *seen = NULL;
    if (asprintf(&seen, "%s[%s]", object->seen, word) > 0) {
        free(object->seen);
        object->seen = seen;
    }
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        return NULL;
    }
    char *text = calloc(1, 65536);
    size_t size = fread(text, 1, 65535, file);
    text[size] = 0;
    fclose(file);
    return text;
}

int chatllm_start(struct chatllm_obj *object, print_function print, end_function end, void *user) {
    char path[4096] = "";
    const char *model = strstr(object->seen, "[-m][");
    if (model) {
        snprintf(path, sizeof path, "%.*s", (int)strcspn(model + 5, "]"), model + 5);
    }
    object->print = print;
    object->end = end;
    object->user = user;
    object->script = read_file(path);
    if (!object->script) {
        print(user, 2, "cannot read the model");
        return 1;
    }
    if (misbehave(object, "load", "")) {
        return 1;
    }
    long leak = atol(setting(object, "leak"));
    if (leak > 0) {
        memset(malloc((size_t)leak), 1, (size_t)leak);
    }
    long hoard = atol(setting(object, "hoard"));
    for (long i = 0; i < hoard; i++) {
        /* alternating protections keep the kernel from merging neighbours */
        mmap(NULL, 4096, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    object->n_retained = atol(setting(object, "retain"));
    if (object->n_retained > 0) {
        static void *last; /* keeps the end of the heap where it is */
        object->retained = calloc((size_t)object->n_retained, sizeof(void *));
        for (long i = 0; i < object->n_retained; i++) {
            object->retained[i] = memset(malloc(1024), 1, 1024);
        }
        if (!last) {
            last = malloc(1024);
        }
    }
    if (*setting(object, "noise")) {
        printf("{\"error\": \"this is not the protocol\"}\n");
        fflush(stdout);
    }
    print(user, 13, "{\"name\":\"fake\",\"purpose\":\"ASR\"}");
    return 0;
}

static void say(struct chatllm_obj *object, const char *text, size_t piece) {
    long delay = atol(setting(object, "delay_ms"));
    size_t size = strlen(text);
    char chunk[4096];
    for (size_t at = 0; at < size; at += piece) {
        size_t length = size - at < piece ? size - at : piece;
        memcpy(chunk, text + at, length);
        chunk[length] = 0;
        if (delay > 0) {
            wait_ms(delay);
        }
        object->print(object->user, 0, chunk);
    }
}

int chatllm_user_input(struct chatllm_obj *object, const char *input) {
    char text[4096];
    long pieces = atol(setting(object, "pieces"));
    size_t piece = pieces > 0 ? (size_t)pieces : 3;
    if (misbehave(object, "transcribe", input)) {
        return 1;
    }
    if (*setting(object, "stderr_error")) {
        object->print(object->user, 2, "failed and returned 0");
        return 0;
    }
    snprintf(text, sizeof text, "%s", setting(object, "header"));
    if (strcmp(text, "whole") == 0) {
        say(object, "language Chinese<asr_text>", 4096);
    } else if (strcmp(text, "split") == 0) {
        say(object, "language Chinese<asr_text>", 4);
    }
    snprintf(text, sizeof text, "%s", setting(object, "text"));
    if (strcmp(text, "INPUT") == 0) {
        snprintf(text, sizeof text, "%s", input);
    } else if (strcmp(text, "OPTIONS") == 0) {
        snprintf(text, sizeof text, "%s", object->seen);
    }
    say(object, text, piece);
    object->end(object->user);
    return 0;
}

void chatllm_restart(struct chatllm_obj *object, const char *system) {
    (void)system;
    misbehave(object, "restart", "");
}

void chatllm_show_statistics(struct chatllm_obj *object) {
    const char *line = setting(object, "statistics");
    if (*line) {
        object->print(object->user, 1, line);
    }
}

int chatllm_destroy(struct chatllm_obj *object) {
    if (misbehave(object, "unload", "")) {
        return 1;
    }
    for (long i = 0; i < object->n_retained; i++) {
        free(object->retained[i]);
    }
    free(object->retained);
    free(object->script);
    free(object->seen);
    free(object);
    return 0;
}
