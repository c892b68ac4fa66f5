//! A next hop on the `smtp::server` machine that keeps every message it took in memory. It refuses recipients whose
//! local part starts with `reject`.

use smtp::Reply;
use smtp::server::{Event, Server, Settings};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A message as taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// EHLO name of the sender.
    pub helo: String,
    /// Reverse path.
    pub from: String,
    /// Forward path.
    pub to: String,
    /// Content.
    pub content: Vec<u8>,
    /// When the 250 was about to be written.
    pub at: Instant,
}

/// The sink. Its threads end with the test process.
#[derive(Clone)]
pub struct Sink {
    /// Where it listens.
    pub port: u16,
    taken: Arc<Mutex<Vec<Taken>>>,
    connected: Arc<Mutex<Vec<Instant>>>,
    open: Arc<AtomicU64>,
    busy: Arc<AtomicU64>,
    most_busy: Arc<AtomicU64>,
    down: Arc<AtomicBool>,
    delay_ms: Arc<AtomicU64>,
    gate: Arc<Gate>,
}

/// Where complete messages wait for their reply while the sink is told to hold them.
#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    waiting: AtomicU64,
    replies: Mutex<VecDeque<Reply>>,
    came: Condvar,
}

impl Gate {
    /// The reply to a message.
    fn reply(&self) -> Reply {
        if !self.closed.load(Ordering::SeqCst) {
            return Reply::new(250, None, "Ok");
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut replies = self.replies.lock().expect("no thread panics with it");
        let reply = loop {
            match replies.pop_front() {
                Some(reply) => break reply,
                None => replies = self.came.wait(replies).expect("no thread panics with it"),
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        reply
    }
}

/// A transaction between MAIL and the reply to its content.
struct Busy(Arc<AtomicU64>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Sink {
    /// Listens on a free port.
    pub fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let sink = Sink {
            port,
            taken: Arc::default(),
            connected: Arc::default(),
            open: Arc::default(),
            busy: Arc::default(),
            most_busy: Arc::default(),
            delay_ms: Arc::default(),
            down: Arc::default(),
            gate: Arc::default(),
        };
        let of_thread = sink.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                of_thread.connected.lock().expect("no thread panics with it").push(Instant::now());
                let sink = of_thread.clone();
                std::thread::spawn(move || {
                    sink.open.fetch_add(1, Ordering::SeqCst);
                    // A sender that breaks off is part of the tests.
                    let _ = sink.session(stream);
                    sink.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        sink
    }

    /// Everything taken so far.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("no thread panics with it").clone()
    }

    /// The number of messages taken so far.
    pub fn count(&self) -> usize {
        self.taken.lock().expect("no thread panics with it").len()
    }

    /// Messages taken since a moment.
    pub fn count_since(&self, moment: Instant) -> usize {
        self.taken
            .lock()
            .expect("no thread panics with it")
            .iter()
            .rev()
            .take_while(|t| t.at >= moment)
            .count()
    }

    /// When connections were made.
    pub fn connected(&self) -> Vec<Instant> {
        self.connected.lock().expect("no thread panics with it").clone()
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// The most transactions that ran at once since the last call.
    pub fn take_most_busy(&self) -> u64 {
        self.most_busy.swap(0, Ordering::SeqCst)
    }

    /// Waits so long before it takes a message.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// From now on complete messages wait until [`Sink::reply`] answers them.
    pub fn hold(&self) {
        self.gate.closed.store(true, Ordering::SeqCst);
    }

    /// Messages that wait for their reply.
    pub fn held(&self) -> u64 {
        self.gate.waiting.load(Ordering::SeqCst)
    }

    /// Answers so many of those that wait.
    pub fn reply(&self, count: usize, reply: &Reply) {
        let mut replies = self.gate.replies.lock().expect("no thread panics with it");
        replies.extend(std::iter::repeat_n(reply.clone(), count));
        self.gate.came.notify_all();
    }

    /// Looks at everything taken so far without copying it.
    pub fn look<T>(&self, at: impl FnOnce(&[Taken]) -> T) -> T {
        at(&self.taken.lock().expect("no thread panics with it"))
    }

    /// Down: connections are closed at once and running sessions break off.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn session(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut settings = Settings::new("sink.test.example");
        settings.size_max = 0;
        let mut machine = Server::new(settings);
        machine.greet(None);
        let (mut helo, mut from, mut to, mut content) =
            (String::new(), String::new(), String::new(), Vec::new());
        let mut buffer = [0; 16 * 1024];
        let mut busy = None;
        let ok = || Reply::new(250, None, "Ok");
        loop {
            if self.down.load(Ordering::SeqCst) {
                return Ok(());
            }
            match machine.next() {
                Event::NeedInput => {
                    stream.write_all(&machine.take_output())?;
                    let count = stream.read(&mut buffer)?;
                    if count == 0 {
                        return Ok(());
                    }
                    machine.feed(&buffer[..count]);
                }
                Event::Helo(greeting) => {
                    helo = greeting.host;
                    machine.helo(Reply::new(250, None, "sink.test.example"), None, None, false);
                }
                Event::Mail { address, .. } => {
                    from = address.to_string();
                    let count = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
                    self.most_busy.fetch_max(count, Ordering::SeqCst);
                    busy = Some(Busy(self.busy.clone()));
                    machine.mail(ok(), false);
                }
                Event::Rcpt { address, .. } if address.localpart.starts_with("reject") => {
                    machine.rcpt(Reply::new(550, None, "No such user"), false);
                }
                Event::Rcpt { address, .. } => {
                    to = address.to_string();
                    machine.rcpt(ok(), false);
                }
                Event::Data => machine.data(None),
                Event::Content => content.extend_from_slice(machine.content()),
                Event::EndOfData(_) => {
                    std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
                    let reply = self.gate.reply();
                    drop(busy.take());
                    if reply.code != 250 {
                        content.clear();
                        machine.end_of_data(reply, false);
                        continue;
                    }
                    let taken = Taken {
                        helo: helo.clone(),
                        from: from.clone(),
                        to: to.clone(),
                        content: std::mem::take(&mut content),
                        at: Instant::now(),
                    };
                    self.taken.lock().expect("no thread panics with it").push(taken);
                    machine.end_of_data(reply, false);
                }
                Event::DataRefused(_) | Event::Reset => content.clear(),
                // None of these is set up.
                Event::Proxy(_) | Event::StartTls | Event::Auth(_) => return Ok(()),
                Event::Close => return stream.write_all(&machine.take_output()),
            }
        }
    }
}
