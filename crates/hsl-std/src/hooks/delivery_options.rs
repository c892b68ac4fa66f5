//! Options of `queue()` and of the functions that end the delivery hooks.

use super::options::{Metadata, Reader, expected};
use crate::mail::ReportSigner;
use hsl::{Error, Value};
use mail::Address;

/// RFC 3461 parameters as scripts give them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsnOptions {
    /// ENVID.
    pub envid: String,
    /// RET.
    pub ret: String,
    /// NOTIFY items in upper case.
    pub notify: Vec<String>,
    /// ORCPT.
    pub orcpt: String,
}

impl DsnOptions {
    pub(super) fn read(reader: &Reader<'_>) -> Result<DsnOptions, Error> {
        let mut notify = Vec::new();
        for item in reader.strings("notify")?.unwrap_or_default() {
            notify.extend(
                item.split(',').map(|word| word.trim().to_ascii_uppercase()).filter(|word| !word.is_empty()),
            );
        }
        if let Some(bad) =
            notify.iter().find(|word| !["NEVER", "SUCCESS", "FAILURE", "DELAY"].contains(&word.as_str()))
        {
            return Err(Error::exception(format!("Option 'notify' has unknown item '{bad}'")));
        }
        if notify.len() > 1 && notify.iter().any(|word| word == "NEVER") {
            return Err(Error::exception("Option 'notify' has NEVER beside other items"));
        }
        let ret = reader.text("ret")?.unwrap_or_default().to_ascii_uppercase();
        if !["", "FULL", "HDRS"].contains(&ret.as_str()) {
            return Err(Error::exception(format!("Option 'ret' is '{ret}', expected FULL or HDRS")));
        }
        Ok(DsnOptions {
            envid: reader.text("envid")?.unwrap_or_default(),
            ret,
            notify,
            orcpt: reader.text("orcpt")?.unwrap_or_default(),
        })
    }
}

/// Options of `$mail->queue()`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnqueueOptions {
    /// Stored with the entry.
    pub metadata: Metadata,
    /// HOLD instead of ACTIVE.
    pub hold: bool,
    /// Job id.
    pub job_id: String,
    /// Tenant id.
    pub tenant_id: String,
    /// 0 or 1.
    pub priority: u32,
    /// Quota names.
    pub quotas: Vec<String>,
    /// Seconds until the first attempt.
    pub delay_s: f64,
    /// RFC 3461 parameters.
    pub dsn: Option<DsnOptions>,
}

impl EnqueueOptions {
    /// Reads the option array.
    pub fn read(value: &Value) -> Result<EnqueueOptions, Error> {
        let reader = Reader::new(value)?;
        Ok(EnqueueOptions {
            metadata: reader.metadata("metadata")?.unwrap_or_default(),
            hold: reader.flag("hold")?.unwrap_or(false),
            job_id: reader.text("jobid")?.unwrap_or_default(),
            tenant_id: reader.text("tenantid")?.unwrap_or_default(),
            priority: reader.integer("priority", 0.0, 1.0)?.unwrap_or(0) as u32,
            quotas: reader.strings("quotas")?.unwrap_or_default(),
            delay_s: reader.number("delay")?.unwrap_or(0.0).clamp(0.0, 30.0 * 86_400.0),
            dsn: reader.nested("dsn")?.map(|dsn| DsnOptions::read(&dsn)).transpose()?,
        })
    }
}

/// Options of `Queue`.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// Seconds; absent = by schedule.
    pub delay_s: Option<f64>,
    /// HOLD.
    pub hold: bool,
    /// For logs and lists.
    pub reason: Option<String>,
    /// Count the attempt.
    pub increment_retry: bool,
    /// Start counting at 0.
    pub reset_retry: bool,
    /// New transport.
    pub transport: Option<String>,
    /// Send a "delayed" report now, or not; absent = by schedule.
    pub dsn_delayed: Option<bool>,
    /// New job.
    pub job_id: Option<String>,
    /// New tenant.
    pub tenant_id: Option<String>,
    /// New priority, 0 or 1.
    pub priority: Option<u8>,
    /// New metadata, all of it.
    pub metadata: Option<Metadata>,
    /// New quota names, all of them.
    pub quotas: Option<Vec<String>>,
    /// Options of the report.
    pub bounce: BounceOptions,
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions {
            delay_s: None,
            hold: false,
            reason: None,
            increment_retry: true,
            reset_retry: false,
            transport: None,
            dsn_delayed: None,
            job_id: None,
            tenant_id: None,
            priority: None,
            metadata: None,
            quotas: None,
            bounce: BounceOptions::default(),
        }
    }
}

impl QueueOptions {
    /// Reads the option array.
    pub fn read(value: &Value) -> Result<QueueOptions, Error> {
        let reader = Reader::new(value)?;
        Ok(QueueOptions {
            delay_s: reader.number("delay")?,
            hold: reader.flag("hold")?.unwrap_or(false),
            reason: reader.text("reason")?,
            increment_retry: reader.flag("increment_retry")?.unwrap_or(true),
            reset_retry: reader.flag("reset_retry")?.unwrap_or(false),
            transport: reader.text("transportid")?,
            dsn_delayed: reader.flag("dsn_delayed")?,
            job_id: reader.text("jobid")?,
            tenant_id: reader.text("tenantid")?,
            priority: reader.integer("priority", 0.0, 1.0)?.map(|priority| priority as u8),
            metadata: reader.metadata("metadata")?,
            quotas: reader.strings("quotas")?,
            bounce: BounceOptions::read(value)?,
        })
    }
}

