# shellcheck shell=bash
#
# Sourced by every piece of the gate: headings, the tally, processes, and the clean end.
#
# A piece makes one directory with mktemp (or is given one in CI_DIR), starts processes only through `start`, and the
# exit trap ends them by process id and removes the directory, however the piece ends.

set -euo pipefail
export LC_ALL=C

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ENTREPOT=${ENTREPOT:-${CARGO_TARGET_DIR:-$ROOT/target}/release/entrepot}
# The names are short because sockets lie below, whose paths may have 107 bytes.
WORK=$(mktemp -d "${CI_DIR:-${TMPDIR:-/tmp}/entrepot-ci}.XXXXXX")
# Lines `passed N`, `failed N` and `skipped N`; shared by all pieces of one run.
TALLY=${CI_TALLY:-$WORK/tally}
# Whoever made the tally prints it at the end.
[ -n "${CI_TALLY:-}" ] && OWNS_TALLY=no || OWNS_TALLY=yes
declare -A PIDS=()
CURRENT=
FINISHED=no

# step TITLE SECONDS COMMAND…: a heading, the command, and the time it took; returns the command's status.
step() {
    local title=$1 began=$SECONDS status
    shift
    printf '\n== %s\n' "$title"
    set +e
    guarded "$@"
    status=$?
    set -e
    printf -- '-- %s: %s after %d s (%d s in all)\n' "$title" "$([ "$status" -eq 0 ] && echo passed || echo FAILED)" \
        "$((SECONDS - began))" "$SECONDS"
    return "$status"
}

count() {
    printf '%s %d\n' "$1" "$2" >>"$TALLY"
}

# total KIND: the sum of one kind in the tally.
total() {
    awk -v kind="$1" '$1 == kind { n += $2 } END { print n + 0 }' "$TALLY"
}

# loud_skip TITLE REASON: something could not run. It is said in a block that nobody overlooks, and counted.
loud_skip() {
    printf '\n!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!\n'
    printf '!! SKIPPED: %s\n!! %s\n' "$1" "$2"
    printf '!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!\n\n'
    count skipped 1
}

# guarded SECONDS COMMAND…: runs it strictly, in a process group of its own, which is ended when the time is over or this
# shell leaves. Call it where `set -e` is off by `set +e`: inside `if` or `||` bash would switch strictness off for good.
guarded() {
    local deadline=$((SECONDS + $1)) status
    shift
    set -m
    (set -euo pipefail; trap - EXIT INT TERM HUP; "$@") </dev/null &
    CURRENT=$!
    set +m
    while kill -0 "$CURRENT" 2>/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "out of time"
            end_current
            return 124
        fi
        sleep 0.05
    done
    wait "$CURRENT"
    status=$?
    CURRENT=
    return "$status"
}

# end_current: asks the running group to end, waits up to 30 seconds, and kills what is left of it.
end_current() {
    [ -n "$CURRENT" ] || return 0
    {
        kill -TERM -- "-$CURRENT" || true
        for _ in $(seq 300); do
            kill -0 -- "-$CURRENT" || break
            sleep 0.1
        done
        kill -KILL -- "-$CURRENT" || true
        wait "$CURRENT" || true
    } 2>/dev/null
    CURRENT=
}

# check CLIENT FACT COMMAND…: runs the command for at most two minutes and prints one line; a failed one shows its output.
check() {
    local client=$1 fact=$2 status
    shift 2
    set +e
    guarded 120 "$@" >"$WORK/check.log" 2>&1
    status=$?
    set -e
    if [ "$status" -eq 0 ]; then
        printf 'ok    %s: %s\n' "$client" "$fact"
        count passed 1
    else
        printf 'FAIL  %s: %s\n' "$client" "$fact"
        tail -n 20 "$WORK/check.log" | sed 's/^/          /'
        count failed 1
    fi
}

# same A B: fails, showing both, unless the two strings are equal and not empty.
same() {
    if [ -z "$1" ] || [ "$1" != "$2" ]; then
        printf 'left:  %s\nright: %s\n' "$1" "$2"
        return 1
    fi
}

# free_port: a loopback port that nothing listens on. Ports below the ephemeral range, so no outgoing connection takes it.
free_port() {
    local port
    while :; do
        port=$((10000 + RANDOM % 20000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# start NAME COMMAND…: a background process whose output is $WORK/NAME.log. Should this shell be killed, the kernel ends it.
start() {
    local name=$1
    shift
    setpriv --pdeathsig TERM -- "$@" >>"$WORK/$name.log" 2>&1 </dev/null &
    PIDS[$name]=$!
}

# stop NAME [SIGNAL]: ends a started process and waits for it; after 20 seconds it is killed.
stop() {
    local pid=${PIDS[$1]:-} signal=${2:-TERM}
    [ -n "$pid" ] || return 0
    unset "PIDS[$1]"
    # The shell's own "Killed" notices would look like trouble in the log.
    {
        kill -"$signal" "$pid" || true
        for _ in $(seq 200); do
            kill -0 "$pid" || break
            sleep 0.1
        done
        kill -KILL "$pid" || true
        wait "$pid" || true
    } 2>/dev/null
}

# wait_for NAME COMMAND…: until the command succeeds; fails with the process's last lines when it dies or 30 seconds pass.
wait_for() {
    local name=$1
    shift
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        kill -0 "${PIDS[$name]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "$name did not come up:"
    tail -n 20 "$WORK/$name.log"
    return 1
}

# finish: the last line of every piece; without it the exit trap counts the piece as failed.
finish() {
    FINISHED=yes
}

leave() {
    local status=$? name
    trap - EXIT INT TERM HUP
    end_current
    for name in "${!PIDS[@]}"; do stop "$name"; done
    # A daemon that was killed leaves its mounts behind; without this the directory could not be removed.
    awk -v dir="$WORK/" 'index($2, dir) == 1 { print $2 }' /proc/self/mounts | sort -r | xargs -r umount --lazy || true
    if [ "$FINISHED" = no ]; then
        printf 'FAIL  %s: ended early (status %d)\n' "$(basename "$0")" "$status"
        count failed 1
        [ "$status" -ne 0 ] || status=1
    fi
    if [ "$OWNS_TALLY" = yes ]; then
        printf '%d passed, %d failed, %d skipped\n' "$(total passed)" "$(total failed)" "$(total skipped)"
    fi
    [ "$(total failed)" -eq "$FAILED_BEFORE" ] || [ "$status" -ne 0 ] || status=1
    rm -rf --one-file-system "$WORK"
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
: >>"$TALLY"
FAILED_BEFORE=$(total failed)
