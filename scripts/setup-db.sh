#!/usr/bin/env bash
# Creates what the orders API needs on a PostgreSQL server: a role, a database, and in it a schema for Keylatch, with
# the grants. The API creates the tables itself when it starts. The script can be run again, and changes only what is
# missing or different.
#
#   DB_NAME=orders DB_USER=orders DB_PASSWORD=… scripts/setup-db.sh
#
# It reads the variables that the API reads: DB_HOST (localhost), DB_PORT (5432), DB_NAME, DB_USER, DB_PASSWORD (none).
# It connects as an administrator of the server: as PGUSER (with PGPASSWORD and so on) if that is set; otherwise, on
# this machine, as you or as the user postgres, whichever may create roles.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# fail WORDS...: exits with a reason and what to do.
fail() {
    printf 'setup-db.sh: %s\n' "$@" >&2
    exit 1
}

main() {
    command -v psql >/dev/null || fail "psql is missing; run: apt-get install postgresql-client"
    [ -n "${DB_NAME:-}" ] && [ -n "${DB_USER:-}" ] || fail "set DB_NAME and DB_USER (and DB_PASSWORD), as for the API"
    host=${DB_HOST:-localhost} port=${DB_PORT:-5432}
    choose_administrator
    {
        set_variable user "$DB_USER"
        set_variable password "${DB_PASSWORD:-}"
        set_variable name "$DB_NAME"
        cat "$here/setup-db.sql"
    } | administer --quiet --set=ON_ERROR_STOP=1 >/dev/null || fail "the server refused; see above"
    check_login
    echo "role $DB_USER and database $DB_NAME are ready on $host:$port; with the same DB_… variables set, run: cargo run --features postgres"
}

# administer ARGUMENTS...: psql as the administrator. Secrets are passed on its input, because arguments are visible in
# the list of processes.
administer() { (cd / && "${as[@]}" psql --no-psqlrc --dbname="${PGDATABASE:-postgres}" "$@"); }

# Finds a user who may do this, and sets `as` to the command that runs as that user.
choose_administrator() {
    as=(env)
    export PGPORT=${PGPORT:-$port}
    if [ -n "${PGUSER:-}" ]; then
        export PGHOST=${PGHOST:-$host}
        may_create || fail "$PGUSER cannot log in at $PGHOST:$PGPORT, or may not create roles and databases: $said" \
            "start the server there, or correct PGUSER, PGPASSWORD, PGHOST and PGPORT"
        return
    fi
    case $host in
        localhost | 127.0.0.1 | ::1) ;;
        /*) export PGHOST=$host ;;
        *) fail "DB_HOST is another machine: name its administrator with PGUSER and PGPASSWORD" ;;
    esac
    local reasons=()
    for as in "env" "runuser -u postgres -- env" "sudo -n -u postgres env"; do
        # shellcheck disable=SC2206 # the words of one of the three
        as=($as PGPORT="$PGPORT" ${PGHOST:+PGHOST="$PGHOST"})
        command -v "${as[0]}" >/dev/null || continue
        may_create && return
        reasons+=("  ${as[0]}: $said")
    done
    fail "no user here may create roles at port $PGPORT of this machine:" "${reasons[@]}" \
        "start the server (apt-get install postgresql; pg_ctlcluster 15 main start), or set PGUSER and PGPASSWORD"
}

# Whether the administrator may create roles and databases; if not, `said` is the reason.
may_create() {
    local may="SELECT rolsuper OR (rolcreaterole AND rolcreatedb) FROM pg_roles WHERE rolname = current_user"
    said=$(administer --no-password --no-align --tuples-only --command="$may" 2>&1) || return 1
    [ "$said" = t ] && return
    said="the role may not create roles and databases"
    return 1
}

# set_variable NAME VALUE: prints a psql command that sets the variable.
set_variable() {
    local value=${2//\\/\\\\}
    printf "\\\\set %s '%s'\n" "$1" "${value//\'/\'\'}"
}

# Logs in as the API will.
check_login() {
    env -u PGPASSWORD -u PGSERVICE PGHOST="$host" PGPORT="$port" PGUSER="$DB_USER" PGDATABASE="$DB_NAME" \
        ${DB_PASSWORD:+PGPASSWORD="$DB_PASSWORD"} \
        psql --no-psqlrc --no-password --quiet --command="SET ROLE NONE" >/dev/null ||
        fail "everything is set up, but $DB_USER cannot log in; see above, and the server's pg_hba.conf"
}

main
