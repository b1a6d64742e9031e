"""What rsync says of a tree in use: which complaints only mean that files came and went."""

import pytest

from migrator.rootfs import only_vanished

GONE = 'rsync: [sender] {}("/c/rootfs/tmp/x"{}) failed: No such file or directory (2)\n'
XATTRS = GONE.format("get_xattr_names: llistxattr", ",1024")
ACL = GONE.format("get_acl: sys_acl_get_file", ", ACL_TYPE_ACCESS")
END = "rsync error: some files/attrs were not transferred (see previous errors) (code 23)\n"


@pytest.mark.parametrize(
    ("output", "vanished"),
    [
        (XATTRS + END, True),
        (XATTRS + "Total bytes sent: 12\n" + ACL + END, True),
        (END, False),
        (XATTRS.replace("No such file or directory (2)", "Permission denied (13)") + END, False),
        (XATTRS.replace("sender", "receiver") + END, False),
        (XATTRS + 'rsync: [receiver] mkstemp "/x" failed: No space left on device (28)\n', False),
        ("", False),
    ],
)
def test_only_what_has_gone_at_the_sender_is_no_error(output: str, vanished: bool) -> None:
    assert only_vanished(output) is vanished
