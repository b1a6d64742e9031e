# shellcheck shell=bash
# What set-up says: short lines on the terminal, everything else in the log; a failure names its step.

exec 3>&1
doing='' remedy='' scratch=''

say() {
    echo "set-up: $*" >&3
}

die() {
    doing=''
    echo "set-up: $*" >&2
    exit 1
}

# step WHAT REMEDY COMMAND...: run COMMAND with its output in the log; the first failure in it ends set-up.
step() {
    doing=$1 remedy=$2
    shift 2
    say "$doing"
    echo "== $doing" >>"$log"
    "$@" >>"$log" 2>&1
    doing=''
}

ended() {
    allow_services
    [[ -z $scratch ]] || rm -rf "$scratch"
    if [[ -n $doing ]]; then
        echo "set-up: failed at: $doing: $(tail -n 1 "$log")"
        echo "set-up: $remedy; the log is $log"
    fi >&2
}
trap ended EXIT
