#!/bin/sh
# The queue with 10,000, 100,000 and 1,000,000 messages (start, memory, list, groupby, update), then real traffic under
# policies. Options: SIZES, DIR (on a real disk with room for 5 KiB per message), MESSAGES of the traffic.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cargo build --release --locked --manifest-path "$root/Cargo.toml"
bin=$root/target/release
dir=${DIR:-$(mktemp -d "$root/target/queue-bench.XXXXXX")}
for size in ${SIZES:-10000 100000 1000000}; do
	"$bin/queue-scale" "$size" "$dir"
	echo
done
"$bin/queue-limits" "${MESSAGES:-20000}"
