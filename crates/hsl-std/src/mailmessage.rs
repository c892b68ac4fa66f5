//! The mail object of scripts: header access and changes over an untouched original, and `queue()`.

use crate::hooks::options::{EnqueueOptions, read_address};
use hsl::{Args, Array, Error, NativeClass, NativeObject, Object, Outcome, Value};
use mail::header::{FieldOptions, WriteOptions};
use mail::{Address, MailError, MailMessage};
use parking_lot::Mutex;
use std::sync::Arc;

/// Where `queue()` puts an entry.
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

/// The Rust side of a mail object.
pub struct MailObject {
    message: Mutex<MailMessage>,
    sink: Arc<dyn QueueSink>,
}

impl NativeObject for MailObject {}

/// A mail object for the end-of-data hook; it is the value of `$arguments["mail"]`.
pub fn eod_message(class: &Arc<NativeClass>, message: MailMessage, sink: Arc<dyn QueueSink>) -> Value {
    Object::native(class, MailObject { message: Mutex::new(message), sink })
}

/// The class `EODMailMessage`; only the server makes instances.
pub fn eod_class() -> Arc<NativeClass> {
    let class = NativeClass::new("EODMailMessage")
        .method("getHeader(name: string, options?: array)", "The topmost value of a header field, or none.", get_header)
        .method("getHeaders(name: string, options?: array)", "All values of a header field, top first.", get_headers)
        .method("getHeaderNames()", "Names of all fields in lower case, top first.", |_, object, _| {
            with(object, |message| {
                let names = message.header_names().map_err(failed)?;
                Ok(Value::from(names.into_iter().map(Value::from).collect::<Array>()))
            })
        })
        .method("addHeader(name: string, value: string, options?: array)", "Adds a field at the top.", |_, object, args| {
            let options = write_options(args.get(2))?;
            with(object, |message| {
                message.prepend_header(&args.string(0).to_text(), args.bytes(1), options).map_err(failed)?;
                Ok(Value::None)
            })
        })
        .method("prependHeader(name: string, value: string, options?: array)", "Adds a field at the top.", |_, object, args| {
            let options = write_options(args.get(2))?;
            with(object, |message| {
                message.prepend_header(&args.string(0).to_text(), args.bytes(1), options).map_err(failed)?;
                Ok(Value::None)
            })
        })
        .method("appendHeader(name: string, value: string, options?: array)", "Adds a field at the end of the header.", |_, object, args| {
            let options = write_options(args.get(2))?;
            with(object, |message| {
                message.append_header(&args.string(0).to_text(), args.bytes(1), options).map_err(failed)?;
                Ok(Value::None)
            })
        })
        .method("setHeader(name: string, value: string, options?: array)", "Replaces a field, or adds it; gives the number changed.", |_, object, args| {
            let options = write_options(args.get(2))?;
            let index = index_option(args.get(2))?;
            with(object, |message| {
                let changed = message.set_header(&args.string(0).to_text(), args.bytes(1), index, options).map_err(failed)?;
                Ok(Value::from(changed as f64))
            })
        })
        .method("delHeader(name: string, options?: array)", "Removes fields of a name; gives how many.", |_, object, args| {
            let index = index_option(args.get(1))?;
            with(object, |message| {
                let removed = message.del_header(&args.string(0).to_text(), index).map_err(failed)?;
                Ok(Value::from(removed as f64))
            })
        })
        .method("renameHeader(name: string, newname: string)", "Renames fields; gives how many.", |_, object, args| {
            with(object, |message| {
                let renamed = message.rename_header(&args.string(0).to_text(), &args.string(1).to_text()).map_err(failed)?;
                Ok(Value::from(renamed as f64))
            })
        })
        .method("getSize()", "Octets, changes included.", |_, object, _| {
            with(object, |message| Ok(Value::from(message.size().map_err(failed)? as f64)))
        })
        .method("modifyContent(start: number, count: number, data: string)", "Replaces octets of the original.", |_, object, args| {
            let (start, count) = (offset(args.number(0), "start")?, offset(args.number(1), "count")?);
            with(object, |message| {
                message.modify_content(start, count, args.bytes(2).to_vec()).map_err(failed)?;
                Ok(Value::Object(object.clone()))
            })
        })
        .method("toString()", "The message with its changes.", |cx, object, _| {
            let size = data(object)?.message.lock().size().map_err(failed)?;
            cx.check_memory(usize::try_from(size).unwrap_or(usize::MAX))?;
            with(object, |message| Ok(Value::from(message.to_bytes().map_err(failed)?)))
        })
        .method("snapshot()", "Remembers the changes so far; gives an id.", |_, object, _| {
            with(object, |message| Ok(Value::from(message.snapshot() as f64)))
        })
        .method("restore(id: number)", "Goes back to a snapshot; false when it does not exist.", |_, object, args| {
            let id = args.number(0);
            with(object, |message| {
                Ok(Value::from(id >= 0.0 && id.fract() == 0.0 && message.restore(id as usize).is_ok()))
            })
        })
        .method("reset()", "Undoes all changes; gives how many there were.", |_, object, _| {
            with(object, |message| Ok(Value::from(message.reset() as f64)))
        })
        .method(
            "queue(sender: string or array, recipient: string or array, transportid: string, options?: array)",
            "Queues the message as it is now for one recipient; gives [\"transaction\" => id, \"queue\" => n].",
            queue,
        );
    Arc::new(class)
}

