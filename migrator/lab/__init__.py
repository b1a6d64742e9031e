"""Two hosts and a client on one machine, to try migrations on: namespaces, a switch, sshd.

The lab starts programs (ip, tc, unshare, sshd ...), unlike the packages that it tries.
"""
