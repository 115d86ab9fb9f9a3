/* The first process of a container: it does inside what the owner asks for over one byte stream.
 *
 * It starts processes and carries their streams, reads and writes files, signals process trees,
 * reaps orphans, and ends with its owner: its standard input is the owner's end of the stream.
 * As the first process it survives `kill -9 -1`, and nothing inside may look into it.
 *
 * Freestanding on purpose: a static program of a few kilobytes that needs nothing of the image.
 * Both directions are frames of three little-endian words, (length, id, type), and a payload; the
 * ids are the owner's. `protocol.py` has the same table. Rebuild with `make agent`.
 */

#define WITH_MEMMOVE
#include "../../native/bare.h"

enum { SPAWN = 1, INPUT, CLOSE_INPUT, CREDIT, KILL_BELOW, KILL, FORGET, SNAPSHOT, OPEN_READ, PREAD,
       OPEN_WRITE, WRITE, COMMIT, PASS, RENEW, STATFS, SETUP, PROBE, JOIN,
       START_OVER, RESIZE, TREE = 30, COUNT };
enum { READY = 1, OPENED, OUTPUT, ERROR, CONTROL, DIED, END, KILLED, ROOM, BROKEN, DATA, DONE,
       WRITER_IS, COUNTED = 30 };
enum { WITH_INPUT = 1, MERGED = 2, WITH_CONTROL = 4, WITH_CHANNEL = 8, WITH_SOCKET = 16,
       WITH_TERMINAL = 32 };

enum { VERSION = 1, SLOTS = 1024, HEADER = 12, CHUNK = 32768, CONTROL_FD = 9, CHANNEL_FD = 3 };
enum { INPUT_BYTES = 1 << 18, ROOM_STEP = 1 << 16, IN_BYTES = 4 << 20, OUT_BYTES = 1 << 18 };
/* Replies are small, so that reading stops while they would still fit. */
enum { OUT_RESERVE = 1 << 17, MARKER = 4096, PATH = 8192, TABLE = 32768, KILL_MS = 1000 };
enum { MARKER_WAIT_NS = 100000 };
enum { RESET_BYTES = 32 };
/* A lease whose owner dies before it has said how long it is to live. */
enum { FIRST_LEASE_S = 900 };

/* What the kernel calls things, beyond what `bare.h` has */

#if defined(__x86_64__)
enum { O_NOFOLLOW = 0400000, O_DIRECTORY = 0200000 };
#else
enum { O_NOFOLLOW = 0100000, O_DIRECTORY = 040000 };
#endif
enum { AT_EACCESS = 0x200, WNOHANG = 1 };
enum { POLLIN = 1, POLLOUT = 4, POLLERR = 8, POLLHUP = 16 };
enum { F_GETFL = 3, F_SETFL = 4, FIONREAD = 0x541B };
enum { AF_UNIX = 1, SOCK_STREAM = 1, SOCK_NONBLOCK = 04000, SOCK_CLOEXEC = 02000000 };
enum { SO_PASSCRED = 16, SCM_CREDENTIALS = 2 };
enum { PR_SET_DUMPABLE = 4, PR_SET_CHILD_SUBREAPER = 36, PR_SET_NO_NEW_PRIVS = 38,
       CLOCK_BOOTTIME = 7 };

struct pollfd { int fd; short events, revents; };
struct timespec { long s, ns; };
struct dirent { u64 ino, off; unsigned short reclen; u8 type; char name[]; };

/* What we need of a C library, likewise */

static char *append(char *to, const char *from)
{
    while (*from) *to++ = *from++;
    *to = 0;
    return to;
}

static char *append_number(char *to, u64 n)
{
    char digits[24], *d = digits + sizeof digits;
    *--d = 0;
    do *--d = (char)('0' + n % 10); while (n /= 10);
    return append(to, d);
}

static u64 number(const char *s)
{
    u64 n = 0;
    while (*s >= '0' && *s <= '9') n = n * 10 + (u64)(*s++ - '0');
    return n;
}

static void *map(u64 bytes)
{
    /* PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS */
    long at = call6(__NR_mmap, 0, (long)bytes, 3, 0x22, -1, 0);
    return at < 0 && at > -4096 ? 0 : (void *)at;
}

static void unmap(void *at, u64 bytes) { if (at) call2(munmap, at, bytes); }
static void close_fd(int *fd) { if (*fd >= 0) call1(close, *fd); *fd = -1; }

static void set_nonblocking(int fd)
{
    call3(fcntl, fd, F_SETFL, call3(fcntl, fd, F_GETFL, 0) | O_NONBLOCK);
}

static long now(void)
{
    struct timespec t = {0, 0};
    call2(clock_gettime, CLOCK_BOOTTIME, &t);
    return t.s;
}

/* State */

enum { FREE, PROCESS, CHANNEL, READER, WRITER };

struct slot {
    u32 id;
    int kind;
    int pid, pidfd;             /* of a process, or of who writes to a channel */
    int in, out[3];             /* standard input; output, error, control */
    u8 *queue;                  /* what is still to be written to `in` */
    u32 queue_at, queue_len, taken;
    u8 closing, ended, died, fresh, asked;
    int code;
    long credit;                /* how much more output the owner has room for */
    u32 before[2];              /* output that must go out before the marker, or the end, may */
    u8 *marker;
    u32 marker_len;
    int list, *children;        /* those of the moment; those at the snapshot */
    u32 snapshot, children_count, children_room;
    int fd, error, committed;   /* of a file; `fd` also of a terminal, whose `in` and `out[0]` it is */
    char *path;                 /* target and, PATH bytes on, the temporary file */
};

static struct slot slots[SLOTS];
static u32 top; /* no slot from here on is in use */
static u8 in[IN_BYTES], out[OUT_BYTES];
static u32 in_len, out_at, out_len;
enum { OWN_POLLS = 4 };
static struct pollfd polls[SLOTS * 4 + OWN_POLLS];
static struct { int pid, parent; } table[TABLE];
static int found[TABLE];
static u32 table_len;
static u8 reset_mark[RESET_BYTES];
static int leased;
static long deadline;
static char **environment, *self;
static int signals;
/* Where the owner's words come from and ours go to: the standard streams, or both a socket; and what
 * came along with the last of them. */
static int from, to = 1, passed = -1;

/* Sending */

