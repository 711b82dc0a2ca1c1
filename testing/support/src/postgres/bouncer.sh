# Keeps a PgBouncer for a test, until the standard input ends, and takes its directory away then.
#
# bouncer.sh PROGRAM DIR: the program, and a private directory with pgbouncer.ini in it.
set -u
program=$1 dir=$2

# It refuses to run as root.
user=$(id -un)
if [ "$(id -u)" = 0 ]; then
    user=nobody
    id postgres >/dev/null 2>&1 && user=postgres
    chown -R "$user" "$dir"
    set -- setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups
else
    set --
fi

"$@" "$program" --quiet "$dir/pgbouncer.ini" </dev/null &
pid=$!
# Until the test ends.
cat >/dev/null
kill -KILL "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
rm -rf "$dir"
