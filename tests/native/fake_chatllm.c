/* A library with chatllm.cpp's C interface and no model: it does what the lines of its "model file" tell it.
 *
 * What it says
 *   text=TEXT          the transcript                    header=none|whole|split  how the header comes
 *   pieces=N           bytes in a text callback          delay_ms=N               before each text callback
 *   noise=1            print on stdout                   statistics=LINE          for chatllm_show_statistics
 *   stderr_error=1     report an error and return 0
 * What a load leaves behind
 *   leak=N             N bytes of heap                   leak_once=N              the process's first load
 *   leak_map=N         a mapping of N bytes, touched     hoard=N                  N pairs of mappings
 *   leak_thread=N      N threads that sleep for ever     leak_fd=N                N open descriptors
 *   sawtooth=N,P       N bytes of heap, until each P-th load frees them all
 *   pool=N,MAX         N bytes of heap, in a pool that grows no further than MAX
 *   retain=N[,MAX]     KiB that malloc keeps back after the unload, for they are freed below a block that
 *                      stays; with MAX, each load has its own number between the two
 * What other calls leave behind
 *   leak_token=N       N bytes of heap, each text callback
 *   error_leak=N       N bytes of heap, each time that `error` is reported
 * How slow it is
 *   load_ms=N          a load takes so long
 *   drift_us=N         each load of the process slows all loads and transcriptions after it by so much
 * How it fails
 *   crash|abort|kill|error|hang|oom|oom_abort=load|transcribe|restart|unload
 *                      kill: SIGKILL, as the kernel sends it when memory is short
 *                      oom: take memory until there is none, free it, report that
 *                      oom_abort: take it, then end as C++ does when nobody catches std::bad_alloc
 *                      Both stop at OOM_BOUND and report that they met no limit.
 *   error_input=1      say in an error what was being transcribed
 *   fail_load=N        the process's N-th load reports an error
 *   count=FILE         count loads in FILE: fail_load is then the N-th of all processes that do so
 *   once=FILE          misbehave only while FILE is missing, and create it
 *   ready=FILE         create FILE when a hang begins
 *
 * "Each load of the process" is any model's. With FAKE_DIES=FILE in the environment, the library kills
 * whoever opens it while FILE is there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define OOM_STEP ((size_t)1 << 20) /* bytes */
/* Bytes; where there is no limit, the machine is not to lose all its memory. */
#define OOM_BOUND ((size_t)1 << 31)

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

struct block {
    struct block *next;
};

static long n_loads; /* of this process */

/* Value of `key=` in the script, in a static buffer, or an empty string. */
static const char *setting(const struct chatllm_obj *object, const char *key) {
    static char value[4096];
    size_t length = strlen(key);
    value[0] = 0;
    for (const char *line = object->script, *end; line && *line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            size_t size = strcspn(line + length + 1, "\n");
            memcpy(value, line + length + 1, size);
            value[size] = 0;
            break;
        }
    }
    return value;
}

/* The number of `key=N`, 0 where there is none; the second one of `key=N,M` by `second`. */
static long number(const struct chatllm_obj *object, const char *key, long *second) {
    long values[2] = {0, 0};
    sscanf(setting(object, key), "%ld,%ld", &values[0], &values[1]);
    if (second) {
        *second = values[1];
    }
    return values[0];
}

static void touch(const char *path) {
    FILE *file = fopen(path, "w");
    if (file) {
        fclose(file);
    }
}

static void wait_us(long us) {
    struct timespec time = {us / 1000000, (us % 1000000) * 1000};
    nanosleep(&time, NULL);
}

/* Heap that is written to; NULL where there is none. */
static void *take(size_t bytes) {
    void *block = malloc(bytes);
    return block ? memset(block, 1, bytes) : NULL;
}

void *volatile lost; /* the compiler must not leave out what nobody reads */

static void lose(long bytes) {
    if (bytes > 0) {
        lost = take((size_t)bytes);
    }
}

static void push(struct block **list, size_t bytes) {
    struct block *block = take(bytes < sizeof *block ? sizeof *block : bytes);
    block->next = *list;
    *list = block;
}

static void free_all(struct block **list) {
    while (*list) {
        struct block *next = (*list)->next;
        free(*list);
        *list = next;
    }
}

