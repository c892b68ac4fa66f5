#!/bin/sh
# Unpacks Exim into target/exim, for the tests that have it as a client. It is not installed, because it and Postfix exclude
# each other on one host. Does nothing when it is there.
set -eu

cd "$(dirname "$0")/.."
folder="${CARGO_TARGET_DIR:-target}/exim"

if [ ! -x "$folder/usr/sbin/exim4" ]; then
	rm -rf "$folder"
	mkdir -p "$folder/packages"
	# A library of it that nothing else here needs comes along.
	(cd "$folder/packages" && apt-get download -qq exim4-daemon-light libidn12 2>/dev/null)
	for package in "$folder"/packages/*.deb; do
		dpkg-deb -x "$package" "$folder"
	done
	rm -r "$folder/packages"
	# It would ignore where its library is.
	chmod 755 "$folder/usr/sbin/exim4"
fi
