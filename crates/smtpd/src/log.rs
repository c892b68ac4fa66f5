//! Log lines: `smtpd: [id] text` on standard error, or the same to the system log (RFC 3164 datagrams).
//!
//! Lines go through a bounded queue to one thread, so that a slow terminal or a full disk never holds up
//! mail. Lines that do not fit are counted, and the count is told as soon as there is room.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

pub use config::startup::{LogLevel as Level, LogTarget as Target};

/// Lines that may wait.
const LINES_MAX: usize = 16 * 1024;

/// Pause between two attempts to reach the system log.
const RECONNECT: Duration = Duration::from_secs(1);

/// A line longer than this is cut, octets.
const LINE_BYTES_MAX: usize = 8 * 1024;

static SENDER: OnceLock<SyncSender<Line>> = OnceLock::new();
static LEVEL: AtomicU8 = AtomicU8::new(2);
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Line {
    Text(Level, String),
    Flush(SyncSender<()>),
}

/// Starts logging; the second call changes only the level.
pub fn start(target: Target, level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    if SENDER.get().is_some() {
        return;
    }
    let (sender, receiver) = sync_channel(LINES_MAX);
    let spawned =
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(target, &receiver));
    match spawned {
        Ok(_) => {
            // A racing second start loses, and its thread ends with its channel.
            let _ = SENDER.set(sender);
        }
        Err(error) => eprintln!("smtpd: cannot start the log thread: {error}"),
    }
}

/// True when lines of this level are written.
pub fn is_on(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes a line; `id` (transaction or connection) may be empty.
pub fn write(level: Level, id: &dyn Display, text: std::fmt::Arguments<'_>) {
    if !is_on(level) {
        return;
    }
    let id = id.to_string();
    let mut line = if id.is_empty() { text.to_string() } else { format!("[{id}] {text}") };
    if line.len() > LINE_BYTES_MAX {
        let end = (0..=LINE_BYTES_MAX).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(end);
    }
    // A line break in foreign text must not forge a second line.
    if line.chars().any(char::is_control) {
        line = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    }
    match SENDER.get() {
        Some(sender) => {
            if sender.try_send(Line::Text(level, line)).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => eprintln!("smtpd: {line}"),
    }
}

/// Waits until everything logged so far is written.
pub fn flush() {
    let Some(sender) = SENDER.get() else { return };
    let (done, wait) = sync_channel(1);
    if sender.send(Line::Flush(done)).is_ok() {
        // The thread has ended: nothing more can be written.
        let _ = wait.recv();
    }
}

fn write_lines(target: Target, lines: &Receiver<Line>) {
    let mut syslog = match target {
        Target::Stderr => None,
        Target::Syslog => Some(Syslog::default()),
    };
    let mut buffer = Vec::new();
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            match line {
                Line::Text(level, text) => put(&mut buffer, syslog.as_mut(), level, &text),
                Line::Flush(done) => {
                    flush_buffer(&mut buffer);
                    // The asker may have given up waiting.
                    let _ = done.send(());
                }
            }
            next = if buffer.len() < 64 * 1024 { lines.try_recv().ok() } else { None };
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            put(&mut buffer, syslog.as_mut(), Level::Warning, &format!("{dropped} log lines were dropped"));
        }
        flush_buffer(&mut buffer);
    }
}

/// The connection to the system log, opened again when the other side was restarted.
#[derive(Default)]
struct Syslog {
    socket: Option<UnixDatagram>,
    tried: Option<Instant>,
}

impl Syslog {
    /// Sends a line; false when nobody takes it.
    fn send(&mut self, line: &[u8]) -> bool {
        if self.socket.as_ref().is_some_and(|socket| socket.send(line).is_ok()) {
            return true;
        }
        self.socket = None;
        if self.tried.is_some_and(|tried| tried.elapsed() < RECONNECT) {
            return false;
        }
        self.tried = Some(Instant::now());
        self.socket = UnixDatagram::unbound().and_then(|s| s.connect("/dev/log").map(|()| s)).ok();
        self.socket.as_ref().is_some_and(|socket| socket.send(line).is_ok())
    }
}

fn put(buffer: &mut Vec<u8>, syslog: Option<&mut Syslog>, level: Level, text: &str) {
    const FACILITY_MAIL: u8 = 2 << 3;
    let severity = match level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug => 7,
    };
    let line = format!("<{}>smtpd[{}]: {text}", FACILITY_MAIL | severity, std::process::id());
    // Where the system log takes nothing, standard error is better than silence.
    if !syslog.is_some_and(|syslog| syslog.send(line.as_bytes())) {
        // Standard error is the last resort, so its own failure has nowhere to go.
        drop(writeln!(buffer, "smtpd: {text}"));
    }
}

fn flush_buffer(buffer: &mut Vec<u8>) {
    if !buffer.is_empty() {
        let _ = std::io::stderr().lock().write_all(buffer);
        buffer.clear();
    }
}

/// `error!(id, "...")`: what needs an operator.
#[macro_export]
macro_rules! error {
    ($id:expr, $($text:tt)*) => { $crate::log::write($crate::log::Level::Error, &$id, format_args!($($text)*)) };
}

/// `warning!(id, "...")`: what may need an operator.
#[macro_export]
macro_rules! warning {
    ($id:expr, $($text:tt)*) => { $crate::log::write($crate::log::Level::Warning, &$id, format_args!($($text)*)) };
}

/// `info!(id, "...")`: the course of things.
#[macro_export]
macro_rules! info {
    ($id:expr, $($text:tt)*) => { $crate::log::write($crate::log::Level::Info, &$id, format_args!($($text)*)) };
}

/// `debug!(id, "...")`: for the author of a script.
#[macro_export]
macro_rules! debug {
    ($id:expr, $($text:tt)*) => { $crate::log::write($crate::log::Level::Debug, &$id, format_args!($($text)*)) };
}
