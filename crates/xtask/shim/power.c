/* Library that `cargo xtask chaos power` preloads into Kith. Before each change of a file in $KITH_SHIM_DIR, it
 * writes to $KITH_SHIM_JOURNAL how to undo the change. It also records which changes an fsync has made durable.
 * After a kill, the harness undoes changes that were not durable, as if the power had failed. The library changes
 * nothing else.
 *
 * A record consists of a `struct record`, the path and the old bytes. A change that this library cannot undo is
 * recorded as BLIND, and the harness then fails. Two kinds of files are not recorded. The -shm file is shared
 * memory and does not survive a power cut anyway. The stored head of the audit chain is not part of the database:
 * it is written every minute, synced and then renamed, and no acknowledgement depends on it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, TRUNCATE = 2, UNLINK = 3, SYNCED = 4, BLIND = 5 };

struct record {
    uint32_t magic;
    uint32_t kind;
    uint64_t sequence; /* in SYNCED: all records of the path up to this one are durable */
    uint64_t offset;
    uint64_t length; /* in WRITE: number of bytes written; in TRUNCATE: new size of the file */
    uint64_t old_size;
    uint32_t path_length;
    uint32_t data_length;
};

#define MAGIC 0x4b55444eu
#define MOST_FILES 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t sequence;
static int journal = -1;
static char folder[PATH_MAX];
static size_t folder_length;
static char *paths[MOST_FILES]; /* paths of the open files whose changes are recorded */

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_posix_fallocate)(int, off_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);

static void die(const char *why) {
    dprintf(2, "power shim: %s: %s\n", why, strerror(errno));
    abort();
}

static void *find(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (!function) die(name);
    return function;
}

static void prepare(void) {
    real_open = find("open");
    real_openat = find("openat");
    real_close = find("close");
    real_write = find("write");
    real_pwrite = find("pwrite64");
    real_writev = find("writev");
    real_pwritev = find("pwritev64");
    real_ftruncate = find("ftruncate64");
    real_fallocate = find("fallocate64");
    real_posix_fallocate = find("posix_fallocate64");
    real_fsync = find("fsync");
    real_fdatasync = find("fdatasync");
    real_unlink = find("unlink");
    real_rename = find("rename");
    const char *where = getenv("KITH_SHIM_DIR"), *into = getenv("KITH_SHIM_JOURNAL");
    if (!where || !into) return;
    if (!realpath(where, folder)) die("KITH_SHIM_DIR");
    folder_length = strlen(folder);
    journal = real_open(into, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0) die("KITH_SHIM_JOURNAL");
}

/* Constructors of other libraries may write before this one has run. */
static void ready(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
}

static int is_watched(const char *path) {
    size_t length = strlen(path);
    if (journal < 0 || length <= folder_length || strncmp(path, folder, folder_length) || path[folder_length] != '/')
        return 0;
    if (!strncmp(path + folder_length + 1, "audit-head", strlen("audit-head"))) return 0;
    return length < 4 || strcmp(path + length - 4, "-shm");
}

/* The caller must hold the lock. Each record is one write, so that only the last one can be truncated by a kill. */
static void append(enum kind kind, const char *path, uint64_t at, uint64_t offset, uint64_t length,
                   uint64_t old_size, const void *data, size_t data_length) {
    size_t path_length = strlen(path), size = sizeof(struct record) + path_length + data_length;
    char *bytes = malloc(size);
    if (!bytes) die("malloc");
    struct record record = { MAGIC, kind, at, offset, length, old_size, path_length, data_length };
    memcpy(bytes, &record, sizeof record);
    memcpy(bytes + sizeof record, path, path_length);
    if (data_length) memcpy(bytes + sizeof record + path_length, data, data_length);
    if (real_write(journal, bytes, size) != (ssize_t)size) die("journal");
    free(bytes);
}

static void blind(const char *path, const char *what) {
    append(BLIND, path, ++sequence, 0, 0, 0, what, strlen(what));
}

/* Records the current content of `length` bytes at `offset`, before they are overwritten. */
static void note_write(int fd, const char *path, uint64_t offset, uint64_t length) {
    struct stat now;
    if (fstat(fd, &now)) die("fstat");
    uint64_t size = now.st_size, end = offset + length < size ? offset + length : size;
    size_t kept = end > offset ? end - offset : 0;
    char *old = malloc(kept + 1);
    if (!old) die("malloc");
    if (kept && pread(fd, old, kept, offset) != (ssize_t)kept) {
        blind(path, "a write to a file that cannot be read");
    } else {
        append(WRITE, path, ++sequence, offset, length, size, old, kept);
    }
    free(old);
}

static void note_truncate(int fd, const char *path, uint64_t length) {
    struct stat now;
    if (fstat(fd, &now)) die("fstat");
    uint64_t size = now.st_size;
    size_t cut = size > length ? size - length : 0;
    char *old = malloc(cut + 1);
    if (!old) die("malloc");
    if (cut && pread(fd, old, cut, length) != (ssize_t)cut) {
        blind(path, "a cut in a file that cannot be read");
    } else {
        append(TRUNCATE, path, ++sequence, length, length, size, old, cut);
    }
    free(old);
}

static const char *path_of(int fd) {
    return fd >= 0 && fd < MOST_FILES ? paths[fd] : NULL;
}

