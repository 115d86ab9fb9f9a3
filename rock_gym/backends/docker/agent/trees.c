/* Part of agent.c: whole folders, read and written by a child of the first process.
 *
 * A child, so that a large tree holds up nothing else, and with no program of the image. It goes by
 * descriptors, step by step, and follows no link. What it has to say goes out through its standard
 * output as records, what it is told comes in through its standard input; `trees.py` has the same.
 */

enum { TREE_ENTRY = 1, TREE_ERROR, TREE_TOTAL, TREE_DONE, TREE_ATTRIBUTES, TREE_END };
enum { KIND_FILE = 1, KIND_DIRECTORY, KIND_LINK, KIND_OTHER };
enum { DEPTH = 256, NAMES = 32768, TREE_PATH = 257 * 256, LINK_TARGET = 4096, PIECE = 65536 };
/* Of a file that says it is empty, as files do that the kernel makes up. */
enum { UNKNOWN_BYTES = 1 << 20, LAST_PIECE = -1 };
enum { AT_SYMLINK_NOFOLLOW = 0x100, F_SETPIPE_SZ = 1031 };
enum { TREE_READ = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };

struct record {
    u32 what, kind, mode, path_len, target_len, error;
    u64 size;
    long mtime_ns;
};
struct level { int fd; u32 path_len; u8 *names; long at, end; };

static struct level levels[DEPTH + 1];
static char tree_path[TREE_PATH];

/* The streams of the child */

static void put_all(void)
{
    for (u32 at = 0; at < out_len;) {
        long n = call3(write, 1, out + at, out_len - at);
        if (n == -E_INTR) continue;
        if (n <= 0) call1(exit_group, 1); /* nobody wants it any more */
        at += (u32)n;
    }
    out_len = 0;
}

static void put(const void *data, u32 len)
{
    if (OUT_BYTES - out_len < len) put_all();
    memcpy(out + out_len, data, len);
    out_len += len;
}

static void put_record(struct record *r, const char *path, const char *target)
{
    r->path_len = (u32)length(path);
    r->target_len = (u32)length(target);
    put(r, sizeof *r);
    put(path, r->path_len);
    put(target, r->target_len);
}

/* What was being written vanishes with the descriptors, or is removed by who calls this. */
static void fail(long error)
{
    struct record r = {.what = TREE_ERROR, .error = (u32)(error < 0 ? -error : error)};
    put_record(&r, tree_path, "");
    put_all();
    call1(exit_group, 1);
}

static long check(long result)
{
    if (result < 0) fail(result);
    return result;
}

static int get_all(void *to, u32 len)
{
    for (u32 at = 0; at < len;) {
        long n = call3(read, 0, (u8 *)to + at, len - at);
        if (n == -E_INTR) continue;
        if (n <= 0) return 0;
        at += (u32)n;
    }
    return 1;
}

static void get(void *to, u32 len)
{
    if (!get_all(to, len)) call1(exit_group, 1); /* whoever asked has given up */
}

/* Reading */

static u32 kind_of(u32 mode)
{
    mode &= 0170000;
    return mode == 0100000 ? KIND_FILE : mode == 0040000 ? KIND_DIRECTORY
         : mode == 0120000 ? KIND_LINK : KIND_OTHER;
}

static long look_at(int fd, const char *name, struct record *r)
{
    struct statx st;
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    long result = call5(statx, fd, name, flags, STATX_BASIC_STATS, &st);
    if (result < 0) return result;
    *r = (struct record){.what = TREE_ENTRY, .kind = kind_of(st.stx_mode), .mode = st.stx_mode & 0777,
                         .mtime_ns = st.stx_mtime.tv_sec * 1000000000L + st.stx_mtime.tv_nsec};
    if (r->kind == KIND_FILE) r->size = st.stx_size;
    return 0;
}

/* Content goes in pieces; the last one is marked, and tells of an error if there was one. */
static void put_content(int fd, u64 size)
{
    int last[2] = {LAST_PIECE, 0};
    for (u64 left = size ? size : UNKNOWN_BYTES; left;) {
        u32 want = left < PIECE ? (u32)left : PIECE;
        if (OUT_BYTES - out_len < want + 4) put_all();
        long n = call3(read, fd, out + out_len + 4, want);
        if (n == -E_INTR) continue;
        if (n <= 0) {
            last[1] = (int)-n;
            break;
        }
        u32 len = (u32)n;
        memcpy(out + out_len, &len, 4);
        out_len += len + 4;
        left -= len;
    }
    put(last, sizeof last);
}

static void enter_level(struct level *l, int fd, u32 path_len)
{
    l->fd = fd;
    l->path_len = path_len;
    l->at = l->end = 0;
    if (!l->names && !(l->names = map(NAMES))) fail(E_NOMEM);
}

