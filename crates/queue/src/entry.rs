//! The records: a message and its entries, one per recipient, packed for a budget of 400 bytes per entry.

use std::net::IpAddr;
use std::num::NonZeroU32;

use uuid::Uuid;

use crate::arena::{Arena, Text};
use crate::hop::{Hop, Hops};
use crate::intern::{Interner, Sym};
use crate::slab::Slab;
use crate::state::State;
use crate::texts::Texts;
use crate::time::Time;

/// Names an entry as long as it is in the queue; never names another one afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A mail address split at its last `@`. Both parts empty: the null sender.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Address {
    /// Part before the `@`, as given.
    pub localpart: String,
    /// Part behind it; the queue keeps it in lower case.
    pub domain: String,
}

impl Address {
    /// Splits at the last `@`; without one everything is local part.
    pub fn parse(text: &str) -> Address {
        match text.rsplit_once('@') {
            Some((localpart, domain)) => {
                Address { localpart: localpart.to_owned(), domain: domain.to_owned() }
            }
            None => Address { localpart: text.to_owned(), domain: String::new() },
        }
    }
}

/// Facts of a message as received (`file.original` lives elsewhere).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Transaction id.
    pub id: Uuid,
    /// When it was received.
    pub received: Time,
    /// Id of the virtual server that received it.
    pub server_id: String,
    /// Address of the client.
    pub sender_ip: Option<IpAddr>,
    /// HELO or EHLO name of the client.
    pub sender_helo: String,
    /// User name of the client's authentication, empty without.
    pub sasl_username: String,
    /// Subject header, decoded; cut after `SUBJECT_BYTES_MAX` bytes.
    pub subject: String,
    /// Live stage that received it, empty for the running configuration.
    pub stage_id: String,
    /// Bytes of the original.
    pub size: u64,
}

impl Default for NewMessage {
    fn default() -> Self {
        NewMessage {
            id: Uuid::nil(),
            received: Time::ZERO,
            server_id: String::new(),
            sender_ip: None,
            sender_helo: String::new(),
            sasl_username: String::new(),
            subject: String::new(),
            stage_id: String::new(),
            size: 0,
        }
    }
}

/// Subjects are kept for conditions and lists, not for delivery: this many bytes are enough.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// Delivery status notification options of RFC 3461.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dsn {
    /// ENVID.
    pub envid: String,
    /// RET: FULL or HDRS.
    pub ret: String,
    /// NOTIFY, upper case, separated by commas.
    pub notify: String,
    /// ORCPT.
    pub orcpt: String,
}

/// One recipient of a message to be queued.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewEntry {
    /// Number within the message, from 1.
    pub queue_id: u64,
    /// Envelope sender.
    pub sender: Address,
    /// Parameters of MAIL, opaque to the queue.
    pub sender_params: String,
    /// Envelope recipient.
    pub recipient: Address,
    /// Parameters of RCPT, opaque to the queue.
    pub recipient_params: String,
    /// Transport.
    pub transport_id: String,
    /// Job.
    pub job_id: String,
    /// Tenant.
    pub tenant_id: String,
    /// 0 normal, 1 high; higher values count as 1.
    pub priority: u8,
    /// Script data, text to text.
    pub metadata: Vec<(String, String)>,
    /// Quota names charged while the entry exists.
    pub quotas: Vec<String>,
    /// Notification options, if any were given.
    pub dsn: Option<Dsn>,
    /// Bytes with edits.
    pub size: u64,
    /// Attempts counted so far.
    pub retry_count: u32,
    /// Next attempt; at or before now means due.
    pub retry_at: Time,
    /// Why the last attempt failed.
    pub retry_reason: String,
    /// Parked until released.
    pub hold: bool,
    /// Parked by a freeze; survives restarts (shown as UPDATE).
    pub update: bool,
    /// The final positive reply was read but the entry is not done: never sent again, its post-delivery runs.
    pub delivered: bool,
    /// Edit list number of the caller's store.
    pub edits: u32,
    /// Intervals whose delay notification has been sent, one bit each (`RetryPlan`).
    pub notified: u64,
}

