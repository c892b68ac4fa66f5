#!/bin/sh
# Load benchmarks beside Postfix in the same run: accept, relay, single-session latency, memory.
# Needs root (Postfix's own rule for a queue of its own). Options: RUNS, MESSAGES, DIR (on a real disk).
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin=$root/target/release
tools=$root/bench/smtp
runs=${RUNS:-5}
messages=${MESSAGES:-10000}
dir=${DIR:-$(mktemp -d "$root/target/bench.XXXXXX")}
# Postfix works as users of its own, which have to get there.
chmod 755 "$dir"
mkdir -p "$dir/ours"
cd "$dir"

cat >ours/smtpd.yaml <<END
version: "6.9"
servers: [{id: bench, listeners: [{port: 2625, address: 127.0.0.1}]}]
environment:
  appconf: $dir/ours/app.yaml
  policyconf: $dir/ours/policy.yaml
  spool: {path: $dir/ours/spool}
  controlsocket: {path: $dir/ours/ctl}
END
cat >ours/app.yaml <<END
version: "6.9"
servers: [{id: bench, transport: sink, concurrency: {total: 20000}, phases: {connect: {remoteptr: false}}}]
transportgroups:
  - id: bench
    retry: {intervals: [{interval: 1h}]}
    transports: [{id: sink, connection: {server: 127.0.0.1, port: 2702}, session: {tls: {mode: disabled}}}]
END
printf 'version: "6.9"\npolicies: [{default: {concurrency: 50}}]\n' >ours/policy.yaml

start_ours() {
	"$bin/smtpd" -f -c ours/smtpd.yaml >>ours/log 2>&1 &
	ours=$!
	for _ in $(seq 100); do
		grep -q 'smtpd: ready' ours/log 2>/dev/null && return
		sleep 0.1
	done
	cat ours/log >&2
	exit 1
}

finish() {
	kill "$ours" 2>/dev/null || true
	sh "$tools/peer-postfix.sh" "$dir/pf" 2626 2701 stop 2>/dev/null || true
	wait
}
trap finish EXIT

start_ours
sh "$tools/peer-postfix.sh" "$dir/pf" 2626 2701 start
sleep 1
postfix=$(sh "$tools/peer-postfix.sh" "$dir/pf" 2626 2701 pid)

echo "# relay, $runs runs of $messages messages of 4 KiB, 20 sessions, reused connections, our commit synced"
"$tools/bench-compare.sh" relay -m "$messages" -s 20 -d -n "$runs" \
	"postfix=127.0.0.1:2626,2701,$postfix" "ours=127.0.0.1:2625,2702,$ours"
echo "# accept"
"$tools/bench-compare.sh" accept -m "$messages" -s 20 -d -n "$runs" \
	"postfix=127.0.0.1:2626,2701,$postfix" "ours=127.0.0.1:2625,2702,$ours"
echo "# final dot to 250, one session, next hop taking the mail"
user=
[ "$(id -u)" = 0 ] && user="-u nobody"
smtp-sink $user 127.0.0.1:2701 1024 >/dev/null 2>&1 &
sink_one=$!
smtp-sink $user 127.0.0.1:2702 1024 >/dev/null 2>&1 &
sink_two=$!
sleep 1
for _ in $(seq "$runs"); do
	"$tools/bench-latency.sh" 127.0.0.1:2626 -m 2000 -n 1 -p "$postfix"
	"$tools/bench-latency.sh" 127.0.0.1:2625 -m 2000 -n 1 -p "$ours"
done
kill "$sink_one" "$sink_two"
sh "$tools/peer-postfix.sh" "$dir/pf" 2626 2701 purge

kill "$ours"
wait "$ours" || true
rm -rf ours/spool ours/log
start_ours
echo "# memory per idle session"
"$tools/bench-idle.sh" 127.0.0.1:2625 -c 5000 -p "$ours"
kill "$ours"
wait "$ours" || true
start_ours
echo "# memory per deferred message"
"$tools/bench-defer.sh" 127.0.0.1:2625 --sink 2702 -m 100000 -s 20 -d -N -p "$ours"
