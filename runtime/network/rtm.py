"""The words of rtnetlink(7): messages, the headers that they begin with, and their attributes.

linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h.
"""

from __future__ import annotations

import struct

# RTM_*
NEW_LINK, DEL_LINK, GET_LINK, SET_LINK = 16, 17, 18, 19
NEW_ADDRESS, GET_ADDRESS = 20, 22
NEW_ROUTE, GET_ROUTE = 24, 26
NEW_NEIGHBOUR, GET_NEIGHBOUR = 28, 30
NEW_RULE, GET_RULE = 32, 34
GET_QDISC, GET_NEXTHOP = 38, 106

#: struct ifinfomsg: family, type, index, flags, which flags to change
LINK = struct.Struct("=BxHiII")
#: struct ifaddrmsg: family, prefix length, flags, scope, index
ADDRESS = struct.Struct("=BBBBI")
#: struct rtmsg
ROUTE = struct.Struct("=BBBBBBBBI")
#: struct fib_rule_hdr
RULE = struct.Struct("=BBBBBBBBI")
#: struct ndmsg: family, index, state, flags, type
NEIGHBOUR = struct.Struct("=BxxxiHBB")
#: struct tcmsg
QDISC = struct.Struct("=BxxxiIII")

# linux/if.h
IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x8, 0x80, 0x100, 0x200
IFF_MULTICAST = 0x1000

# IFLA_*
IFLA_ADDRESS, IFLA_BROADCAST, IFLA_NAME, IFLA_MTU = 1, 2, 3, 4
IFLA_MASTER, IFLA_PROTINFO, IFLA_QUEUE_LENGTH, IFLA_LINKINFO, IFLA_ALIAS = 10, 12, 13, 18, 20
IFLA_STATS64, IFLA_GROUP, IFLA_NETNS_FD, IFLA_TX_QUEUES, IFLA_RX_QUEUES = 23, 27, 28, 31, 32
IFLA_GSO_SEGMENTS, IFLA_GSO_SIZE, IFLA_XDP, IFLA_OTHER_NAMES = 40, 41, 43, 52
# in IFLA_LINKINFO, and in the data of a veth
INFO_KIND, INFO_DATA = 1, 2
VETH_PEER = 1

# IFA_*, and bits of IFA_FLAGS
IFA_LABEL, IFA_CACHEINFO, IFA_FLAGS = 3, 6, 8
PERMANENT = 0x80
