//! Received bytes and the command lines in them: length, line ends and forbidden bytes (`smtp-hooks` 10 and 14.4).

use super::{COMMAND_LINE_BYTES_MAX, Server, State};
use crate::content::BareLineFeed;
use crate::reply::Reply;

/// Bytes received and not used up yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// Rest of an over-long command line is being thrown away.
    discarding: bool,
    /// How much of the rest has no line end, so that a line in small pieces is searched once.
    searched: usize,
}

impl Input {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        self.searched = 0;
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Input::default();
    }

    /// Gives memory back while nothing waits.
    pub(super) fn relax(&mut self) {
        if self.is_empty() {
            self.start = 0;
            if self.bytes.capacity() > 2048 {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        }
    }

    /// A line without its LF, and whether it was longer than allowed; none when it is not complete.
    fn line(&mut self) -> Option<(Vec<u8>, bool)> {
        let rest = &self.bytes[self.start..];
        match memchr::memchr(b'\n', &rest[self.searched..]).map(|at| at + self.searched) {
            Some(end) => {
                let too_long = std::mem::take(&mut self.discarding) || end + 1 > COMMAND_LINE_BYTES_MAX;
                let line = if too_long { Vec::new() } else { rest[..end].to_vec() };
                self.consume(end + 1);
                Some((line, too_long))
            }
            None => {
                self.searched = rest.len();
                if self.discarding || rest.len() >= COMMAND_LINE_BYTES_MAX {
                    self.discarding = true;
                    self.consume(rest.len());
                }
                None
            }
        }
    }
}

impl Server {
    /// The next command line without its end, or none when it is not complete. Lines that break the rules for
    /// line ends and length are answered here.
    pub(super) fn take_line(&mut self) -> Option<Vec<u8>> {
        while self.state == State::Command {
            let (mut line, too_long) = self.input.line()?;
            let bare = line.pop_if(|last| *last == b'\r').is_none();
            let strict = self.settings.bare_line_feed == BareLineFeed::Reject;
            if too_long {
                self.auth = None;
                self.protocol_error(Reply::fixed(500, (5, 5, 2), "Line too long"));
            } else if memchr::memchr(0, &line).is_some() {
                self.put(Reply::fixed(421, (4, 7, 0), "Protocol violation: NUL in command"));
                self.state = State::Closed;
            } else if memchr::memchr(b'\r', &line).is_some() || (bare && strict) {
                self.auth = None;
                self.protocol_error(Reply::fixed(500, (5, 5, 2), "Bare LF or CR not allowed"));
                // Commands hidden behind a bare LF are a smuggling attempt, not a client's slip.
                if bare && strict && self.has_input() {
                    self.state = State::Closed;
                }
            } else {
                return Some(line);
            }
        }
        None
    }
}
