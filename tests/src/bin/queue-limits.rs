//! Real traffic under policies: `queue-limits [MESSAGES]` (20,000) over five next hops; the sinks' own logs are compared
//! with the limits. Exit status 1 when one was exceeded or less than 98 % of it used.

use blackbox::Server;
use blackbox::limits::{app, five_limits, run};
use blackbox::sink::Sink;

fn main() -> std::process::ExitCode {
    let messages: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let limits = five_limits();
    let sinks: Vec<Sink> = limits.iter().map(|_| Sink::start()).collect();
    let ports: Vec<u16> = sinks.iter().map(|sink| sink.port).collect();
    let server = Server::start(&app(&ports, ""), &[]);
    let mut kept = true;
    for seen in run(&server, &sinks, &limits, messages / limits.len()) {
        println!("{:?}: {} taken, {:.1} % of the allowed rate", seen.limit, seen.taken, seen.used * 100.0);
        seen.exceeded.iter().take(5).for_each(|what| println!("  exceeded: {what}"));
        kept &= seen.exceeded.is_empty() && seen.used >= 0.98;
    }
    if kept { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