static void flush_out(void)
{
    while (out_len) {
        long n = call3(write, to, out + out_at, out_len);
        if (n == -E_INTR) continue;
        if (n == -E_PIPE && from) out_len = 0; /* or we would not read on to the end of the input */
        if (n <= 0) break; /* nobody reads, or nobody is there: the end of the input tells */
        out_at += (u32)n;
        out_len -= (u32)n;
    }
    if (!out_len) out_at = 0;
}

static u32 room(void)
{
    if (out_at) {
        memmove(out, out + out_at, out_len);
        out_at = 0;
    }
    return OUT_BYTES - out_len;
}

static void frame(u8 *at, u32 len, u32 id, u32 type)
{
    u32 head[3] = {len, id, type};
    memcpy(at, head, HEADER);
}

static void tell(u32 id, u32 type, const void *data, u32 len)
{
    if (room() < len + HEADER) return;
    frame(out + out_len, len, id, type);
    memcpy(out + out_len + HEADER, data, len);
    out_len += len + HEADER;
}

static void tell2(u32 id, u32 type, u32 a, u32 b)
{
    u32 words[2] = {a, b};
    tell(id, type, words, sizeof words);
}

/* Slots */

static struct slot *slot_of(u32 id)
{
    struct slot *s = &slots[id % SLOTS];
    return s->kind != FREE && s->id == id ? s : 0;
}

static struct slot *take(u32 id, int kind)
{
    struct slot *s = &slots[id % SLOTS];
    memset(s, 0, sizeof *s);
    s->id = id;
    s->kind = kind;
    s->in = s->out[0] = s->out[1] = s->out[2] = s->fd = s->pidfd = s->list = -1;
    if (id % SLOTS >= top) top = id % SLOTS + 1;
    return s;
}

static int has_terminal(const struct slot *s) { return s->kind == PROCESS && s->fd >= 0; }

static void drop_input(struct slot *s)
{
    if (s->kind != CHANNEL && !has_terminal(s)) close_fd(&s->in);
    s->in = -1;
    unmap(s->queue, INPUT_BYTES);
    s->queue = 0;
    s->queue_len = 0;
}

static void forget(struct slot *s)
{
    drop_input(s);
    if (has_terminal(s)) s->out[0] = -1;
    for (int i = 0; i < 3; i++) close_fd(&s->out[i]);
    close_fd(&s->pidfd);
    close_fd(&s->list);
    unmap(s->marker, MARKER);
    unmap(s->children, s->children_room * sizeof(int));
    if (s->kind == WRITER && !s->committed) call3(unlinkat, AT_FDCWD, s->path + PATH, 0);
    close_fd(&s->fd);
    unmap(s->path, 2 * PATH);
    s->kind = FREE;
    while (top && slots[top - 1].kind == FREE) top--;
}

/* Process trees. Ids read here are used at once: none is given out anew that fast. */

static void read_table(void)
{
    static char entries[32768];
    char path[64], text[512];
    long n;
    int proc = (int)open_at("/proc", O_RDONLY | O_DIRECTORY, 0);
    table_len = 0;
    while ((n = call3(getdents64, proc, entries, sizeof entries)) > 0)
        for (long at = 0; at < n;) {
            struct dirent *e = (struct dirent *)(entries + at);
            at += e->reclen;
            if (e->name[0] < '1' || e->name[0] > '9' || table_len == TABLE) continue;
            append(append(append(path, "/proc/"), e->name), "/stat");
            int fd = (int)open_at(path, O_RDONLY, 0);
            if (fd < 0) continue;
            long got = call3(read, fd, text, sizeof text - 1);
            call1(close, fd);
            if (got <= 0) continue;
            text[got] = 0;
            char *p = text + got;
            while (p > text && *p != ')') p--; /* the name before it may hold anything */
            if (p == text || p[2] == 'Z' || p[2] == 'X') continue;
            table[table_len].pid = (int)number(e->name);
            table[table_len++].parent = (int)number(p + 4);
        }
    close_fd(&proc);
}

static int is_in(const int *list, u32 len, int pid)
{
    for (u32 i = 0; i < len; i++)
        if (list[i] == pid) return 1;
    return 0;
}

/* Put all below `root` into `found`, parents first, without the spared and what is below them. */
static u32 descend(int root, const int *spared, u32 spared_len)
{
    u32 len = 0;
    read_table();
    for (u32 level = 0, end = 0, parent_known = 0; !parent_known || level < end;) {
        int parent = parent_known ? found[level++] : root;
        for (u32 i = 0; i < table_len; i++)
            if (table[i].parent == parent && len < TABLE &&
                !(parent == root && is_in(spared, spared_len, table[i].pid)))
                found[len++] = table[i].pid;
        parent_known = 1;
        end = len;
    }
    return len;
}

static void kill_tree(int root)
{
    /* Stopped first, parents before children, so that nothing new appears behind the sweep. */
    static int stopped[TABLE];
    u32 count = 0, again = 1;
    call2(kill, root, SIGSTOP);
    for (int round = 0; again && round < 1000; round++) {
        u32 len = descend(root, 0, 0);
        again = 0;
        for (u32 i = 0; i < len && count < TABLE; i++)
            if (!is_in(stopped, count, found[i])) {
                call2(kill, found[i], SIGSTOP);
                stopped[count++] = found[i];
                again = 1;
            }
    }
    for (u32 i = 0; i < count; i++) call2(kill, stopped[i], SIGKILL);
    call2(kill, root, SIGKILL);
}

static int note_child(struct slot *s, int pid)
{
    if (s->children_count == s->children_room) {
        u32 more = s->children_room ? s->children_room * 4 : 1024;
        int *larger = map(more * sizeof(int));
        if (!larger) return 0;
        memcpy(larger, s->children, s->children_count * sizeof(int));
        unmap(s->children, s->children_room * sizeof(int));
        s->children = larger;
        s->children_room = more;
    }
    s->children[s->children_count++] = pid;
    return 1;
}

/* The kernel's own list of what the one thread of a shell has started, where it was built to tell.
 * A child may be left out when one before it is reaped meanwhile, which is then in only the first
 * of two readings. */
