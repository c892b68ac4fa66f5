//! What resolution found for an attempt: source addresses, next hop, grouping. Entries to the same place share one.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::intern::Sym;

/// The default is that of an entry without a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Hop {
    /// List to choose from.
    pub(crate) local_ips: Sym,
    pub(crate) remote_ip: Sym,
    pub(crate) remote_mx: Sym,
    pub(crate) grouping: Sym,
    /// The list is tried in its order.
    pub(crate) ordered: bool,
}

struct Slot {
    hop: Hop,
    references: u32,
}

/// A counted set of next hops. Each holds one count of each of its values.
pub(crate) struct Hops {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    hasher: DefaultHashBuilder,
}

impl Hops {
    pub(crate) fn new() -> Hops {
        Hops {
            table: HashTable::new(),
            slots: vec![Slot { hop: Hop::default(), references: 1 }],
            free: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The symbol of `hop`, counted; and whether it was known, so that its values are counted already.
    pub(crate) fn intern(&mut self, hop: Hop) -> (Sym, bool) {
        if hop == Hop::default() {
            return (Sym::EMPTY, true);
        }
        let hash = self.hasher.hash_one(hop);
        if let Some(&index) = self.table.find(hash, |&i| self.slots[i as usize].hop == hop) {
            return (self.acquire(Sym(index)), true);
        }
        let slot = Slot { hop, references: 1 };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                // No more than there are entries, lanes and attempts: below 2^30.
                (self.slots.len() - 1) as u32
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.table.insert_unique(hash, index, |&i| hasher.hash_one(slots[i as usize].hop));
        (Sym(index), false)
    }

    pub(crate) fn acquire(&mut self, symbol: Sym) -> Sym {
        if symbol != Sym::EMPTY {
            // Held by entries, lanes and attempts, of each fewer than 2^28.
            self.slots[symbol.0 as usize].references += 1;
        }
        symbol
    }

    /// Gives one back; the hop when nobody holds it any more, whose values are then to be given back.
    pub(crate) fn release(&mut self, symbol: Sym) -> Option<Hop> {
        if symbol == Sym::EMPTY {
            return None;
        }
        let slot = &mut self.slots[symbol.0 as usize];
        slot.references -= 1;
        if slot.references > 0 {
            return None;
        }
        let hop = slot.hop;
        if let Ok(found) = self.table.find_entry(self.hasher.hash_one(hop), |&i| i == symbol.0) {
            found.remove();
        }
        self.free.push(symbol.0);
        Some(hop)
    }

    pub(crate) fn get(&self, symbol: Sym) -> &Hop {
        &self.slots[symbol.0 as usize].hop
    }

    /// Number of distinct ones held.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}
