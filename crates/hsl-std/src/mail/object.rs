//! What is behind the mail objects of scripts.

use crate::environment::Environment;
use crate::hooks::options::EnqueueOptions;
use crate::support::{STRING_MAX, flag};
use hsl::{Args, Array, BoxFuture, Error, NativeObject, Object, Outcome, Value};
use mail::header::{FieldOptions, WriteOptions};
use mail::words::WordEncoding;
use mail::{Address, Content, MailError, MailMessage};
use parking_lot::Mutex;
use std::sync::Arc;

/// Where `queue()` of the message that is being received puts an entry.
pub trait QueueSink: Send + Sync {
    /// Takes an entry with the changes in force now; gives its queue id.
    ///
    /// # Errors
    /// A script error, for example an unknown transport.
    fn queue(
        &self,
        message: &MailMessage,
        sender: Address,
        recipient: Address,
        transport: String,
        options: EnqueueOptions,
    ) -> Result<u64, Error>;

    /// The message id that `queue()` reports.
    fn transaction(&self) -> String;
}

/// Where an entry went.
pub struct Queued {
    /// Message id.
    pub transaction: String,
    /// Number in the message.
    pub queue: u64,
}

/// The queue for messages that scripts make or read.
pub trait MailQueue: Send + Sync {
    /// Makes a message durable and queues it for one recipient. The future gives the entry, or why not.
    fn queue(
        &self,
        content: Arc<dyn Content>,
        sender: Address,
        recipient: Address,
        transport: String,
        options: EnqueueOptions,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Queued, String>> + Send>>;

    /// A transport as the keys of a server array; `None` for an unknown one.
    fn transport(&self, id: &str) -> Option<Vec<(String, String)>>;
}

/// A message of a script, shared by the objects of its parts.
#[derive(Clone)]
pub(super) struct Shared(pub(super) Arc<Mutex<MailMessage>>);

/// The Rust side of a mail object or of one of its parts.
#[derive(Clone)]
pub(super) struct MailObject {
    pub(super) message: Shared,
    pub(super) part: usize,
    /// Set for the message that is being received.
    pub(super) sink: Option<Arc<dyn QueueSink>>,
}

impl NativeObject for MailObject {}

/// Content that may be read on the thread of the script.
const INLINE_BYTES_MAX: u64 = 256 << 10;

impl MailObject {
    pub(super) fn new(message: MailMessage) -> MailObject {
        MailObject { message: Shared(Arc::new(Mutex::new(message))), part: mail::ROOT, sink: None }
    }

    /// Over a message that others hold too.
    pub(super) fn shared(message: Arc<Mutex<MailMessage>>) -> MailObject {
        MailObject { message: Shared(message), part: mail::ROOT, sink: None }
    }

    /// Whether work over the whole content is small enough for the thread of the script.
    pub(super) fn is_small(&self) -> bool {
        let message = self.message.0.lock();
        message.content().as_slice().is_some() && message.content().len() <= INLINE_BYTES_MAX
    }

    /// A string as long as the modified message must fit.
    pub(super) fn check_size(&self, method: &str) -> Result<(), Error> {
        let size = self.message.0.lock().size().map_err(failed)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > STRING_MAX {
            return Err(Error::too_large(method));
        }
        hsl::check_memory(size)
    }
}

/// The Rust side of an object.
pub(super) fn data(object: &Object) -> Result<&MailObject, Error> {
    object.data::<MailObject>().ok_or_else(|| Error::exception("This is no mail object"))
}

/// The mail object of a value, if it is one.
pub(super) fn of(value: &Value) -> Option<&MailObject> {
    match value {
        Value::Object(object) => object.data(),
        _ => None,
    }
}

/// Work on the header of the part of an object.
pub(super) fn with<R: Into<Outcome>>(
    object: &Arc<Object>,
    run: impl FnOnce(&mut MailMessage, usize) -> Result<R, MailError>,
) -> Result<Outcome, Error> {
    let data = data(object)?;
    let result = run(&mut data.message.0.lock(), data.part).map_err(failed)?;
    Ok(result.into())
}

/// Work that may read the whole message: at once where it is small, else on a thread of its own while the script waits.
pub(super) fn heavy(
    object: &Arc<Object>,
    run: impl FnOnce(&MailObject) -> Result<Value, Error> + Send + 'static,
) -> Result<Outcome, Error> {
    let data = data(object)?.clone();
    if data.is_small() {
        return run(&data).map(Outcome::Value);
    }
    Ok(Outcome::Pending(off_thread(move || run(&data))))
}

/// Work on a thread of its own.
pub(super) fn off_thread(run: impl FnOnce() -> Result<Value, Error> + Send + 'static) -> BoxFuture {
    Box::pin(async move {
        let result = tokio::task::spawn_blocking(run).await;
        result.map_err(|error| Error::fatal(format!("mail: {error}")))?
    })
}

/// What went wrong, as an exception.
pub(crate) fn failed(error: MailError) -> Error {
    Error::exception(error.to_string())
}

/// Options `field` and `decode`.
pub(crate) fn field_options(options: &Array) -> FieldOptions {
    FieldOptions { field: flag(options, "field", false), decode: flag(options, "decode", true) }
}

/// Options `encode` and `encoding`.
pub(crate) fn write_options(options: &Array) -> Result<WriteOptions, Error> {
    let encoding = match options.get_str("encoding").map(Value::to_string_lossy).as_deref() {
        None => WordEncoding::Shorter,
        Some("Q" | "q") => WordEncoding::Q,
        Some("B" | "b") => WordEncoding::B,
        Some(other) => {
            return Err(Error::exception(format!("Option 'encoding' is '{other}', expected Q or B")));
        }
    };
    Ok(WriteOptions { encode: flag(options, "encode", true), encoding })
}

/// Option `index`.
pub(crate) fn index_option(options: &Array) -> Result<Option<usize>, Error> {
    match options.get_str("index").filter(|value| !value.is_none()) {
        None => Ok(None),
        Some(value) => whole(value.to_number(), "index").map(|index| Some(index as usize)),
    }
}

/// A count or offset.
pub(super) fn whole(number: f64, name: &str) -> Result<u64, Error> {
    if (0.0..=hsl::SAFE_INTEGER_MAX as f64).contains(&number) {
        // Truncated, as the manual wants it.
        Ok(number as u64)
    } else {
        Err(Error::exception(format!("Argument '{name}' is {number}, expected a whole number from 0")))
    }
}

/// The options argument; empty when left out.
pub(super) fn options(args: &Args<'_>, i: usize) -> Array {
    crate::support::options(args, i)
}

/// The name of this host.
pub(super) fn hostname(environment: &Environment) -> String {
    let own = environment.hostname.clone();
    // Without any name the address literal of the loopback is at least valid in HELO.
    own.or_else(|| crate::environment::system_hostname().ok()).unwrap_or_else(|| "[127.0.0.1]".to_owned())
}