/* Reads the path of the open file from the kernel, because the name given to open may be relative. */
static void watch(int fd) {
    char link[64], path[PATH_MAX];
    struct stat now;
    if (fd < 0 || fd >= MOST_FILES || fstat(fd, &now) || !S_ISREG(now.st_mode)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    pthread_mutex_lock(&lock);
    free(paths[fd]);
    paths[fd] = is_watched(path) ? strdup(path) : NULL;
    pthread_mutex_unlock(&lock);
}

/* Opening a file with O_TRUNC empties it without a call of ftruncate. */
static void before_open(const char *path, int flags) {
    char whole[PATH_MAX];
    struct stat now;
    if (!(flags & O_TRUNC) || stat(path, &now) || !S_ISREG(now.st_mode) || !now.st_size) return;
    if (!realpath(path, whole) || !is_watched(whole)) return;
    pthread_mutex_lock(&lock);
    blind(whole, "open with O_TRUNC");
    pthread_mutex_unlock(&lock);
}

#define MODE(flags, mode)                                     \
    mode_t mode = 0;                                          \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                  \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        mode = va_arg(rest, mode_t);                          \
        va_end(rest);                                         \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    ready();
    before_open(path, flags);
    int fd = real_open(path, flags, mode);
    watch(fd);
    return fd;
}

int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    return open(path, flags | O_LARGEFILE, mode);
}

int openat(int at, const char *path, int flags, ...) {
    MODE(flags, mode)
    ready();
    if (at == AT_FDCWD || path[0] == '/') before_open(path, flags);
    int fd = real_openat(at, path, flags, mode);
    watch(fd);
    return fd;
}

int openat64(int at, const char *path, int flags, ...) {
    MODE(flags, mode)
    return openat(at, path, flags | O_LARGEFILE, mode);
}

int creat(const char *path, mode_t mode) {
    return open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode) {
    return creat(path, mode);
}

int close(int fd) {
    ready();
    if (path_of(fd)) {
        pthread_mutex_lock(&lock);
        free(paths[fd]);
        paths[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return real_close(fd);
}

/* The lock is held during the record and the write, so that an fsync in between does not count the write as durable. */
ssize_t write(int fd, const void *bytes, size_t length) {
    ready();
    if (!path_of(fd)) return real_write(fd, bytes, length);
    pthread_mutex_lock(&lock);
    struct stat now;
    off_t offset = lseek(fd, 0, SEEK_CUR);
    if ((fcntl(fd, F_GETFL) & O_APPEND) && !fstat(fd, &now)) offset = now.st_size;
    note_write(fd, path_of(fd), offset, length);
    ssize_t done = real_write(fd, bytes, length);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    ready();
    if (!path_of(fd)) return real_pwrite(fd, bytes, length, offset);
    pthread_mutex_lock(&lock);
    note_write(fd, path_of(fd), offset, length);
    ssize_t done = real_pwrite(fd, bytes, length, offset);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

int ftruncate64(int fd, off_t length) {
    ready();
    if (!path_of(fd)) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    note_truncate(fd, path_of(fd), length);
    int done = real_ftruncate(fd, length);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}

static void blind_to(int fd, const char *what) {
    ready();
    if (!path_of(fd)) return;
    pthread_mutex_lock(&lock);
    blind(path_of(fd), what);
    pthread_mutex_unlock(&lock);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    blind_to(fd, "writev");
    return real_writev(fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    blind_to(fd, "pwritev");
    return real_pwritev(fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(fd, parts, count, offset);
}

int fallocate64(int fd, int mode, off_t offset, off_t length) {
    blind_to(fd, "fallocate");
    return real_fallocate(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    return fallocate64(fd, mode, offset, length);
}

int posix_fallocate64(int fd, off_t offset, off_t length) {
    blind_to(fd, "posix_fallocate");
    return real_posix_fallocate(fd, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) {
    return posix_fallocate64(fd, offset, length);
}

/* After an fsync, only changes that were made before it began are durable. */
static int synced(int fd, int (*real)(int)) {
    if (!path_of(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    uint64_t up_to = sequence;
    char *path = strdup(path_of(fd));
    pthread_mutex_unlock(&lock);
    int done = real(fd);
    if (!done) {
        pthread_mutex_lock(&lock);
        append(SYNCED, path, up_to, 0, 0, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    free(path);
    return done;
}

int fsync(int fd) {
    ready();
    return synced(fd, real_fsync);
}

int fdatasync(int fd) {
    ready();
    return synced(fd, real_fdatasync);
}

int unlink(const char *path) {
    ready();
    char whole[PATH_MAX];
    struct stat now;
    if (journal < 0 || !realpath(path, whole) || !is_watched(whole) || lstat(whole, &now) || !S_ISREG(now.st_mode))
        return real_unlink(path);
    pthread_mutex_lock(&lock);
    /* real_close below releases all locks of this process on the file. SQLite has none left, because it unlinks a
     * file only after its last use. */
    int fd = real_open(whole, O_RDONLY | O_CLOEXEC);
    char *old = malloc(now.st_size + 1);
    if (fd < 0 || !old || pread(fd, old, now.st_size, 0) != now.st_size) {
        blind(whole, "unlink of a file that cannot be read");
    } else {
        append(UNLINK, whole, ++sequence, 0, 0, now.st_size, old, now.st_size);
    }
    if (fd >= 0) real_close(fd);
    free(old);
    int done = real_unlink(path);
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) {
    ready();
    char whole[PATH_MAX];
    if (journal >= 0 && realpath(from, whole) && is_watched(whole)) {
        pthread_mutex_lock(&lock);
        blind(whole, "rename");
        pthread_mutex_unlock(&lock);
    }
    return real_rename(from, to);
}
