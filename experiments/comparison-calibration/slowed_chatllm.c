/* A build that decodes slower: all that another library does (SLOWED_LIBRARY in the environment), but that
 * each piece of text after the first comes PERCENT of the time since the piece before it later.
 *
 *     cc -shared -fPIC -O2 -DPERCENT=10 -I chatllm.cpp/include -o libslowed.so slowed_chatllm.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libchatllm.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct listener {
    struct listener *next;
    struct chatllm_obj *object;
    f_chatllm_print print;
    f_chatllm_end end;
    void *user;
    long long last_ns; /* of the piece before; 0 before the first */
};

static struct listener *listeners; /* of the objects of this process */
static void *library;

__attribute__((constructor)) static void open_library(void) {
    const char *path = getenv("SLOWED_LIBRARY");
    library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "SLOWED_LIBRARY: %s\n", path ? dlerror() : "is not set");
        exit(1);
    }
}

#define FORWARD(name) ((__typeof__(&name))dlsym(library, #name))

static struct listener *of(const struct chatllm_obj *object) {
    struct listener *found = listeners;
    while (found && found->object != object) {
        found = found->next;
    }
    return found;
}

static long long now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void print_later(void *user, int type, const char *text) {
    struct listener *listener = user;
    if (type == PRINT_CHAT_CHUNK) {
        long long came = now_ns();
        long long until = listener->last_ns ? came + (came - listener->last_ns) * PERCENT / 100 : came;
        while (now_ns() < until) { /* too short to sleep */
        }
        listener->last_ns = now_ns();
    }
    if (listener->print) {
        listener->print(listener->user, type, text);
    }
}

static void end_now(void *user) {
    struct listener *listener = user;
    if (listener->end) {
        listener->end(listener->user);
    }
}

struct chatllm_obj *chatllm_create(void) {
    struct listener *listener = calloc(1, sizeof *listener);
    if (!listener || !(listener->object = FORWARD(chatllm_create)())) {
        free(listener);
        return NULL;
    }
    listener->next = listeners;
    listeners = listener;
    return listener->object;
}

void chatllm_append_param(struct chatllm_obj *object, const char *word) {
    FORWARD(chatllm_append_param)(object, word);
}

int chatllm_start(struct chatllm_obj *object, f_chatllm_print print, f_chatllm_end end, void *user) {
    struct listener *listener = of(object);
    listener->print = print;
    listener->end = end;
    listener->user = user;
    return FORWARD(chatllm_start)(object, print_later, end_now, listener);
}

int chatllm_user_input(struct chatllm_obj *object, const char *input) {
    of(object)->last_ns = 0;
    return FORWARD(chatllm_user_input)(object, input);
}

void chatllm_restart(struct chatllm_obj *object, const char *prompt) {
    FORWARD(chatllm_restart)(object, prompt);
}

void chatllm_show_statistics(struct chatllm_obj *object) {
    FORWARD(chatllm_show_statistics)(object);
}

int chatllm_ext_memory_needs(struct chatllm_obj *object, double seconds, int new_tokens,
                             struct chatllm_ext_memory *needs) {
    return FORWARD(chatllm_ext_memory_needs)(object, seconds, new_tokens, needs);
}

int chatllm_destroy(struct chatllm_obj *object) {
    int code = FORWARD(chatllm_destroy)(object);
    for (struct listener **link = &listeners; *link; link = &(*link)->next) {
        if ((*link)->object == object) {
            struct listener *gone = *link;
            *link = gone->next;
            free(gone);
            break;
        }
    }
    return code;
}
