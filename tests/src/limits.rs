//! Real traffic under policies: five next hops with limits of three kinds, and what they saw themselves.

use crate::client::Sender;
use crate::sink::Sink;
use crate::{Server, wait_until_for};
use std::time::{Duration, Instant};

/// What a next hop may be given.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Transactions at once, each taking so long.
    Concurrency(u64, Duration),
    /// Starts per second.
    Rate(u32),
    /// Between two connections.
    ConnectInterval(Duration),
}

/// The start of an attempt is what is limited; it arrives at the next hop a little later, and not always by the same time:
/// so much later than the next one at most, on a machine that does other things as well.
const ON_THE_WAY: Duration = Duration::from_millis(60);

/// What a next hop saw.
#[derive(Debug)]
pub struct Seen {
    /// Its limit.
    pub limit: Limit,
    /// Messages taken.
    pub taken: usize,
    /// Part of the allowed rate that was used, 1 is all.
    pub used: f64,
    /// What went beyond the limit; empty when nothing did.
    pub exceeded: Vec<String>,
}

/// Two next hops with a concurrency of 2, two with 10 starts per second, one with a connect interval of 0.1 s.
pub fn five_limits() -> [Limit; 5] {
    let slow = Limit::Concurrency(2, Duration::from_millis(200));
    [slow, slow, Limit::Rate(10), Limit::Rate(10), Limit::ConnectInterval(Duration::from_millis(100))]
}

/// A policy file for transports `t0` to `t4`.
pub fn policy(limits: &[Limit]) -> String {
    let then = |limit: &Limit| match limit {
        Limit::Concurrency(most, _) => format!("concurrency: {most}"),
        Limit::Rate(count) => format!("rate: {count}/1"),
        Limit::ConnectInterval(interval) => format!("connectinterval: {}", interval.as_secs_f64()),
    };
    let conditions: Vec<String> = limits
        .iter()
        .enumerate()
        .map(|(number, limit)| {
            format!("      - {{if: {{transportid: t{number}}}, then: {{{}}}}}\n", then(limit))
        })
        .collect();
    format!(
        "version: \"6.9\"\npolicies:\n  - fields: [transportid]\n    conditions:\n{}",
        conditions.concat()
    )
}

/// Fills the queue of a server whose transports `tN` lead to these next hops, lets everything go at once and looks at
/// what arrives.
///
/// # Panics
/// When the messages do not all arrive in time.
pub fn run(server: &Server, sinks: &[Sink], limits: &[Limit], each: usize) -> Vec<Seen> {
    server.ctl(&["queue", "suspend", "add", "--id", "all"]);
    server.write("policy.yaml", &policy(limits));
    server.ctl(&["queue", "policy", "reload"]);
    for (sink, limit) in sinks.iter().zip(limits) {
        if let Limit::Concurrency(_, takes) = limit {
            sink.set_delay(*takes);
        }
    }
    let mut sender = Sender::connect(server.port).expect("the server listens");
    for number in 0..sinks.len() * each {
        let to = format!("u{number}@t{}.example", number % sinks.len());
        let outcome =
            sender.send("a@sender.example", &to, b"Subject: x\r\n\r\nx\r\n").expect("the server answers");
        assert!(outcome.is_delivered(), "{outcome:?}");
    }
    let patience = Duration::from_secs(30 + each as u64 / 5);
    wait_until_for("all are ACTIVE", patience, || {
        server.counter("queue.queue.active.size") == (sinks.len() * each) as u64
    });
    server.ctl(&["queue", "suspend", "delete", "all"]);
    wait_until_for("all are delivered", patience, || sinks.iter().all(|sink| sink.count() == each));
    sinks.iter().zip(limits).map(|(sink, limit)| seen(sink, *limit)).collect()
}

fn seen(sink: &Sink, limit: Limit) -> Seen {
    let at = sink.look(|taken| taken.iter().map(|taken| taken.at).collect::<Vec<Instant>>());
    let connected = sink.connected();
    let span = |times: &[Instant]| match times {
        [first, .., last] => last.duration_since(*first).as_secs_f64(),
        _ => 0.0,
    };
    let mut exceeded = Vec::new();
    let used = match limit {
        Limit::Concurrency(most, takes) => {
            let busiest = sink.take_most_busy();
            if busiest > most {
                exceeded.push(format!("{busiest} at once"));
            }
            // The time in which all slots were busy, to the time it took.
            at.len() as f64 * takes.as_secs_f64() / most as f64 / (span(&at) + takes.as_secs_f64())
        }
        Limit::Rate(count) => {
            // A bucket that holds a second's worth: never more than that and what came in since.
            for (number, first) in connected.iter().enumerate() {
                for (more, last) in connected[number..].iter().enumerate() {
                    let since = last.duration_since(*first) + ON_THE_WAY;
                    let most = f64::from(count) * (1.0 + since.as_secs_f64());
                    if (more + 1) as f64 > most {
                        exceeded.push(format!("{} in {since:?}", more + 1));
                    }
                }
            }
            (connected.len() as f64 - f64::from(count)) / f64::from(count) / span(&connected)
        }
        Limit::ConnectInterval(interval) => {
            let mut connected = connected.clone();
            connected.sort();
            for pair in connected.windows(2) {
                let gap = pair[1].duration_since(pair[0]);
                if gap + ON_THE_WAY < interval {
                    exceeded.push(format!("{gap:?} apart"));
                }
            }
            (connected.len() as f64 - 1.0) * interval.as_secs_f64() / span(&connected)
        }
    };
    Seen { limit, taken: at.len(), used, exceeded }
}

/// Transports `t0`, `t1` and so on for these ports, and a hook that sends `tN.example` over `tN`, others over `t0`; the
/// local part is the job.
pub fn app(ports: &[u16], more: &str) -> String {
    let transports: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(number, port)| format!("      - {{id: t{number}, connection: {{port: {port}}}}}\n"))
        .collect();
    format!(
        "version: \"6.9\"\n\
         servers: [{{id: in, transport: t0, phases: {{connect: {{remoteptr: false}}, eod: {{hook: main}}}}}}]\n\
         transportgroups:\n  - id: g\n    connection: {{server: 127.0.0.1}}\n    session: {{tls: {{mode: disabled}}}}\n\
         \x20   retry: {{intervals: [{{interval: 1}}]}}\n    transports:\n{}{more}{HOOK}",
        transports.concat()
    )
}

const HOOK: &str = r#"
scripting:
  hooks:
    eod:
      - id: main
        data: |
          foreach ($transaction["recipients"] as $r) {
            $domain = $r["address"]["domain"];
            $transport = $domain =~ "^t[0-9]\\.example$" ? str_replace(".example", "", $domain) : "t0";
            $arguments["mail"]->queue($transaction["senderaddress"], $r["address"], $transport,
              ["jobid" => $r["address"]["localpart"], "metadata" => ["for" => $r["address"]["localpart"]]]);
          }
          Accept();
"#;
