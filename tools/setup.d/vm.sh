# shellcheck shell=bash
# What tools/vm boots: the kernel of Debian 13 as Debian built it, and an initramfs with busybox and those
# of its modules that containers, their networks and the machine itself use. Two files, made once.

vm_commands=(qemu-system-x86_64 systemctl dbus-daemon apparmor_parser)
vm_modules='net/(802|8021q|9p|bridge|core|ipv4|ipv6|llc|netfilter|netlink|packet|sched|unix)/.*
    |fs/(9p|autofs|binfmt_misc|fuse|netfs|overlayfs)[/.].*|block/bfq|lib/crc/.*|crypto/crc32c.*
    |drivers/virtio/virtio(_ring|_pci.*)?|drivers/block/loop|drivers/net/(dummy|ifb|macvlan|tun|veth)'

has_vm() {
    [[ -e $opt/vm/initrd ]]
}

make_vm() {
    local work=$scratch/vm new=$opt/vm.new image
    [[ $(uname -m) == x86_64 ]] || { echo "tools/vm boots an x86-64 kernel, on such a machine only"; return 1; }
    rm -rf "$new"
    mkdir -p "$work"/{lists,cache/archives}/partial "$work/debs" "$new"
    apt_of trixie "$work" "$(mirror)" >"$work/apt.conf"
    local -x APT_CONFIG=$work/apt.conf
    apt-get --quiet -o APT::Update::Error-Mode=any update
    image=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9]\)/\1/p')
    (cd "$work/debs" && apt-get --quiet download "$image")
    dpkg -x "$work/debs/$image"_*.deb "$work/tree"
    make_initramfs "$work" "${image#linux-image-}" >"$new/initrd"
    cp "$work/tree/boot/vmlinuz-${image#linux-image-}" "$new/vmlinuz"
    rm -rf "$opt/vm"
    mv "$new" "$opt/vm"
}

# make_initramfs WORK VERSION: print a cpio archive; the first program is added at each start.
make_initramfs() {
    local tree=$1/initramfs
    mkdir -p "$tree"/{bin,lib/modules/"$2"}
    unpack_modules "$1/tree/usr/lib/modules/$2/kernel" "$tree/lib/modules/$2" "$1/wanted"
    busybox depmod -b "$tree" "$2"
    cp "$(type -P busybox)" "$tree/bin/"
    (cd "$tree" && find . | busybox cpio -o -H newc)
}

# unpack_modules FROM TO LIST: the modules of vm_modules and, for as long as some are missing, those that
# they depend on; LIST is scratch. Unpacked here: the machine is slow.
unpack_modules() {
    find "$1" -name '*.ko.xz' -printf '%p %P\n' | grep -E " (${vm_modules//[[:space:]]/})\.ko\.xz$" | cut -d ' ' -f 1 >"$3"
    while [[ -s $3 ]]; do
        xargs -d '\n' cp -t "$2" <"$3"
        xz --decompress --quiet "$2"/*.ko.xz
        missing_modules "$1" "$2" >"$3"
    done
}

# In a module's own words: depends=one,other. Names of files may have dashes where these have underscores.
missing_modules() {
    local name
    grep -zahoP '^depends=\K.+' "$2"/*.ko | tr ',\0' '\n\n' | sort -u | while read -r name; do
        [[ -n $(find "$2" -name "${name//_/[-_]}.ko") ]] || find "$1" -name "${name//_/[-_]}.ko.xz"
    done
}
