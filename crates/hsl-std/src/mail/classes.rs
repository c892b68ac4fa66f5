//! The classes `MIMEPart`, `MailMessage` and `EODMailMessage`.

use super::object::{MailObject, QueueSink, data, failed, heavy, options, whole, with, write_options};
use super::{dkim, parts, send};
use crate::file;
use hsl::{Error, FunctionDef, NativeClass, Object, Value};
use mail::{Content, MailMessage, MemoryContent};
use std::sync::{Arc, LazyLock};

/// A mail object for the end-of-data hook; it is the value of `$arguments["mail"]`.
pub fn eod_message(class: &Arc<NativeClass>, message: MailMessage, sink: Arc<dyn QueueSink>) -> Value {
    let object = MailObject { sink: Some(sink), ..MailObject::new(message) };
    Object::native(class, object)
}

/// The class `EODMailMessage`; only the server makes instances.
pub fn eod_class() -> Arc<NativeClass> {
    Arc::new(message_methods(parts::methods(NativeClass::new("EODMailMessage"))).doc(
        "The message that is being received. Changes are recorded; what is queued is delivered with those in force at \
         the call.",
    ))
}

static PART: LazyLock<Arc<NativeClass>> =
    LazyLock::new(|| Arc::new(parts::methods(NativeClass::new("MIMEPart")).doc("A part of a message.")));

static MESSAGE: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = message_methods(parts::methods(NativeClass::new("MailMessage")))
        .doc("A message. Changes are recorded; methods that read go on reading the original.")
        .function(FunctionDef::pure(
            "String(data: string) -> MailMessage or none",
            "A message over bytes in memory.",
            |_, args| {
                let content = MemoryContent(bytes::Bytes::copy_from_slice(args.bytes(0)));
                Ok(message(MailMessage::new(Arc::new(content))))
            },
        ))
        .function(FunctionDef::pure(
            "File(file: File) -> MailMessage or none",
            "A message over a file, which is read piece by piece and must not change meanwhile.",
            |_, args| match file::of(args.get(0)) {
                Some(file) => {
                    Ok(file.content().map(|content| message(MailMessage::new(content))).unwrap_or_default())
                }
                None => Err(Error::exception("MailMessage::File() expects a File")),
            },
        ));
    Arc::new(class)
});

/// The class `MIMEPart`.
pub(super) fn part_class() -> Arc<NativeClass> {
    Arc::clone(&PART)
}

/// The class `MailMessage`.
pub(super) fn message_class() -> Arc<NativeClass> {
    Arc::clone(&MESSAGE)
}

fn message(message: MailMessage) -> Value {
    Object::native(&MESSAGE, MailObject::new(message))
}

/// An object over a message that others hold too.
pub(crate) fn message_value(message: Arc<parking_lot::Mutex<MailMessage>>) -> Value {
    Object::native(&MESSAGE, MailObject::shared(message))
}

/// A part of the message of an object.
pub(super) fn part(of: &MailObject, part: usize) -> Value {
    Object::native(&PART, MailObject { part, ..of.clone() })
}

/// Methods of whole messages.
fn message_methods(class: NativeClass) -> NativeClass {
    let class = class
        .method("reset() -> number", "Undoes all changes; gives how many there were.", |_, object, _| {
            with(object, |message, _| Ok(Value::from(message.reset() as f64)))
        })
        .method("snapshot() -> number", "Remembers the changes so far; gives an id.", |_, object, _| {
            with(object, |message, _| Ok(Value::from(message.snapshot() as f64)))
        })
        .method(
            "restore(id: number) -> boolean",
            "Goes back to a snapshot; false when it does not exist.",
            |_, object, args| {
                let id = args.number(0);
                with(object, |message, _| {
                    Ok(Value::from(id >= 0.0 && id.fract() == 0.0 && message.restore(id as usize).is_ok()))
                })
            },
        )
        .method(
            "modifyContent(start: number, count: number, data: string) -> this",
            "Replaces octets of the original.",
            |_, object, args| {
                let (start, count) = (whole(args.number(0), "start")?, whole(args.number(1), "count")?);
                with(object, |message, _| {
                    message.modify_content(start, count, args.bytes(2).to_vec())?;
                    Ok(parts::this(object))
                })
            },
        )
        .method(
            "prependHeader(name: string, value: string, options?: array) -> none",
            "Adds a field at the top, as addHeader.",
            |_, object, args| {
                let write = write_options(&options(&args, 2))?;
                with(object, |message, _| {
                    message.prepend_header(&args.string(0).to_text(), args.bytes(1), write)?;
                    Ok(Value::None)
                })
            },
        )
        .method(
            "appendHeader(name: string, value: string, options?: array) -> none",
            "Adds a field at the end of the header.",
            |_, object, args| {
                let write = write_options(&options(&args, 2))?;
                with(object, |message, _| {
                    message.append_header(&args.string(0).to_text(), args.bytes(1), write)?;
                    Ok(Value::None)
                })
            },
        )
        .method("toString() -> string", "The message with its changes.", |_, object, _| {
            data(object)?.check_size("toString")?;
            heavy(object, |data| Ok(data.message.0.lock().to_bytes().map_err(failed)?.into()))
        })
        .method(
            "toFile() -> File",
            "The message with its changes as a file, which takes no memory.",
            |_, object, _| {
                heavy(object, |data| {
                    let content: Arc<dyn Content> = data.message.0.lock().patched().map_err(failed)?;
                    Ok(file::from_content(content))
                })
            },
        );
    send::methods(dkim::methods(class))
}
