#!/usr/bin/env bash
# install_crate.sh WORKSPACE DIRECTORY: makes the package of keylatch-client as one would publish it, and builds the program
# DIRECTORY/app/src/main.rs with it and nothing else of the workspace. Versions are those of its lock file.
set -euo pipefail
workspace=$1 directory=$2

cargo package --quiet --offline --allow-dirty --no-verify --manifest-path "$workspace/Cargo.toml" \
    --target-dir "$directory/packaged" --package keylatch-core --package keylatch-client
for package in "$directory"/packaged/package/*.crate; do
    tar -xzf "$package" -C "$directory"
done
cp "$workspace/Cargo.lock" "$directory/app/"
cat >"$directory/app/Cargo.toml" <<TOML
[package]
name = "app"
version = "0.0.0"
edition = "2024"

[dependencies]
keylatch-client = { path = "$(echo "$directory"/keylatch-client-*)" }
serde_json = "1"
tokio = { version = "1", features = ["macros", "rt"] }

# Not published here, so from its package.
[patch.crates-io]
keylatch-core = { path = "$(echo "$directory"/keylatch-core-*)" }

[profile.dev]
debug = false

[workspace]
TOML
cargo build --quiet --offline --manifest-path "$directory/app/Cargo.toml" --target-dir "$directory/built"
