//! Reading a stored message back for delivery and reports.

use crate::queueing::engine::Engine;
use crate::queueing::job::Job;
use mail::{Content, EditList};
use spool::SpoolError;
use std::sync::Arc;
use std::time::Duration;

/// Content is scanned for 8-bit bytes in pieces of this size, octets.
const SCAN_BYTES: u64 = 64 * 1024;

/// A message as it is to be sent to one recipient.
pub(crate) struct Stored {
    /// The original.
    pub(crate) content: Arc<dyn Content>,
    /// The edits of the entry.
    pub(crate) edits: Arc<EditList>,
    /// The original has bytes above 127.
    pub(crate) has_8bit: bool,
    /// Its header has characters of UTF-8 beyond ASCII (RFC 6532).
    pub(crate) has_utf8_header: bool,
}

impl Engine {
    /// Opens a message. What is not in memory any more is read from its file; that blocks this thread, so the
    /// runtime is told beforehand.
    pub(crate) fn open(&self, job: &Job) -> Result<Stored, SpoolError> {
        let is_young = self.now().since(job.received) < Duration::from_secs(1);
        let is_fresh = is_young && job.size < self.journal_message_max();
        if is_fresh {
            self.open_blocking(job)
        } else {
            tokio::task::block_in_place(|| self.open_blocking(job))
        }
    }

    fn open_blocking(&self, job: &Job) -> Result<Stored, SpoolError> {
        let content = self.spool.content(job.id)?;
        let edits = match job.edits {
            0 => Arc::default(),
            wanted => {
                let lists = self.spool.read(job.id)?.edits;
                let list = lists.into_iter().find(|(id, _)| *id == wanted).map(|(_, list)| list);
                // An entry whose list is missing would be sent unmodified: worse than not at all.
                let list = list.ok_or(SpoolError::NotFound(job.id))?;
                // A Date that scripts left for the moment of delivery. A clock beyond the year 9999 leaves it as it is.
                let dated = mail::with_date_now(&list).ok().flatten();
                Arc::new(dated.unwrap_or(list))
            }
        };
        let has_8bit = has_8bit(&*content);
        let has_utf8_header = has_8bit && has_utf8_header(&*content);
        Ok(Stored { content, edits, has_8bit, has_utf8_header })
    }
}

fn has_utf8_header(content: &dyn Content) -> bool {
    // A header that cannot be read now cannot be sent either; the attempt will say so.
    let Ok(header) = mail::HeaderIndex::read(content) else { return false };
    !header.block().is_ascii() && std::str::from_utf8(header.block()).is_ok()
}

fn has_8bit(content: &dyn Content) -> bool {
    if let Some(slice) = content.as_slice() {
        return !slice.is_ascii();
    }
    let mut block = Vec::new();
    let mut at = 0;
    while at < content.len() {
        let length = SCAN_BYTES.min(content.len() - at);
        block.resize(length as usize, 0);
        // What cannot be read now cannot be sent either; the attempt will say so.
        if content.read_at(at, &mut block).is_err() || !block.is_ascii() {
            return true;
        }
        at += length;
    }
    false
}