static int read_children(struct slot *s)
{
    char path[64], text[2][1024];
    long got[2] = {0, 0};
    if (s->list < 0) {
        char *end = append_number(append(path, "/proc/"), (u64)s->pid);
        append(append_number(append(end, "/task/"), (u64)s->pid), "/children");
        if ((s->list = (int)open_at(path, O_RDONLY, 0)) < 0) return 0;
    }
    for (int i = 0; i < 2 && (i == 0 || got[0] > 0); i++)
        got[i] = call4(pread64, s->list, text[i], sizeof text[i] - 1, 0);
    if (got[0] < 0 || got[0] > (long)sizeof text[0] / 2 || got[0] != got[1]) return 0;
    if (!same(text[0], text[1], (u64)got[0])) return 0;
    text[0][got[0]] = 0;
    for (char *p = text[0]; *p;) {
        if (!note_child(s, (int)number(p))) break;
        while (*p && *p++ != ' ') continue;
    }
    return 1;
}

static void take_snapshot(struct slot *s, u32 which)
{
    s->snapshot = which;
    s->children_count = 0;
    if (s->died || read_children(s)) return;
    read_table();
    for (u32 i = 0; i < table_len; i++)
        if (table[i].parent == s->pid && !note_child(s, table[i].pid)) return;
}

static void wait_for_ends(struct pollfd *ends, u32 count)
{
    struct timespec limit = {KILL_MS / 1000, KILL_MS % 1000 * 1000000L};
    u32 left = count;
    while (left && call4(ppoll, ends, count, &limit, 0) > 0) /* Linux counts `limit` down */
        for (u32 i = 0; i < count; i++)
            if (ends[i].revents) {
                close_fd(&ends[i].fd);
                ends[i].revents = 0;
                left--;
            }
    for (u32 i = 0; i < count; i++) close_fd(&ends[i].fd);
}

static void kill_below(struct slot *s, u32 signal, u32 spare)
{
    static struct pollfd ends[512];
    u32 count = 0, len = 0;
    if (!s->died)
        len = descend(s->pid, s->children, spare && spare == s->snapshot ? s->children_count : 0);
    for (u32 i = 0; i < len; i++) {
        int fd = signal == SIGKILL && count < 512 ? (int)call2(pidfd_open, found[i], 0) : -1;
        call2(kill, found[i], signal);
        if (fd >= 0) ends[count++] = (struct pollfd){fd, POLLIN, 0};
    }
    wait_for_ends(ends, count);
    tell2(s->id, KILLED, len, 0);
}

/* Starting processes */

struct plan { u32 flags, argc, envc; u16 window[4]; char *cwd, **argv, **env; };

static int is_executable(const char *path)
{
    struct statx st;
    if (call5(statx, AT_FDCWD, path, 0, STATX_TYPE, &st) < 0) return 0;
    return (st.stx_mode & 0170000) != 0040000 && call3(faccessat, AT_FDCWD, path, 1) == 0;
}

static long execute(struct plan *p)
{
    char candidate[PATH], *path = "/usr/bin:/bin";
    u64 name = length(p->argv[0]);
    for (u64 i = 0; i < name; i++)
        if (p->argv[0][i] == '/') return call3(execve, p->argv[0], p->argv, p->env);
    for (u32 i = 0; i < p->envc; i++)
        if (same(p->env[i], "PATH=", 5)) path = p->env[i] + 5;
    while (*path) {
        u64 n = 0;
        while (path[n] && path[n] != ':') n++;
        if (n + name + 2 < PATH) {
            memcpy(candidate, path, n);
            candidate[n] = '/';
            append(candidate + n + 1, p->argv[0]);
            if (is_executable(candidate)) return call3(execve, candidate, p->argv, p->env);
        }
        path += n + (path[n] == ':');
    }
    return -E_NOENT;
}

/* Children die first when memory runs out, then the first process. */
static void tell_oom_score(void)
{
    int fd = (int)open_at("/proc/self/oom_score_adj", O_WRONLY, 0);
    if (fd < 0) return;
    call3(write, fd, "700", 3);
    call1(close, fd);
}