/* ---- what a load leaves behind: `n` and `m` as in the script, n > 0 */

static void leak_heap(struct chatllm_obj *object, long n, long m) {
    (void)object, (void)m;
    lose(n);
}

static void leak_heap_once(struct chatllm_obj *object, long n, long m) {
    (void)object, (void)m;
    if (n_loads == 1) {
        lose(n);
    }
}

static void rise_and_fall(struct chatllm_obj *object, long n, long period) {
    static struct block *blocks;
    (void)object;
    push(&blocks, (size_t)n);
    if (period > 0 && n_loads % period == 0) {
        free_all(&blocks);
    }
}

static void fill_pool(struct chatllm_obj *object, long n, long most) {
    static struct block *blocks;
    static long bytes;
    (void)object;
    if (bytes + n <= most) {
        push(&blocks, (size_t)n);
        bytes += n;
    }
}

static void leak_mapping(struct chatllm_obj *object, long n, long m) {
    (void)object, (void)m;
    void *mapping = mmap(NULL, (size_t)n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping != MAP_FAILED) {
        memset(mapping, 1, (size_t)n);
    }
}

static void hoard_mappings(struct chatllm_obj *object, long n, long m) {
    (void)object, (void)m;
    for (long i = 0; i < n; i++) {
        /* alternating protections keep the kernel from merging neighbours */
        mmap(NULL, 4096, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
}

static void *sleep_for_ever(void *unused) {
    for (;;) {
        pause();
    }
    return unused;
}

static void leak_threads(struct chatllm_obj *object, long n, long m) {
    (void)object, (void)m;
    for (long i = 0; i < n; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, sleep_for_ever, NULL);
    }
}

static void leak_descriptors(struct chatllm_obj *object, long n, long m) {
    (void)object, (void)m;
    for (long i = 0; i < n; i++) {
        (void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
}

static void retain_heap(struct chatllm_obj *object, long n, long most) {
    static long highest; /* blocks; above them lies one that stays, and keeps the end of the heap there */
    if (most > n) {
        n += n_loads * 5 % 8 * (most - n) / 7;
    }
    object->n_retained = n;
    object->retained = calloc((size_t)n, sizeof(void *));
    for (long i = 0; i < n; i++) {
        object->retained[i] = take(1024);
    }
    if (n > highest) {
        lose(1024);
        highest = n;
    }
}

static void wait_to_load(struct chatllm_obj *object, long ms, long m) {
    (void)object, (void)m;
    wait_us(ms * 1000);
}

static void drift(struct chatllm_obj *object, long us, long m) {
    (void)object, (void)m;
    wait_us(us * (n_loads - 1));
}

static const struct {
    const char *key;
    void (*act)(struct chatllm_obj *object, long n, long m);
} habits[] = {
    {"leak", leak_heap},
    {"leak_once", leak_heap_once},
    {"sawtooth", rise_and_fall},
    {"pool", fill_pool},
    {"leak_map", leak_mapping},
    {"hoard", hoard_mappings},
    {"leak_thread", leak_threads},
    {"leak_fd", leak_descriptors},
    {"retain", retain_heap},
    {"load_ms", wait_to_load},
    {"drift_us", drift},
};

static void follow_habits(struct chatllm_obj *object) {
    for (size_t i = 0; i < sizeof habits / sizeof *habits; i++) {
        long m, n = number(object, habits[i].key, &m);
        if (n > 0) {
            habits[i].act(object, n, m);
        }
    }
}

/* ---- how a phase fails: non-zero for an error to return */

static int crash(struct chatllm_obj *object, const char *input) {
    (void)object, (void)input;
    return raise(SIGSEGV);
}

static int end_abnormally(struct chatllm_obj *object, const char *input) {
    (void)object, (void)input;
    abort();
}

static int be_killed(struct chatllm_obj *object, const char *input) {
    (void)object, (void)input;
    return raise(SIGKILL);
}

static int report_error(struct chatllm_obj *object, const char *input) {
    lose(number(object, "error_leak", NULL));
    object->print(object->user, 2, "told to fail");
    if (*setting(object, "error_input")) {
        object->print(object->user, 2, "at");
        object->print(object->user, 2, input);
    }
    return 1;
}

static int hang(struct chatllm_obj *object, const char *input) {
    (void)input;
    const char *ready = setting(object, "ready");
    if (*ready) {
        touch(ready);
    }
    sleep_for_ever(NULL);
    return 1;
}

/* Take memory until there is none, or OOM_BOUND; whether there is none. */
static int take_all(struct block **blocks) {
    for (size_t taken = 0; taken < OOM_BOUND; taken += OOM_STEP) {
        struct block *block = take(OOM_STEP);
        if (!block) {
            return 1;
        }
        block->next = *blocks;
        *blocks = block;
    }
    return 0;
}

static int run_out_of_memory(struct chatllm_obj *object, const char *input) {
    struct block *blocks = NULL;
    (void)input;
    int none_left = take_all(&blocks);
    free_all(&blocks);
    object->print(object->user, 2, none_left ? "out of memory" : "got 2 GiB and met no limit");
    return 1;
}

static int die_out_of_memory(struct chatllm_obj *object, const char *input) {
    static const char said[] = "terminate called after throwing an instance of 'std::bad_alloc'\n";
    struct block *blocks = NULL;
    (void)input;
    if (take_all(&blocks)) {
        (void)!write(STDERR_FILENO, said, sizeof said - 1);
        abort();
    }
    free_all(&blocks);
    object->print(object->user, 2, "got 2 GiB and met no limit");
    return 1;
}

static const struct {
    const char *key;
    int (*act)(struct chatllm_obj *object, const char *input);
} faults[] = {
    {"crash", crash},
    {"abort", end_abnormally},
    {"kill", be_killed},
    {"error", report_error},
    {"hang", hang},
    {"oom", run_out_of_memory},
    {"oom_abort", die_out_of_memory},
};

/* Whether to misbehave again. */
static int still_misbehaves(const struct chatllm_obj *object) {
    const char *once = setting(object, "once");
    if (*once && access(once, F_OK) == 0) {
        return 0;
    }
    if (*once) {
        touch(once);
    }
    return 1;
}

/* Misbehave in this phase if the script says so; non-zero for an error to return. */
static int misbehave(struct chatllm_obj *object, const char *phase, const char *input) {
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        if (strcmp(setting(object, faults[i].key), phase) == 0) {
            return still_misbehaves(object) && faults[i].act(object, input);
        }
    }
    return 0;
}

/* Loads until now, this one too: of this process, or of all that share the file `count`. */
static long count_load(const struct chatllm_obj *object) {
    const char *path = setting(object, "count");
    struct stat status = {0};
    n_loads++;
    if (!*path) {
        return n_loads;
    }
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0 || write(file, ".", 1) != 1 || fstat(file, &status) != 0) {
        abort();
    }
    close(file);
    return (long)status.st_size;
}

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
    if (count_load(object) == number(object, "fail_load", NULL)) {
        print(user, 2, "this load was told to fail");
        return 1;
    }
    if (misbehave(object, "load", "")) {
        return 1;
    }
    follow_habits(object);
    if (*setting(object, "noise")) {
        printf("{\"error\": \"this is not the protocol\"}\n");
        fflush(stdout);
    }
    print(user, 13, "{\"name\":\"fake\",\"purpose\":\"ASR\"}");
    return 0;
}

static void say(struct chatllm_obj *object, const char *text, size_t piece) {
    long delay = number(object, "delay_ms", NULL), leak = number(object, "leak_token", NULL);
    size_t size = strlen(text);
    char chunk[4096];
    for (size_t at = 0; at < size; at += piece) {
        size_t length = size - at < piece ? size - at : piece;
        memcpy(chunk, text + at, length);
        chunk[length] = 0;
        if (delay > 0) {
            wait_us(delay * 1000);
        }
        lose(leak);
        object->print(object->user, 0, chunk);
    }
}

int chatllm_user_input(struct chatllm_obj *object, const char *input) {
    char text[4096];
    long pieces = number(object, "pieces", NULL);
    size_t piece = pieces > 0 ? (size_t)pieces : 3;
    if (misbehave(object, "transcribe", input)) {
        return 1;
    }
    if (*setting(object, "stderr_error")) {
        object->print(object->user, 2, "failed and returned 0");
        return 0;
    }
    drift(object, number(object, "drift_us", NULL), 0);
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
