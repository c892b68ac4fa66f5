#!/bin/sh
# What hooks cost: accept rates of the same server without hooks and with a realistic set (mailfrom, rcptto and eod scripts
# with access to the header and a cached look-up), beside Postfix, runs interleaved; then memory of idle sessions, without
# and with TLS, each on a fresh server.
# Needs root (Postfix's own rule for a queue of its own). Options: RUNS, MESSAGES, IDLE, DIR (on a real disk), BIN.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${BIN:-$root/target/release}
tools=$root/bench/smtp
runs=${RUNS:-5}
messages=${MESSAGES:-10000}
idle=${IDLE:-20000}
dir=${DIR:-$(mktemp -d "$root/target/bench.XXXXXX")}
# Postfix works as users of its own, which have to get there.
chmod 755 "$dir"
cd "$dir"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=mx 2>/dev/null

# configure NAME PORT SINKPORT: a server in a folder of its own.
configure() {
	mkdir -p "$1"
	cat >"$1/smtpd.yaml" <<EOF
version: "6.9"
servers: [{id: bench, listeners: [{port: $2, address: 127.0.0.1}]}]
environment:
  appconf: $dir/$1/app.yaml
  policyconf: $dir/$1/policy.yaml
  spool: {path: $dir/$1/spool}
  controlsocket: {path: $dir/$1/ctl}
EOF
	hooks=
	[ "$1" = plain ] || hooks=', mailfrom: {hook: it}, rcptto: {hook: it}, eod: {hook: it}'
	cat >"$1/app.yaml" <<EOF
version: "6.9"
servers: [{id: bench, transport: sink, tls: {certs: [{cert: mx}]}, concurrency: {total: 30000}, phases: {connect: {remoteptr: false}$hooks}}]
pki: {private: [{id: mx, certificate: {path: $dir/cert.pem}, privatekey: {path: $dir/key.pem}}]}
transportgroups:
  - id: bench
    retry: {intervals: [{interval: 1h}]}
    transports: [{id: sink, connection: {server: 127.0.0.1, port: $3}, session: {tls: {mode: disabled}}}]
scripting:
  hooks:
    mailfrom:
      - id: it
        data: |
          if (length(\$arguments["sender"]) > 200) Reject("Too long");
          if (\$arguments["address"]["domain"] == "blocked.example") Reject("Not you");
          Accept();
    rcptto:
      - id: it
        data: |
          function look_up(\$domain) {
              return ["transport" => "sink", "known" => md5(\$domain) != ""];
          }
          \$found = cache ["ttl" => 300] look_up(\$arguments["address"]["domain"]);
          if (!\$found["known"]) Reject("No such domain");
          Accept(["transportid" => \$found["transport"]]);
    eod:
      - id: it
        data: |
          \$mail = \$arguments["mail"];
          \$subject = \$mail->getHeader("Subject");
          if (\$subject == "forbidden") Reject("Not that");
          \$mail->addHeader("X-Scanned", "by mx");
          if (\$mail->getHeader("Message-ID") == none) \$mail->addHeader("Message-ID", "<" + \$transaction["id"] + "@mx>");
          foreach (\$transaction["recipients"] as \$r) {
              \$mail->queue(\$transaction["sender"], \$r["address"], \$r["transportid"]);
          }
          Accept();
EOF
	printf 'version: "6.9"\npolicies: [{default: {concurrency: 50}}]\n' >"$1/policy.yaml"
	"$bin/smtpd" -f -c "$1/smtpd.yaml" >>"$1/log" 2>&1 &
	echo $! >"$1/pid"
	for _ in $(seq 100); do
		grep -q 'smtpd: ready' "$1/log" 2>/dev/null && return
		sleep 0.1
	done
	cat "$1/log" >&2
	exit 1
}

finish() {
	for pid in plain/pid hooks/pid; do
		[ ! -e "$pid" ] || kill "$(cat "$pid")" 2>/dev/null || true
	done
	sh "$tools/peer-postfix.sh" "$dir/pf" 2626 2701 stop 2>/dev/null || true
	wait
}
trap finish EXIT

configure plain 2625 2702
configure hooks 2627 2703
sh "$tools/peer-postfix.sh" "$dir/pf" 2626 2701 start
sleep 1
postfix=$(sh "$tools/peer-postfix.sh" "$dir/pf" 2626 2701 pid)

echo "# accept, $runs runs of $messages messages of 4 KiB, 20 sessions, reused connections, commits synced"
"$tools/bench-compare.sh" accept -m "$messages" -s 20 -d -n "$runs" \
	plain=127.0.0.1:2625,2702,"$(cat plain/pid)" hooks=127.0.0.1:2627,2703,"$(cat hooks/pid)" \
	postfix=127.0.0.1:2626,2701,"$postfix"

for tls in no starttls; do
	kill "$(cat plain/pid)"
	wait "$(cat plain/pid)" || true
	rm -rf plain
	configure plain 2625 2702
	echo "# $idle idle sessions, TLS: $tls"
	"$tools/bench-idle.sh" 127.0.0.1:2625 -c "$idle" --tls "$tls" -p "$(cat plain/pid)"
done
