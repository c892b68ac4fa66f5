//! `queue()` of scripts run by `hsh`: the message goes to the running `smtpd` through its control socket, as a queue file
//! that the daemon loads. It is durable when the call returns.

use control::smtpd::queue_import_request::{ImportData, Reset};
use control::smtpd::{BoolValue, QueueImportRequest, QueueImportResponse};
use control::{Client, Endpoint};
use hsl_std::hooks::options::EnqueueOptions;
use hsl_std::mail::{MailQueue, Queued};
use mail::{Address, Content, MailMessage};
use spool::record::{DsnParams, EntryState, Pair};
use spool::{Entry, MessageRecord, Meta};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Command of `QueueImport`.
const IMPORT: u8 = b'E';
/// Patience with the daemon; a large message takes its time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The queue of a daemon.
pub(super) struct ControlQueue(pub(super) Endpoint);

impl ControlQueue {
    /// That of the daemon that the startup file configures.
    pub(super) fn of(startup: &config::Startup) -> ControlQueue {
        let socket = &startup.environment.controlsocket;
        ControlQueue(match socket.port {
            Some(port) => {
                let address = socket.address.filter(|a| !a.is_unspecified());
                Endpoint::Tcp(address.map_or_else(|| "localhost".to_owned(), |a| a.to_string()), port)
            }
            None => Endpoint::Unix(startup.control_path()),
        })
    }
}

impl MailQueue for ControlQueue {
    fn queue(
        &self,
        content: Arc<dyn Content>,
        sender: Address,
        recipient: Address,
        transport: String,
        options: EnqueueOptions,
    ) -> Pin<Box<dyn Future<Output = Result<Queued, String>> + Send>> {
        let endpoint = self.0.clone();
        Box::pin(async move {
            let encode = move || file(&content, sender, recipient, transport, options);
            let hqf = tokio::task::spawn_blocking(encode).await.map_err(|e| e.to_string())??;
            let failed = |e: control::ControlError| format!("{endpoint}: {e}");
            let mut client = Client::connect(&endpoint, Some(TIMEOUT)).await.map_err(failed)?;
            let request = QueueImportRequest {
                data: Some(ImportData { rfc822: Vec::new(), hqf }),
                reset: Some(Reset { transactionid: Some(BoolValue { value: true }), ..Reset::default() }),
            };
            let reply: QueueImportResponse = client.request(IMPORT, &request).await.map_err(failed)?;
            Ok(Queued { transaction: reply.transactionid, queue: 1 })
        })
    }

    fn transport(&self, _: &str) -> Option<Vec<(String, String)>> {
        None
    }
}

fn file(
    content: &Arc<dyn Content>,
    sender: Address,
    recipient: Address,
    transport_id: String,
    options: EnqueueOptions,
) -> Result<Vec<u8>, String> {
    let message = MailMessage::new(Arc::clone(content));
    let subject = message.subject().ok().flatten().unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|e| e.to_string())?;
    let received_s = now.as_secs_f64();
    let smtputf8 = !sender.is_ascii() || !recipient.is_ascii();
    let entry = Entry {
        queue_id: 1,
        sender: Some(sender.into()),
        recipient: Some(recipient.into()),
        transport_id,
        job_id: options.job_id,
        tenant_id: options.tenant_id,
        priority: options.priority,
        metadata: options.metadata.into_iter().map(|(key, value)| Pair::new(key, value)).collect(),
        quotas: options.quotas,
        dsn: options.dsn.map(|dsn| DsnParams {
            envid: dsn.envid,
            ret: dsn.ret,
            notify: dsn.notify,
            orcpt: dsn.orcpt,
        }),
        size_bytes: content.len(),
        state: if options.hold { EntryState::Hold } else { EntryState::Timed } as i32,
        next_attempt_s: if options.delay_s > 0.0 { received_s + options.delay_s } else { 0.0 },
        ..Entry::default()
    };
    let meta = Meta { received_s, subject, ..Meta::default() };
    let record = MessageRecord { meta, edits: Vec::new(), entries: vec![entry], smtputf8 };
    spool::encode_hqf(&**content, &record).map_err(|e| e.to_string())
}
