//! Black-box tests over the real binaries, with real peers on loopback.
//!
//! A [`Server`] is an `smtpd` process in a folder of its own; [`sink`] is a next hop that remembers what it
//! took, [`peer`] one in trouble, [`client`] a sender that knows what it was promised, [`zone`] a real name server.

pub mod app;
pub mod certificates;
pub mod client;
pub mod limits;
pub mod peer;
pub mod report;
pub mod scripted;
pub mod sink;
pub mod talk;
pub mod zone;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The path of one of our programs, next to the test's own.
pub fn program(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a running test has a path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// A TCP port of loopback that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// A free port that the system gives to nobody by itself. A server that is down for a while can come back on it:
/// no client's own port takes it meanwhile, and no client connects to itself.
///
/// # Panics
/// When there is none.
pub fn lasting_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..1000).map(|_| 10_000 + rand::random::<u16>() % 20_000).find(free).expect("loopback has free ports")
}

/// Waits until `condition` holds.
///
/// # Panics
/// After [`PATIENCE`].
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_until_for(what, PATIENCE, condition);
}

/// Waits until `condition` holds, for so long.
///
/// # Panics
/// After that.
pub fn wait_until_for(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < end, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An `smtpd` process with its folder. It is killed when dropped.
pub struct Server {
    /// Configuration, spool, control socket and log.
    pub dir: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
    /// A shell command that runs in a mount namespace of its own before the process starts there (root only).
    pub before_start: Option<String>,
    /// Variables of the environment of the process.
    pub environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Server {
    /// Writes the configuration and starts. `app` is the running configuration; in it `@` followed by a name
    /// of `values` is replaced.
    pub fn start(app: &str, values: &[(&str, String)]) -> Server {
        let mut server = Server::prepare(app, values);
        server.launch();
        server
    }

    /// Writes the configuration without starting.
    pub fn prepare(app: &str, values: &[(&str, String)]) -> Server {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let server = Server { dir, port, before_start: None, environment: Vec::new(), child: None };
        server.write("smtpd.yaml", &server.startup(""));
        server.write("app.yaml", &fill(app, values));
        server
    }

    /// As [`prepare`](Server::prepare) with servers of the startup configuration and debug lines in the log. In all
    /// texts `@port` is the port, `@dir` the folder; `more` are further keys.
    pub fn prepare_servers(servers: &str, more: &str, app: &str, values: &[(&str, String)]) -> Server {
        let server = Server::prepare(app, values);
        let own = [("port", server.port.to_string()), ("dir", server.dir.path().display().to_string())];
        let values: Vec<(&str, String)> = values.iter().cloned().chain(own).collect();
        let servers = fill(servers, &values);
        let more = format!("logging: {{level: debug}}\n{}", fill(more, &values));
        server.write("smtpd.yaml", &server.startup_of(&servers, &more));
        server.write("app.yaml", &fill(app, &values));
        server
    }

    /// As [`start`](Server::start) with what [`prepare_servers`](Server::prepare_servers) takes.
    pub fn start_servers(servers: &str, more: &str, app: &str, values: &[(&str, String)]) -> Server {
        let mut server = Server::prepare_servers(servers, more, app, values);
        server.launch();
        server
    }

    fn startup(&self, more: &str) -> String {
        let servers = format!("[{{id: in, listeners: [{{port: {}, address: 127.0.0.1}}]}}]", self.port);
        self.startup_of(&servers, more)
    }

    fn startup_of(&self, servers: &str, more: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "version: \"6.9\"\nservers: {servers}\n\
             environment:\n  appconf: {dir}/app.yaml\n  policyconf: {dir}/policy.yaml\n  hostname: mx.test.example\n\
             \x20 spool: {{path: {dir}/spool}}\n  controlsocket: {{path: {dir}/ctl}}\n{more}",
        )
    }

    /// Adds to the startup configuration; takes effect at the next start.
    pub fn add_startup(&self, more: &str) {
        self.write("smtpd.yaml", &self.startup(more));
    }

    /// Writes a file into the server's folder.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).expect("the temporary folder is writable");
    }

    /// Replaces the running configuration on disk.
    pub fn write_app(&self, app: &str, values: &[(&str, String)]) {
        self.write("app.yaml", &fill(app, values));
    }

    /// Starts the process and waits until it is ready.
    pub fn launch(&mut self) {
        let before = self.log().matches("smtpd: ready").count();
        self.spawn();
        wait_until("smtpd is ready", || {
            let log = self.log();
            assert!(!log.contains("Could not load configuration"), "{log}");
            log.matches("smtpd: ready").count() > before
        });
    }

    /// Starts the process without waiting.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log file");
        let mut command = match &self.before_start {
            None => Command::new(program("smtpd")),
            Some(before) => {
                let mut command = Command::new(system_program("unshare"));
                command.args(["-m", "sh", "-c", &format!("{before} && exec \"$@\""), "sh"]);
                command.arg(program("smtpd"));
                command
            }
        };
        let child = command
            .args(["-f", "-c"])
            .arg(self.path("smtpd.yaml"))
            .envs(self.environment.iter().cloned())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("smtpd starts");
        self.child = Some(child);
    }

    /// Starts a process that is expected to fail; gives its status and what it said.
    pub fn launch_failing(&self) -> (Option<i32>, String) {
        // Should it start after all, `timeout` ends it with a status of its own.
        let output = Command::new(system_program("timeout"))
            .arg("30")
            .arg(program("smtpd"))
            .args(["-f", "-c"])
            .arg(self.path("smtpd.yaml"))
            .output()
            .expect("smtpd starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A path in the server's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        std::fs::read(self.path("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process is ours");
        }
    }

    /// Sends SIGTERM, waits for the end and gives the exit status.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the server runs");
        let status = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
        assert!(status.success());
        child.wait().expect("the process is ours").code()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Runs `halonctl` against the server.
    pub fn halonctl(&self, arguments: &[&str]) -> Output {
        Command::new(program("halonctl"))
            .arg("--socket")
            .arg(self.path("ctl"))
            .args(arguments)
            .output()
            .expect("halonctl starts")
    }

    /// Runs `halonctl`, which has to succeed; gives its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.halonctl(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "halonctl {arguments:?}: {error}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A counter of `process-stats`.
    pub fn counter(&self, name: &str) -> u64 {
        let stats = self.ctl(&["process-stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no counter {name} in\n{stats}")).trim().parse().expect("a number")
    }

    /// The queue as JSON.
    pub fn queue(&self) -> Vec<serde_json::Value> {
        let text = self.ctl(&["queue", "list", "--json", "--all-states"]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["items"].as_array().cloned().unwrap_or_default()
    }

    /// Names of the `.hqf` files in the spool.
    pub fn hqf_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in std::fs::read_dir(self.path("spool")).into_iter().flatten().flatten() {
            for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                if file.path().extension().is_some_and(|end| end == "hqf") {
                    found.push(file.path());
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- log of smtpd\n{}----", tail(&self.log(), 60));
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n") + "\n"
}

fn fill(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("@{name}"), value))
}

/// Random numbers that a seed repeats (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by the environment variable `BLACKBOX_SEED`, else by the system; prints the seed.
    ///
    /// # Panics
    /// When the variable holds no number.
    pub fn seeded(test: &str) -> Random {
        let seed = match std::env::var("BLACKBOX_SEED") {
            Ok(text) => text.parse().expect("BLACKBOX_SEED is a number"),
            Err(_) => rand::random(),
        };
        println!("{test}: BLACKBOX_SEED={seed}");
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// A process that is killed when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Finds a program of the system, also where a user's PATH does not look.
pub fn system_program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').map(str::to_owned).chain(["/usr/sbin".to_owned(), "/sbin".to_owned()]);
    let found = folders.map(|folder| Path::new(&folder).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: run scripts/packages.sh build test"))
}

/// Arguments that let Postfix's `smtp-sink` run when the tests run as root, which it refuses to serve as.
pub fn sink_user() -> &'static [&'static str] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if is_root { &["-u", "nobody"] } else { &[] }
}

/// Waits until something listens on a port of loopback.
pub fn wait_for_port(port: u16) {
    wait_until(&format!("port {port} is open"), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}
