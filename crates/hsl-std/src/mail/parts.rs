//! The methods of `MIMEPart`, which `MailMessage` has too.

use super::object::{
    self, MailObject, data, failed, field_options, heavy, index_option, options, with, write_options,
};
use super::{builder, classes};
use crate::support::flag;
use hsl::{Args, Array, Error, NativeClass, NativeCx, Object, OptionDef, Outcome, Regex, Value, option};
use mail::mime::TransferEncoding;
use mail::{MailError, MailMessage, NewPart};
use std::sync::Arc;

const READ: &[OptionDef] = &[
    option("index", "number", "0", "Which field of the name, from the top."),
    option("field", "boolean", "false", "The whole raw field, name and line end included."),
    option("decode", "boolean", "true", "Encoded words and charset to UTF-8."),
];
const SET: &[OptionDef] = &[
    option("index", "number", "", "Which field of the name, from the top."),
    option("encode", "boolean", "true", "Encodes words that need it and folds."),
    option("encoding", "string", "", "Spelling of encoded words: `Q` or `B`."),
];
const ADD: &[OptionDef] = &[
    option("encode", "boolean", "true", "Encodes words that need it and folds."),
    option("encoding", "string", "", "Spelling of encoded words: `Q` or `B`."),
];
const INDEX: &[OptionDef] = &[option("index", "number", "", "Which field of the name, from the top.")];
const DECODE: &[OptionDef] = &[option("decode", "boolean", "true", "Undoes the transfer encoding.")];
const ENCODING: &[OptionDef] =
    &[option("encoding", "string", "the best", "`7bit`, `8bit`, `quoted-printable` or `base64`.")];
const TYPE: &[OptionDef] = &[option(
    "type",
    "string",
    "multipart/mixed",
    "Type of the multipart that is made around a single part.",
)];

/// Adds the methods.
pub(super) fn methods(class: NativeClass) -> NativeClass {
    changes(structure(header(class)))
}

fn header(class: NativeClass) -> NativeClass {
    class
        .method(
            "getHeader(name: string, options?: array) -> string or none",
            "The topmost value of a header field, or none.",
            |_, object, args| {
                let options = options(&args, 1);
                let index = index_option(&options)?.unwrap_or(0);
                with(object, |message, part| {
                    let name = args.string(0);
                    Ok(Value::from(message.part_field(
                        part,
                        &name.to_text(),
                        index,
                        field_options(&options),
                    )?))
                })
            },
        )
        .with_options(READ)
        .method(
            "getHeaders(name: string, options?: array) -> array",
            "All values of a header field, top first.",
            |_, object, args| {
                let options = field_options(&options(&args, 1));
                with(object, |message, part| {
                    let values = message.part_fields(part, &args.string(0).to_text(), options)?;
                    Ok(Value::from(values.into_iter().map(Value::from).collect::<Array>()))
                })
            },
        )
        .with_options(&READ[1..])
        .method(
            "getHeaderNames() -> array",
            "Names of all fields in lower case, top first.",
            |_, object, _| {
                with(object, |message, part| {
                    let names = message.part_header_names(part)?;
                    Ok(Value::from(names.into_iter().map(Value::from).collect::<Array>()))
                })
            },
        )
        .method(
            "setHeader(name: string, value: string, options?: array) -> number",
            "Replaces a field, or adds it; gives the number changed.",
            |_, object, args| {
                let options = options(&args, 2);
                let (index, write) = (index_option(&options)?, write_options(&options)?);
                with(object, |message, part| {
                    let name = args.string(0);
                    let changed =
                        message.set_part_header(part, &name.to_text(), args.bytes(1), index, write)?;
                    Ok(Value::from(changed as f64))
                })
            },
        )
        .with_options(SET)
        .method(
            "addHeader(name: string, value: string, options?: array) -> none",
            "Adds a field at the top.",
            |_, object, args| {
                let write = write_options(&options(&args, 2))?;
                with(object, |message, part| {
                    message.prepend_part_header(part, &args.string(0).to_text(), args.bytes(1), write)?;
                    Ok(Value::None)
                })
            },
        )
        .with_options(ADD)
        .method(
            "delHeader(name: string, options?: array) -> number",
            "Removes fields of a name; gives how many.",
            |_, object, args| {
                let index = index_option(&options(&args, 1))?;
                with(object, |message, part| {
                    Ok(Value::from(message.del_part_header(part, &args.string(0).to_text(), index)? as f64))
                })
            },
        )
        .with_options(INDEX)
        .method(
            "renameHeader(name: string, newname: string) -> number",
            "Renames fields; gives how many.",
            |_, object, args| {
                with(object, |message, part| {
                    let (name, new_name) = (args.string(0), args.string(1));
                    Ok(Value::from(
                        message.rename_part_header(part, &name.to_text(), &new_name.to_text())? as f64
                    ))
                })
            },
        )
}

