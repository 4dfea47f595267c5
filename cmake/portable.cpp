// The engine, and the C++ library linked into it, with functions that glibc 2.28 has. Later versions
// renumbered some and moved others to another of its libraries, and a link on such a system asks for the
// later numbers. The linker sends calls of NAME to __wrap_NAME (see portable.cmake); NAME@GLIBC_2.2.5 is in
// every glibc for x86-64.

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#define OF_EVERY_GLIBC(name) __asm__(".symver old_" #name ", " #name "@GLIBC_2.2.5")

extern "C" {

OF_EVERY_GLIBC(__fxstat);
OF_EVERY_GLIBC(exp);
OF_EVERY_GLIBC(pthread_attr_setstack);
OF_EVERY_GLIBC(pthread_create);
OF_EVERY_GLIBC(pthread_join);
OF_EVERY_GLIBC(pthread_once);
OF_EVERY_GLIBC(pthread_sigmask);

int old___fxstat(int version, int file, struct stat *status);
double old_exp(double x);
int old_pthread_attr_setstack(pthread_attr_t *attributes, void *stack, size_t n_bytes);
int old_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*call)(void *),
                       void *context);
int old_pthread_join(pthread_t thread, void **result);
int old_pthread_once(pthread_once_t *once, void (*call)());
int old_pthread_sigmask(int how, const sigset_t *mask, sigset_t *before);

int __wrap_fstat(int file, struct stat *status) {
    constexpr int version_of_struct = 1;  // the only one on x86-64, where fstat64 is the same
    return old___fxstat(version_of_struct, file, status);
}
int __wrap_fstat64(int file, struct stat *status) { return __wrap_fstat(file, status); }
double __wrap_exp(double x) { return old_exp(x); }
int __wrap_pthread_attr_setstack(pthread_attr_t *attributes, void *stack, size_t n_bytes) {
    return old_pthread_attr_setstack(attributes, stack, n_bytes);
}
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*call)(void *),
                          void *context) {
    return old_pthread_create(thread, attributes, call, context);
}
int __wrap_pthread_join(pthread_t thread, void **result) { return old_pthread_join(thread, result); }
int __wrap_pthread_once(pthread_once_t *once, void (*call)()) { return old_pthread_once(once, call); }
int __wrap_pthread_sigmask(int how, const sigset_t *mask, sigset_t *before) {
    return old_pthread_sigmask(how, mask, before);
}

// Whether counts may be kept without atomic instructions, which glibc tells from 2.32 on. Never is right
// everywhere.
[[gnu::visibility("hidden")]] extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}
