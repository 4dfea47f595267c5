/* As much of NVML as is asked: what it tells stands in the variable FAKE_NVML. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct process {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
};

struct memory {
    unsigned long long total, free, used;
};

static int opened;

static const char *told(void) { return getenv("FAKE_NVML") ? getenv("FAKE_NVML") : ""; }

int nvmlInit_v2(void) {
    if (strstr(told(), "no-driver")) return 9;
    ++opened;
    return 0;
}

int nvmlShutdown(void) { return opened-- > 0 ? 0 : 1; }

int fake_opened(void) { return opened; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = strstr(told(), "no-device") ? 0 : 2;
    return strstr(told(), "lost") ? 15 : 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    static int devices[2] = {0, 1};
    if (index > 1) return 2;
    *device = &devices[index];
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    memory->total = 1000000;
    memory->used = *(int *)device ? 7000 : 60000;
    memory->free = memory->total - memory->used;
    return 0;
}

/* FAKE_NVML has "DEVICE:PID:BYTES" for each process, with -1 for what is not known. */
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *processes) {
    struct process found[64];
    unsigned int n = 0;
    char words[4096], *rest = words;
    snprintf(words, sizeof words, "%s", told());
    for (char *word; (word = strsep(&rest, " ")) != NULL;) {
        int of;
        unsigned int pid;
        long long used;
        if (sscanf(word, "%d:%u:%lld", &of, &pid, &used) == 3 && of == *(int *)device && n < 64) {
            found[n++] = (struct process){pid, (unsigned long long)used, ~0u, ~0u};
        }
    }
    if (strstr(told(), "not-allowed")) return 4;
    const int fits = n <= *count;
    *count = n;
    if (!fits) return 7;
    if (n) memcpy(processes, found, n * sizeof *found);
    return 0;
}