/* The child: it becomes the program, or tells why not. */
static void become(struct plan *p, int fds[5], int report)
{
    static const int targets[5] = {0, 1, 2, CONTROL_FD, CHANNEL_FD};
    u64 none = 0;
    u32 answer[2] = {0, 0};
    call0(setsid);
    call5(prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    call5(prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    tell_oom_score();
    report = (int)call3(fcntl, report, F_DUPFD_CLOEXEC, 64);
    if (p->flags & WITH_TERMINAL) fds[1] = fds[2] = fds[0];
    for (int i = 0; i < 5; i++)
        if (fds[i] >= 0) fds[i] = (int)call3(fcntl, fds[i], F_DUPFD_CLOEXEC, 64);
    for (int i = 0; i < 5; i++)
        if (fds[i] >= 0) call3(dup3, fds[i], targets[i], 0);
    if (p->flags & WITH_TERMINAL) call3(ioctl, 0, TIOCSCTTY, 0);
    call4(rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, 8);
    answer[1] = 1;
    long result = call1(chdir, p->cwd);
    if (result >= 0) {
        answer[1] = 2;
        result = execute(p);
    }
    answer[0] = (u32)-result;
    call3(write, report, answer, sizeof answer);
    call1(exit_group, 127);
}

static int read_plan(struct plan *p, char *data, u32 len)
{
    u32 words[3], count = 0;
    char *end = data + len;
    if (len < sizeof words || end[-1]) return 0;
    memcpy(words, data, sizeof words);
    p->flags = words[0], p->argc = words[1], p->envc = words[2];
    char *at = data + sizeof words;
    if (p->flags & WITH_TERMINAL) { /* its rows and columns come first */
        if (len < sizeof words + 2 * sizeof(u16) + 1) return 0;
        memcpy(p->window, at, 2 * sizeof(u16));
        at += 2 * sizeof(u16);
    }
    char **all = map((words[1] + words[2] + 2UL) * sizeof(char *));
    if (!all) return 0;
    p->argv = all;
    p->env = all + p->argc + 1;
    for (p->cwd = at, at += length(at) + 1; at < end && count < p->argc + p->envc; count++) {
        (count < p->argc ? p->argv : p->env - p->argc)[count] = at;
        at += length(at) + 1;
    }
    return count == p->argc + p->envc && p->argc > 0;
}

static void drop_plan(struct plan *p)
{
    unmap(p->argv, (p->argc + p->envc + 2UL) * sizeof(char *));
}

/* One stream of a process: ours goes into the slot, theirs to the child. */
static int add_pipe(int *ours, int *theirs, int child_reads)
{
    int ends[2];
    long result = call2(pipe2, ends, O_CLOEXEC);
    if (result < 0) return (int)-result;
    *theirs = ends[child_reads ? 0 : 1];
    *ours = ends[child_reads ? 1 : 0];
    set_nonblocking(*ours);
    return 0;
}

/* A terminal of the container's own, both ends of it. */
static int add_terminal(struct slot *s, const u16 window[4], int *theirs)
{
    int unlocked = 0;
    long fd = open_at("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK, 0), result;
    if (fd < 0) return (int)-fd;
    s->in = s->out[0] = s->fd = (int)fd;
    if (!(s->queue = map(INPUT_BYTES))) return E_NOMEM;
    if ((result = call3(ioctl, fd, TIOCSPTLCK, &unlocked)) < 0) return (int)-result;
    if ((result = call3(ioctl, fd, TIOCSWINSZ, window)) < 0) return (int)-result;
    result = call3(ioctl, fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (result < 0) return (int)-result;
    *theirs = (int)result;
    return 0;
}

static int add_streams(struct slot *s, struct plan *p, int fds[5])
{
    u32 flags = p->flags;
    int error = 0;
    if (flags & WITH_TERMINAL) return add_terminal(s, p->window, &fds[0]);
    if (flags & WITH_INPUT) {
        s->queue = map(INPUT_BYTES);
        error = s->queue ? add_pipe(&s->in, &fds[0], 1) : E_NOMEM;
    } else if ((fds[0] = (int)open_at("/dev/null", O_RDONLY, 0)) < 0) {
        error = -fds[0];
    }
    if (!error) error = add_pipe(&s->out[0], &fds[1], 0);
    if (!error && flags & MERGED) {
        fds[2] = (int)call3(fcntl, fds[1], F_DUPFD_CLOEXEC, 64);
    } else if (!error) {
        error = add_pipe(&s->out[1], &fds[2], 0);
    }
    if (!error && flags & WITH_CONTROL) {
        s->marker = map(MARKER);
        error = s->marker ? add_pipe(&s->out[2], &fds[3], 0) : E_NOMEM;
    }
    return error;
}

static int add_channel(u32 id, int *theirs)
{
    int pair[2], yes = 1;
    long result = call4(socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
    if (result < 0) return (int)-result;
    struct slot *s = take(id, CHANNEL);
    s->queue = map(INPUT_BYTES);
    s->in = s->out[0] = pair[0];
    set_nonblocking(pair[0]);
    call5(setsockopt, pair[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
    *theirs = pair[1];
    return 0;
}

/* The owner is a process of this machine: from now on we talk over a socket, which spares the engine
 * the carrying, and lets sockets be passed. The standard input remains the owner's sign of life. */
static void join(const char *path, u32 len)
{
    struct { unsigned short family; char path[108]; } address = {AF_UNIX, {0}};
    if (from || len > sizeof address.path) return;
    memcpy(address.path, path, len);
    int sock = (int)call3(socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0) return;
    if (call3(connect, sock, &address, sizeof address) < 0) {
        close_fd(&sock);
        return;
    }
    set_nonblocking(sock);
    from = to = sock;
}

/* A lease outlives its owner's socket, and its next owner comes over the standard streams. */
static void part(void)
{
    close_fd(&passed);
    close_fd(&from);
    from = 0;
    to = 1;
    in_len = out_at = out_len = 0;
}

/* Read the owner's words, and keep what comes along. */
static long hear(u8 *at, u32 limit)
{
    struct { struct cmsghdr head; int fd, pad; } control = {{0, 0, 0}, -1, 0};
    struct iovec part = {at, limit};
    struct msghdr message = {0, 0, &part, 1, &control, sizeof control, 0};
    if (!from) return call3(read, 0, at, limit);
    long n = call3(recvmsg, from, &message, MSG_CMSG_CLOEXEC);
    if (n > 0 && message.controllen && control.head.type == SCM_RIGHTS) {
        close_fd(&passed); /* its order never came */
        passed = control.fd;
    }
    return n;
}

/* It came with the order that needs it. */
static int take_socket(int *theirs)
{
    if (passed < 0) return E_INVAL;
    *theirs = passed;
    passed = -1;
    return 0;
}

static void spawn(u32 id, char *data, u32 len)
{
    struct plan p = {0, 0, 0, {0, 0, 0, 0}, 0, 0, 0};
    int fds[5] = {-1, -1, -1, -1, -1}, report[2] = {-1, -1};
    u32 answer[2] = {E_INVAL, 0};
    struct slot *s = take(id, PROCESS);
    if (read_plan(&p, data, len)) {
        answer[0] = (u32)add_streams(s, &p, fds);
        /* The owner numbers a process's channel one more than the process. */
        if (!answer[0] && p.flags & WITH_CHANNEL) answer[0] = (u32)add_channel(id + 1, &fds[4]);
        if (p.flags & WITH_SOCKET) { /* taken in any case, or it would be the next one's */
            int error = take_socket(&fds[4]);
            if (!answer[0]) answer[0] = (u32)error;
        }
        if (!answer[0]) answer[0] = (u32)-call2(pipe2, report, O_CLOEXEC);
    }
    if (!answer[0]) {
        long pid = call5(clone, SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) become(&p, fds, report[1]);
        close_fd(&report[1]);
        if (pid < 0) {
            answer[0] = (u32)-pid;
        } else {
            s->pid = (int)pid;
            while (call3(read, report[0], answer, sizeof answer) == -E_INTR) continue;
        }
    }
    for (int i = 0; i < 5; i++) close_fd(&fds[i]);
    close_fd(&report[0]);
    close_fd(&report[1]);
    drop_plan(&p);
    tell2(id, OPENED, answer[0], answer[1]);
    if (answer[0]) {
        struct slot *channel = slot_of(id + 1);
        if (p.flags & WITH_CHANNEL && channel) forget(channel);
        forget(s);
    }
}

/* Streams */

static void break_input(struct slot *s)
{
    tell(s->id, BROKEN, 0, 0);
    drop_input(s);
}

static void feed(struct slot *s)
{
    while (s->queue_len) {
        long n = s->kind == CHANNEL
            ? call6(__NR_sendto, s->in, (long)(s->queue + s->queue_at), s->queue_len, MSG_NOSIGNAL, 0, 0)
            : call3(write, s->in, s->queue + s->queue_at, s->queue_len);
        if (n == -E_AGAIN || n == -E_INTR) return;
        if (n <= 0) return break_input(s);
        s->queue_at += (u32)n;
        s->queue_len -= (u32)n;
        s->taken += (u32)n;
    }
    s->queue_at = 0;
    if (s->taken >= ROOM_STEP) {
        tell2(s->id, ROOM, s->taken, 0);
        s->taken = 0;
    }
    if (s->closing) drop_input(s);
}

static void queue_input(struct slot *s, const u8 *data, u32 len)
{
    if (s->in < 0) {
        tell(s->id, BROKEN, 0, 0);
        return;
    }
    if (s->queue_at) {
        memmove(s->queue, s->queue + s->queue_at, s->queue_len);
        s->queue_at = 0;
    }
    if (len > INPUT_BYTES - s->queue_len) len = INPUT_BYTES - s->queue_len; /* it broke the rules */
    memcpy(s->queue + s->queue_len, data, len);
    s->queue_len += len;
    s->asked = 1;
    feed(s);
}

static u32 waiting(int fd)
{
    int n = 0;
    return fd >= 0 && call3(ioctl, fd, FIONREAD, &n) >= 0 && n > 0 ? (u32)n : 0;
}

static long receive(struct slot *s, int which, u8 *to, u32 limit)
{
    if (s->kind != CHANNEL) return call3(read, s->out[which], to, limit);
    struct { struct cmsghdr head; int pid, uid, gid, more[32]; } control;
    struct iovec part = {to, limit};
    struct msghdr message = {0, 0, &part, 1, &control, sizeof control, 0};
    long n = call3(recvmsg, s->out[which], &message, MSG_CMSG_CLOEXEC);
    if (n >= 0 && message.controllen >= sizeof(struct cmsghdr) + 12 &&
        control.head.type == SCM_CREDENTIALS && s->pidfd < 0 && control.pid > 0) {
        s->pid = control.pid;
        s->pidfd = (int)call2(pidfd_open, control.pid, 0);
        s->fresh = 1;
    }
    return n;
}

/* Nobody writes to a terminal any more, and its output has been read. It is kept until it is
 * forgotten, since closing it would tell those who may still have it open to end. */
static void hang_up(struct slot *s)
{
    s->out[0] = -1;
    s->ended = 1;
    tell(s->id, END, 0, 0);
    if (s->in >= 0) break_input(s);
}

/* Pass on what one stream holds, `limit` bytes at most. Returns how much. */
static u32 pass_on(struct slot *s, int which, u32 limit)
{
    u32 space = room();
    if (limit > CHUNK) limit = CHUNK;
    if ((long)limit > s->credit) limit = (u32)s->credit;
    if (space < OUT_RESERVE / 2 + HEADER || !limit) return 0;
    long n = receive(s, which, out + out_len + HEADER, limit);
    if (n == -E_AGAIN || n == -E_INTR) return 0;
    if (n <= 0) {
        if (s->kind == CHANNEL) {
            if (s->in == s->out[0]) drop_input(s);
            tell(s->id, END, 0, 0);
        }
        if (has_terminal(s)) hang_up(s);
        close_fd(&s->out[which]);
        s->before[which] = 0;
        return 0;
    }
    frame(out + out_len, (u32)n, s->id, (u32)(OUTPUT + which));
    out_len += (u32)n + HEADER;
    if (s->fresh) tell2(s->id, WRITER_IS, (u32)s->pid, 0);
    s->fresh = 0;
    s->credit -= n;
    s->before[which] -= (u32)n < s->before[which] ? (u32)n : s->before[which];
    return (u32)n;
}

static void fence(struct slot *s)
{
    if (has_terminal(s)) { /* the kernel then brings it up to what was written */
        struct pollfd terminal = {s->out[0], POLLIN, 0};
        struct timespec none = {0, 0};
        call4(ppoll, &terminal, 1, &none, 0);
    }
    s->before[0] = waiting(s->out[0]);
    s->before[1] = waiting(s->out[1]);
}

/* Send what had to wait for output that was written before it. */
static void settle(struct slot *s)
{
    for (int i = 0; i < 2; i++)
        while (s->before[i] && pass_on(s, i, s->before[i])) continue;
    if (s->before[0] || s->before[1]) return;
    if (s->marker_len) {
        tell(s->id, CONTROL, s->marker, s->marker_len);
        s->marker_len = 0;
        if (s->died) fence(s); /* more may have come while the marker waited */
        if (s->before[0] || s->before[1]) return settle(s);
    }
    if (s->died && !s->ended && has_terminal(s)) {
        fence(s); /* it tells of a page at most */
        if (s->before[0]) return settle(s);
        hang_up(s);
    } else if (s->died && !s->ended) {
        s->ended = 1;
        tell(s->id, END, 0, 0);
        for (int i = 0; i < 3; i++) close_fd(&s->out[i]);
        drop_input(s);
    }
}

static void take_marker(struct slot *s)
{
    long n = call3(read, s->out[2], s->marker, MARKER);
    if (n == -E_AGAIN || n == -E_INTR) return;
    if (n <= 0) {
        close_fd(&s->out[2]);
        return;
    }
    s->marker_len = (u32)n;
    fence(s);
    settle(s);
}

/* What a short command prints is followed by its marker within microseconds. Waited for, it goes out
 * along with that, which spares everybody on the way a second piece. Once per input, so that output
 * which goes on is not slowed down. */
static void await_marker(struct slot *s)
{
    struct pollfd end = {s->out[2], POLLIN, 0};
    struct timespec limit = {0, MARKER_WAIT_NS};
    s->asked = 0;
    if (call4(ppoll, &end, 1, &limit, 0) > 0) take_marker(s);
}

static void reap(void)
{
    u8 info[128];
    int status;
    long pid;
    while (call3(read, signals, info, sizeof info) > 0) continue;
    while ((pid = call4(wait4, -1, &status, WNOHANG, 0)) > 0)
        for (u32 i = 0; i < top; i++) {
            struct slot *s = &slots[i];
            if (s->kind != PROCESS || s->pid != pid || s->died) continue;
            s->died = 1;
            s->code = status & 127 ? 128 + (status & 127) : status >> 8 & 255;
            tell2(s->id, DIED, (u32)s->code, 0);
            if (s->out[2] >= 0 && !s->marker_len && waiting(s->out[2])) {
                take_marker(s);
            } else {
                fence(s);
                settle(s);
            }
            break;
        }
}

/* Files */

static void open_read(u32 id, char *path)
{
    struct statx st;
    long fd = open_at(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0), error = fd < 0 ? -fd : 0;
    if (!error && call5(statx, fd, "", 0x1000 /* AT_EMPTY_PATH */, STATX_BASIC_STATS, &st) < 0)
        error = E_INVAL;
    if (!error && (st.stx_mode & 0170000) == 0040000) error = E_ISDIR;
    if (!error && (st.stx_mode & 0170000) != 0100000) error = E_INVAL;
    if (error && fd >= 0) call1(close, fd);
    if (!error) take(id, READER)->fd = (int)fd;
    u32 words[4] = {(u32)error, 0, error ? 0 : (u32)st.stx_size, error ? 0 : (u32)(st.stx_size >> 32)};
    tell(id, OPENED, words, sizeof words);
}

static void read_at(struct slot *s, const u8 *data)
{
    u64 offset;
    u32 want;
    memcpy(&offset, data, 8);
    memcpy(&want, data + 8, 4);
    if (want > 2 * CHUNK) want = 2 * CHUNK;
    if (room() < want + HEADER) want = 0; /* cannot be: nothing is read in when so little is left */
    long n = call4(pread64, s->fd, out + out_len + HEADER, want, offset);
    if (n < 0) {
        tell2(s->id, DONE, (u32)-n, 0);
        return;
    }
    frame(out + out_len, (u32)n, s->id, DATA);
    out_len += (u32)n + HEADER;
}

static long mode_of(const char *path)
{
    struct statx st;
    long result = call5(statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, &st);
    return result < 0 ? result : st.stx_mode;
}

static char *last_slash(char *path)
{
    char *slash = 0;
    for (char *p = path; *p; p++)
        if (*p == '/') slash = p;
    return slash;
}

/* Follow links that stand at the end of a path, so that the file itself is replaced. */
static int follow(char *path)
{
    static char link[PATH], joined[2 * PATH];
    for (int hops = 0; hops < 40; hops++) {
        long n = call4(readlinkat, AT_FDCWD, path, link, PATH - 1);
        if (n == -E_INVAL || n == -E_NOENT) return 0;
        if (n < 0) return (int)-n;
        link[n] = 0;
        char *slash = last_slash(path), *end = joined;
        if (link[0] != '/' && slash) {
            memcpy(joined, path, (u64)(slash - path) + 1);
            end += slash - path + 1;
        }
        append(end, link);
        if (length(joined) >= PATH) return E_NAMETOOLONG;
        append(path, joined);
    }
    return E_LOOP;
}

static int make_parents(char *path)
{
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        long result = call3(mkdirat, AT_FDCWD, path, 0777), mode = result < 0 ? mode_of(path) : 0;
        *p = '/';
        if (result < 0 && (mode < 0 || (mode & 0170000) != 0040000))
            return result == -E_EXIST ? E_NOTDIR : (int)-result;
    }
    return 0;
}

static int begin(struct slot *s, u32 wanted)
{
    char *temporary = s->path + PATH, *slash;
    u64 random = 0, end = length(s->path);
    while (end > 1 && s->path[end - 1] == '/') s->path[--end] = 0;
    int error = follow(s->path);
    if (error) return error;
    long mode = mode_of(s->path);
    if (mode >= 0 && (mode & 0170000) == 0040000) return E_ISDIR;
    if (mode < 0 && mode != -E_NOENT) return (int)-mode;
    if ((error = make_parents(s->path))) return error;
    slash = last_slash(s->path);
    u64 directory = (u64)(slash - s->path) + 1, name = length(slash + 1);
    memcpy(temporary, s->path, directory);
    temporary[directory] = '.';
    if (name > 200) name = 200;
    memcpy(temporary + directory + 1, slash + 1, name);
    temporary[directory + 1 + name] = '.';
    call3(getrandom, &random, 6, 0);
    append_number(temporary + directory + 2 + name, random);
    long fd = open_at(temporary, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0) return (int)-fd;
    s->fd = (int)fd;
    s->committed = 0;
    if (wanted == ~0U) wanted = mode >= 0 ? (u32)mode & 07777 : 0644;
    return (int)-call2(fchmod, fd, wanted);
}

static void open_write(u32 id, u8 *data, u32 len)
{
    u32 mode, error = E_NOMEM;
    struct slot *s = take(id, WRITER);
    s->committed = 1; /* nothing to remove yet */
    memcpy(&mode, data, 4);
    if (len - 4 >= PATH - 300) {
        error = E_NAMETOOLONG;
    } else if ((s->path = map(2 * PATH))) {
        memcpy(s->path, data + 4, len - 4);
        error = (u32)begin(s, mode);
    }
    tell2(id, OPENED, error, 0);
    if (error) forget(s);
}

static void write_file(struct slot *s, const u8 *data, u32 len)
{
    while (len && !s->error) {
        long n = call3(write, s->fd, data, len);
        if (n == -E_INTR) continue;
        if (n < 0) {
            s->error = (int)-n;
            tell2(s->id, DONE, (u32)s->error, 0); /* at once, so that the owner stops sending */
            /* The space is free again before anybody else fails for want of it. */
            call3(unlinkat, AT_FDCWD, s->path + PATH, 0);
            s->committed = 1;
            close_fd(&s->fd);
            return;
        }
        data += n;
        len -= (u32)n;
    }
}

static void commit(struct slot *s)
{
    if (s->error) return; /* told already */
    long result = call4(renameat, AT_FDCWD, s->path + PATH, AT_FDCWD, s->path);
    if (result == 0) s->committed = 1;
    tell2(s->id, DONE, (u32)-result, 0);
}

static void tell_space(u32 id, const char *path)
{
    struct { long type, bsize; u64 blocks, bfree, rest[20]; } st;
    u64 words[5] = {0, 0, 0, 0, 0};
    long result = call2(statfs, path, &st);
    words[0] = (u64)-result;
    if (result == 0) {
        words[1] = st.blocks * (u64)st.bsize;
        words[2] = st.bfree * (u64)st.bsize;
        words[3] = st.rest[0];                       /* blocks for everybody */
        words[4] = st.rest[1] ? st.rest[2] : ~0UL; /* files, where they are counted */
    }
    tell(id, DATA, words, sizeof words);
}

#include "trees.c"

/* Hits of limits: how often the kernel has killed for want of memory, and refused a process. The
 * files are opened before anybody can put something else in their place. */

static int counters[2] = {-1, -1};
static u32 counted[2];

static void open_counters(void)
{
    static const char *const names[2][2] = {
        {"/sys/fs/cgroup/memory/memory.oom_control", "/sys/fs/cgroup/memory.events"},
        {"/sys/fs/cgroup/pids/pids.events", "/sys/fs/cgroup/pids.events"},
    };
    for (int i = 0; i < 4; i++)
        if (counters[i / 2] < 0) counters[i / 2] = (int)open_at(names[i / 2][i % 2], O_RDONLY, 0);
}

static u32 read_counter(int fd, const char *word)
{
    char text[512];
    u64 len = length(word);
    long n = call4(pread64, fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    for (char *line = text; *line;) {
        if (same(line, word, len)) return (u32)number(line + len);
        while (*line && *line++ != '\n') continue;
    }
    return 0;
}

/* Tell of them if they have changed, or anyway. */
static void count(u32 id, u32 ticket, u32 anyway)
{
    u32 words[3] = {ticket, read_counter(counters[0], "oom_kill "), read_counter(counters[1], "max ")};
    if (!anyway && same(words + 1, counted, sizeof counted)) return;
    memcpy(counted, words + 1, sizeof counted);
    tell(id, COUNTED, words, sizeof words);
}

/* What the owner asks for */

static void drop(struct slot *s)
{
    /* Whoever still waits for output looks up when something comes. */
    if (has_terminal(s)) tell(s->id, END, 0, 0);
    forget(s);
}

static void resize(struct slot *s, const u32 words[2])
{
    u16 window[4] = {(u16)words[0], (u16)words[1], 0, 0};
    call3(ioctl, s->fd, TIOCSWINSZ, window);
}

static void pass_channel(struct slot *s, u32 id, void *data, u32 len)
{
    int theirs = -1;
    if (s->in < 0 || s->queue_len || add_channel(id, &theirs)) {
        tell(id, END, 0, 0);
        return;
    }
    struct { struct cmsghdr head; int fd, pad; } control = {{20, SOL_SOCKET, SCM_RIGHTS}, theirs, 0};
    struct iovec part = {data, len};
    struct msghdr message = {0, 0, &part, 1, &control, sizeof control, 0};
    long n = call3(sendmsg, s->in, &message, MSG_NOSIGNAL);
    close_fd(&theirs);
    if (n != (long)len) { /* it does not take orders: the owner sees a channel that ended */
        forget(slot_of(id));
        tell(id, END, 0, 0);
    } else {
        tell2(id, OPENED, 0, 0);
    }
}

static void kill_writer(struct slot *s)
{
    struct pollfd end = {s->pidfd, POLLIN, 0};
    struct timespec none = {0, 0};
    /* A pid whose process has ended may be another's by now. */
    if (s->pidfd >= 0 && call4(ppoll, &end, 1, &none, 0) == 0) kill_tree(s->pid);
}

static void greet(void)
{
    static u8 text[65536];
    u32 words[4] = {VERSION, (u32)call0(geteuid), (u32)call0(getegid), 0};
    u32 len = sizeof words;
    words[3] = is_executable("/bin/bash") ? 1 : is_executable("/usr/bin/bash") ? 2 : 0;
    memcpy(text, words, sizeof words);
    for (char **e = environment; *e; e++) {
        u64 n = length(*e) + 1;
        if (len + n > sizeof text) break;
        memcpy(text + len, *e, n);
        len += (u32)n;
    }
    tell(0, READY, text, len);
}

/* Confine ourselves, and with us all that we start, before anything is started. */
static void set_up(u8 *data, u32 len)
{
    struct { unsigned short len; void *filter; } program = {0, data + RESET_BYTES};
    memcpy(reset_mark, data, RESET_BYTES);
    program.len = (unsigned short)((len - RESET_BYTES) / 8);
    call3(unlinkat, AT_FDCWD, self, 0);
    if (call5(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        (program.len && call5(prctl, PR_SET_SECCOMP, 2, &program, 0, 0) < 0))
        call1(exit_group, 5);
}

static void start_over(void)
{
    while (top) forget(&slots[top - 1]);
    call2(kill, -1, SIGKILL);
    /* Whoever listens now came in the middle of something: the mark says where to begin. */
    memcpy(out, reset_mark, RESET_BYTES);
    out_at = 0;
    out_len = RESET_BYTES;
    greet();
}

static void obey(u32 id, u32 type, u8 *data, u32 len)
{
    struct slot *s = slot_of(id);
    u32 words[2] = {0, 0};
    memcpy(words, data, len < sizeof words ? len : sizeof words);
    if (type == SPAWN) spawn(id, (char *)data, len);
    else if (type == OPEN_READ && len && !data[len - 1]) open_read(id, (char *)data);
    else if (type == OPEN_WRITE && len > 4 && !data[len - 1]) open_write(id, data, len);
    else if (type == STATFS && len && !data[len - 1]) tell_space(id, (char *)data);
    else if (type == COUNT) count(id, words[0], words[1]);
    else if (type == TREE && len > 1 && !data[len - 1]) start_tree(id, data, len);
    else if (type == SETUP && len >= RESET_BYTES) set_up(data, len);
    else if (type == JOIN && len && !data[len - 1]) join((char *)data, len);
    else if (type == START_OVER) start_over();
    else if (type == RENEW) deadline = words[0] ? now() + words[0] : 0;
    else if (!s) return; /* it has been forgotten, or could not be started */
    else if (type == FORGET) drop(s);
    else if (type == INPUT) queue_input(s, data, len);
    else if (type == CREDIT) s->credit += words[0];
    else if (type == CLOSE_INPUT) { s->closing = 1; if (s->in >= 0) feed(s); }
    else if (type == KILL && s->kind == CHANNEL) kill_writer(s);
    else if (type == KILL && s->kind == PROCESS && !s->died) kill_tree(s->pid);
    else if (type == KILL_BELOW) kill_below(s, words[0], words[1]);
    else if (type == RESIZE && has_terminal(s)) resize(s, words);
    else if (type == SNAPSHOT) take_snapshot(s, words[0]);
    else if (type == PREAD && s->kind == READER && len >= 12) read_at(s, data);
    else if (type == WRITE && s->kind == WRITER) write_file(s, data, len);
    else if (type == COMMIT && s->kind == WRITER) commit(s);
    else if (type == PROBE && s->kind == CHANNEL) {
        pass_on(s, 0, CHUNK); /* which finds out if the other end is gone */
        tell2(id, OPENED, 0, 0);
    } else if (type == PASS && s->kind == CHANNEL && len > 4)
        pass_channel(s, words[0], data + 4, len - 4);
}

static void obey_all(void)
{
    u32 at = 0;
    while (in_len - at >= HEADER && room() >= OUT_RESERVE) {
        u32 head[3];
        memcpy(head, in + at, HEADER);
        if (head[0] > IN_BYTES - HEADER) call1(exit_group, 3); /* not our owner's words */
        if (in_len - at - HEADER < head[0]) break;
        obey(head[1], head[2], in + at + HEADER, head[0]);
        at += HEADER + head[0];
    }
    memmove(in, in + at, in_len - at);
    in_len -= at;
}

static void listen(void)
{
    long n = hear(in + in_len, IN_BYTES - in_len);
    if (n == -E_AGAIN || n == -E_INTR) return;
    if (n <= 0 && from && leased) return part();
    if (n <= 0) call1(exit_group, 0);
    in_len += (u32)n;
    /* A new owner of a lease begins with the mark: what the last one left half said is void. */
    for (u32 i = 0; leased && i + RESET_BYTES <= in_len; i++)
        if (same(in + i, reset_mark, RESET_BYTES)) {
            memmove(in, in + i + RESET_BYTES, in_len -= i + RESET_BYTES);
            start_over();
            i = ~0U;
        }
    obey_all();
}

/* The loop */

/* Whether output has to wait for what was there before a marker or the end. */
static int is_held(const struct slot *s)
{
    return s->marker_len || s->died;
}

static u32 gather(void)
{
    u32 n = OWN_POLLS;
    int open = room() >= OUT_RESERVE;
    polls[0] = (struct pollfd){from, open && in_len < IN_BYTES ? POLLIN : 0, 0};
    polls[1] = (struct pollfd){out_len ? to : -1, POLLOUT, 0};
    polls[2] = (struct pollfd){signals, POLLIN, 0};
    polls[3] = (struct pollfd){from && !leased ? 0 : -1, 0, 0}; /* its end tells by itself */
    for (u32 i = 0; i < top; i++) {
        struct slot *s = &slots[i];
        if (s->kind != PROCESS && s->kind != CHANNEL) continue;
        int held = is_held(s), flows = open && s->credit > 0;
        for (int k = 0; k < 2; k++) {
            int wanted = s->out[k] >= 0 && flows && (!held || s->before[k]);
            polls[n++] = (struct pollfd){wanted ? s->out[k] : -1, POLLIN, 0};
        }
        polls[n++] = (struct pollfd){s->out[2] >= 0 && open && !held ? s->out[2] : -1, POLLIN, 0};
        polls[n++] = (struct pollfd){s->in >= 0 && s->queue_len ? s->in : -1, POLLOUT, 0};
    }
    return n;
}

static void serve(u32 count)
{
    u32 n = OWN_POLLS;
    for (u32 i = 0; i < SLOTS && n < count; i++) {
        struct slot *s = &slots[i];
        if (s->kind != PROCESS && s->kind != CHANNEL) continue;
        struct pollfd *p = &polls[n];
        n += 4;
        if (p[2].revents && !is_held(s)) take_marker(s);
        else if (p[0].revents && s->asked && s->out[2] >= 0 && !is_held(s)) await_marker(s);
        for (int k = 0; k < 2; k++)
            if (p[k].revents && s->out[k] == p[k].fd)
                pass_on(s, k, is_held(s) ? s->before[k] : CHUNK);
        if (p[3].revents && s->in == p[3].fd) {
            if (has_terminal(s) && p[3].revents & POLLHUP) break_input(s); /* it takes no more */
            else feed(s);
        }
        if (s->marker_len || (s->died && !s->ended)) settle(s);
    }
}

static void run(void)
{
    for (;;) {
        flush_out();
        if (in_len >= HEADER) obey_all(); /* what had to wait for room */
        u32 count = gather();
        struct timespec limit = {0, 0};
        if (deadline) {
            limit.s = deadline - now();
            if (limit.s <= 0) call1(exit_group, 4);
        }
        if (call4(ppoll, polls, count, deadline ? &limit : 0, 0) < 0) continue;
        /* The owner is gone, also when nobody takes what we have to say. */
        if (!leased && polls[0].revents & POLLHUP && !(polls[0].revents & POLLIN)) {
            int left = 0;
            call3(ioctl, from, FIONREAD, &left);
            if (!left) call1(exit_group, 0);
        }
        if (polls[3].revents & POLLHUP) call1(exit_group, 0);
        serve(count);
        if (polls[2].revents) reap();
        if (polls[0].revents & POLLIN) listen();
    }
}

/* The argument is "owner" or "lease". */
__attribute__((used)) void enter(long *stack)
{
    char **argv = (char **)(stack + 1);
    u64 all = ~0UL, child = 1UL << (SIGCHLD - 1);
    environment = argv + stack[0] + 1;
    leased = stack[0] > 1 && argv[1][0] == 'l';
    if (leased) deadline = now() + FIRST_LEASE_S;
    call5(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    call4(rt_sigprocmask, 2, &all, 0, 8);
    signals = (int)call4(signalfd4, -1, &child, 8, O_CLOEXEC | O_NONBLOCK);
    call1(umask, 022);
    int null = (int)open_at("/dev/null", O_RDWR, 0);
    call3(dup3, null, 2, 0);
    open_counters();
    self = argv[0];
    set_nonblocking(0);
    set_nonblocking(1);
    greet();
    run();
}

__asm__(".globl _start\n_start:\n"
#if defined(__x86_64__)
        "xor %ebp, %ebp\nmov %rsp, %rdi\nand $-16, %rsp\ncall enter\n");
#elif defined(__aarch64__)
        "mov x29, #0\nmov x30, #0\nmov x0, sp\nbl enter\n");
#endif
