//! The eight queue fields by which policies count and suspensions select.

use crate::entry::{Entry, Resolved, Store};
use crate::intern::Sym;

/// A queue field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Field {
    /// `tenantid`
    TenantId,
    /// `jobid`
    JobId,
    /// `transportid`
    TransportId,
    /// `localip`
    LocalIp,
    /// `grouping`
    Grouping,
    /// `remoteip`
    RemoteIp,
    /// `remotemx`
    RemoteMx,
    /// `recipientdomain`
    RecipientDomain,
}

impl Field {
    /// All fields.
    pub const ALL: [Field; 8] = [
        Field::TenantId,
        Field::JobId,
        Field::TransportId,
        Field::LocalIp,
        Field::Grouping,
        Field::RemoteIp,
        Field::RemoteMx,
        Field::RecipientDomain,
    ];

    /// The name in configuration, scripts and commands.
    pub fn name(self) -> &'static str {
        match self {
            Field::TenantId => "tenantid",
            Field::JobId => "jobid",
            Field::TransportId => "transportid",
            Field::LocalIp => "localip",
            Field::Grouping => "grouping",
            Field::RemoteIp => "remoteip",
            Field::RemoteMx => "remotemx",
            Field::RecipientDomain => "recipientdomain",
        }
    }

    /// The field of a name.
    pub fn from_name(name: &str) -> Option<Field> {
        Field::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Whether its values are IP addresses.
    pub fn is_address(self) -> bool {
        matches!(self, Field::LocalIp | Field::RemoteIp)
    }

    /// Whether its values are domain names.
    pub fn is_domain(self) -> bool {
        matches!(self, Field::RemoteMx | Field::RecipientDomain)
    }
}

/// A set of queue fields: the key of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FieldSet(u8);

impl FieldSet {
    /// No field: one global counter.
    pub const NONE: FieldSet = FieldSet(0);

    /// The set with one more member.
    #[must_use]
    pub fn with(self, field: Field) -> FieldSet {
        FieldSet(self.0 | 1 << field as u8)
    }

    /// Membership.
    pub fn contains(self, field: Field) -> bool {
        self.0 & (1 << field as u8) != 0
    }

    /// The members in the order of [`Field::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |&field| self.contains(field))
    }

    /// Whether no field is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Field> for FieldSet {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        fields.into_iter().fold(FieldSet::NONE, FieldSet::with)
    }
}

impl std::fmt::Display for FieldSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.iter().map(Field::name).collect();
        write!(f, "[{}]", names.join(", "))
    }
}

/// The values of the queue fields of one attempt; `values[LocalIp]` is the list to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) values: [Sym; 8],
    pub(crate) ordered: bool,
}

impl Fields {
    pub(crate) fn get(&self, field: Field) -> Sym {
        self.values[field as usize]
    }

    /// Gives the values back where each was counted on its own.
    pub(crate) fn release(&self, store: &mut Store) {
        for field in Field::ALL {
            if field.is_address() {
                store.ips.release(self.get(field));
            } else {
                store.texts.release(self.get(field));
            }
        }
    }
}

/// The same as it is kept: what entries to the same place share is in the hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct LaneKey {
    pub(crate) hop: Sym,
    tenant_id: Sym,
    job_id: Sym,
    transport_id: Sym,
    recipient_domain: Sym,
}

impl LaneKey {
    /// The fields of an entry as resolved, with the overrides of this attempt. Counted; give back with `release`.
    pub(crate) fn acquire(store: &mut Store, index: u32, resolved: &Resolved) -> LaneKey {
        let own = LaneKey::of(&store.entries[index]);
        let texts = &mut store.texts;
        let mut text = |given: &Option<String>, own: Sym| match given {
            Some(given) => texts.intern(given),
            None => texts.acquire(own),
        };
        let tenant_id = text(&resolved.tenant_id, own.tenant_id);
        let job_id = text(&resolved.job_id, own.job_id);
        let transport_id = text(&resolved.transport_id, own.transport_id);
        let recipient_domain = match &resolved.recipient_domain {
            Some(domain) => store.domain(domain),
            None => store.texts.acquire(own.recipient_domain),
        };
        LaneKey { hop: store.hops.acquire(own.hop), tenant_id, job_id, transport_id, recipient_domain }
    }

    /// The fields as an entry has them now, not counted.
    pub(crate) fn of(entry: &Entry) -> LaneKey {
        LaneKey {
            hop: entry.hop,
            tenant_id: entry.tenant_id,
            job_id: entry.job_id,
            transport_id: entry.transport_id,
            recipient_domain: entry.recipient_domain,
        }
    }

    pub(crate) fn fields(&self, store: &Store) -> Fields {
        let hop = store.hops.get(self.hop);
        let mut values = [Sym::EMPTY; 8];
        values[Field::TenantId as usize] = self.tenant_id;
        values[Field::JobId as usize] = self.job_id;
        values[Field::TransportId as usize] = self.transport_id;
        values[Field::LocalIp as usize] = hop.local_ips;
        values[Field::Grouping as usize] = hop.grouping;
        values[Field::RemoteIp as usize] = hop.remote_ip;
        values[Field::RemoteMx as usize] = hop.remote_mx;
        values[Field::RecipientDomain as usize] = self.recipient_domain;
        Fields { values, ordered: hop.ordered }
    }

    pub(crate) fn acquire_again(&self, store: &mut Store) {
        self.texts().into_iter().for_each(|text| {
            store.texts.acquire(text);
        });
        store.hops.acquire(self.hop);
    }

    pub(crate) fn release(&self, store: &mut Store) {
        self.texts().into_iter().for_each(|text| store.texts.release(text));
        store.release_hop(self.hop);
    }

    fn texts(&self) -> [Sym; 4] {
        [self.tenant_id, self.job_id, self.transport_id, self.recipient_domain]
    }
}