/// What pre-delivery and DNS found: the queue fields of the coming attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// Source addresses to choose from; repetition is weight. Empty: the unspecified address stands for the
    /// system's choice.
    pub local_ips: Vec<IpAddr>,
    /// Try the addresses in the order given instead of at random.
    pub local_ips_ordered: bool,
    /// Chosen next hop.
    pub remote_ip: Option<IpAddr>,
    /// Its MX name.
    pub remote_mx: String,
    /// Grouping value, `&id` or what the default names.
    pub grouping: String,
    /// Transport for this attempt only.
    pub transport_id: Option<String>,
    /// Job for this attempt only.
    pub job_id: Option<String>,
    /// Tenant for this attempt only.
    pub tenant_id: Option<String>,
    /// Recipient domain for this attempt only (envelope override).
    pub recipient_domain: Option<String>,
}

pub(crate) struct Message {
    pub(crate) id: Uuid,
    pub(crate) received: Time,
    pub(crate) size: u64,
    pub(crate) subject: Text,
    pub(crate) server_id: Sym,
    pub(crate) sender_ip: Sym,
    pub(crate) sender_helo: Sym,
    pub(crate) sasl_username: Sym,
    pub(crate) stage_id: Sym,
    /// First entry of the chain through `Entry::next`.
    pub(crate) first: u32,
    /// A message without entries is gone.
    pub(crate) entries: NonZeroU32,
}

/// Parts of an entry that many do not have.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) quotas: Box<[Sym]>,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) notified: u64,
    pub(crate) edits: u32,
}

/// Parts that hardly any has.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Rare {
    pub(crate) dsn: Option<Dsn>,
    pub(crate) sender_params: Box<str>,
    pub(crate) recipient_params: Box<str>,
    /// Upper halves of the queue id and the size.
    pub(crate) queue_id_high: u32,
    pub(crate) size_high: u32,
}

/// End of a chain; no key of a slab.
pub(crate) const NONE: u32 = u32::MAX;

pub(crate) struct Entry {
    pub(crate) retry_at: Time,
    /// Local part of the sender, that of the recipient, then the metadata as [`Metadata`] reads it.
    pub(crate) text: Text,
    /// In `Store::extras`, or `NONE`.
    extra: u32,
    /// Lower half; see [`Store::queue_id`].
    queue_id_low: u32,
    /// Lower half; see [`Store::size`].
    size_low: u32,
    pub(crate) message: u32,
    pub(crate) next: u32,
    pub(crate) retry_count: u32,
    pub(crate) retry_reason: Sym,
    pub(crate) sender_domain: Sym,
    pub(crate) recipient_domain: Sym,
    pub(crate) transport_id: Sym,
    pub(crate) job_id: Sym,
    pub(crate) tenant_id: Sym,
    /// What resolution found, in `Store::hops`.
    pub(crate) hop: Sym,
    /// Lane, while ACTIVE.
    pub(crate) lane: u32,
    /// Place in the heap of its lane (ACTIVE) or of the deferred (DEFER).
    pub(crate) position: u32,
    sender_bytes: u16,
    recipient_bytes: u16,
    pub(crate) state: State,
    pub(crate) priority: u8,
    pub(crate) delivered: bool,
}

/// Metadata as stored: for each pair the symbol of its key, the length of its value and the value, in the order of the
/// keys' texts.
#[derive(Clone, Copy)]
pub(crate) struct Metadata<'a>(&'a [u8]);

/// Lengths below this take one byte.
const LENGTH_LONG: u8 = u8::MAX;

impl<'a> Metadata<'a> {
    fn encode(pairs: &[(Sym, &str)]) -> Vec<u8> {
        let mut out = Vec::with_capacity(pairs.iter().map(|(_, value)| 9 + value.len()).sum());
        for (key, value) in pairs {
            out.extend_from_slice(&key.0.to_le_bytes());
            match u8::try_from(value.len()) {
                Ok(short) if short < LENGTH_LONG => out.push(short),
                _ => {
                    out.push(LENGTH_LONG);
                    // `check_entry` has bounded values by 4 GiB.
                    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                }
            }
            out.extend_from_slice(value.as_bytes());
        }
        out
    }
}

