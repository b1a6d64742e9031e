# shellcheck shell=bash
# The virtual environment, of the distribution's Python, with migrator installed as a link to the checkout.

# Prints the first Python >= 3.11 that can make a virtual environment, or nothing.
suitable_python() {
    local python
    for python in /usr/bin/python3 /usr/bin/python3.1[1-9] "$(type -P python3 || true)"; do
        if "$python" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"
}

make_venv() {
    local python site
    python=$(suitable_python)
    # Its scripts name their interpreter by a full path: of no use where the checkout was moved.
    if ! grep -qsxF "command = $python -m venv $venv" "$venv/pyvenv.cfg" || ! pip --version; then
        rm -rf "$venv"/{bin,include,lib,lib64,share,pyvenv.cfg}
        "$python" -m venv "$venv"
    fi
    (cd "$root" && pip install --quiet --editable '.[dev]')
    # Left by Python 3.11's venv, needed by nothing, and it runs code of its own at every start.
    pip uninstall --quiet --yes setuptools
    site=$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # site.py takes a relative line of a .pth file as relative to the directory of that file.
    echo ../../../opt/criu/python >"$site/pycriu.pth"
    # Else every start compiles what it imports anew where nobody may write or PYTHONDONTWRITEBYTECODE is set.
    PYTHONDONTWRITEBYTECODE='' "$venv/bin/python" -m compileall -q "$site" "$opt/criu/python" \
        "$root"/{criu_rpc,runtime,migrator,scenarios}
}

# The parts fit each other and this kernel.
check_result() {
    local criu version
    criu=$(criu_path)
    version=$(criu_version "$criu")
    [[ -n $version ]] || die "$criu does not run: remove $venv and run set-up again"
    "$venv/bin/python" -c 'from pycriu import images, rpc_pb2' 2>>"$log" ||
        die "the Python package of CRIU $version does not load; the log is $log"
    say "CRIU $version: $criu"
    "$criu" check >>"$log" 2>&1 || say "warning: this kernel fails \`criu check\`: $(grep -m1 Error "$log" || true)"
}
