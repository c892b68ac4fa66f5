//! [`Str`]: the byte string of the language, copy on write.
//!
//! Up to 14 bytes are stored in the value itself; longer strings share one heap block and are changed in place while
//! they have one owner.

use crate::mem;
use std::fmt;
use triomphe::{Arc, ThinArc};

/// Longest string stored without a heap block, bytes.
const INLINE_MAX: usize = 14;
/// Fixed part of a heap block in the memory account, bytes.
const HEAP_COST: usize = 48;
/// The same for one that cannot grow.
const FIXED_COST: usize = 24;

/// A byte string with value semantics. Cloning shares the bytes; the first write to a shared string copies them.
#[derive(Clone)]
pub struct Str(Repr);

#[derive(Clone)]
enum Repr {
    Inline {
        len: u8,
        buf: [u8; INLINE_MAX],
    },
    /// One block of just the bytes; most strings are never appended to.
    Fixed(ThinArc<Charge, u8>),
    /// Bytes with room to grow.
    Heap(Arc<HeapStr>),
}

/// The part of a string in the memory account, taken back when its block goes.
struct Charge(usize);

impl Charge {
    fn new(bytes: usize) -> Charge {
        mem::charge(bytes);
        Charge(bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        mem::release(self.0);
    }
}

struct HeapStr {
    bytes: Vec<u8>,
    charged: usize,
}

impl HeapStr {
    fn new(bytes: Vec<u8>) -> HeapStr {
        let charged = bytes.capacity() + HEAP_COST;
        mem::charge(charged);
        HeapStr { bytes, charged }
    }
}

impl Drop for HeapStr {
    fn drop(&mut self) {
        mem::release(self.charged);
    }
}

impl Str {
    /// The empty string.
    #[inline]
    pub const fn new() -> Str {
        Str(Repr::Inline { len: 0, buf: [0; INLINE_MAX] })
    }

    /// Copies `bytes`.
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Str {
        if bytes.len() <= INLINE_MAX {
            let mut buf = [0; INLINE_MAX];
            buf[..bytes.len()].copy_from_slice(bytes);
            Str(Repr::Inline { len: bytes.len() as u8, buf })
        } else {
            Str(Repr::Fixed(ThinArc::from_header_and_slice(Charge::new(bytes.len() + FIXED_COST), bytes)))
        }
    }

    /// Takes over `bytes`.
    #[inline]
    pub fn from_vec(bytes: Vec<u8>) -> Str {
        if bytes.len() <= INLINE_MAX {
            Str::from_bytes(&bytes)
        } else {
            Str(Repr::Heap(Arc::new(HeapStr::new(bytes))))
        }
    }

    /// The one-byte string of `byte`.
    #[inline]
    pub fn from_byte(byte: u8) -> Str {
        let mut buf = [0; INLINE_MAX];
        buf[0] = byte;
        Str(Repr::Inline { len: 1, buf })
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, buf } => &buf[..usize::from(*len).min(INLINE_MAX)],
            Repr::Fixed(block) => &block.slice,
            Repr::Heap(heap) => &heap.bytes,
        }
    }

    /// Length, bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Inline { len, .. } => usize::from(*len),
            Repr::Fixed(block) => block.slice.len(),
            Repr::Heap(heap) => heap.bytes.len(),
        }
    }

    /// True for the empty string.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text with invalid UTF-8 replaced.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }

    /// Takes the bytes out, without copying when this is the only owner of a heap block.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Repr::Inline { .. } | Repr::Fixed(_) => self.as_bytes().to_vec(),
            Repr::Heap(mut heap) => match Arc::get_mut(&mut heap) {
                Some(inner) => std::mem::take(&mut inner.bytes),
                None => heap.bytes.clone(),
            },
        }
    }

    /// Appends `tail`, in place when this is the only owner; amortised O(length of `tail`).
    pub fn push_bytes(&mut self, tail: &[u8]) {
        match &mut self.0 {
            Repr::Inline { len, buf } => {
                let old = usize::from(*len);
                let total = old + tail.len();
                if total <= INLINE_MAX {
                    buf[old..total].copy_from_slice(tail);
                    *len = total as u8;
                } else {
                    let mut bytes = Vec::with_capacity((total * 2).max(32));
                    bytes.extend_from_slice(&buf[..old]);
                    bytes.extend_from_slice(tail);
                    self.0 = Repr::Heap(Arc::new(HeapStr::new(bytes)));
                }
            }
            Repr::Fixed(block) => {
                let total = block.slice.len() + tail.len();
                let mut bytes = Vec::with_capacity(total * 2);
                bytes.extend_from_slice(&block.slice);
                bytes.extend_from_slice(tail);
                self.0 = Repr::Heap(Arc::new(HeapStr::new(bytes)));
            }
            Repr::Heap(heap) => match Arc::get_mut(heap) {
                Some(inner) => {
                    inner.bytes.extend_from_slice(tail);
                    let now = inner.bytes.capacity() + HEAP_COST;
                    if now != inner.charged {
                        mem::charge(now.wrapping_sub(inner.charged));
                        inner.charged = now;
                    }
                }
                None => {
                    let mut bytes = Vec::with_capacity(heap.bytes.len() + tail.len() + tail.len() / 2);
                    bytes.extend_from_slice(&heap.bytes);
                    bytes.extend_from_slice(tail);
                    self.0 = Repr::Heap(Arc::new(HeapStr::new(bytes)));
                }
            },
        }
    }
}

impl Default for Str {
    fn default() -> Str {
        Str::new()
    }
}

impl PartialEq for Str {
    #[inline]
    fn eq(&self, other: &Str) -> bool {
        match (&self.0, &other.0) {
            // The unused tail is always zero, so whole buffers can be compared.
            (Repr::Inline { len: a, buf: x }, Repr::Inline { len: b, buf: y }) => a == b && x == y,
            _ => self.as_bytes() == other.as_bytes(),
        }
    }
}

impl Eq for Str {}

impl PartialOrd for Str {
    fn partial_cmp(&self, other: &Str) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Str {
    fn cmp(&self, other: &Str) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl std::hash::Hash for Str {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl std::borrow::Borrow<[u8]> for Str {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

impl From<&str> for Str {
    fn from(text: &str) -> Str {
        Str::from_bytes(text.as_bytes())
    }
}

impl From<String> for Str {
    fn from(text: String) -> Str {
        Str::from_vec(text.into_bytes())
    }
}

impl From<&[u8]> for Str {
    fn from(bytes: &[u8]) -> Str {
        Str::from_bytes(bytes)
    }
}

impl From<Vec<u8>> for Str {
    fn from(bytes: Vec<u8>) -> Str {
        Str::from_vec(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_keeps_shared_copies() {
        for start in ["", "short", "just a longer string than fits inline"] {
            let mut a = Str::from(start);
            let b = a.clone();
            a.push_bytes(b" and a tail that is long enough");
            assert_eq!(b.as_bytes(), start.as_bytes());
            assert_eq!(a.as_bytes(), format!("{start} and a tail that is long enough").as_bytes());
        }
    }

    #[test]
    fn account_is_balanced() {
        let before = mem::used();
        let mut s = Str::from("x");
        for _ in 0..1000 {
            s.push_bytes(b"0123456789");
        }
        assert!(mem::used() - before >= 10_000);
        let v = s.into_vec();
        assert_eq!(v.len(), 10_001);
        assert_eq!(mem::used(), before);
    }
}
