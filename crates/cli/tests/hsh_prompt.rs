//! The prompt of `hsh` in a pseudo-terminal, keys in and screen text out.

use nix::pty::{Winsize, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

struct Prompt {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// What came and was not looked for yet.
    text: String,
    _folder: tempfile::TempDir,
}

impl Prompt {
    fn new(arguments: &[&str]) -> Prompt {
        Prompt::with_colour(arguments, false)
    }

    fn with_colour(arguments: &[&str], colour: bool) -> Prompt {
        let size = Winsize { ws_row: 40, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        // setsid makes the terminal the controlling one, so that Ctrl-C becomes a signal.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_hsh"), "--config", "/dev/null"])
            .args(arguments)
            .current_dir(folder.path())
            .env("TERM", "xterm")
            .env("HSH_HISTORY", folder.path().join("history"))
            .env("NO_COLOR", if colour { "" } else { "1" })
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        drop(pty.slave);
        let keys = File::from(pty.master);
        let mut output = keys.try_clone().unwrap();
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails when the program has closed the terminal.
            while let Ok(n) = output.read(&mut buffer) {
                if n == 0 || sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut prompt = Prompt { child, keys, screen, text: String::new(), _folder: folder };
        prompt.expect("HSH> ");
        prompt
    }

    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for `text` on the screen and forgets all before it.
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + WAIT;
        loop {
            if let Some(at) = self.text.find(text) {
                self.text.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?} ({error}); screen: {:?}", self.text),
            }
        }
    }

    /// Enters a line; what follows is its output.
    fn enter(&mut self, line: &str) {
        self.keys(line);
        self.keys("\r");
    }

    /// Enters a line and waits for output on a line of its own, then for the prompt.
    fn answer(&mut self, line: &str, output: &str) {
        self.enter(line);
        self.expect(&format!("\n{output}"));
        self.expect("HSH> ");
    }

    fn end(mut self) {
        let end = Instant::now() + WAIT;
        loop {
            // Between two inputs the terminal swallows it, and at the end there is nobody to read it.
            let _ = self.keys.write_all(b"\x04");
            match self.child.try_wait().unwrap() {
                Some(status) => return assert!(status.success(), "{status}"),
                None => assert!(Instant::now() < end, "still running"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        // Already ended in the good case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn values_and_state() {
    let mut prompt = Prompt::new(&[]);
    prompt.answer("$x = 40;", "");
    prompt.answer("$x + 2", "42");
    prompt.answer("echo \"x is $x\";", "x is 40");
    prompt.answer("[\"a\" => none]", "[\"a\" => none]");
    prompt.end();
}

#[test]
fn completion() {
    let mut prompt = Prompt::new(&[]);
    prompt.keys("str_repe\t");
    prompt.expect("str_repeat(");
    prompt.answer("\"ab\", 2)", "\"abab\"");
    prompt.answer("$variable_of_mine = 7;", "");
    prompt.answer("$variable_o\t", "7");
    // Several candidates are listed with their signatures.
    prompt.keys("array_f\t\t");
    prompt.expect("array_filter(callback");
    prompt.keys("\x03");
    prompt.expect("HSH> ");
    prompt.end();
}

#[test]
fn several_lines() {
    let mut prompt = Prompt::new(&[]);
    prompt.enter("function twice($n) {");
    prompt.enter("return $n * 2;");
    prompt.answer("}", "");
    prompt.answer("twice(21)", "42");
    prompt.enter("1 +");
    prompt.answer("1", "2");
    prompt.end();
}

#[test]
fn errors_have_a_caret_and_do_not_end_it() {
    let mut prompt = Prompt::with_colour(&[], true);
    // Keys come back in colour: the keyword, a value, an error.
    prompt.keys("echo");
    prompt.expect("\x1b[1;34mecho\x1b[0m");
    prompt.keys(" nosuch();\r");
    prompt.expect("input-1:1:6: \x1b[1;31mUnknown function 'nosuch'");
    prompt.expect("  | echo nosuch();\r\n  |      \x1b[1;31m^");
    prompt.expect("HSH> ");
    prompt.enter("throw \"no\";");
    prompt.expect("Uncaught no");
    prompt.answer("1 + 1", "\x1b[36m2\x1b[0m");
    prompt.enter("function f() { return none + 1; }");
    // The line is drawn anew with every key, so the prompt alone does not tell that it was taken.
    prompt.expect("This always fails");
    prompt.expect("HSH> ");
    prompt.enter("f();");
    prompt.expect("\n  at input-3:1:28 in f\r\n  at input-4:1:1 in (main)");
    prompt.expect("HSH> ");
    prompt.end();
}

#[test]
fn interrupts() {
    let mut prompt = Prompt::new(&[]);
    // The input,
    prompt.keys("if (1) {\rnonsense\x03");
    prompt.expect("HSH> ");
    // a busy script,
    prompt.enter("$n = 5; echo \"busy\"; forever { $n += 0; }");
    prompt.expect("\nbusy");
    prompt.keys("\x03");
    prompt.expect("Interrupted");
    prompt.expect("HSH> ");
    prompt.answer("$n", "5");
    // and one that waits.
    prompt.enter("echo \"waits\"; sleep(1000);");
    prompt.expect("\nwaits");
    prompt.keys("\x03");
    prompt.expect("Interrupted");
    prompt.expect("HSH> ");
    prompt.answer("$n + 1", "6");
    prompt.end();
}

#[test]
fn history() {
    let mut prompt = Prompt::new(&[]);
    prompt.answer("6 * 7", "42");
    prompt.answer("\x1b[A", "42");
    prompt.end();
}

#[test]
fn hooks() {
    let mut prompt = Prompt::new(&["--phase", "eod"]);
    prompt.answer("Reject(\"no\");", "Reject(\"no\")");
    prompt.answer("$context[\"a\"] = 1;", "");
    prompt.answer("$context", "[\"a\" => 1]");
    prompt.enter("$arguments = 1;");
    prompt.expect("input-4:1:1: ");
    prompt.expect("HSH> ");
    prompt.end();
}
