#!/usr/bin/env bash
# Prints the instructions of one request without sockets: the service without the layer, and what the layer adds.
# Each is the difference between a run with N requests and one with 2N, divided by N, counted by callgrind.
#
#   testing/bench/instructions.sh [N]        figures
#   testing/bench/instructions.sh profile APP first|replay [N]   where they go, by function
#
# Under valgrind a processor has no SHA instructions, so hashing counts for more than it costs.
source "$(dirname "${BASH_SOURCE[0]}")/../../dev/lib.sh"

main() {
    need_cargo
    need_tool valgrind valgrind
    # Names of functions and lines, and the code otherwise as it is in a release.
    export CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
    local target=${CARGO_TARGET_DIR:-target}/instructions
    cargo build --quiet --release --locked -p bench --target-dir "$target"
    BENCH=$target/release/bench
    SCRATCH=$(mktemp -d)
    trap 'rm -rf "$SCRATCH"' EXIT

    if [ "${1:-}" = profile ]; then
        profile "$2" "$3" "${4:-2000}"
    else
        figures "${1:-2000}"
    fi
}

figures() {
    local count=$1 bare row app requests each
    bare=$(each bare first "$count")
    echo "| instructions per request | all | the layer alone |"
    echo "|---|--:|--:|"
    echo "| no layer | $bare | |"
    for row in memory:first memory:replay sqlite-lease:first sqlite-lease:replay sqlite-atomic:first sqlite-atomic:replay; do
        IFS=: read -r app requests <<<"$row"
        each=$(each "$app" "$requests" "$count")
        echo "| $app, $requests | $each | $((each - bare)) |"
    done
}

# each APP REQUESTS N: instructions for one request.
each() {
    local once twice
    once=$(collected "$1" "$2" "$3")
    twice=$(collected "$1" "$2" "$((2 * $3))")
    echo $(((twice - once) / $3))
}

# collected APP REQUESTS N: instructions of a whole run. Fair scheduling, as the store has threads of its own.
collected() {
    valgrind --tool=callgrind --fair-sched=yes --callgrind-out-file="$SCRATCH/out" "$BENCH" drive "$1" "$2" "$3" \
        2>"$SCRATCH/log" || { cat "$SCRATCH/log" >&2; fail "$1, $2 did not run"; }
    sed -n 's/^==[0-9]*== Collected : \([0-9]*\).*/\1/p' "$SCRATCH/log"
}

profile() {
    collected "$1" "$2" "$3" >/dev/null
    callgrind_annotate --threshold=95 "$SCRATCH/out" | sed -E 's/ \[[^]]*\]$//' | cut -c1-200
}

main "$@"