fn get_header(_: &mut hsl::NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let options = field_options(args.get(1))?;
    let index = index_option(args.get(1))?.unwrap_or(0);
    with(object, |message| {
        let value = message.get_header(&args.string(0).to_text(), index, options).map_err(failed)?;
        Ok(Outcome::Value(value.map_or(Value::None, Value::from)))
    })
}

fn get_headers(_: &mut hsl::NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let options = field_options(args.get(1))?;
    with(object, |message| {
        let values = message.get_headers(&args.string(0).to_text(), options).map_err(failed)?;
        Ok(Outcome::Value(values.into_iter().map(Value::from).collect::<Array>().into()))
    })
}

fn queue(_: &mut hsl::NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let sender = read_address("sender", args.get(0))?;
    let recipient = read_address("recipient", args.get(1))?;
    let options = EnqueueOptions::read(args.get(3))?;
    let data = data(object)?;
    let number = data.sink.queue(
        &data.message.lock(),
        sender,
        recipient,
        args.string(2).to_text().into_owned(),
        options,
    )?;
    let mut result = Array::new();
    result.insert_str("transaction", data.sink.transaction());
    result.insert_str("queue", number as f64);
    Ok(Outcome::Value(result.into()))
}

fn data(object: &Object) -> Result<&MailObject, Error> {
    object.data::<MailObject>().ok_or_else(|| Error::exception("This is no mail object"))
}

fn with<R: Into<Outcome>>(
    object: &Arc<Object>,
    run: impl FnOnce(&mut MailMessage) -> Result<R, Error>,
) -> Result<Outcome, Error> {
    let data = data(object)?;
    let result = run(&mut data.message.lock())?;
    Ok(result.into())
}

fn failed(error: MailError) -> Error {
    Error::exception(error.to_string())
}

fn offset(number: f64, name: &str) -> Result<u64, Error> {
    if number >= 0.0 && number.fract() == 0.0 && number <= 9_007_199_254_740_991.0 {
        Ok(number as u64)
    } else {
        Err(Error::exception(format!("Argument '{name}' is {number}, expected a whole number from 0")))
    }
}

fn option<'a>(options: &'a Value, key: &str) -> Option<&'a Value> {
    options.as_array()?.get_str(key).filter(|value| !value.is_none())
}

fn flag(options: &Value, key: &str, default: bool) -> Result<bool, Error> {
    match option(options, key) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => {
            Err(Error::exception(format!("Option '{key}' expects boolean, {} given", other.type_name())))
        }
    }
}

fn field_options(options: &Value) -> Result<FieldOptions, Error> {
    Ok(FieldOptions { field: flag(options, "field", false)?, decode: flag(options, "decode", true)? })
}

fn write_options(options: &Value) -> Result<WriteOptions, Error> {
    Ok(WriteOptions { encode: flag(options, "encode", true)?, ..WriteOptions::default() })
}

fn index_option(options: &Value) -> Result<Option<usize>, Error> {
    match option(options, "index") {
        None => Ok(None),
        Some(value) => offset(value.to_number(), "index").map(|index| Some(index as usize)),
    }
}
