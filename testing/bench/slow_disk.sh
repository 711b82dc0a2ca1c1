#!/usr/bin/env bash
# Runs a command on a slower disk: one that makes at most so many write operations a second. That is what a volume of a
# cloud's is bought by, and there a commit costs more than on a disk of one's own.
#
#   testing/bench/slow_disk.sh 3000 target/release/bench clients "postgres=leases: claim"
#
# A commit alone is one operation where the disk keeps what it has written, and two where it has to flush a cache of its
# own. The first lines of `bench` say how many of them the disk makes a second.
#
# It needs root, and cgroups of version 1 with blkio. Only what waits for the disk is slowed down, as a commit does.
source "$(dirname "${BASH_SOURCE[0]}")/../../dev/lib.sh"

BLKIO=/sys/fs/cgroup/blkio
GROUP=$BLKIO/keylatch-slow-disk-$$

main() {
    [ $# -ge 2 ] || fail "usage: slow_disk.sh OPERATIONS_A_SECOND COMMAND..."
    local most=$1 dir disks=()
    shift
    # Where the servers' files are.
    for dir in "${CARGO_TARGET_DIR:-target}" "${TMPDIR:-/tmp}"; do
        disks+=("$(disk_of "$dir")")
    done
    [ -e $BLKIO/blkio.throttle.write_iops_device ] && mkdir "$GROUP" 2>/dev/null ||
        fail "this needs root and cgroups of version 1; with systemd, run:
  systemd-run --scope --property='IOWriteIOPSMax=$dir $most' $*"
    trap leave EXIT
    for disk in "${disks[@]}"; do
        echo "$disk $most" >"$GROUP/blkio.throttle.write_iops_device"
    done
    (
        echo $BASHPID >"$GROUP/cgroup.procs"
        exec "$@"
    )
}

# disk_of DIR: the number of the disk that it is on, be it on a partition or not.
disk_of() {
    local number
    number=$(stat --format=%Hd:%Ld "$1") || fail "there is no $1"
    [ -e "/sys/dev/block/$number" ] || fail "$1 is on no disk; set TMPDIR, or CARGO_TARGET_DIR, to a directory on one"
    if [ -e "/sys/dev/block/$number/partition" ]; then
        cat "/sys/dev/block/$number/../dev"
    else
        echo "$number"
    fi
}

# The servers that the command has started end a little later than it does.
leave() {
    local tries
    for tries in {1..100}; do
        rmdir "$GROUP" 2>/dev/null && return
        sleep 0.1
    done
    echo "$GROUP stays, for there are processes in it" >&2
}

main "$@"
