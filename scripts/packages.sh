#!/bin/sh
# Installs the Debian packages that a step needs, when they are missing: packages.sh build|test|fuzz ...
set -eu

build="gcc libc6-dev make pkg-config libssl-dev libffi-dev libcrypt-dev"
test="postfix swaks libnet-ssleay-perl nsd python3 python3-venv openssl procps util-linux nginx-light haproxy unbound slapd ldnsutils"
fuzz="g++"
# Node may come from elsewhere, with packages that exclude the ones of Debian.
command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 || test="$test nodejs npm"

wanted=
for set in "$@"; do
	case $set in
	build) wanted="$wanted $build" ;;
	test) wanted="$wanted $test" ;;
	fuzz) wanted="$wanted $fuzz" ;;
	*)
		echo "usage: $0 build|test|fuzz ..." >&2
		exit 2
		;;
	esac
done

missing=
for package in $wanted; do
	if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed'; then
		missing="$missing $package"
	fi
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
	as_root=
elif command -v sudo >/dev/null 2>&1; then
	as_root=sudo
else
	echo "These packages are missing, and installing them needs root:$missing" >&2
	echo "Run as root: apt-get install$missing" >&2
	exit 1
fi

echo "installing:$missing"
# Servers among them serve only the tests, which start them with configurations of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
	$as_root chmod 755 "$policy"
	trap '$as_root rm -f "$policy"' EXIT
fi
case $missing in
*postfix*) echo "postfix postfix/main_mailer_type select Local only" | $as_root debconf-set-selections ;;
esac
$as_root apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
