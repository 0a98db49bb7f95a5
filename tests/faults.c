/* Makes the k-th change of files below a folder fail, or the process die there; loaded before the C library.
 *
 * Every library of a process passes here, compiled ones included. Beside dying, a loss of power can be imitated: what
 * was written and not flushed is gone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { COUNT, KILL, TORN, POWER, FULL, FAIL };

static char root[PATH_MAX];
static long chosen, seen;
static enum mode mode = COUNT;
static int armed, log_to = -1;
static ino_t dirty[1 << 16];
static int dirt;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

void faults_arm(const char *folder, long k, int how, int log) {
    strncpy(root, folder, sizeof root - 1);
    chosen = k, mode = how, seen = 0, dirt = 0, log_to = log, armed = 1;
}
long faults_seen(void) { return seen; }

static int below(const char *path) {
    size_t n = strlen(root);
    return armed && n && !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static int of_descriptor(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    return n > 0;
}

static int at(int fd, const char *name, char *path) {
    if (!armed) return 0;
    if (name[0] == '/') { snprintf(path, PATH_MAX, "%s", name); return below(path); }
    if (fd == AT_FDCWD) { if (!getcwd(path, PATH_MAX)) return 0; }
    else if (!of_descriptor(fd, path)) return 0;
    size_t n = strlen(path);
    snprintf(path + n, PATH_MAX - n, "/%s", name);
    return below(path);
}

static int written(int fd, char *path) { return armed && of_descriptor(fd, path) && below(path); }

static void mark(int fd, int flushed) {
    struct stat s;
    if (mode != POWER || fstat(fd, &s) || !S_ISREG(s.st_mode)) return;
    for (int i = 0; i < dirt; i++)
        if (dirty[i] == s.st_ino) { if (flushed) dirty[i] = dirty[--dirt]; return; }
    if (!flushed && dirt < 1 << 16) dirty[dirt++] = s.st_ino;
}

static int lose(const char *path, const struct stat *s, int kind, struct FTW *walk) {
    (void)walk;
    if (kind == FTW_F)
        for (int i = 0; i < dirt; i++)
            if (dirty[i] == s->st_ino && truncate(path, 0)) return 0;
    return 0;
}

static void die(void) {
    armed = 0;
    if (mode == POWER) nftw(root, lose, 16, FTW_PHYS);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether this operation fails; does not return where the process is to die. */
static int fails(const char *what, const char *path, int takes_room, int tears) {
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (log_to >= 0) { int was = armed; armed = 0; dprintf(log_to, "%ld %s %s\n", now, what, path); armed = was; }
    if (mode == FULL && now >= chosen && takes_room) { errno = ENOSPC; return 1; }
    if (now != chosen) return 0;
    if (mode == FAIL) { errno = EIO; return 1; }
    if (mode == KILL || mode == POWER) die();
    if (mode == TORN && !tears) die();
    return 0;
}

static int torn(void) { return mode == TORN && seen == chosen; }

#define PATHS char path[PATH_MAX]

#define OPEN(name) \
    int name(const char *file, int flags, ...) { \
        REAL(name); PATHS; mode_t bits = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); bits = va_arg(l, mode_t); va_end(l); } \
        if ((flags & (O_WRONLY | O_RDWR)) && at(AT_FDCWD, file, path) && fails("open", path, !!(flags & O_CREAT), 0)) return -1; \
        return real(file, flags, bits); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int fd, const char *file, int flags, ...) { \
        REAL(name); PATHS; mode_t bits = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); bits = va_arg(l, mode_t); va_end(l); } \
        if ((flags & (O_WRONLY | O_RDWR)) && at(fd, file, path) && fails("open", path, !!(flags & O_CREAT), 0)) return -1; \
        return real(fd, file, flags, bits); }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write); PATHS;
    if (fd > 2 && written(fd, path)) {
        if (fails("write", path, 1, 1)) return -1;
        mark(fd, 0);
        if (torn()) { if (real(fd, data, size / 2) < 0) return -1; die(); }
    }
    return real(fd, data, size);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev); PATHS;
    if (fd > 2 && written(fd, path)) {
        if (fails("writev", path, 1, 1)) return -1;
        mark(fd, 0);
        if (torn()) die();
    }
    return real(fd, parts, count);
}
#define PWRITE(name, type) \
    ssize_t name(int fd, const void *data, size_t size, type offset) { \
        REAL(name); PATHS; \
        if (written(fd, path)) { \
            if (fails("pwrite", path, 1, 1)) return -1; \
            mark(fd, 0); \
            if (torn()) { if (real(fd, data, size / 2, offset) < 0) return -1; die(); } } \
        return real(fd, data, size, offset); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
#define SENDFILE(name, type) \
    ssize_t name(int to, int from, type *offset, size_t size) { \
        REAL(name); PATHS; \
        if (written(to, path)) { if (fails("sendfile", path, 1, 1)) return -1; mark(to, 0); if (torn()) die(); } \
        return real(to, from, offset, size); }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) {
    REAL(copy_file_range); PATHS;
    if (written(to, path)) { if (fails("copy", path, 1, 1)) return -1; mark(to, 0); if (torn()) die(); }
    return real(from, a, to, b, size, flags);
}
#define TRUNCATE(name, type) \
    int name(int fd, type size) { \
        REAL(name); PATHS; \
        if (written(fd, path)) { if (fails("truncate", path, 1, 1)) return -1; mark(fd, 0); if (torn()) die(); } \
        return real(fd, size); }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
#define FLUSH(name) \
    int name(int fd) { \
        REAL(name); PATHS; \
        if (written(fd, path)) { if (fails("flush", path, 0, 0)) return -1; mark(fd, 1); } \
        return real(fd); }
FLUSH(fsync)
FLUSH(fdatasync)

int rename(const char *from, const char *to) {
    REAL(rename); PATHS;
    if (at(AT_FDCWD, to, path) && fails("rename", path, 0, 0)) return -1;
    return real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat); PATHS;
    if (at(b, to, path) && fails("rename", path, 0, 0)) return -1;
    return real(a, from, b, to);
}
int unlink(const char *file) {
    REAL(unlink); PATHS;
    if (at(AT_FDCWD, file, path) && fails("unlink", path, 0, 0)) return -1;
    return real(file);
}
int unlinkat(int fd, const char *file, int flags) {
    REAL(unlinkat); PATHS;
    if (at(fd, file, path) && fails("unlink", path, 0, 0)) return -1;
    return real(fd, file, flags);
}
int rmdir(const char *file) {
    REAL(rmdir); PATHS;
    if (at(AT_FDCWD, file, path) && fails("rmdir", path, 0, 0)) return -1;
    return real(file);
}
int mkdir(const char *file, mode_t bits) {
    REAL(mkdir); PATHS;
    if (at(AT_FDCWD, file, path) && fails("mkdir", path, 1, 0)) return -1;
    return real(file, bits);
}
