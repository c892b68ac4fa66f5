//! Records under 32-bit keys, in chunks, so that growth never copies and keys stay valid.

/// Items per chunk: large enough that the chunk list stays short, small enough that the last one wastes little.
const CHUNK: usize = 1024;
/// Largest number of items, see `Interner::intern` for what depends on it.
const ITEMS_MAX: usize = 1 << 28;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Slab { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Stores `value`; gives it back when the slab is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<u32, T> {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
            slot.value = Some(value);
            self.len += 1;
            return Ok(index);
        }
        if self.bound() >= ITEMS_MAX {
            return Err(value);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let index = self.bound() as u32;
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(Slot { generation: 0, value: Some(value) });
        }
        self.len += 1;
        Ok(index)
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)?.value.as_mut()
    }

    /// How often the place has been emptied: tells a stale key from a live one.
    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.chunks
            .get(index as usize / CHUNK)
            .and_then(|chunk| chunk.get(index as usize % CHUNK))
            .map_or(0, |slot| slot.generation)
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One more than the highest key ever used.
    pub(crate) fn bound(&self) -> usize {
        match self.chunks.last() {
            Some(last) => (self.chunks.len() - 1) * CHUNK + last.len(),
            None => 0,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().enumerate().flat_map(|(c, chunk)| {
            chunk
                .iter()
                .enumerate()
                .filter_map(move |(i, slot)| Some(((c * CHUNK + i) as u32, slot.value.as_ref()?)))
        })
    }

    /// Keys in use, collected, for loops that change the items.
    pub(crate) fn keys(&self) -> Vec<u32> {
        self.iter().map(|(key, _)| key).collect()
    }
}

/// Indexing by a key that the owner knows to be live: lists and indexes hold only live keys, and dropping an
/// item takes it out of them first. A violation is our bug and stops here rather than going on with wrong data.
impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("slab keys in our lists are live")
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("slab keys in our lists are live")
    }
}