/* The next name of a folder, which is added to the path; 0 at the end. */
static char *next_name(struct level *l)
{
    for (;;) {
        tree_path[l->path_len] = 0;
        if (l->at >= l->end) {
            l->at = 0;
            l->end = check(call3(getdents64, l->fd, l->names, NAMES));
            if (!l->end) return 0;
        }
        struct dirent *e = (struct dirent *)(l->names + l->at);
        l->at += e->reclen;
        if (same(e->name, ".", 2) || same(e->name, "..", 3)) continue;
        char *name = tree_path + l->path_len;
        if (l->path_len) *name++ = '/';
        append(name, e->name);
        return name;
    }
}

/* Look at one thing of a folder, and tell of it. Returns the descriptor of a folder, else -1. */
static int visit(int folder, const char *name, int contents, u64 *total)
{
    struct record r;
    char target[LINK_TARGET + 1] = "";
    long fd = -1, result = look_at(folder, name, &r);
    if (result == -E_NOENT) return -1; /* it has vanished meanwhile */
    check(result);
    if (r.kind == KIND_LINK) {
        result = call4(readlinkat, folder, name, target, LINK_TARGET);
        if (result == -E_NOENT) return -1;
        target[check(result)] = 0;
    } else if (r.kind == KIND_DIRECTORY || (r.kind == KIND_FILE && contents)) {
        fd = call4(openat, folder, name, TREE_READ | O_CLOEXEC, 0);
        if (fd == -E_NOENT) return -1;
        check(look_at((int)check(fd), "", &r)); /* by now it may be another thing of that name */
    }
    *total += r.size;
    if (contents) put_record(&r, tree_path, target);
    if (r.kind == KIND_DIRECTORY) return (int)fd;
    if (r.kind == KIND_FILE && contents) put_content((int)fd, r.size);
    if (fd >= 0) call1(close, fd);
    return -1;
}

/* Go through what is in a folder, parents first. Returns the size of all files. */
static u64 walk(int root, int contents)
{
    u64 total = 0;
    u32 depth = 0;
    enter_level(&levels[0], (int)check(call4(openat, root, ".", O_RDONLY | O_DIRECTORY, 0)), 0);
    for (;;) {
        struct level *l = &levels[depth];
        char *name = next_name(l);
        if (!name) {
            call1(close, l->fd);
            if (!depth--) return total;
            continue;
        }
        int fd = visit(l->fd, name, contents, &total);
        if (fd < 0) continue;
        if (++depth > DEPTH) fail(E_NAMETOOLONG);
        enter_level(&levels[depth], fd, (u32)length(tree_path));
    }
}

static void read_tree(const char *path)
{
    struct record r, total = {.what = TREE_TOTAL}, done = {.what = TREE_DONE};
    int root = (int)check(open_at(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0));
    check(look_at(root, "", &r));
    if (r.kind != KIND_FILE && r.kind != KIND_DIRECTORY) fail(E_INVAL);
    total.size = r.kind == KIND_FILE ? r.size : walk(root, 0);
    put_record(&total, "", "");
    put_record(&r, "", "");
    if (r.kind == KIND_FILE) put_content(root, r.size);
    else walk(root, 1);
    put_record(&done, "", "");
    put_all();
}

/* Writing */

static char root_name[PATH], temporary_name[40], place[TREE_PATH];
static u32 depth_open; /* levels[0] is the folder that the root is in */
static int root_is_new;

