"""What lies where in the memory that a lazy-pages server, its twin and their owner share.

One sparse memfd, mapped whole: a page of words, two event logs, two tables, then an arena that only
grows (holes are punched in it). Nothing in it is a pointer: each process maps it where it likes.
"""

from __future__ import annotations

PAGE = 4096
PAGE_SHIFT = 12

#: sparse: what nobody has written to takes no memory
SIZE = 1 << 38
MAGIC = 0x6D69672D_6C617A79

# Words of 8 bytes in the first page.
(
    W_MAGIC,
    W_COMMIT,
    W_SERVER,
    W_TWIN,
    W_TWIN_FD,
    W_STATUS,
    W_ORDERS,
    W_FAULTS,
    W_FAULT_NS,
    W_FILLED,
    W_TOTAL,
    W_TAKEOVERS,
    W_EVENTS,
    W_SHORT,
    W_CONNECTION,
    W_ORIGINS,
    W_ORIGIN_COUNT,
    W_RECEIVED,
    W_RECEIVED_COUNT,
) = range(19)
WORDS = 64
WORDS_AT = 2048  # last words: length, then UTF-8
WORDS_END = PAGE

# W_STATUS
STARTING, SERVING, DONE, FAILED = range(4)
# W_ORDERS
ORDER_FILL, ORDER_ABORT, ORDER_HOLD = 1, 2, 4

# W_COMMIT: bit 0 the table that counts, bit 1 the log, bits 2 to 8 events of it that are done; the
# rest counts the tables.
TABLE_BIT, LOG_BIT = 1, 2
DONE_SHIFT, DONE_MASK = 2, 0x7F
GENERATION = 1 << 9

# A log: what is being read, then where the kernel writes it.
LOGS_AT = PAGE
LOG_BYTES = PAGE
LOG_KIND, LOG_FD = 0, 8
LOG_EVENTS = 64
EVENT_BYTES = 32  # struct uffd_msg
EVENTS = 32
LOG_DATA = 64  # of a message: its bytes, ...
LOG_HEADER, LOG_VECTOR, LOG_CONTROL = 128, 192, 256  # ... struct msghdr, struct iovec, control
CONTROL_BYTES = 256
LOG_USED = LOG_EVENTS + EVENTS * EVENT_BYTES
NOTHING, FROM_UFFD, FROM_CRIU = range(3)

TABLES_AT = LOGS_AT + 2 * LOG_BYTES
TABLE_BYTES = 2 << 20
TABLE_HEAD_BYTES = 64
ARENA_AT = 8 << 20

assert LOG_USED <= LOG_BYTES
assert DONE_MASK >= EVENTS
assert TABLES_AT + 2 * TABLE_BYTES <= ARENA_AT
