//! Short lists of blockers, four bytes each: nearly always empty or of one, which needs no room elsewhere.

use crate::sched::Blocker;
use crate::slab::{ITEMS_MAX, Slab};

/// A list; [`Lists`] has those of several. The two highest bits tell which it is, the rest is a key of a slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Few(u32);

const KIND: u32 = 3 << 30;
const BUCKET: u32 = 1 << 30;
const SUSPEND: u32 = 2 << 30;
const MANY: u32 = 3 << 30;

// Keys of slabs leave the two bits free.
const _: () = assert!(ITEMS_MAX <= 1 << 30);

impl Few {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn one(blocker: Blocker) -> Few {
        match blocker {
            Blocker::Bucket(bucket) => Few(BUCKET | bucket),
            Blocker::Suspend(slot) => Few(SUSPEND | slot),
        }
    }

    fn as_one(self) -> Option<Blocker> {
        match self.0 & KIND {
            BUCKET => Some(Blocker::Bucket(self.0 & !KIND)),
            SUSPEND => Some(Blocker::Suspend(self.0 & !KIND)),
            _ => None,
        }
    }
}

/// The lists of two and more.
pub(crate) struct Lists {
    many: Slab<Vec<Blocker>>,
}

/// What a list held.
pub(crate) enum Taken {
    Few(Option<Blocker>),
    Many(Vec<Blocker>),
}

impl Lists {
    pub(crate) fn new() -> Lists {
        Lists { many: Slab::new() }
    }

    pub(crate) fn get(&self, few: Few) -> impl Iterator<Item = Blocker> + '_ {
        let many = if few.0 & KIND == MANY { self.many.get(few.0 & !KIND) } else { None };
        few.as_one().into_iter().chain(many.into_iter().flatten().copied())
    }

    pub(crate) fn contains(&self, few: Few, blocker: Blocker) -> bool {
        self.get(few).any(|known| known == blocker)
    }

    pub(crate) fn push(&mut self, few: &mut Few, blocker: Blocker) {
        if few.is_empty() {
            *few = Few::one(blocker);
        } else if let Some(first) = few.as_one() {
            match self.many.insert(vec![first, blocker]) {
                Ok(key) => *few = Few(MANY | key),
                Err(_) => unreachable!("a lane has two lists, and of lanes there are fewer than entries"),
            }
        } else if let Some(many) = self.many.get_mut(few.0 & !KIND) {
            many.push(blocker);
        }
    }

    pub(crate) fn remove(&mut self, few: &mut Few, blocker: Blocker) {
        if few.as_one() == Some(blocker) {
            *few = Few::default();
        } else if few.0 & KIND == MANY {
            let key = few.0 & !KIND;
            let Some(many) = self.many.get_mut(key) else { return };
            many.retain(|&known| known != blocker);
            match many[..] {
                [] => *few = Few::default(),
                [last] => *few = Few::one(last),
                _ => return,
            }
            self.many.remove(key);
        }
    }

    /// The items; none are left.
    pub(crate) fn take(&mut self, few: &mut Few) -> Taken {
        let taken = std::mem::take(few);
        match taken.0 & KIND {
            MANY => Taken::Many(self.many.remove(taken.0 & !KIND).unwrap_or_default()),
            _ => Taken::Few(taken.as_one()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.many.len()
    }
}

impl Taken {
    pub(crate) fn as_slice(&self) -> &[Blocker] {
        match self {
            Taken::Few(one) => one.as_slice(),
            Taken::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocker(number: u32) -> Blocker {
        if number.is_multiple_of(2) { Blocker::Bucket(number / 2) } else { Blocker::Suspend(number / 2) }
    }

    proptest! {
        #[test]
        fn they_hold_what_a_vector_holds(steps in prop::collection::vec((0..5u8, 0..6u32), 1..60)) {
            let mut lists = Lists::new();
            let mut few = Few::default();
            let mut known: Vec<Blocker> = Vec::new();
            for (step, number) in steps {
                match step {
                    0..=1 if !known.contains(&blocker(number)) => {
                        lists.push(&mut few, blocker(number));
                        known.push(blocker(number));
                    }
                    2..=3 => {
                        lists.remove(&mut few, blocker(number));
                        known.retain(|&one| one != blocker(number));
                    }
                    4 if number == 0 => {
                        let taken = lists.take(&mut few);
                        prop_assert_eq!(taken.as_slice(), &known[..]);
                        known.clear();
                    }
                    _ => {}
                }
                prop_assert_eq!(&lists.get(few).collect::<Vec<_>>(), &known);
                prop_assert_eq!(lists.contains(few, blocker(number)), known.contains(&blocker(number)));
                prop_assert_eq!((few.is_empty(), lists.len()), (known.is_empty(), usize::from(known.len() > 1)));
            }
        }
    }
}