impl<'a> Iterator for Metadata<'a> {
    type Item = (Sym, &'a str);

    fn next(&mut self) -> Option<(Sym, &'a str)> {
        let (key, rest) = self.0.split_first_chunk::<4>()?;
        let (short, rest) = rest.split_first()?;
        let (length, rest) = match *short {
            LENGTH_LONG => {
                let (long, rest) = rest.split_first_chunk::<4>()?;
                (u32::from_le_bytes(*long) as usize, rest)
            }
            short => (usize::from(short), rest),
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((Sym(u32::from_le_bytes(*key)), std::str::from_utf8(value).unwrap_or_default()))
    }
}

/// What is written of an entry in one text.
pub(crate) struct EntryText<'a> {
    pub(crate) sender: &'a str,
    pub(crate) recipient: &'a str,
    /// Keys counted, in the order of their texts.
    pub(crate) metadata: &'a [(Sym, &'a str)],
}

/// Records and shared values: what all other parts of the queue refer to.
pub(crate) struct Store {
    pub(crate) texts: Texts,
    /// Lists of addresses, single ones included.
    pub(crate) ips: Interner<[IpAddr]>,
    pub(crate) hops: Hops,
    pub(crate) extras: Slab<Extra>,
    pub(crate) messages: Slab<Message>,
    pub(crate) entries: Slab<Entry>,
    /// Texts of single records.
    pub(crate) arena: Arena,
}

impl Store {
    pub(crate) fn new() -> Self {
        Store {
            texts: Texts::new(),
            ips: Interner::new(),
            hops: Hops::new(),
            extras: Slab::new(),
            messages: Slab::new(),
            entries: Slab::new(),
            arena: Arena::new(),
        }
    }

    pub(crate) fn queue_id(&self, entry: &Entry) -> u64 {
        u64::from(entry.queue_id_low) | self.rare(entry).map_or(0, |rare| u64::from(rare.queue_id_high) << 32)
    }

    pub(crate) fn size(&self, entry: &Entry) -> u64 {
        u64::from(entry.size_low) | self.rare(entry).map_or(0, |rare| u64::from(rare.size_high) << 32)
    }

    pub(crate) fn quotas(&self, entry: &Entry) -> &[Sym] {
        self.extra(entry).map_or(&[], |extra| &extra.quotas)
    }

    pub(crate) fn extra(&self, entry: &Entry) -> Option<&Extra> {
        // Most have none, and lists of millions ask for it.
        if entry.extra == NONE { None } else { self.extras.get(entry.extra) }
    }

    pub(crate) fn rare(&self, entry: &Entry) -> Option<&Rare> {
        self.extra(entry).and_then(|extra| extra.rare.as_deref())
    }

    /// The extra part, made on demand.
    pub(crate) fn extra_mut(&mut self, index: u32) -> &mut Extra {
        let entry = &mut self.entries[index];
        if entry.extra == NONE {
            entry.extra = self.extras.insert(Extra::default()).unwrap_or_else(|_| no_room());
        }
        &mut self.extras[entry.extra]
    }

    fn piece(&self, text: Text, from: usize, length: usize) -> &str {
        let bytes = self.arena.get(text).get(from..from + length).unwrap_or_default();
        // They were written from texts of these lengths.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    pub(crate) fn sender_localpart(&self, entry: &Entry) -> &str {
        self.piece(entry.text, 0, usize::from(entry.sender_bytes))
    }

    pub(crate) fn recipient_localpart(&self, entry: &Entry) -> &str {
        self.piece(entry.text, usize::from(entry.sender_bytes), usize::from(entry.recipient_bytes))
    }

    pub(crate) fn subject(&self, message: &Message) -> &str {
        std::str::from_utf8(self.arena.get(message.subject)).unwrap_or_default()
    }

