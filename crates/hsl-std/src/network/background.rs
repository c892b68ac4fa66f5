//! Requests in the background: handed over to `httprd` on its Unix socket, or kept in queues of this process when there
//! is no such daemon. One request of a queue runs at a time, in order; a retry holds its queue.

use super::http::Call;
use super::pool::Body;
use crate::environment::Environment;
use hsl::{Array, Value};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

/// Queues of this process.
const QUEUES: usize = 16;
/// Requests that may wait in all.
const WAITING_MAX: usize = 100_000;
/// Bytes of bodies that may wait in all.
const BYTES_MAX: usize = 256 << 20;
/// Longest frame of the daemon's socket.
const FRAME_MAX: usize = 64 << 20;
/// Longest delay that still means something, seconds.
const DELAY_MAX_S: f64 = 1e6;
/// Patience with the daemon.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to be sent later.
pub(super) struct Job {
    call: Call,
    hash: u64,
    retries: u32,
    delay: Duration,
}

impl Job {
    /// Reads the options of background requests.
    pub(super) fn read(call: Call, options: &Array) -> Job {
        let number = |key: &str| options.get_str(key).map_or(0.0, Value::to_number).max(0.0);
        Job {
            call,
            hash: number("background_hash") as u64,
            retries: number("background_retry_count") as u32,
            delay: Duration::from_secs_f64(number("background_retry_delay").min(DELAY_MAX_S)),
        }
    }

    fn bytes(&self) -> usize {
        self.call.body.as_ref().map_or(0, bytes::Bytes::len)
    }
}

/// Hands a request over; true when somebody will send it.
pub(super) async fn enqueue(job: Job, environment: Arc<Environment>) -> bool {
    match UnixStream::connect(&environment.httprd).await {
        Ok(daemon) => {
            let sent = tokio::time::timeout(DAEMON_TIMEOUT, hand_over(daemon, &job)).await;
            matches!(sent, Ok(Ok(true)))
        }
        Err(_) => QUEUED.put(job, environment),
    }
}

async fn hand_over(mut daemon: UnixStream, job: &Job) -> io::Result<bool> {
    let call = &job.call;
    let base64 = |bytes: &[u8]| String::from_utf8_lossy(&crate::encoding::base64_encode(bytes)).into_owned();
    let headers: Vec<String> = call
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let credential = call.route.tls.credential.as_ref().and_then(|c| {
        let certificate = c.certificate.as_ref()?.to_pem().ok()?;
        let key = c.key.key.private_key_to_pem_pkcs8().ok()?;
        let text = |pem: Vec<u8>| String::from_utf8_lossy(&pem).into_owned();
        Some(serde_json::json!({"certificate": text(certificate), "privatekey": text(key)}))
    });
    let request = serde_json::json!({
        "url": call.url.as_str(),
        "method": call.method.as_str(),
        "headers": headers,
        "body": call.body.as_ref().map(|b| base64(b)),
        "connect_timeout": call.connect_timeout.as_secs_f64(),
        "timeout": call.timeout.map(|t| t.as_secs_f64()),
        "redirects": call.redirect_limit(),
        "tls_verify_peer": call.route.tls.verify_ca,
        "tls_verify_host": call.route.verify_host,
        "tls_default_ca": call.route.tls.default_ca,
        "tls_client_cert": credential,
        "proxy": call.route.proxy.as_ref().map(url::Url::as_str),
        "sourceip": call.route.sources.first().map(ToString::to_string),
        "hash": job.hash,
        "retry_count": job.retries,
        "retry_delay": job.delay.as_secs_f64(),
    })
    .to_string();
    let too_long = || io::Error::from(io::ErrorKind::FileTooLarge);
    let length =
        u32::try_from(request.len()).ok().filter(|n| *n as usize <= FRAME_MAX).ok_or_else(too_long)?;
    daemon.write_all(&length.to_le_bytes()).await?;
    daemon.write_all(request.as_bytes()).await?;
    let length = daemon.read_u32_le().await? as usize;
    if length > FRAME_MAX {
        return Err(too_long());
    }
    let mut reply = vec![0; length];
    daemon.read_exact(&mut reply).await?;
    let reply: serde_json::Value = serde_json::from_slice(&reply).map_err(io::Error::other)?;
    Ok(reply["queued"].as_bool().unwrap_or(false))
}

type Work = (Job, Arc<Environment>);

struct Queued {
    queues: parking_lot::Mutex<Vec<Option<mpsc::UnboundedSender<Work>>>>,
    waiting: AtomicUsize,
    bytes: AtomicUsize,
    empty: Notify,
}

static QUEUED: LazyLock<Queued> = LazyLock::new(|| Queued {
    queues: parking_lot::Mutex::new((0..QUEUES).map(|_| None).collect()),
    waiting: AtomicUsize::new(0),
    bytes: AtomicUsize::new(0),
    empty: Notify::new(),
});

impl Queued {
    fn put(&'static self, job: Job, environment: Arc<Environment>) -> bool {
        let size = job.bytes();
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX
            || self.bytes.fetch_add(size, Ordering::Relaxed) + size > BYTES_MAX
        {
            self.done(size);
            return false;
        }
        let index = (job.hash % QUEUES as u64) as usize;
        let mut queues = self.queues.lock();
        let mut work = (job, environment);
        if let Some(queue) = &queues[index] {
            match queue.send(work) {
                Ok(()) => return true,
                // Its runtime is gone; a new worker takes its place.
                Err(back) => work = back.0,
            }
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(self.work(receiver));
        let sent = sender.send(work).is_ok();
        queues[index] = Some(sender);
        sent
    }

    fn done(&self, size: usize) {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.empty.notify_waiters();
        }
    }

    async fn work(&self, mut queue: mpsc::UnboundedReceiver<Work>) {
        while let Some((job, environment)) = queue.recv().await {
            for attempt in 0..=job.retries {
                if attempt > 0 {
                    tokio::time::sleep(job.delay).await;
                }
                let answer = job.call.run(Body::Whole(job.call.body.clone()), &environment).await;
                let failure = match answer {
                    Ok(a) if !matches!(a.status, 408 | 429 | 500..) => break,
                    Ok(a) => format!("status {}", a.status),
                    Err(error) => error.to_string(),
                };
                let what = if attempt < job.retries { "trying again" } else { "giving up" };
                let mut url = job.call.url.clone();
                // What may be secret stays out of the log; URLs that cannot have user names have none to remove.
                let _ = (url.set_username(""), url.set_password(None));
                url.set_query(None);
                (environment.log)(format_args!(
                    "http() in the background: {} {url}: {failure}, attempt {} of {}, {what}",
                    job.call.method,
                    attempt + 1,
                    u64::from(job.retries) + 1,
                ));
            }
            self.done(job.bytes());
        }
    }
}

/// Waits until the queues of this process are empty, at most for the given time; the number that is left.
pub async fn drain(patience: Duration) -> usize {
    let waiting = || QUEUED.waiting.load(Ordering::Relaxed);
    let empty = async {
        loop {
            let notified = QUEUED.empty.notified();
            if waiting() == 0 {
                return;
            }
            notified.await;
        }
    };
    // What is left is counted below.
    let _ = tokio::time::timeout(patience, empty).await;
    waiting()
}
