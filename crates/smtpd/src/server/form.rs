//! The body of an HTTP submission: `multipart/form-data` with the parts `options` (JSON) and `rfc822` (the message).

use crate::generation::VirtualServer;
use crate::server::session::reply;
use hsl::{Array, Value};
use http_body_util::{BodyDataStream, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use mail::Address;
use multer::{Field, Multipart};
use smtp::Reply;
use smtp::content::{BareLineFeed, DataDecoder};
use spool::{SpoolError, Staging};
use tokio::time::{Instant, timeout_at};

/// The part `options` at most, octets.
const OPTIONS_BYTES_MAX: usize = 8 << 20;

/// What a client must send within the idle time; who drips is as good as silent. Octets.
const PROGRESS_BYTES_MIN: usize = 512;

/// Who sends to whom.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) sender: Address,
    pub(super) recipients: Vec<Address>,
    pub(super) metadata: Value,
}

/// A request that could be read.
pub(super) struct Form {
    pub(super) envelope: Envelope,
    pub(super) staging: Staging,
    /// Octets of the message.
    pub(super) bytes: u64,
    /// The message breaks a limit of the server.
    pub(super) refusal: Option<Reply>,
}

/// Why a request could not be read.
#[derive(Debug)]
pub(super) enum FormError {
    Malformed(String),
    TooLarge,
    TooSlow,
    Spool(SpoolError),
}

fn malformed(text: impl Into<String>) -> FormError {
    FormError::Malformed(text.into())
}

impl From<multer::Error> for FormError {
    fn from(error: multer::Error) -> FormError {
        match error {
            multer::Error::StreamReadFailed(cause) if cause.is::<LengthLimitError>() => FormError::TooLarge,
            error => FormError::Malformed(error.to_string()),
        }
    }
}

/// The client's time.
struct Clock<'a> {
    server: &'a VirtualServer,
    deadline: Instant,
    progress_bytes: usize,
}

impl Clock<'_> {
    async fn wait<T>(
        &mut self,
        step: impl Future<Output = Result<T, multer::Error>>,
    ) -> Result<T, FormError> {
        timeout_at(self.deadline, step).await.map_err(|_| FormError::TooSlow)?.map_err(FormError::from)
    }

    async fn chunk(&mut self, field: &mut Field<'_>) -> Result<Option<hyper::body::Bytes>, FormError> {
        let chunk = self.wait(field.chunk()).await?;
        self.progress_bytes += chunk.as_ref().map_or(0, |bytes| bytes.len());
        if self.progress_bytes >= PROGRESS_BYTES_MIN {
            self.progress_bytes = 0;
            self.deadline = Instant::now() + self.server.idle;
        }
        Ok(chunk)
    }
}

/// Reads the parts; the message is appended to `staging`.
pub(super) async fn read(
    request: Request<Incoming>,
    server: &VirtualServer,
    mut staging: Staging,
) -> Result<Form, FormError> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind)
        .map_err(|_| malformed("Content-Type: expected multipart/form-data with a boundary"))?;
    let limit = usize::try_from(server.http_bytes_max).unwrap_or(usize::MAX);
    let body = BodyDataStream::new(Limited::new(request.into_body(), limit));
    let mut parts = Multipart::new(body, boundary);
    let mut clock = Clock { server, deadline: Instant::now() + server.idle, progress_bytes: 0 };
    let (mut envelope, mut message) = (None, None);
    while let Some(mut field) = clock.wait(parts.next_field()).await? {
        match field.name() {
            Some("options") if envelope.is_none() => {
                let mut text = Vec::new();
                while let Some(chunk) = clock.chunk(&mut field).await? {
                    if text.len() + chunk.len() > OPTIONS_BYTES_MAX {
                        return Err(malformed(format!("options: longer than {OPTIONS_BYTES_MAX} octets")));
                    }
                    text.extend_from_slice(&chunk);
                }
                envelope = Some(read_options(&text, server.machine.recipients_max).map_err(malformed)?);
            }
            Some("rfc822") if message.is_none() => {
                message = Some(store(&mut clock, &mut field, &mut staging).await?);
            }
            Some(name @ ("options" | "rfc822")) => return Err(malformed(format!("two parts '{name}'"))),
            _ => while clock.chunk(&mut field).await?.is_some() {},
        }
    }
    let envelope = envelope.ok_or_else(|| malformed("part 'options' is missing"))?;
    let (bytes, refusal) = message.ok_or_else(|| malformed("part 'rfc822' is missing"))?;
    Ok(Form { envelope, staging, bytes, refusal })
}

