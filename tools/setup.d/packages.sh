# shellcheck shell=bash
# The distribution's own packages: installed on Debian 12, named elsewhere. No service is started.

policy=/usr/sbin/policy-rc.d
updated=''

# missing_commands [COMMAND...]: of those always needed and of those given
missing_commands() {
    local command
    for command in $always "$@"; do
        type -P "$command" >/dev/null || echo "$command"
    done
}

# What seccomp profiles are compiled with: a library, of which no command tells.
has_libseccomp() {
    [[ $(ldconfig -p) == *"libseccomp.so.2 "* ]]
}

missing_packages() {
    local command family=$1
    shift
    {
        missing_commands "$@" | while read -r command; do package_of "$command" "$family"; done
        [[ -n $(suitable_python) ]] || if [[ $family == dnf ]]; then echo python3; else echo python3-venv; fi
        has_libseccomp || if [[ $family == dnf ]]; then echo libseccomp; else echo libseccomp2; fi
        [[ $family == bookworm || -n $(system_criu) ]] ||
            if [[ $family == dnf ]]; then echo criu python3-criu; else echo criu python3-pycriu; fi
        # Only Debian's packages are unpacked without installing them.
        [[ $family != dnf || -n $(redis_path) ]] || echo redis
    } | sort -u | xargs
}

install_packages() {
    local family packages
    family=$(distribution)
    packages=$(missing_packages "$family" "$@")
    [[ -n $packages ]] || return 0
    case $family in
        bookworm) step "installing $packages" "try: apt-get install $packages" apt_install "$packages" ;;
        apt) die "missing: run \`apt-get install --no-install-recommends $packages\`, then set-up again" ;;
        dnf) die "missing: run \`dnf install $packages\`, then set-up again" ;;
        *) die "missing (by Debian's names): $packages; install them, then run set-up again" ;;
    esac
}

apt_update() {
    [[ -z $updated ]] || return 0
    updated=yes
    # One archive out of reach is no failure yet: what is needed may be in another.
    apt-get --quiet update || true
}

apt_install() {
    local sshd_before
    sshd_before=$(type -P sshd || true)
    apt_update
    forbid_services
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get --quiet --yes --no-install-recommends \
        -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold install $1
    allow_services
    # Only the program is wanted: the machine shall not serve SSH from its next boot on.
    if [[ -z $sshd_before ]] && type -P systemctl sshd >/dev/null; then
        systemctl --quiet disable ssh.service || true
    fi
}

# policy-rc.d(8): status 101 forbids every action on services; a file of the administrator's is kept aside.
forbid_services() {
    [[ ! -e $policy ]] || mv "$policy" "$policy.migrator-kept"
    printf '#!/bin/sh\n# migrator set-up, while it installs packages\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

allow_services() {
    if grep -qs '^# migrator set-up' "$policy"; then
        rm -f "$policy"
        [[ ! -e $policy.migrator-kept ]] || mv "$policy.migrator-kept" "$policy"
    fi
}
