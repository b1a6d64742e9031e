# shellcheck shell=bash
# CRIU and its Python package, in the same version: the system's where it is new enough, else those of
# Debian 14 (forky) unpacked below .venv with every library they need, libc included. The system's own
# libc stays as it is.

# The oldest that works: 4.1 knows today's vDSO; before 4.2 CRIU asks every socket for SO_PASSCRED, which
# Linux 6.16 and newer answer for some only (criu_rpc/features.py says the same).
criu_needed() {
    if printf '%s\n' 6.16 "$(uname -r)" | sort -CV; then echo 4.2; else echo 4.1; fi
}

# Whether version $1 is new enough.
criu_suits() {
    [[ -n $1 ]] && printf '%s\n' "$(criu_needed)" "$1" | sort -CV
}

criu_path() {
    if [[ -x $opt/criu/bin/criu ]]; then echo "$opt/criu/bin/criu"; else type -P criu || true; fi
}

criu_version() {
    "$1" --version 2>/dev/null | sed -n 's/^Version: *//p' || true
}

# Prints the system's CRIU if it is new enough and runs, else nothing.
system_criu() {
    local criu version
    criu=$(type -P criu) || return 0
    version=$(criu_version "$criu")
    if criu_suits "$version" && "$criu" check >/dev/null 2>&1; then
        echo "$criu"
    fi
}

# Prints where the system's pycriu lies, or nothing.
system_pycriu() {
    local find='import importlib.util as u; s = u.find_spec("pycriu"); print(*s.submodule_search_locations if s else "")'
    /usr/bin/python3 -I -c "$find" 2>/dev/null || true
}

make_criu() {
    local new=$opt/criu.new pycriu
    # Its loader is named by a full path: it does not run any more where the checkout was moved.
    if [[ -d $opt/criu/python/pycriu ]] && criu_suits "$(criu_version "$opt/criu/bin/criu")"; then
        return
    fi
    rm -rf "$new"
    mkdir -p "$new/python"
    pycriu=$(system_pycriu)
    if [[ -n $(system_criu) && -n $pycriu ]]; then
        ln -s "$pycriu" "$new/python/pycriu"
    else
        unpack_criu "$new"
    fi
    rm -rf "$opt/criu"
    mv "$new" "$opt/criu"
}

unpack_criu() {
    local work=$scratch/criu tree=$scratch/criu/tree deb
    mkdir -p "$work"/{lists,cache/archives}/partial "$work/debs"
    apt_of forky "$work" "$(mirror)" >"$work/apt.conf"
    local -x APT_CONFIG=$work/apt.conf
    apt-get --quiet -o APT::Update::Error-Mode=any update
    # Its libraries only: what else its packages depend on (python3 ...) is the system's.
    apt-cache depends --recurse --important criu | grep -E '^(criu|lib)[^ ]*$' >"$work/closure"
    (cd "$work/debs" && xargs -a ../closure apt-get --quiet download python3-pycriu)
    for deb in "$work"/debs/*.deb; do
        dpkg -x "$deb" "$tree"
    done
    place "$tree/usr/sbin/criu" "$1"
    own_libc "$1/bin/criu" "$tree" "$opt/criu"
    mv "$tree/usr/lib/python3/dist-packages/pycriu" "$1/python/"
    (cd "$work/debs" && ls) >"$1/packages"
}

# apt_of RELEASE WORK MIRROR: print a configuration by which apt sees that release of Debian alone, nothing of
# this system, and can install nothing.
apt_of() {
    : >"$2/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $3 $1 main" >"$2/sources"
    cat <<END
Dir::State::lists "$2/lists";
Dir::State::status "$2/status";
Dir::Cache "$2/cache";
Dir::Etc::sourcelist "$2/sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Bin::dpkg "/bin/false";
APT::Sandbox::User "root";
Acquire::Languages "none";
END
}

# The Debian archive that this system's apt uses.
mirror() {
    local uri
    # shellcheck disable=SC2016
    uri=${MIGRATOR_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        grep -m1 -E '/debian/?$' || true)}
    [[ -n $uri ]] || { echo "no Debian archive in apt's sources: name one in MIGRATOR_DEBIAN_MIRROR"; return 1; }
    echo "$uri"
}
