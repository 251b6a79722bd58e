/* Preloaded by calls.py: counts the system calls that several processes make below a
   directory, with one counter for all of them, and at one of them kills the process,
   or all processes, or has the call fail or write less than it was asked to.

   Only processes that called calls_enable(), and those they fork, take part. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE = 1, AFTER = 2, FAIL = 3, SHORT = 4 };
enum { CHANGES = 1, READS = 2 };
enum { PIDS = 4096 };

/* What calls.py writes, and reads; the same order and sizes there. */
struct control {
    _Atomic int64_t count; /* calls so far */
    int64_t first, last;   /* those that are hit, from 1 */
    int32_t kinds;         /* which are counted; 0 for none */
    int32_t mode;
    int32_t code;    /* the errno of FAIL */
    int32_t all;     /* kill everything at once */
    int32_t session; /* that all processes are in */
    _Atomic int32_t hits;
    _Atomic int32_t dead; /* everything was killed */
    int32_t pid;          /* of the first that was hit */
    _Atomic int32_t pids_count;
    int32_t pids[PIDS];
    char what[256]; /* the first call that was hit */
};

static struct control *control;
static int enabled;
static const char *prefix;
static size_t prefix_length;

static void enlist(void)
{
    if (!enabled)
        return;
    int place = atomic_fetch_add(&control->pids_count, 1);
    if (place < PIDS)
        control->pids[place] = getpid();
}

static void kill_all(void)
{
    atomic_store(&control->dead, 1);
    int count = atomic_load(&control->pids_count), own = getpid();
    for (int i = 0; i < count && i < PIDS; i++) {
        int pid = control->pids[i];
        /* The number of one that has ended may be somebody else's by now. */
        if (pid > 0 && pid != own && getsid(pid) == control->session)
            kill(pid, SIGKILL);
    }
}

