#!/bin/sh
# Fetches nodemailer, which the tests have as a client, into target/node-tests. Does nothing when it is there.
set -eu

cd "$(dirname "$0")/.."
folder="${CARGO_TARGET_DIR:-target}/node-tests"
version=7.0.13

if ! grep -qs "\"version\": \"$version\"" "$folder/node_modules/nodemailer/package.json"; then
	rm -rf "$folder"
	mkdir -p "$folder"
	npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --silent "nodemailer@$version"
fi
