//! Where `$arguments["mail"]->queue()` puts its entries until the hook has accepted the message.

use crate::generation::Generation;
use crate::queueing::commit::QueuedRecipient;
use hsl_std::hooks::options::{DsnOptions, EnqueueOptions};
use hsl_std::mail::QueueSink;
use mail::{Address, MailMessage};
use parking_lot::Mutex;
use spool::record::DsnParams;
use std::sync::Arc;

/// Collects what `$mail->queue()` is called with.
pub(super) struct Sink {
    pub(super) id: String,
    pub(super) generation: Arc<Generation>,
    pub(super) queued: Mutex<Vec<QueuedRecipient>>,
}

/// Entries of one message at most; a script that loops must not fill the memory.
const ENTRIES_MAX: usize = 100_000;

impl QueueSink for Sink {
    fn queue(
        &self,
        message: &MailMessage,
        sender: Address,
        recipient: Address,
        transport: String,
        options: EnqueueOptions,
    ) -> Result<u64, hsl::Error> {
        if !self.generation.transports.contains_key(&transport) {
            let known = self.generation.transports.keys().map(String::as_str);
            let near = config::validate::suggestion(&transport, known);
            return Err(hsl::Error::exception(format!("Unknown transport '{transport}'{near}")));
        }
        let mut queued = self.queued.lock();
        if queued.len() >= ENTRIES_MAX {
            return Err(hsl::Error::exception(format!(
                "More than {ENTRIES_MAX} calls of queue() for one message"
            )));
        }
        let one = QueuedRecipient::new(sender, recipient, transport, message);
        let mut one = one.map_err(|error| hsl::Error::exception(error.to_string()))?;
        apply_options(&mut one, options);
        queued.push(one);
        Ok(queued.len() as u64)
    }

    fn transaction(&self) -> String {
        self.id.clone()
    }
}

/// Sets what the options of `queue()` say.
pub(super) fn apply_options(one: &mut QueuedRecipient, options: EnqueueOptions) {
    one.metadata = options.metadata;
    one.hold = options.hold;
    one.job_id = options.job_id;
    one.tenant_id = options.tenant_id;
    one.priority = options.priority;
    one.quotas = options.quotas;
    one.delay_s = options.delay_s;
    one.dsn = options.dsn.map(dsn_record);
}

fn dsn_record(dsn: DsnOptions) -> DsnParams {
    DsnParams { envid: dsn.envid, ret: dsn.ret, notify: dsn.notify, orcpt: dsn.orcpt }
}

/// RFC 3461 parameters of a recipient, for servers without an eod hook.
pub fn dsn_parameters(mail: &[(String, String)], rcpt: &[(String, String)]) -> Option<DsnParams> {
    let get = |parameters: &[(String, String)], keyword: &str| {
        parameters.iter().find(|(known, _)| known == keyword).map(|(_, value)| value.clone())
    };
    let (envid, ret) = (get(mail, "ENVID"), get(mail, "RET"));
    let (notify, orcpt) = (get(rcpt, "NOTIFY"), get(rcpt, "ORCPT"));
    if envid.is_none() && ret.is_none() && notify.is_none() && orcpt.is_none() {
        return None;
    }
    let notify = notify.unwrap_or_default();
    Some(DsnParams {
        envid: envid.unwrap_or_default(),
        ret: ret.unwrap_or_default().to_ascii_uppercase(),
        notify: notify.split(',').filter(|word| !word.is_empty()).map(str::to_ascii_uppercase).collect(),
        orcpt: orcpt.unwrap_or_default(),
    })
}
