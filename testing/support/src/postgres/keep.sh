# Keeps a PostgreSQL cluster for a test: makes it, starts and stops it as told on the standard input, and takes it away
# when that ends, however the test ends.
#
# keep.sh BIN DIR COMMAND...: the programs, a private directory, and what makes the data in DIR/data.
set -u
bin=$1 dir=$2
shift 2

# A server refuses to run as root.
user=$(id -un)
if [ "$(id -u)" = 0 ]; then
    user=nobody
    id postgres >/dev/null 2>&1 && user=postgres
    chown "$user" "$dir"
fi
as_user() {
    if [ "$user" = "$(id -un)" ]; then "$@"; else setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"; fi
}

control() { (cd "$dir" && as_user "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 "$@") >"$dir/said" 2>&1; }
reply() { if [ "$1" = 0 ]; then echo ok; else echo "failed: $(tail -n 20 "$dir/said" "$dir/log" 2>/dev/null | tr '\n' '|')"; fi; }

(cd "$dir" && as_user "$@") >"$dir/said" 2>&1
made=$?
[ "$made" = 0 ] && as_user cp "$dir/extra.conf" "$dir/data/extra.conf" &&
    as_user sh -c "echo \"include 'extra.conf'\" >>'$dir/data/postgresql.conf'"
reply "$made"

while read -r command; do
    case $command in
        start) control start ;;
        immediate | fast) control -m "$command" stop ;;
        promote) control promote ;;
        reload) control reload ;;
    esac
    reply $?
done

control -m immediate stop
rm -rf "$dir"
