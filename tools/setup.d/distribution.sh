# shellcheck shell=bash
# Which distribution this is, and what it calls the packages of the programs that migrator needs.

# Prints one of: bookworm (packages are installed), apt, dnf (they are named), other.
distribution() {
    # shellcheck source=/dev/null
    (
        ID='' ID_LIKE='' VERSION_ID=''
        [[ ! -r /etc/os-release ]] || source /etc/os-release
        case " $ID:$VERSION_ID $ID $ID_LIKE " in
            *" debian:12 "*) echo bookworm ;;
            *" debian "* | *" ubuntu "*) echo apt ;;
            *" fedora "* | *" rhel "*) echo dnf ;;
            *) echo other ;;
        esac
    )
}

# command:package with apt:package with dnf
programs=(
    ip:iproute2:iproute
    tc:iproute2:iproute-tc
    iptables-restore:iptables:iptables-nft
    nft:nftables:nftables
    busybox:busybox-static:busybox
    ssh:openssh-client:openssh-clients
    sshd:openssh-server:openssh-server
    rsync:rsync:rsync
    ps:procps:procps-ng
    patchelf:patchelf:patchelf
    runc:runc:runc
    qemu-system-x86_64:qemu-system-x86:qemu-system-x86
    systemctl:systemd:systemd
    dbus-daemon:dbus-daemon:dbus-daemon
    apparmor_parser:apparmor:apparmor-parser
)
# Those of every run; the others are asked for by name.
always='ip tc iptables-restore nft busybox ssh sshd rsync ps patchelf'

# package_of COMMAND FAMILY
package_of() {
    local line
    for line in "${programs[@]}"; do
        IFS=: read -r command apt dnf <<<"$line"
        [[ $command != "$1" ]] || if [[ $2 == dnf ]]; then echo "$dnf"; else echo "$apt"; fi
    done
}