fn structure(class: NativeClass) -> NativeClass {
    class
        .method(
            "getID() -> string",
            "Names the part: 1 for the message, 1.2 for its second part.",
            |_, object, _| {
                let part = data(object)?.part;
                if part == mail::ROOT {
                    return Ok(Value::from("1").into());
                }
                heavy(object, |data| Ok(data.message.0.lock().tree().map_err(failed)?.path(data.part).into()))
            },
        )
        .method("getByID(id: string) -> MIMEPart or none", "The part of that id.", |_, object, args| {
            let id = args.string(0).to_text().into_owned();
            heavy(object, move |data| {
                let found = data.message.0.lock().tree().map_err(failed)?.find(&id);
                Ok(found.map(|part| classes::part(data, part)).unwrap_or_default())
            })
        })
        .method("getSize() -> number", "Octets of the part, header included.", |_, object, _| {
            let root = data(object)?.part == mail::ROOT;
            if root {
                // The message knows its size without a look at its parts.
                return with(object, |message, _| Ok(Value::from(message.content().len() as f64)));
            }
            heavy(object, |data| {
                Ok((data.message.0.lock().part_size(data.part).map_err(failed)? as f64).into())
            })
        })
        .method("getFileName() -> string or none", "The file name of the part.", |_, object, _| {
            with(object, |message, part| Ok(Value::from(message.file_name(part)?)))
        })
        .method("getType() -> string or none", "The type, such as text/plain.", |_, object, _| {
            with(object, |message, part| {
                let kind = message.content_type(part)?;
                Ok(Value::from(kind.map(|kind| kind.value().to_owned()).filter(|kind| !kind.is_empty())))
            })
        })
        .method(
            "getTypeParameter(name: string) -> string or none",
            "A parameter of the type, such as charset.",
            |_, object, args| {
                with(object, |message, part| {
                    let kind = message.content_type(part)?;
                    Ok(Value::from(kind.and_then(|kind| kind.get(&args.string(0).to_text()))))
                })
            },
        )
        .method("getParts() -> array", "The parts directly inside.", |_, object, _| {
            heavy(object, |data| {
                let parts = {
                    let message = data.message.0.lock();
                    let tree = message.tree().map_err(failed)?;
                    tree.get(data.part).map(|part| part.children.clone()).unwrap_or_default()
                };
                Ok(parts.into_iter().map(|part| classes::part(data, part)).collect::<Array>().into())
            })
        })
        .method(
            "findByType(type: Regex or string) -> array",
            "Parts inside whose type matches, at any depth.",
            |_, object, args| {
                find(object, &args, |message, part| {
                    Ok(message.content_type(part)?.map(|kind| kind.value().to_owned()))
                })
            },
        )
        .method(
            "findByFileName(name: Regex or string) -> array",
            "Parts inside whose file name matches, at any depth.",
            |_, object, args| find(object, &args, MailMessage::file_name),
        )
        .method(
            "getErrors() -> array",
            "What was wrong with the message: bad_header, unclosed_boundary.",
            |_, object, _| {
                heavy(object, |data| {
                    let errors = data.message.0.lock().part_errors(data.part).map_err(failed)?;
                    Ok(errors.names().map(Value::from).collect::<Array>().into())
                })
            },
        )
        .method(
            "getBody(options?: array) -> string or none",
            "The decoded body; none for a multipart.",
            |_, object, args| {
                let decode = flag(&options(&args, 0), "decode", true);
                let known = data(object)?;
                if let Some(range) = size_of_body(known)? {
                    crate::support::check_string("getBody", usize::try_from(range).unwrap_or(usize::MAX))?;
                }
                heavy(object, move |data| {
                    Ok(data.message.0.lock().body(data.part, decode).map_err(failed)?.into())
                })
            },
        )
        .with_options(DECODE)
        .method(
            "getPreamble() -> string or none",
            "Text before the first part; none without parts.",
            |_, object, _| {
                heavy(object, |data| Ok(data.message.0.lock().preamble(data.part).map_err(failed)?.into()))
            },
        )
        .method(
            "getEpilogue() -> string or none",
            "Text behind the last part; none without parts.",
            |_, object, _| {
                heavy(object, |data| Ok(data.message.0.lock().epilogue(data.part).map_err(failed)?.into()))
            },
        )
}

