"""System call filters: from linux.seccomp to what the kernel takes. seccomp(2)."""
