//! Receiving content: DATA up to its end mark, BDAT by count (RFC 5321 4.1.1.4, RFC 3030).

use super::{DataSummary, Event, Server, State};
use crate::content::{BareLineFeed, DataDecoder};
use crate::reply::Reply;

/// How much decoded content is handed out at once, in octets.
const CONTENT_BYTES_MAX: usize = 256 * 1024;

/// A chunk that is being read.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: u64,
    left: u64,
    last: bool,
    /// Where it is thrown away: the reply that follows.
    refusal: Option<Reply>,
}

impl Server {
    pub(super) fn data_command(&mut self) -> Option<Event> {
        if self.mail.is_none() {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send MAIL first"));
        } else if self.chunked || self.dead {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "DATA after BDAT"));
        } else if self.mail.is_some_and(|facts| facts.binary) {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "BINARYMIME needs BDAT"));
        } else if self.recipients == 0 && self.recipients_tried == 0 {
            self.protocol_error(Reply::fixed(503, (5, 5, 1), "Send RCPT first"));
        } else if self.recipients == 0 {
            self.put(Reply::fixed(554, (5, 5, 1), "No valid recipients"));
        } else {
            self.state = State::AwaitData;
            self.errors = 0;
            return Some(Event::Data);
        }
        None
    }

    pub(super) fn bdat_command(&mut self, argument: &[u8]) -> Option<Event> {
        if !self.extensions.has("CHUNKING") {
            self.protocol_error(Reply::fixed(502, (5, 5, 1), "Command not implemented"));
            return None;
        }
        let Some((bytes, last)) = parse_bdat(argument) else {
            self.protocol_error(Reply::fixed(501, (5, 5, 4), "Syntax error in command argument"));
            return None;
        };
        // The chunk follows whatever the answer is, so it is read and thrown away.
        let received = self.decoder.as_ref().map_or(0, DataDecoder::bytes);
        let size_max = self.settings.size_max;
        let (refusal, error) = if self.mail.is_none() {
            (Some(Reply::fixed(503, (5, 5, 1), "Send MAIL first")), true)
        } else if self.dead {
            (Some(Reply::fixed(503, (5, 5, 1), "Transaction failed, send RSET")), true)
        } else if self.recipients == 0 && self.recipients_tried == 0 {
            (Some(Reply::fixed(503, (5, 5, 1), "Send RCPT first")), true)
        } else if self.recipients == 0 {
            (Some(Reply::fixed(554, (5, 5, 1), "No valid recipients")), false)
        } else if size_max > 0 && received.saturating_add(bytes) > size_max {
            (Some(self.too_large()), false)
        } else {
            (None, false)
        };
        self.chunk_error = error;
        if !error {
            self.errors = 0;
        }
        let first = refusal.is_none() && !self.chunked;
        self.chunk = Some(Chunk { bytes, left: bytes, last, refusal });
        if first {
            self.state = State::AwaitData;
            return Some(Event::Data);
        }
        self.state = State::Chunk;
        None
    }

    /// Answers [`Event::Data`]: `None` invites the content, a reply refuses it.
    pub fn data(&mut self, refusal: Option<Reply>) {
        if self.state != State::AwaitData {
            return;
        }
        match (&mut self.chunk, refusal) {
            (Some(chunk), Some(reply)) => {
                chunk.refusal = Some(reply);
                self.state = State::Chunk;
            }
            (Some(_), None) => {
                self.state = State::Chunk;
                self.chunked = true;
                self.decoder = Some(match self.mail {
                    Some(facts) if facts.binary => DataDecoder::verbatim(),
                    _ => DataDecoder::counted(self.settings.bare_line_feed),
                });
            }
            (None, Some(reply)) => {
                self.state = State::Command;
                self.put(reply);
            }
            (None, None) => {
                self.state = State::Content;
                self.decoder = Some(DataDecoder::new(self.settings.bare_line_feed));
                self.put(Reply::new(354, None, "Start mail input; end with <CRLF>.<CRLF>"));
            }
        }
    }

    /// Answers [`Event::EndOfData`].
    pub fn end_of_data(&mut self, reply: Reply, disconnect: bool) {
        if self.state != State::AwaitEnd {
            return;
        }
        self.state = State::Command;
        self.messages += 1;
        self.clear_transaction();
        self.put_and(reply, disconnect);
    }

    pub(super) fn next_content(&mut self) -> Event {
        self.content.clear();
        while self.has_input() {
            let Some(decoder) = self.decoder.as_mut() else {
                self.state = State::Command;
                return Event::NeedInput;
            };
            let input = self.input.rest();
            let input = &input[..input.len().min(CONTENT_BYTES_MAX)];
            let (used, ended) = decoder.decode(input, &mut self.content);
            self.input.consume(used);
            if self.settings.size_max > 0 && decoder.bytes() > self.settings.size_max {
                // It is read to its end and then refused, so nothing of it needs to be kept.
                self.content.clear();
            }
            if ended {
                self.doing = "EOD";
                self.state = State::AwaitEnd;
                return if self.content.is_empty() { self.finish_content() } else { Event::Content };
            }
            if !self.content.is_empty() {
                return Event::Content;
            }
        }
        Event::NeedInput
    }

    /// Reads on in a chunk; none when it ended without an event.
    pub(super) fn next_chunk(&mut self) -> Option<Event> {
        self.content.clear();
        let size_max = self.settings.size_max;
        let Some(chunk) = self.chunk.as_mut() else {
            self.state = State::Command;
            return None;
        };
        while chunk.left > 0 && !self.input.is_empty() {
            let input = self.input.rest();
            let limit = usize::try_from(chunk.left).unwrap_or(usize::MAX).min(CONTENT_BYTES_MAX);
            let input = &input[..input.len().min(limit)];
            let count = input.len();
            if let (None, Some(decoder)) = (&chunk.refusal, self.decoder.as_mut()) {
                decoder.decode(input, &mut self.content);
                if size_max > 0 && decoder.bytes() > size_max {
                    self.content.clear();
                }
            }
            self.input.consume(count);
            chunk.left -= count as u64;
            if !self.content.is_empty() {
                return Some(Event::Content);
            }
        }
        if chunk.left > 0 {
            return Some(Event::NeedInput);
        }
        self.end_chunk()
    }

    fn end_chunk(&mut self) -> Option<Event> {
        let chunk = self.chunk.take()?;
        self.state = State::Command;
        if let Some(reply) = chunk.refusal {
            if self.chunk_error {
                self.protocol_error(reply);
                return None;
            }
            return self.refuse_chunk(reply, chunk.last);
        }
        let decoder = self.decoder.as_mut()?;
        if !chunk.last {
            if self.settings.size_max > 0 && decoder.bytes() > self.settings.size_max {
                let reply = self.too_large();
                return self.refuse_chunk(reply, false);
            }
            let text = format!("{} octets received", chunk.bytes);
            self.put(Reply::fixed(250, (2, 0, 0), &text));
            return None;
        }
        self.doing = "EOD";
        decoder.finish(&mut self.content);
        self.state = State::AwaitEnd;
        let kept = self.settings.size_max == 0 || decoder.bytes() <= self.settings.size_max;
        Some(if kept && !self.content.is_empty() { Event::Content } else { self.finish_content() })
    }

    /// Answers a chunk that was thrown away. The transaction is over with the last chunk, else it waits for RSET.
    fn refuse_chunk(&mut self, reply: Reply, last: bool) -> Option<Event> {
        self.put(reply.clone());
        if self.recipients == 0 {
            return None;
        }
        if last {
            self.messages += 1;
            self.clear_transaction();
        } else {
            self.dead = true;
            self.decoder = None;
        }
        Some(Event::DataRefused(reply))
    }

    /// Tells the end of data, once the last content was handed out.
    pub(super) fn finish_content(&mut self) -> Event {
        let Some(decoder) = self.decoder.take() else { return Event::NeedInput };
        let refusal = self.content_refusal(&decoder);
        match refusal {
            Some(reply) => {
                self.state = State::Command;
                self.messages += 1;
                self.clear_transaction();
                self.put(reply.clone());
                Event::DataRefused(reply)
            }
            None => Event::EndOfData(DataSummary {
                bytes: decoder.bytes(),
                has_8bit: decoder.seen_8bit(),
                has_nul: decoder.seen_nul(),
            }),
        }
    }

    fn content_refusal(&self, decoder: &DataDecoder) -> Option<Reply> {
        let settings = &self.settings;
        if settings.size_max > 0 && decoder.bytes() > settings.size_max {
            Some(self.too_large())
        } else if settings.hops_max > 0 && decoder.hops() > settings.hops_max {
            Some(Reply::fixed(554, (5, 4, 6), "Too many hops, routing loop detected"))
        } else if settings.bare_line_feed == BareLineFeed::Reject && decoder.seen_bare() {
            Some(Reply::fixed(550, (5, 6, 0), "Bare LF or CR not allowed"))
        } else if settings.data_line_bytes_max > 0 && decoder.line_bytes_max() > settings.data_line_bytes_max
        {
            let text = format!("Line longer than {} bytes", settings.data_line_bytes_max);
            Some(Reply::fixed(550, (5, 6, 0), &text))
        } else {
            None
        }
    }

    fn too_large(&self) -> Reply {
        let text = format!("Message size exceeds the limit of {} bytes", self.settings.size_max);
        Reply::fixed(552, (5, 3, 4), &text)
    }
}

/// `n` or `n LAST`.
fn parse_bdat(argument: &[u8]) -> Option<(u64, bool)> {
    let text = std::str::from_utf8(argument).ok()?;
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some((size, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_bdat_arguments() {
        assert_eq!(parse_bdat(b"0"), Some((0, false)));
        assert_eq!(parse_bdat(b"12 last"), Some((12, true)));
        for bad in ["", "x", "+1", "-1", "1 FIRST", "1 LAST x", "99999999999999999999999"] {
            assert_eq!(parse_bdat(bad.as_bytes()), None, "{bad}");
        }
    }
}