/// Octets of a body, where that is known without reading the message.
fn size_of_body(object: &MailObject) -> Result<Option<u64>, Error> {
    if object.part != mail::ROOT {
        // Parts exist only where the message was read.
        let range = object.message.0.lock().body_range(object.part).map_err(failed)?;
        return Ok(range.map(|range| range.end - range.start));
    }
    Ok(Some(object.message.0.lock().content().len()))
}

fn find(
    object: &Arc<Object>,
    args: &Args<'_>,
    text: impl Fn(&MailMessage, usize) -> Result<Option<String>, MailError> + Send + 'static,
) -> Result<Outcome, Error> {
    let regex = match args.get(0) {
        // A plain string matches anywhere and in any case; slashes in it are its own.
        Value::Str(pattern) if pattern.as_bytes().first() != Some(&b'/') => {
            Regex::new(pattern.as_bytes(), b"i").map_err(Error::exception)?
        }
        value => Regex::from_value(value)?,
    };
    heavy(object, move |data| {
        let mut found = Vec::new();
        {
            let message = data.message.0.lock();
            let inside = message.tree().map_err(failed)?.subtree(data.part);
            for part in inside.into_iter().skip(1) {
                let value = text(&message, part).map_err(failed)?;
                if let Some(value) = value
                    && regex.groups(value.as_bytes(), 0)?.is_some()
                {
                    found.push(part);
                }
            }
        }
        Ok(found.into_iter().map(|part| classes::part(data, part)).collect::<Array>().into())
    })
}

fn changes(class: NativeClass) -> NativeClass {
    class
        .method("setDateLater() -> number", "Sets Date to the moment of delivery.", |_, object, _| {
            with(object, |message, _| Ok(Value::from(message.set_date_later()? as f64)))
        })
        .method("remove() -> none", "Takes the part out of the message.", |_, object, _| {
            change(object, Value::None, |message, part| message.remove_part(part))
        })
        .method(
            "setBody(data: string, options?: array) -> this or none",
            "Replaces the body, in the best encoding or the given one; none for an unknown one.",
            |_, object, args| {
                let given = options(&args, 1);
                let encoding = match given.get_str("encoding").filter(|value| !value.is_none()) {
                    None => None,
                    Some(name) => match TransferEncoding::from_name(name.to_string_lossy().as_bytes()) {
                        Some(encoding) => Some(encoding),
                        None => return Ok(Value::None.into()),
                    },
                };
                let body = args.bytes(0).to_vec();
                change(object, this(object), move |message, part| message.set_body(part, &body, encoding))
            },
        )
        .with_options(ENCODING)
        .method(
            "setPreamble(data: string) -> this or none",
            "Replaces the text before the first part.",
            |_, object, args| set_text(object, &args, MailMessage::set_preamble),
        )
        .method(
            "setEpilogue(data: string) -> this or none",
            "Replaces the text behind the last part.",
            |_, object, args| set_text(object, &args, MailMessage::set_epilogue),
        )
        .method(
            "prependPart(part: MIME or MIMEPart or MailMessage, options?: array) -> this or none",
            "Puts a part before the first one; a single part becomes a multipart.",
            |cx, object, args| put(cx, object, &args, MailMessage::prepend_part),
        )
        .with_options(TYPE)
        .method(
            "appendPart(part: MIME or MIMEPart or MailMessage, options?: array) -> this or none",
            "Puts a part behind the last one; a single part becomes a multipart.",
            |cx, object, args| put(cx, object, &args, MailMessage::append_part),
        )
        .with_options(TYPE)
        .method(
            "replacePart(part: MIME or MIMEPart or MailMessage) -> none",
            "Puts another part in its place.",
            |_, object, args| {
                let source = PartSource::of(args.get(0))?;
                with_source(object, source, Value::None, |message, part, new| message.replace_part(part, new))
            },
        )
}

