#!/bin/sh
# The playground of "make run": start | stop. Everything lives below ./local; nothing needs root.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${HALON_BIN:-$root/target/release}
dir=${HALON_LOCAL:-$root/local}

running() {
	[ -s "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null
}

stop() {
	for name in smtpd capture; do
		if running $name; then
			kill "$(cat "$dir/$name.pid")"
			for _ in $(seq 100); do
				running $name || break
				sleep 0.1
			done
		fi
		rm -f "$dir/$name.pid"
	done
}

# wait_for WHAT CONDITION LOG PROCESS
wait_for() {
	for _ in $(seq 100); do
		if eval "$2"; then return 0; fi
		running "$4" || break
		sleep 0.1
	done
	echo "No $1; its log:" >&2
	cat "$dir/$3" >&2
	stop
	exit 1
}

case ${1:-} in
stop)
	stop
	echo "stopped"
	exit 0
	;;
start) ;;
*)
	echo "usage: $0 start|stop" >&2
	exit 2
	;;
esac

mkdir -p "$dir"
cd "$dir"
stop
[ -d src ] || "$bin/halonconfig" --init playground
"$bin/halonconfig"

"$bin/smtp-capture" --listen 127.0.0.1:2526 --dir captured >capture.log 2>&1 &
echo $! >capture.pid
wait_for "capture server" 'grep -q listening capture.log' capture.log capture
"$bin/smtpd" -f -c dist/smtpd.yaml >smtpd.log 2>&1 &
echo $! >smtpd.pid
wait_for "mail server" 'grep -q "smtpd: ready" smtpd.log' smtpd.log smtpd

before=$(ls captured 2>/dev/null | wc -l)
"$bin/smtp-send" --server 127.0.0.1:2525 --from alice@example.com --to bob@example.net --subject "Hello from the playground"
wait_for "first mail" "[ \"\$(ls captured | wc -l)\" -gt $before ]" smtpd.log smtpd
arrived=$dir/captured/$(ls captured | tail -n 1)

cat <<END

The first mail went through. It arrived as
    $arrived

--------------------------------------------------------------------
$(cat "$arrived")
--------------------------------------------------------------------

smtpd listens on 127.0.0.1:2525 and delivers to the capture server on 127.0.0.1:2526.

Send more:
    $bin/smtp-send --server 127.0.0.1:2525 --from alice@example.com --to news@example.net --subject "News"
    $bin/smtp-send --server 127.0.0.1:2525 --from a@nowhere.invalid --to bob@example.net     (the sender hook refuses it)
    or any mail client, for example: swaks --server 127.0.0.1:2525 --to bob@example.net

Look at the queue and the counters:
    $bin/halonctl --socket $dir/smtpd.ctl queue list
    $bin/halonctl --socket $dir/smtpd.ctl process-stats
    stop the capture server (kill \$(cat $dir/capture.pid)) to see mail wait

Change the scripts in $dir/src, then, in $dir:
    $bin/halonconfig && $bin/halonctl --socket smtpd.ctl config reload

The log is $dir/smtpd.log. "make stop" stops everything.
END