impl QueueOptions {
    /// True when more than the time of the next attempt changes.
    pub fn changes_entry(&self) -> bool {
        self.transport.is_some()
            || self.job_id.is_some()
            || self.tenant_id.is_some()
            || self.priority.is_some()
            || self.metadata.is_some()
            || self.quotas.is_some()
    }
}

/// Options of `Bounce`: what the report says and where it goes.
#[derive(Clone, Debug, Default)]
pub struct BounceOptions {
    /// Transport of the report.
    pub transport: Option<String>,
    /// Its envelope recipient.
    pub recipient: Option<Address>,
    /// Added to its entry.
    pub metadata: Metadata,
    /// Job id of its entry.
    pub job_id: Option<String>,
    /// Tenant id of its entry.
    pub tenant_id: Option<String>,
    /// Priority of its entry.
    pub priority: Option<u8>,
    /// Seconds until its first attempt.
    pub delay_s: f64,
    /// It is parked.
    pub hold: bool,
    /// Its envelope sender; null when absent.
    pub sender: Option<Address>,
    /// Address in its From.
    pub from: Option<Address>,
    /// Name in its From.
    pub from_name: Option<String>,
    /// Replaces the readable text: a part with its header.
    pub readable: Option<Vec<u8>>,
    /// Whether the header of the original goes along.
    pub original_headers: Option<bool>,
    /// Whether all of the original goes along.
    pub original_message: Option<bool>,
    /// Its whole subject.
    pub subject: Option<String>,
    /// Name in Reporting-MTA.
    pub reporting_mta: Option<String>,
    /// Its signature.
    pub dkim: Option<ReportSigner>,
    /// Replaces the subject's prefix.
    pub subject_prepend: Option<String>,
    /// Extra header lines.
    pub headers: Vec<String>,
    /// `status`.
    pub status: Option<(u16, u16, u16)>,
    /// `diagnosticcode`.
    pub diagnostic: Option<String>,
}

impl BounceOptions {
    /// Reads the option array: the members of `dsn`, and the shortcuts `status` and `diagnosticcode`.
    pub fn read(value: &Value) -> Result<BounceOptions, Error> {
        let reader = Reader::new(value)?;
        let mut read =
            BounceOptions { diagnostic: reader.text("diagnosticcode")?, ..BounceOptions::default() };
        if let Some(Value::Array(list)) = reader.get("status") {
            let numbers: Vec<f64> = list.values().map(Value::to_number).collect();
            match numbers[..] {
                [a, b, c] if [a, b, c].iter().all(|n| n.fract() == 0.0 && (0.0..=999.0).contains(n)) => {
                    read.status = Some((a as u16, b as u16, c as u16));
                }
                _ => return Err(Error::exception("Option 'status' expects three numbers")),
            }
        }
        if let Some(dsn) = reader.nested("dsn")? {
            read.transport = dsn.text("transportid")?;
            read.recipient = dsn.address("recipient")?;
            read.metadata = dsn.metadata("metadata")?.unwrap_or_default();
            read.job_id = dsn.text("jobid")?;
            read.tenant_id = dsn.text("tenantid")?;
            read.priority = dsn.integer("priority", 0.0, 1.0)?.map(|priority| priority as u8);
            read.delay_s = dsn.number("delay")?.unwrap_or(0.0).clamp(0.0, 30.0 * 86_400.0);
            read.hold = dsn.flag("hold")?.unwrap_or(false);
            read.sender = dsn.address("sender")?;
            read.from = dsn.address("from")?;
            read.from_name = dsn.text("from_name")?;
            read.original_headers = dsn.flag("original_headers")?;
            read.original_message = dsn.flag("original_message")?;
            read.subject = dsn.text("subject")?;
            read.reporting_mta = dsn.text("reporting_mta")?;
            read.readable = match dsn.get("readable_mimepart") {
                None => None,
                Some(value) => match crate::mail::part_of(value) {
                    Some(part) => Some(part.0.to_vec()),
                    None => return Err(expected("readable_mimepart", "MIME", value)),
                },
            };
            if let Some(dkim) = dsn.nested("dkim")?.and_then(|dkim| dkim.array) {
                read.dkim = Some(ReportSigner::read(dkim)?);
            }
            read.subject_prepend = dsn.text("subject_prepend")?;
            read.headers = dsn.strings("headers")?.unwrap_or_default();
            if let Some(bad) = read.headers.iter().find(|line| !line.contains(':')) {
                return Err(Error::exception(format!(
                    "Option 'headers' expects lines 'Name: value', found '{bad}'"
                )));
            }
        }
        Ok(read)
    }
}

/// `reason` of a pre-delivery `Delete`.
pub fn read_reason(value: &Value) -> Result<Option<String>, Error> {
    Reader::new(value)?.text("reason")
}
