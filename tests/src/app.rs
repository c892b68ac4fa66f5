//! Running configurations for tests of the SMTP server.

use crate::certificates::yaml;
use crate::sink::Sink;
use crate::{PATIENCE, Server, wait_until};
use std::fmt::Write;

/// A running configuration under construction: one server `in` that delivers to a sink.
pub struct App {
    server: String,
    phases: Vec<(String, String)>,
    hooks: Vec<(String, String)>,
    more: String,
}

impl Default for App {
    fn default() -> App {
        App::new()
    }
}

impl App {
    /// No hooks, and every recipient is accepted.
    pub fn new() -> App {
        let phases = vec![("connect".to_owned(), "remoteptr: false".to_owned())];
        App { server: "transport: out".to_owned(), phases, hooks: Vec::new(), more: String::new() }
    }

    /// Adds keys to the server, in flow form.
    #[must_use]
    pub fn server(mut self, keys: &str) -> App {
        write!(self.server, ", {keys}").expect("a string grows");
        self
    }

    /// Adds keys to a phase, in flow form.
    #[must_use]
    pub fn phase(mut self, phase: &str, keys: &str) -> App {
        match self.phases.iter_mut().find(|(known, _)| known == phase) {
            Some((_, all)) => write!(all, ", {keys}").expect("a string grows"),
            None => self.phases.push((phase.to_owned(), keys.to_owned())),
        }
        self
    }

    /// Sets the script of a phase.
    #[must_use]
    pub fn hook(mut self, phase: &str, script: &str) -> App {
        self.hooks.push((phase.to_owned(), script.to_owned()));
        self.phase(phase, "hook: it")
    }

    /// Adds top-level keys.
    #[must_use]
    pub fn top(mut self, keys: &str) -> App {
        writeln!(self.more, "{keys}").expect("a string grows");
        self
    }

    /// The text for a next hop at `sink_port`.
    pub fn text(&self, sink_port: u16) -> String {
        let phases: Vec<String> =
            self.phases.iter().map(|(name, keys)| format!("{name}: {{{keys}}}")).collect();
        let mut text = format!(
            "version: \"6.9\"\nservers:\n  - {{id: in, {}, phases: {{{}}}}}\n{}transportgroups:\n  - id: g\n    transports:\n\
             \x20     - {{id: out, connection: {{server: 127.0.0.1, port: {sink_port}}}, session: {{tls: {{mode: disabled}}}}, \
             retry: {{intervals: [{{interval: 1}}]}}}}\n",
            self.server,
            phases.join(", "),
            self.more
        );
        if !self.hooks.is_empty() {
            text.push_str("scripting:\n  hooks:\n");
            for (phase, script) in &self.hooks {
                writeln!(text, "    {phase}: [{{id: it, data: {}}}]", yaml(script)).expect("a string grows");
            }
        }
        text
    }

    /// Starts a server on a port of loopback, with a sink as next hop.
    pub fn start(&self) -> (Server, Sink) {
        self.start_on("[{id: in, listeners: [{port: @port, address: 127.0.0.1}]}]", "")
    }

    /// As [`start`](App::start) with the servers and more of the startup configuration.
    pub fn start_on(&self, servers: &str, more: &str) -> (Server, Sink) {
        let sink = Sink::start();
        (Server::start_servers(servers, more, &self.text(sink.port), &[]), sink)
    }
}

impl Server {
    /// Waits for a line in the log that contains all words; gives it.
    ///
    /// # Panics
    /// When it does not come.
    pub fn logged(&self, words: &[&str]) -> String {
        let found = || {
            let log = self.log();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        };
        wait_until(&format!("a log line with {words:?} within {PATIENCE:?}\n{}", self.log()), || {
            found().is_some()
        });
        found().expect("it was there a moment ago")
    }

    /// What a hook wrote with `echo "NAME " + json_encode(...)`.
    ///
    /// # Panics
    /// When it did not, or not JSON.
    pub fn echoed(&self, name: &str) -> serde_json::Value {
        let marker = format!(" {name} {{");
        let line = self.logged(&[&marker]);
        let start = line.find(&marker).expect("the marker") + marker.len() - 1;
        serde_json::from_str(&line[start..]).unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}
