#!/usr/bin/env bash
# install.sh CLIENTS PROGRAMS DIRECTORY: builds the packages of the clients from copies in DIRECTORY, as one would
# publish them, and installs them:
#   DIRECTORY/clients         the copies
#   DIRECTORY/app             where programs find the package for Node; and those of the tests
#   DIRECTORY/venv            where programs find the package for Python
set -euo pipefail
clients=$1 programs=$2 directory=$3

need() { command -v "$1" >/dev/null || { echo "$1 is missing; run: apt-get install $2" >&2; exit 1; }; }
need node nodejs
need npm npm
need python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null ||
    { echo "python3 cannot make virtual environments; run: apt-get install python3-venv" >&2; exit 1; }

export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

# Copies, because a build writes beside its sources.
mkdir "$directory/app"
cp -R "$clients" "$directory/clients"
rm -rf "$directory"/clients/typescript/{dist,node_modules}
cp "$programs"/*.{html,mjs,py} "$directory/app"

node_package() {
    cd "$directory/clients/typescript"
    npm ci --silent
    npm pack --silent --pack-destination "$directory"
    cd "$directory/app"
    echo '{"private": true}' >package.json
    npm install --silent --offline --no-save "$directory"/keylatch-client-*.tgz
}

python_package() {
    python3 -m venv "$directory/venv"
    cd "$directory/clients/python"
    "$directory/venv/bin/pip" install -r requirements-dev.txt
    "$directory/venv/bin/python" -m build --no-isolation --outdir "$directory" . >"$directory/build.log" 2>&1 ||
        { cat "$directory/build.log" >&2; exit 1; }
    "$directory/venv/bin/pip" install "$(echo "$directory"/keylatch_client-*.whl)[httpx,requests]"
}

(node_package)
(python_package)
