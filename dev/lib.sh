# Functions that the scripts in dev/ share. Source this file; it changes to the root of the workspace.
#
# The rule for every tool that a test needs: use the one on the PATH; otherwise install it, as root or with sudo;
# otherwise stop and say which command to run. A missing tool never leads to a skipped test.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# say WORDS...: prints one line of progress.
say() { printf '\n== %s\n' "$*"; }

# fail WORDS...: exits with a reason.
fail() {
    printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# need_cargo: finds cargo. Debian's version of Rust is too old, so this does not install it.
need_cargo() {
    command -v cargo >/dev/null && return
    [ -x "$HOME/.cargo/bin/cargo" ] || fail "cargo is not on the PATH; install Rust from https://rustup.rs"
    export PATH="$HOME/.cargo/bin:$PATH"
}

# need_tool COMMAND PACKAGE...: installs these Debian packages if the command is missing.
need_tool() {
    local tool=$1
    shift
    command -v "$tool" >/dev/null && return
    say "$tool is missing: installing $*"
    install_packages "$@" || fail "$tool is missing; run: apt-get install $*"
    command -v "$tool" >/dev/null || fail "$tool is still missing after installing $*"
}

# need_venv: installs what python3 needs to make virtual environments. Debian has it in a package of its own.
need_venv() {
    python3 -c 'import ensurepip, venv' 2>/dev/null && return
    say "python3 cannot make virtual environments: installing python3-venv"
    install_packages python3-venv || fail "python3 cannot make virtual environments; run: apt-get install python3-venv"
    python3 -c 'import ensurepip, venv' || fail "python3 still cannot make virtual environments after installing python3-venv"
}

# need_librdkafka_tools: installs what compiles the bundled librdkafka. Its TLS and SASL use the system's OpenSSL, and so does
# TLS to Cassandra.
need_librdkafka_tools() {
    need_tool g++ g++
    need_tool make make
    need_tool pkg-config pkg-config
    pkg-config --exists openssl && return
    say "the headers of OpenSSL are missing: installing libssl-dev"
    install_packages libssl-dev || fail "the headers of OpenSSL are missing; run: apt-get install libssl-dev"
}

# need_postgres: installs a PostgreSQL server if there is none. Debian does not put its programs on the PATH.
need_postgres() {
    has_postgres && return
    say "the PostgreSQL server is missing: installing postgresql"
    install_packages postgresql || fail "the PostgreSQL server is missing; run: apt-get install postgresql"
    has_postgres || fail "the PostgreSQL server is still missing after installing postgresql"
}

has_postgres() { postgres_bin >/dev/null; }

# postgres_bin: prints the directory of the server's programs.
postgres_bin() {
    local initdb
    for initdb in "$(pg_config --bindir 2>/dev/null)"/initdb /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] && dirname "$initdb" && return
    done
    return 1
}

install_packages() {
    command -v apt-get >/dev/null || return 1
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root=(sudo)
        # Without a terminal nobody can type a password.
        [ -t 0 ] || as_root=(sudo -n)
    fi
    "${as_root[@]}" apt-get update -qq </dev/null &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
}

# test_programs ARGUMENTS...: builds tests as cargo test does with these arguments, and prints their programs, a line each:
# the package, the source and the program, between tabs.
test_programs() {
    cargo test "$@" --no-run --quiet --message-format json-render-diagnostics | python3 -c '
import json, os, sys

root = os.getcwd() + "/"
for line in sys.stdin:
    built = json.loads(line)
    if built["reason"] == "compiler-artifact" and built["profile"]["test"] and built["executable"]:
        package = os.path.dirname(built["manifest_path"])
        source = os.path.relpath(built["target"]["src_path"], package)
        print(package.removeprefix(root), source, built["executable"], sep="\t")
'
}

# run_programs PROGRAMS: runs the programs that test_programs has printed into this file, as many at once as there are cores:
# most of them wait for servers most of the time. Each one's output is shown when it ends.
run_programs() {
    [ -s "$1" ] || fail "cargo has built no test"
    xargs -d '\n' -P "$(nproc)" -n 1 bash -c "$(declare -f run_program); run_program '$SCRATCH' \"\$1\"" _ <"$1"
}

# run_program SCRATCH LINE: runs a test program as cargo does. The line has its package, its source and itself, between tabs.
run_program() {
    # The longest one takes about seven minutes on two busy cores.
    local seconds_max=1800
    local scratch=$1 package source program log status=0 started=$SECONDS
    IFS=$'\t' read -r package source program <<<"$2"
    log=$scratch/$(basename "$program").log
    echo "started $package/$source"
    (cd "$package" && CARGO_MANIFEST_DIR=$PWD exec timeout --foreground "$seconds_max" "$program") >"$log" 2>&1 </dev/null ||
        status=$?
    {
        flock 9
        printf '     Running %s (%s) for %s s\n' "$source" "$package" "$((SECONDS - started))"
        cat "$log"
        [ "$status" != 124 ] || echo "$package/$source was stopped after $seconds_max s"
        [ "$status" = 0 ] || echo "$package/$source failed with status $status"
    } 9>"$scratch/shown"
    rm "$log"
    return "$status"
}

# total WORD LOG: prints the sum over all suites of a number in "test result: ok. 12 passed; 0 failed; 0 ignored; …".
total() {
    sed -n "s/^test result:.* \([0-9][0-9]*\) $1.*/\1/p" "$2" | awk '{ sum += $1 } END { print sum + 0 }'
}
