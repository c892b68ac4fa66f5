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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fields {
    pub(crate) values: [Sym; 8],
    pub(crate) ordered: bool,
}

impl Fields {
    pub(crate) fn get(&self, field: Field) -> Sym {
        self.values[field as usize]
    }

    /// The fields of an entry as resolved, with the overrides of this attempt. Counted; give back with `release`.
    pub(crate) fn acquire(store: &mut Store, index: u32, resolved: &Resolved) -> Fields {
        let entry = &store.entries[index];
        let mut values = [Sym::EMPTY; 8];
        values[Field::LocalIp as usize] = entry.local_ips;
        values[Field::RemoteIp as usize] = entry.remote_ip;
        values[Field::Grouping as usize] = entry.grouping;
        values[Field::RemoteMx as usize] = entry.remote_mx;
        values[Field::TenantId as usize] = entry.tenant_id;
        values[Field::JobId as usize] = entry.job_id;
        values[Field::TransportId as usize] = entry.transport_id;
        values[Field::RecipientDomain as usize] = entry.recipient_domain;
        let ordered = entry.local_ips_ordered;
        for field in Field::ALL {
            let given = match field {
                Field::TenantId => resolved.tenant_id.as_deref(),
                Field::JobId => resolved.job_id.as_deref(),
                Field::TransportId => resolved.transport_id.as_deref(),
                Field::RecipientDomain => resolved.recipient_domain.as_deref(),
                _ => None,
            };
            let slot = &mut values[field as usize];
            *slot = match given {
                Some(text) if field.is_domain() => store.domain(text),
                Some(text) => store.texts.intern(text),
                None if field.is_address() => store.ips.acquire(*slot),
                None => store.texts.acquire(*slot),
            };
        }
        Fields { values, ordered }
    }

    /// The fields as an entry has them now, not counted: for an entry that has none of its own.
    pub(crate) fn of(entry: &Entry) -> Fields {
        let mut values = [Sym::EMPTY; 8];
        values[Field::LocalIp as usize] = entry.local_ips;
        values[Field::RemoteIp as usize] = entry.remote_ip;
        values[Field::Grouping as usize] = entry.grouping;
        values[Field::RemoteMx as usize] = entry.remote_mx;
        values[Field::TenantId as usize] = entry.tenant_id;
        values[Field::JobId as usize] = entry.job_id;
        values[Field::TransportId as usize] = entry.transport_id;
        values[Field::RecipientDomain as usize] = entry.recipient_domain;
        Fields { values, ordered: entry.local_ips_ordered }
    }

    pub(crate) fn acquire_again(&self, store: &mut Store) {
        for field in Field::ALL {
            if field.is_address() {
                store.ips.acquire(self.get(field));
            } else {
                store.texts.acquire(self.get(field));
            }
        }
    }

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