static void end(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

void calls_end_all(void)
{
    kill_all();
}

int calls_enable(const char *state, const char *below)
{
    int fd = syscall(SYS_openat, AT_FDCWD, state, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (control == MAP_FAILED)
        return -1;
    prefix = strdup(below);
    prefix_length = strlen(below);
    enabled = 1;
    enlist();
    return pthread_atfork(NULL, NULL, enlist);
}

static int is_below(const char *path)
{
    return strncmp(path, prefix, prefix_length) == 0;
}

static int fd_is_below(int fd)
{
    char link[64], target[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length <= 0)
        return 0;
    target[length] = 0;
    return is_below(target);
}

static int at_is_below(int dir, const char *path)
{
    if (path == NULL)
        return 0;
    if (path[0] == '/')
        return is_below(path);
    return dir != AT_FDCWD && fd_is_below(dir);
}

/* Count a call; return what is to be done with it, 0 for nothing. */
static int meet(int kind, const char *name, const char *path, int fd)
{
    if (!(control->kinds & kind)) {
        if (atomic_load(&control->dead))
            end();
        return 0;
    }
    int64_t number = atomic_fetch_add(&control->count, 1) + 1;
    if (atomic_load(&control->dead))
        end();
    if (number < control->first || number > control->last)
        return 0;
    if (atomic_fetch_add(&control->hits, 1) == 0) {
        control->pid = getpid();
        char link[64], target[128] = "";
        if (path == NULL) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t length = readlink(link, target, sizeof target - 1);
            target[length > 0 ? length : 0] = 0;
            path = target;
        }
        snprintf(control->what, sizeof control->what, "%s %s", name, path);
    }
    if (control->mode == BEFORE) {
        if (control->all)
            kill_all();
        end();
    }
    return control->mode;
}

static void leave(int what)
{
    if (what != AFTER)
        return;
    if (control->all)
        kill_all();
    end();
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Do a call that is below, and what was decided about it. */
#define DO(kind, below, path, fd, type, name, call) \
    REAL(name); \
    if (!enabled || !(below)) \
        return call; \
    int what = meet(kind, #name, path, fd); \
    if (what == FAIL) { \
        errno = control->code; \
        return (type)-1; \
    } \
    type result = call; \
    int saved = errno; \
    leave(what); \
    errno = saved; \
    return result

#define DO_PATH(kind, dir, path, name, call) \
    DO(kind, at_is_below(dir, path), path, -1, int, name, call)
#define DO_FD(kind, fd, type, name, call) \
    DO(kind, fd_is_below(fd), NULL, fd, type, name, call)

/* -- paths ------------------------------------------------------------------------- */

static int kind_of(int flags)
{
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
    return writes ? CHANGES : READS;
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...)
{
    MODE
    DO_PATH(kind_of(flags), AT_FDCWD, path, open, real(path, flags, mode));
}

int open64(const char *path, int flags, ...)
{
    MODE
    DO_PATH(kind_of(flags), AT_FDCWD, path, open64, real(path, flags, mode));
}

int openat(int dir, const char *path, int flags, ...)
{
    MODE
    DO_PATH(kind_of(flags), dir, path, openat, real(dir, path, flags, mode));
}

int openat64(int dir, const char *path, int flags, ...)
{
    MODE
    DO_PATH(kind_of(flags), dir, path, openat64, real(dir, path, flags, mode));
}

int rename(const char *old, const char *new)
{
    DO_PATH(CHANGES, AT_FDCWD, new, rename, real(old, new));
}

int renameat(int from, const char *old, int to, const char *new)
{
    DO_PATH(CHANGES, to, new, renameat, real(from, old, to, new));
}

int link(const char *old, const char *new)
{
    DO_PATH(CHANGES, AT_FDCWD, new, link, real(old, new));
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    DO_PATH(CHANGES, to, new, linkat, real(from, old, to, new, flags));
}

int unlink(const char *path)
{
    DO_PATH(CHANGES, AT_FDCWD, path, unlink, real(path));
}

int unlinkat(int dir, const char *path, int flags)
{
    DO_PATH(CHANGES, dir, path, unlinkat, real(dir, path, flags));
}

int mkdir(const char *path, mode_t mode)
{
    DO_PATH(CHANGES, AT_FDCWD, path, mkdir, real(path, mode));
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    DO_PATH(CHANGES, dir, path, mkdirat, real(dir, path, mode));
}

int rmdir(const char *path)
{
    DO_PATH(CHANGES, AT_FDCWD, path, rmdir, real(path));
}

int utimensat(int dir, const char *path, const struct timespec times[2], int flags)
{
    DO_PATH(CHANGES, dir, path, utimensat, real(dir, path, times, flags));
}

int stat64(const char *path, struct stat64 *found)
{
    DO_PATH(READS, AT_FDCWD, path, stat64, real(path, found));
}

int lstat64(const char *path, struct stat64 *found)
{
    DO_PATH(READS, AT_FDCWD, path, lstat64, real(path, found));
}

int fstatat64(int dir, const char *path, struct stat64 *found, int flags)
{
    DO_PATH(READS, dir, path, fstatat64, real(dir, path, found, flags));
}

DIR *opendir(const char *path)
{
    REAL(opendir);
    if (!enabled || !is_below(path))
        return real(path);
    if (meet(READS, "opendir", path, -1) == FAIL) {
        errno = control->code;
        return NULL;
    }
    return real(path);
}

/* -- descriptors ------------------------------------------------------------------- */

DIR *fdopendir(int fd)
{
    REAL(fdopendir);
    if (!enabled || !fd_is_below(fd))
        return real(fd);
    if (meet(READS, "fdopendir", NULL, fd) == FAIL) {
        errno = control->code;
        return NULL;
    }
    return real(fd);
}

#define WRITE(name, fd, length, short_call, call) \
    REAL(name); \
    if (!enabled || !fd_is_below(fd)) \
        return call; \
    int what = meet(CHANGES, #name, NULL, fd); \
    if (what == FAIL) { \
        errno = control->code; \
        return -1; \
    } \
    ssize_t result; \
    if (what == SHORT && length > 1) \
        result = short_call; \
    else \
        result = call; \
    int saved = errno; \
    leave(what); \
    errno = saved; \
    return result

ssize_t write(int fd, const void *data, size_t length)
{
    WRITE(write, fd, length, real(fd, data, length / 2), real(fd, data, length));
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at)
{
    WRITE(pwrite64, fd, length, real(fd, data, length / 2, at),
          real(fd, data, length, at));
}

ssize_t copy_file_range(int in, off64_t *from, int fd, off64_t *to, size_t length,
                        unsigned flags)
{
    WRITE(copy_file_range, fd, length, real(in, from, fd, to, 7, flags),
          real(in, from, fd, to, length, flags));
}

int fsync(int fd)
{
    DO_FD(CHANGES, fd, int, fsync, real(fd));
}

int ftruncate64(int fd, off64_t length)
{
    DO_FD(CHANGES, fd, int, ftruncate64, real(fd, length));
}

int flock(int fd, int operation)
{
    /* No kernel refuses to unlock. */
    int refuses = !(operation & LOCK_UN) || control == NULL || control->mode != FAIL;
    DO(CHANGES, refuses && fd_is_below(fd), NULL, fd, int, flock, real(fd, operation));
}

int futimens(int fd, const struct timespec times[2])
{
    DO_FD(CHANGES, fd, int, futimens, real(fd, times));
}

int fchown(int fd, uid_t user, gid_t group)
{
    DO_FD(CHANGES, fd, int, fchown, real(fd, user, group));
}

int fchmod(int fd, mode_t mode)
{
    DO_FD(CHANGES, fd, int, fchmod, real(fd, mode));
}

int fcntl64(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int locks = command == F_SETLK || command == F_SETLKW;
    if (locks && ((struct flock *)argument)->l_type == F_UNLCK)
        locks = control == NULL || control->mode != FAIL;
    locks |= command == F_SETLEASE;
    DO(CHANGES, locks && fd_is_below(fd), NULL, fd, int, fcntl64,
       real(fd, command, argument));
}

int fstat64(int fd, struct stat64 *found)
{
    DO_FD(READS, fd, int, fstat64, real(fd, found));
}

int fstatvfs64(int fd, struct statvfs64 *found)
{
    DO_FD(READS, fd, int, fstatvfs64, real(fd, found));
}

ssize_t read(int fd, void *data, size_t length)
{
    DO_FD(READS, fd, ssize_t, read, real(fd, data, length));
}

ssize_t pread64(int fd, void *data, size_t length, off64_t at)
{
    DO_FD(READS, fd, ssize_t, pread64, real(fd, data, length, at));
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at)
{
    DO_FD(READS, fd, ssize_t, preadv64, real(fd, parts, count, at));
}
