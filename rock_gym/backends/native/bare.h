/* What the programs without a C library share: system calls, the kernel's names for what is asked of
 * it, and the few functions that a compiler, or anybody, takes for granted.
 */

#include <asm/unistd.h>
#include <linux/stat.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#endif
}
#define CALL(n, a, b, c, d, e) \
    call6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define call0(n) CALL(n, 0, 0, 0, 0, 0)
#define call1(n, a) CALL(n, a, 0, 0, 0, 0)
#define call2(n, a, b) CALL(n, a, b, 0, 0, 0)
#define call3(n, a, b, c) CALL(n, a, b, c, 0, 0)
#define call4(n, a, b, c, d) CALL(n, a, b, c, d, 0)
#define call5(n, a, b, c, d, e) CALL(n, a, b, c, d, e)

enum { E_PERM = 1, E_NOENT = 2, E_INTR = 4, E_AGAIN = 11, E_NOMEM = 12, E_ACCES = 13, E_EXIST = 17,
       E_NOTDIR = 20, E_ISDIR = 21, E_INVAL = 22, E_MFILE = 24, E_PIPE = 32,
       E_NAMETOOLONG = 36, E_LOOP = 40 };
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_EXCL = 0200, O_NOCTTY = 0400,
       O_NONBLOCK = 04000, O_CLOEXEC = 02000000, AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000 };
enum { SIGKILL = 9, SIGCHLD = 17, SIGSTOP = 19 };
enum { TIOCSCTTY = 0x540E, TIOCSWINSZ = 0x5414, TIOCGPTPEER = 0x5441, TIOCSPTLCK = 0x40045431 };
enum { SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_NOSIGNAL = 0x4000, MSG_CMSG_CLOEXEC = 0x40000000 };
enum { F_DUPFD_CLOEXEC = 1030, PR_SET_SECCOMP = 22 };

struct iovec { void *base; u64 len; };
struct msghdr { void *name; u32 namelen; struct iovec *iov; u64 iovlen; void *control; u64 controllen;
                int flags; };
struct cmsghdr { u64 len; int level, type; };

void *memcpy(void *to, const void *from, u64 n)
{
    u8 *t = to;
    const u8 *f = from;
    while (n--) *t++ = *f++;
    return to;
}

/* Only for who asks: what is not static is in a program whether that calls it or not. */
#ifdef WITH_MEMMOVE
void *memmove(void *to, const void *from, u64 n)
{
    u8 *t = to;
    const u8 *f = from;
    if (t < f) return memcpy(to, from, n);
    while (n--) t[n] = f[n];
    return to;
}
#endif

void *memset(void *to, int value, u64 n)
{
    u8 *t = to;
    while (n--) *t++ = (u8)value;
    return to;
}

/* Not every program compares. */
__attribute__((unused)) static int same(const void *a, const void *b, u64 n)
{
    const u8 *x = a, *y = b;
    while (n--)
        if (*x++ != *y++) return 0;
    return 1;
}

static u64 length(const char *s)
{
    u64 n = 0;
    while (s[n]) n++;
    return n;
}

static long open_at(const char *path, int flags, int mode)
{
    return call4(openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}