static long open_folder(int parent, const char *name)
{
    return call4(openat, parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
}

/* `place` names the folders on the way to the last thing, one after the other, each at `path_len`. */
static void enter_folder(const char *name)
{
    struct level *l = &levels[depth_open];
    long fd = check(open_folder(l->fd, name));
    u32 at = l->path_len + (depth_open ? (u32)length(place + l->path_len) + 1 : 0);
    if (++depth_open > DEPTH || at + length(name) + 1 > sizeof place) fail(E_NAMETOOLONG);
    append(place + at, name);
    levels[depth_open].fd = (int)fd;
    levels[depth_open].path_len = at;
}

/* Open the folder that a path is in, from where the last thing was. Returns the name in it. */
static char *go_to(char *path)
{
    u32 depth = 0;
    char *name = root_name, *rest = path;
    while (*rest) {
        if (depth < depth_open && same(place + levels[depth + 1].path_len, name, length(name) + 1)) {
            depth++;
        } else {
            while (depth_open > depth) call1(close, levels[depth_open--].fd);
            enter_folder(name);
            depth++;
        }
        name = rest;
        while (*rest && *rest != '/') rest++;
        if (*rest) *rest++ = 0;
    }
    while (depth_open > depth) call1(close, levels[depth_open--].fd);
    return name;
}

static int here(void) { return levels[depth_open].fd; }

static void name_temporary(void)
{
    u64 random = 0;
    call3(getrandom, &random, sizeof random, 0);
    append_number(append(temporary_name, ".rock-gym-"), random);
}

static void remove_temporary(void) { call3(unlinkat, here(), temporary_name, 0); }

static long set_times(int fd, const char *name, long mtime_ns)
{
    long seconds = mtime_ns / 1000000000L, rest = mtime_ns % 1000000000L;
    if (rest < 0) rest += 1000000000L, seconds--;
    struct timespec times[2] = {{seconds, rest}, {seconds, rest}};
    return call4(utimensat, fd, name, times, name ? AT_SYMLINK_NOFOLLOW : 0);
}

static void write_folder(const char *name, int is_root)
{
    long result = call3(mkdirat, here(), name, 0700);
    if (result < 0 && result != -E_EXIST) fail(result);
    if (is_root) root_is_new = result == 0;
    enter_folder(name);
}

static void write_link(struct record *r, const char *name, const char *target)
{
    name_temporary();
    check(call3(symlinkat, target, here(), temporary_name));
    long result = set_times(here(), temporary_name, r->mtime_ns);
    if (result >= 0) result = call4(renameat, here(), temporary_name, here(), name);
    if (result < 0) {
        remove_temporary();
        fail(result);
    }
}

/* Content comes in pieces, the last of which is marked. */
static void write_content(struct record *r, const char *name)
{
    int fd, len;
    long result = 0;
    name_temporary();
    fd = (int)check(call4(openat, here(), temporary_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    for (;;) {
        if (!get_all(&len, 4) || len > PIECE || (len > 0 && !get_all(in, (u32)len))) {
            remove_temporary();
            call1(exit_group, 1);
        }
        if (len < 0) break;
        for (int at = 0; at < len && result >= 0; at += (int)result) {
            result = call3(write, fd, in + at, len - at);
            if (result == -E_INTR) result = 0;
        }
        if (result < 0) break;
    }
    if (result >= 0) result = call2(fchmod, fd, r->mode);
    if (result >= 0) result = set_times(fd, 0, r->mtime_ns);
    if (result >= 0) result = call4(renameat, here(), temporary_name, here(), name);
    if (result < 0) {
        remove_temporary();
        fail(result);
    }
    call1(close, fd);
}

static void set_attributes(struct record *r, const char *name)
{
    int fd = (int)check(open_folder(here(), name));
    check(call2(fchmod, fd, r->mode));
    check(set_times(fd, 0, r->mtime_ns));
    call1(close, fd);
}

static void write_tree(char *path)
{
    static char scratch[TREE_PATH], target[LINK_TARGET + 1];
    struct record r, done = {.what = TREE_DONE};
    char *slash = last_slash(path);
    int error = make_parents(path);
    if (error) fail(error);
    append(root_name, slash[1] ? slash + 1 : ".");
    slash[slash == path] = 0;
    levels[0].fd = (int)check(open_at(path, O_RDONLY | O_DIRECTORY, 0));
    for (;;) {
        get(&r, sizeof r);
        if (r.what == TREE_END) break;
        if (r.path_len >= TREE_PATH || r.target_len > LINK_TARGET) fail(E_INVAL);
        get(tree_path, r.path_len);
        get(target, r.target_len);
        tree_path[r.path_len] = target[r.target_len] = 0;
        append(scratch, tree_path);
        char *name = go_to(scratch);
        if (r.what == TREE_ATTRIBUTES) {
            if (r.path_len || root_is_new) set_attributes(&r, name);
        } else if (r.kind == KIND_DIRECTORY) write_folder(name, !r.path_len);
        else if (r.kind == KIND_LINK) write_link(&r, name, target);
        else if (r.kind == KIND_FILE) write_content(&r, name);
        else fail(E_INVAL);
    }
    put_record(&done, "", "");
    put_all();
}

/* The child */

static void serve_tree(int fds[5], int writes, char *path)
{
    int target = 0;
    call0(setsid);
    tell_oom_score();
    for (; target < 2; target++)
        fds[target] = (int)call3(fcntl, fds[target], F_DUPFD_CLOEXEC, 64);
    for (target = 0; target < 2; target++) call3(dup3, fds[target], target, 0);
    /* Nobody's ends of pipes may stay open here. The table of slots tells how many there can be. */
    if (call3(close_range, 2, ~0U, 0) < 0)
        for (int fd = 2; fd < SLOTS * 6; fd++) call1(close, fd);
    call3(fcntl, 0, F_SETPIPE_SZ, 1 << 20);
    call3(fcntl, 1, F_SETPIPE_SZ, 1 << 20);
    out_at = out_len = 0;
    if (writes) write_tree(path);
    else read_tree(path);
    call1(exit_group, 0);
}

static void start_tree(u32 id, u8 *data, u32 len)
{
    int fds[5] = {-1, -1, -1, -1, -1};
    struct slot *s = take(id, PROCESS);
    struct plan p = {.flags = data[0] ? WITH_INPUT | MERGED : MERGED};
    u32 error = len > PATH ? E_NAMETOOLONG : (u32)add_streams(s, &p, fds);
    if (!error) {
        long pid = call5(clone, SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) serve_tree(fds, data[0], (char *)data + 1);
        if (pid < 0) error = (u32)-pid;
        else s->pid = (int)pid;
    }
    for (int i = 0; i < 5; i++) close_fd(&fds[i]);
    tell2(id, OPENED, error, 2);
    if (error) forget(s);
}