/// Stores the message with CRLF line ends.
async fn store(
    clock: &mut Clock<'_>,
    field: &mut Field<'_>,
    staging: &mut Staging,
) -> Result<(u64, Option<Reply>), FormError> {
    let settings = &clock.server.machine;
    let (size_max, hops_max) = (settings.size_max, settings.hops_max);
    let mut decoder = DataDecoder::counted(BareLineFeed::Normalize);
    let mut content = Vec::new();
    let mut too_large = false;
    loop {
        let chunk = clock.chunk(field).await?;
        match &chunk {
            Some(chunk) => {
                decoder.decode(chunk, &mut content);
            }
            None => decoder.finish(&mut content),
        }
        too_large |= size_max > 0 && decoder.bytes() > size_max;
        if !too_large && !content.is_empty() {
            // A large message goes to disk as it comes; the runtime moves other work off this thread.
            tokio::task::block_in_place(|| staging.write(&content)).map_err(FormError::Spool)?;
        }
        content.clear();
        if chunk.is_none() {
            break;
        }
    }
    let refusal = if too_large {
        let text = format!("Message size exceeds the limit of {size_max} bytes");
        Some(reply(552, (5, 3, 4), &text))
    } else if hops_max > 0 && decoder.hops() > hops_max {
        Some(reply(554, (5, 4, 6), "Too many hops, routing loop detected"))
    } else {
        None
    };
    Ok((decoder.bytes(), refusal))
}

fn read_options(text: &[u8], recipients_max: usize) -> Result<Envelope, String> {
    let value = hsl_std::decode("json", text, &Array::new())
        .map_err(|error| format!("options: line {}: {}", error.line, error.message))?;
    let Value::Array(options) = value else { return Err("options: expected a JSON object".to_owned()) };
    let sender = options.get_str("sender").ok_or("options: 'sender' is missing")?;
    let sender = read_address(sender, true).map_err(|text| format!("options: sender: {text}"))?;
    let Some(Value::Array(list)) = options.get_str("recipients") else {
        return Err("options: 'recipients' is missing or no list".to_owned());
    };
    if list.is_empty() || list.len() > recipients_max {
        let count = list.len();
        return Err(format!("options: {count} recipients found, expected 1 to {recipients_max}"));
    }
    let mut recipients = Vec::with_capacity(list.len());
    for (index, item) in list.values().enumerate() {
        let address = read_address(item, false);
        recipients.push(address.map_err(|text| format!("options: recipients/{index}: {text}"))?);
    }
    let metadata = options.get_str("metadata").cloned().unwrap_or_default();
    Ok(Envelope { sender, recipients, metadata })
}

fn read_address(value: &Value, null_allowed: bool) -> Result<Address, String> {
    let Value::Array(parts) = value else { return Err("expected an object".to_owned()) };
    let part = |name: &str| match parts.get_str(name) {
        Some(text @ Value::Str(_)) => Ok(text.to_string_lossy()),
        _ => Err(format!("'{name}' is missing or no string")),
    };
    let (localpart, domain) = (part("localpart")?, part("domain")?);
    if localpart.is_empty() && domain.is_empty() && null_allowed {
        return Ok(Address::null());
    }
    if localpart.is_empty() {
        return Err("'localpart' is empty".to_owned());
    }
    Address::new(&localpart, &domain).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_envelope() {
        let text = br#"{"sender": {"localpart": "", "domain": ""},
            "recipients": [{"localpart": "a b", "domain": "EXAMPLE.org"}, {"localpart": "x", "domain": "b\u00fccher.example"}],
            "metadata": {"k": [1, null]}}"#;
        let envelope = read_options(text, 10).unwrap();
        assert!(envelope.sender.is_null());
        assert_eq!(envelope.recipients[0].to_string(), "\"a b\"@example.org");
        assert_eq!(envelope.recipients[1].domain, "bücher.example");
        assert!(matches!(envelope.metadata, Value::Array(_)));
    }

    #[test]
    fn tells_what_is_wrong() {
        let good = r#""sender": {"localpart": "a", "domain": "b"}"#;
        for (text, expected) in [
            ("", "Invalid JSON"),
            ("[1", "Invalid JSON"),
            ("3", "expected a JSON object"),
            ("{}", "'sender' is missing"),
            (&format!("{{{good}}}"), "'recipients' is missing"),
            (&format!("{{{good}, \"recipients\": []}}"), "0 recipients found, expected 1 to 2"),
            (
                &format!("{{{good}, \"recipients\": [{{\"localpart\": \"\", \"domain\": \"\"}}]}}"),
                "recipients/0: 'localpart' is empty",
            ),
            (
                &format!("{{{good}, \"recipients\": [{{\"localpart\": \"a\"}}]}}"),
                "recipients/0: 'domain' is missing",
            ),
            (&format!("{{{good}, \"recipients\": [\"a@b\"]}}"), "recipients/0: expected an object"),
        ] {
            let error = read_options(text.as_bytes(), 2).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
