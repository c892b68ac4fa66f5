//! The immutable bytes of a message, wherever they lie.

use std::io;

use bytes::Bytes;

/// Read access to the original bytes of a message.
pub trait Content: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the range passes the end, or what the disk says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// All bytes at once, if they are in memory anyway.
    fn as_slice(&self) -> Option<&[u8]>;
}

/// Content held in memory; clones share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryContent(pub Bytes);

impl Content for MemoryContent {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let source = self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(source);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_inside_and_refuses_outside() {
        let content = MemoryContent(Bytes::from_static(b"hello"));
        let mut buf = [0; 3];
        content.read_at(2, &mut buf).unwrap();
        assert_eq!(&buf, b"llo");
        for offset in [3, 5, u64::MAX] {
            assert_eq!(content.read_at(offset, &mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
