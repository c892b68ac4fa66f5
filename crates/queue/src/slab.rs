//! Records under 32-bit keys, in chunks, so that growth never copies and keys stay valid.

/// Items per chunk: large enough that the chunk list stays short, small enough that the last one wastes little.
const CHUNK: usize = 1024;
/// Largest number of items, see `Texts::intern` for what depends on it.
pub(crate) const ITEMS_MAX: usize = 1 << 28;

/// Values and generations lie apart: side by side each pair would be rounded up to the alignment of the value.
struct Chunk<T> {
    values: Vec<Option<T>>,
    generations: Vec<u32>,
}

pub(crate) struct Slab<T> {
    chunks: Vec<Chunk<T>>,
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
            self.chunks[index as usize / CHUNK].values[index as usize % CHUNK] = Some(value);
            self.len += 1;
            return Ok(index);
        }
        if self.bound() >= ITEMS_MAX {
            return Err(value);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.values.len() == CHUNK) {
            self.chunks
                .push(Chunk { values: Vec::with_capacity(CHUNK), generations: Vec::with_capacity(CHUNK) });
        }
        let index = self.bound() as u32;
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.values.push(Some(value));
            chunk.generations.push(0);
        }
        self.len += 1;
        Ok(index)
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?;
        let value = chunk.values.get_mut(index as usize % CHUNK)?.take()?;
        let generation = &mut chunk.generations[index as usize % CHUNK];
        *generation = generation.wrapping_add(1);
        self.free.push(index);
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / CHUNK)?.values.get(index as usize % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut(index as usize / CHUNK)?.values.get_mut(index as usize % CHUNK)?.as_mut()
    }

    /// How often the place has been emptied: tells a stale key from a live one.
    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.chunks
            .get(index as usize / CHUNK)
            .and_then(|chunk| chunk.generations.get(index as usize % CHUNK))
            .map_or(0, |generation| *generation)
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One more than the highest key ever used.
    pub(crate) fn bound(&self) -> usize {
        match self.chunks.last() {
            Some(last) => (self.chunks.len() - 1) * CHUNK + last.values.len(),
            None => 0,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().enumerate().flat_map(|(c, chunk)| {
            let values = chunk.values.iter().enumerate();
            values.filter_map(move |(i, value)| Some(((c * CHUNK + i) as u32, value.as_ref()?)))
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