pub(super) fn this(object: &Arc<Object>) -> Value {
    Value::Object(Arc::clone(object))
}

/// A change that may have to look at the parts.
fn change(
    object: &Arc<Object>,
    result: Value,
    run: impl FnOnce(&mut MailMessage, usize) -> Result<(), MailError> + Send + 'static,
) -> Result<Outcome, Error> {
    heavy(object, move |data| {
        run(&mut data.message.0.lock(), data.part).map_err(failed)?;
        Ok(result)
    })
}

fn set_text(
    object: &Arc<Object>,
    args: &Args<'_>,
    run: fn(&mut MailMessage, usize, &[u8]) -> Result<bool, MailError>,
) -> Result<Outcome, Error> {
    let text = args.bytes(0).to_vec();
    let this = this(object);
    heavy(object, move |data| {
        let done = run(&mut data.message.0.lock(), data.part, &text).map_err(failed)?;
        Ok(if done { this } else { Value::None })
    })
}

fn put(
    _: &mut NativeCx<'_>,
    object: &Arc<Object>,
    args: &Args<'_>,
    run: fn(&mut MailMessage, usize, NewPart, &str) -> Result<(), MailError>,
) -> Result<Outcome, Error> {
    let given = object::options(args, 1);
    let kind = given.get_str("type").map_or_else(|| "multipart/mixed".to_owned(), Value::to_string_lossy);
    let kind = if kind.contains('/') { kind } else { format!("multipart/{kind}") };
    let source = PartSource::of(args.get(0))?;
    with_source(object, source, this(object), move |message, part, new| run(message, part, new, &kind))
}

/// Where a part comes from.
pub(super) enum PartSource {
    Built(NewPart),
    Mail(MailObject),
}

impl PartSource {
    pub(super) fn of(value: &Value) -> Result<PartSource, Error> {
        if let Some(part) = builder::part_of(value) {
            return Ok(PartSource::Built(part));
        }
        match object::of(value) {
            Some(object) => Ok(PartSource::Mail(object.clone())),
            None => Err(Error::exception(format!(
                "Argument 'part' expects MIME, MIMEPart or MailMessage, {} given",
                value.type_name()
            ))),
        }
    }

    /// The part in memory.
    pub(super) fn read(self) -> Result<NewPart, Error> {
        match self {
            PartSource::Built(part) => Ok(part),
            PartSource::Mail(object) => object.message.0.lock().part_bytes(object.part).map_err(failed),
        }
    }

    /// A part that is put into a message is in memory, so it must fit.
    pub(super) fn check_size(&self) -> Result<bool, Error> {
        match self {
            PartSource::Built(_) => Ok(true),
            PartSource::Mail(object) => {
                let len = object.message.0.lock().content().len();
                hsl::check_memory(usize::try_from(len).unwrap_or(usize::MAX))?;
                Ok(object.is_small())
            }
        }
    }
}

fn with_source(
    object: &Arc<Object>,
    source: PartSource,
    result: Value,
    run: impl FnOnce(&mut MailMessage, usize, NewPart) -> Result<(), MailError> + Send + 'static,
) -> Result<Outcome, Error> {
    let small = source.check_size()?;
    let data = data(object)?.clone();
    let inline = small && data.is_small();
    let work = move || {
        // The source may be the same message: it is read before that is locked.
        let new = source.read()?;
        run(&mut data.message.0.lock(), data.part, new).map_err(failed)?;
        Ok(result)
    };
    if inline { work().map(Outcome::Value) } else { Ok(Outcome::Pending(object::off_thread(work))) }
}
