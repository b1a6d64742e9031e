"""A seccomp profile as engines give it to their containers: all is forbidden but a long list."""

from typing import Any

# By what they are about; some are of other machines, or of kernels to come.
FILES = """
access chdir chmod chown close copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fcntl64 fdatasync flock fstat
fstat64 fstatat64 fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown link linkat listxattr
llistxattr lseek lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pipe pipe2
pread64 preadv preadv2 pwrite64 pwritev read readahead readlink readlinkat readv rename renameat
renameat2 rmdir sendfile setxattr splice stat stat64 statfs statx symlink symlinkat sync
sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write
writev a_call_that_is_yet_to_come
"""
MEMORY = """
brk futex futex_waitv get_robust_list madvise membarrier memfd_create mincore mlock mlock2
mlockall mmap mmap2 mprotect mremap msync munlock munlockall munmap pkey_alloc remap_file_pages
rseq set_robust_list set_thread_area set_tid_address get_thread_area arch_prctl
"""
PROCESSES = """
alarm capget capset clock_getres clock_gettime clock_nanosleep execve execveat exit exit_group
fork getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid kill nanosleep
pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity
sched_yield setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
setrlimit setsid setuid sigaltstack signalfd4 sysinfo tgkill time timer_create timer_delete
timerfd_create timerfd_settime times tkill uname vfork wait4 waitid waitpid arm_fadvise64_64
breakpoint s390_pci_mmio_read
"""
SOCKETS = """
accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd
eventfd2 getpeername getsockname getsockopt listen poll ppoll pselect6 recv recvfrom recvmmsg
recvmsg select send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
NEW_NAMESPACES = 0x7E02_0000


def _allowed(names: str, *args: dict[str, Any]) -> dict[str, Any]:
    return {"names": names.split(), "action": "SCMP_ACT_ALLOW", "args": list(args)}


def _argument(index: int, value: int, operator: str = "EQ", second: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}


ENGINES = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        *map(_allowed, (FILES, MEMORY, PROCESSES, SOCKETS)),
        _allowed("socket", _argument(0, 40, "NE")),  # AF_VSOCK
        *(_allowed("personality", _argument(0, value)) for value in (0, 8, 0x20000, 0xFFFF_FFFF)),
        _allowed("clone", _argument(0, NEW_NAMESPACES, "MASKED_EQ")),
        # its flags lie in memory, where no filter looks: libc then makes a clone
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    ],
}
