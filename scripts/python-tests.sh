#!/bin/sh
# Fetches what the mail tests are compared with into target/python-tests: a Python environment with dkimpy, aiosmtpd and flufl.bounce, and the
# openspf test suite for RFC 7208, which is part of the sources of pyspf. Does nothing when it is all there.
set -eu

cd "$(dirname "$0")/.."
folder="${CARGO_TARGET_DIR:-target}/python-tests"
suite="$folder/rfc7208-tests.yml"
python="$folder/venv/bin/python"

if [ ! -e "$suite" ] || ! "$python" -c "import aiosmtpd, authres, dkim, flufl.bounce, nacl" 2>/dev/null; then
	rm -rf "$folder"
	mkdir -p "$folder"
	python3 -m venv "$folder/venv"
	"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "dkimpy==1.1.8" "pynacl>=1.5" "aiosmtpd>=1.4" "authres>=1.2" "flufl.bounce>=4.0"
	"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
		--no-binary :all: --dest "$folder" "pyspf==2.0.14"
	tar -xzf "$folder/pyspf-2.0.14.tar.gz" -C "$folder"
	cp "$folder/pyspf-2.0.14/test/rfc7208-tests.yml" "$suite"
fi
