//! A list that is nearly always empty or of one: eight bytes while it is empty.

use std::ops::Deref;

#[expect(clippy::box_collection, reason = "a lane has three of them, and a vector is three times as long")]
pub(crate) struct Few<T>(Option<Box<Vec<T>>>);

impl<T> Default for Few<T> {
    fn default() -> Few<T> {
        Few(None)
    }
}

impl<T> Few<T> {
    pub(crate) fn push(&mut self, item: T) {
        let list = self.0.get_or_insert_with(|| Box::new(Vec::with_capacity(1)));
        list.push(item);
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        let Some(list) = &mut self.0 else { return };
        list.retain(keep);
        if list.is_empty() {
            self.0 = None;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// The items; none are left.
    pub(crate) fn take(&mut self) -> Vec<T> {
        self.0.take().map_or_else(Vec::new, |list| *list)
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |list| list.as_slice())
    }
}