    pub(crate) fn metadata(&self, entry: &Entry) -> Metadata<'_> {
        let from = usize::from(entry.sender_bytes) + usize::from(entry.recipient_bytes);
        Metadata(self.arena.get(entry.text).get(from..).unwrap_or_default())
    }

    /// The record of a new entry, in no list; its shared values are counted.
    pub(crate) fn entry_record(&mut self, new: &NewEntry, message: u32, next: u32) -> Entry {
        let metadata = self.key_symbols(&new.metadata);
        let (text, lengths) = self.write(&EntryText {
            sender: &new.sender.localpart,
            recipient: &new.recipient.localpart,
            metadata: &metadata,
        });
        let rare = Rare {
            dsn: new.dsn.clone(),
            sender_params: new.sender_params.as_str().into(),
            recipient_params: new.recipient_params.as_str().into(),
            queue_id_high: (new.queue_id >> 32) as u32,
            size_high: (new.size >> 32) as u32,
        };
        let extra = Extra {
            quotas: new.quotas.iter().map(|name| self.texts.intern(name)).collect(),
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
            notified: new.notified,
            edits: new.edits,
        };
        let extra = match extra == Extra::default() {
            true => NONE,
            false => self.extras.insert(extra).unwrap_or_else(|_| no_room()),
        };
        Entry {
            extra,
            retry_at: new.retry_at,
            text,
            queue_id_low: new.queue_id as u32,
            size_low: new.size as u32,
            message,
            next,
            retry_count: new.retry_count,
            retry_reason: self.texts.intern(&new.retry_reason),
            sender_domain: self.domain(&new.sender.domain),
            recipient_domain: self.domain(&new.recipient.domain),
            transport_id: self.texts.intern(&new.transport_id),
            job_id: self.texts.intern(&new.job_id),
            tenant_id: self.texts.intern(&new.tenant_id),
            hop: Sym::EMPTY,
            lane: NONE,
            position: 0,
            sender_bytes: lengths.0,
            recipient_bytes: lengths.1,
            state: State::Defer,
            priority: new.priority.min(1),
            delivered: new.delivered,
        }
    }

    /// Gives back what an entry that is gone held, but for its lanes and addresses.
    pub(crate) fn release_entry(&mut self, entry: &Entry) {
        for text in [
            entry.retry_reason,
            entry.sender_domain,
            entry.recipient_domain,
            entry.transport_id,
            entry.job_id,
            entry.tenant_id,
        ] {
            self.texts.release(text);
        }
        if let Some(extra) = self.extras.remove(entry.extra) {
            extra.quotas.iter().for_each(|&name| self.texts.release(name));
        }
        self.release_keys(entry);
        self.arena.remove(entry.text);
    }

    fn release_keys(&mut self, entry: &Entry) {
        let keys: Vec<Sym> = self.metadata(entry).map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.texts.release(key));
    }

    /// Symbols of the keys, counted, with the values; sorted by key, of equal keys the last one.
    fn key_symbols<'v>(&mut self, metadata: &'v [(String, String)]) -> Vec<(Sym, &'v str)> {
        let mut sorted: Vec<&(String, String)> = metadata.iter().collect();
        // Stable, so that of equal keys the last one given is the last one here.
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut pairs: Vec<(Sym, &str)> = Vec::with_capacity(sorted.len());
        for (i, (key, value)) in sorted.iter().enumerate() {
            if sorted.get(i + 1).is_none_or(|next| next.0 != *key) {
                pairs.push((self.texts.intern(key), value));
            }
        }
        pairs
    }

    fn write(&mut self, text: &EntryText<'_>) -> (Text, (u16, u16)) {
        let encoded = Metadata::encode(text.metadata);
        let name = self.arena.insert(&[text.sender.as_bytes(), text.recipient.as_bytes(), &encoded]);
        // `check_entry` has bounded both local parts by 65,535 bytes.
        (name, (text.sender.len() as u16, text.recipient.len() as u16))
    }

    /// Replaces the metadata, all of it.
    pub(crate) fn set_metadata(&mut self, index: u32, metadata: &[(String, String)]) {
        let pairs = self.key_symbols(metadata);
        let entry = &self.entries[index];
        let sender = self.sender_localpart(entry).to_owned();
        let recipient = self.recipient_localpart(entry).to_owned();
        let old: Vec<Sym> = self.metadata(entry).map(|(key, _)| key).collect();
        self.rewrite(index, &EntryText { sender: &sender, recipient: &recipient, metadata: &pairs });
        old.into_iter().for_each(|key| self.texts.release(key));
    }

    /// Replaces local parts.
    pub(crate) fn set_localparts(&mut self, index: u32, sender: Option<&str>, recipient: Option<&str>) {
        let entry = &self.entries[index];
        let own = [self.sender_localpart(entry).to_owned(), self.recipient_localpart(entry).to_owned()];
        let metadata: Vec<(Sym, String)> =
            self.metadata(entry).map(|(key, value)| (key, value.to_owned())).collect();
        let metadata: Vec<(Sym, &str)> = metadata.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let text = EntryText {
            sender: sender.unwrap_or(&own[0]),
            recipient: recipient.unwrap_or(&own[1]),
            metadata: &metadata,
        };
        self.rewrite(index, &text);
    }

    fn rewrite(&mut self, index: u32, text: &EntryText<'_>) {
        let (name, lengths) = self.write(text);
        let entry = &mut self.entries[index];
        let old = std::mem::replace(&mut entry.text, name);
        (entry.sender_bytes, entry.recipient_bytes) = lengths;
        self.arena.remove(old);
    }

    pub(crate) fn domain(&mut self, domain: &str) -> Sym {
        if domain.bytes().any(|b| b.is_ascii_uppercase()) {
            self.texts.intern(&domain.to_ascii_lowercase())
        } else {
            self.texts.intern(domain)
        }
    }

    pub(crate) fn ip(&mut self, ip: Option<IpAddr>) -> Sym {
        match ip {
            Some(ip) => self.ips.intern(&[ip]),
            None => Sym::EMPTY,
        }
    }

    pub(crate) fn ip_of(&self, symbol: Sym) -> Option<IpAddr> {
        self.ips.get(symbol).first().copied()
    }

    pub(crate) fn key(&self, index: u32) -> EntryKey {
        EntryKey { index, generation: self.entries.generation(index) }
    }

    pub(crate) fn live(&self, key: EntryKey) -> Option<&Entry> {
        let entry = self.entries.get(key.index)?;
        (self.entries.generation(key.index) == key.generation).then_some(entry)
    }

    /// Sets what resolution found, counting the shared values.
    pub(crate) fn set_resolved(&mut self, index: u32, resolved: &Resolved) {
        let unspecified;
        let list: &[IpAddr] = if resolved.local_ips.is_empty() {
            unspecified = [match resolved.remote_ip {
                Some(IpAddr::V6(_)) => IpAddr::from([0u16; 8]),
                _ => IpAddr::from([0u8; 4]),
            }];
            &unspecified
        } else {
            &resolved.local_ips
        };
        let local_ips = self.ips.intern(list);
        let remote_ip = self.ip(resolved.remote_ip);
        let remote_mx = self.domain(&resolved.remote_mx);
        let grouping = self.texts.intern(&resolved.grouping);
        let ordered = resolved.local_ips_ordered;
        let hop = Hop { local_ips, remote_ip, remote_mx, grouping, ordered };
        let (symbol, known) = self.hops.intern(hop);
        if known {
            self.release_hop_values(hop);
        }
        let old = std::mem::replace(&mut self.entries[index].hop, symbol);
        self.release_hop(old);
    }

    pub(crate) fn clear_resolved(&mut self, index: u32) {
        let old = std::mem::take(&mut self.entries[index].hop);
        self.release_hop(old);
    }

    pub(crate) fn hop_of(&self, entry: &Entry) -> &Hop {
        self.hops.get(entry.hop)
    }

    pub(crate) fn release_hop(&mut self, symbol: Sym) {
        if let Some(hop) = self.hops.release(symbol) {
            self.release_hop_values(hop);
        }
    }

    fn release_hop_values(&mut self, hop: Hop) {
        self.ips.release(hop.local_ips);
        self.ips.release(hop.remote_ip);
        self.texts.release(hop.remote_mx);
        self.texts.release(hop.grouping);
    }

    /// Replaces one interned text of an entry.
    pub(crate) fn replace_text(
        &mut self,
        index: u32,
        value: &str,
        field: impl FnOnce(&mut Entry) -> &mut Sym,
    ) {
        let new = self.texts.intern(value);
        let old = std::mem::replace(field(&mut self.entries[index]), new);
        self.texts.release(old);
    }
}

fn no_room() -> u32 {
    unreachable!("each extra part belongs to an entry, and of those there are fewer than the slab can number")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records' share of the 400 bytes an entry may cost; the rest is for texts, lists and the allocator.
    #[test]
    fn records_stay_small() {
        assert!(size_of::<Option<Entry>>() <= 80);
        assert!(size_of::<Option<Message>>() <= 64);
    }
}
