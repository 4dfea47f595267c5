/* A library with chatllm.cpp's C interface and no model, which misbehaves as the lines of its "model file" say.
 *
 *   lose=N     each load allocates N bytes that nothing points to after the unload
 *   chain=N    each load appends a block of N bytes to a list that is never freed
 *   tables=N   the first load allocates N bytes that are kept
 *   sometimes=N  every third load loses N bytes
 *   stray=1    each transcription reads behind a block, and branches on a byte that was never set
 *   fail=1     each transcription fails
 *   crash=1    each transcription after the first load's is the process's last
 *   hang=FILE  each transcription after the first load's creates FILE and takes a minute
 *   kernels=NAME  the instruction set that it says it used
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void (*print_function)(void *user, int type, const char *text);
typedef void (*end_function)(void *user);

struct chatllm_obj {
    char path[4096];
    char script[4096];
    int model_follows;
    void *transformer;
    print_function print;
    void *user;
};

struct link {
    struct link *next;
};

static struct link *chain;
static char *tables;
static int n_loads;
volatile int seen;

static long setting(const struct chatllm_obj *object, const char *key) {
    const char *found = strstr(object->script, key);
    return found && found[strlen(key)] == '=' ? atol(found + strlen(key) + 1) : 0;
}

__attribute__((noinline)) static void *build_transformer(long size) { return memset(malloc((size_t)size), 1, (size_t)size); }

__attribute__((noinline)) static char *build_tables(long size) { return calloc(1, (size_t)size); }

__attribute__((noinline)) static void append_to_chain(long size) {
    struct link *head = calloc(1, (size_t)size);
    head->next = chain;
    chain = head;
}

__attribute__((noinline)) static void lose_sometimes(long size) { seen = build_tables(size)[0]; }

__attribute__((noinline)) static void read_astray(void) {
    volatile char *block = malloc(16);
    volatile int behind = 16; /* the compiler is not to see it */
    seen = block[behind];
    if (block[behind - 13] == 7) {
        seen = 1;
    }
    free((void *)block);
}

struct chatllm_obj *chatllm_create(void) { return calloc(1, sizeof(struct chatllm_obj)); }

void chatllm_append_param(struct chatllm_obj *object, const char *word) {
    if (object->model_follows) {
        snprintf(object->path, sizeof object->path, "%s", word);
    }
    object->model_follows = strcmp(word, "-m") == 0;
}

int chatllm_start(struct chatllm_obj *object, print_function print, end_function end, void *user) {
    (void)end;
    object->print = print;
    object->user = user;
    FILE *file = fopen(object->path, "r");
    if (!file) {
        return 1;
    }
    object->script[fread(object->script, 1, sizeof object->script - 1, file)] = 0;
    fclose(file);
    n_loads++;
    if (setting(object, "lose")) {
        object->transformer = build_transformer(setting(object, "lose"));
    }
    if (setting(object, "chain")) {
        append_to_chain(setting(object, "chain"));
    }
    if (setting(object, "tables") && !tables) {
        tables = build_tables(setting(object, "tables"));
    }
    if (setting(object, "sometimes") && n_loads % 3 == 0) {
        lose_sometimes(setting(object, "sometimes"));
    }
    return 0;
}

int chatllm_user_input(struct chatllm_obj *object, const char *input) {
    (void)input;
    if (setting(object, "stray")) {
        read_astray();
    }
    const char *ready = strstr(object->script, "hang=");
    if (ready && n_loads > 1) {
        char path[4096];
        snprintf(path, sizeof path, "%.*s", (int)strcspn(ready + 5, "\n"), ready + 5);
        fclose(fopen(path, "w"));
        sleep(60);
    }
    if (setting(object, "crash") && n_loads > 1) {
        raise(SIGSEGV);
    }
    if (setting(object, "fail")) {
        object->print(object->user, 2, "told to fail");
        return 1;
    }
    object->print(object->user, 0, "text");
    return 0;
}

void chatllm_restart(struct chatllm_obj *object, const char *system) {
    (void)object;
    (void)system;
}

void chatllm_show_statistics(struct chatllm_obj *object) {
    const char *name = strstr(object->script, "kernels=");
    char line[256];
    if (name) {
        snprintf(line, sizeof line, "kernels: %.*s, threads: 1", (int)strcspn(name + 8, "\n"), name + 8);
        object->print(object->user, 1, line);
    }
}

int chatllm_destroy(struct chatllm_obj *object) {
    object->transformer = NULL; /* the leak: it was to be freed */
    free(object);
    return 0;
}
