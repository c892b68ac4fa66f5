//! Ctrl-C as something that a running script can be stopped by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// SIGINT, as seen by a running script.
pub struct Interrupt {
    seen: AtomicBool,
    wake: Notify,
}

impl Interrupt {
    /// Catches the signal on a thread of its own, so that a busy script does not delay it.
    ///
    /// # Errors
    /// The handler cannot be set up, as a message.
    pub fn catch() -> Result<Arc<Interrupt>, String> {
        let failed = |e: std::io::Error| format!("signals: {e}");
        let runtime = Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let mut stream = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt()).map_err(failed)?
        };
        let interrupt = Arc::new(Interrupt { seen: AtomicBool::new(false), wake: Notify::new() });
        let shared = Arc::clone(&interrupt);
        std::thread::Builder::new()
            .name("interrupt".into())
            .spawn(move || {
                runtime.block_on(async {
                    while stream.recv().await.is_some() {
                        shared.seen.store(true, Ordering::Relaxed);
                        shared.wake.notify_one();
                    }
                });
            })
            .map_err(failed)?;
        Ok(interrupt)
    }

    /// It came since the last [`clear`](Interrupt::clear).
    pub fn seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }

    /// Forgets it.
    pub fn clear(&self) {
        self.seen.store(false, Ordering::Relaxed);
    }

    /// Waits until it comes.
    pub async fn wait(&self) {
        while !self.seen() {
            self.wake.notified().await;
        }
    }
}
