//! The class `MIME`: writing new messages and parts (library section C5).

use super::object::{failed, options, write_options};
use super::parts::{PartSource, this};
use super::{dkim, send};
use crate::file;
use hsl::{Error, FunctionDef, NativeClass, NativeObject, Object, OptionDef, Outcome, Value, option};
use mail::{Builder, MailError, MemoryContent, NewPart, Zoned};
use parking_lot::Mutex;
use std::sync::{Arc, LazyLock};

/// The Rust side of a `MIME`.
pub(super) struct MimeObject(Mutex<Builder>);

impl NativeObject for MimeObject {}

const HEADER: &[OptionDef] = &[
    option("encode", "boolean", "true", "Encodes words that need it and folds."),
    option("encoding", "string", "", "Spelling of encoded words: `Q` or `B`."),
];

/// The builder of an object.
pub(super) fn of(object: &Object) -> Result<&Mutex<Builder>, Error> {
    object.data::<MimeObject>().map(|mime| &mime.0).ok_or_else(|| Error::exception("Not a MIME"))
}

/// What a value that is a `MIME` makes as a part.
pub(crate) fn part_of(value: &Value) -> Option<NewPart> {
    match value {
        Value::Object(object) => object.data::<MimeObject>().map(|mime| mime.0.lock().part()),
        _ => None,
    }
}

fn with(
    object: &Arc<Object>,
    run: impl FnOnce(&mut Builder) -> Result<(), MailError>,
) -> Result<Outcome, Error> {
    run(&mut of(object)?.lock()).map_err(failed)?;
    Ok(this(object).into())
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("MIME")
        .doc("Writes a new message or part.")
        .constructor(FunctionDef::pure("MIME() -> MIME", "An empty text.", |_, _| {
            Ok(Object::native(&CLASS, MimeObject(Mutex::default())))
        }))
        .method(
            "addHeader(name: string, value: string, options?: array) -> this",
            "Adds a field behind those added before.",
            |_, object, args| {
                let write = write_options(&options(&args, 2))?;
                with(object, |builder| builder.add_header(&args.string(0).to_text(), args.bytes(1), write))
            },
        )
        .with_options(HEADER)
        .method(
            "appendPart(part: MIME or MIMEPart or MailMessage) -> this",
            "Adds a part as it is now; the type should be a multipart.",
            |_, object, args| {
                let source = PartSource::of(args.get(0))?;
                let inline = source.check_size()?;
                if inline {
                    let part = source.read()?;
                    return with(object, |builder| builder.append(part));
                }
                let object = Arc::clone(object);
                Ok(Outcome::Pending(super::object::off_thread(move || {
                    let part = source.read()?;
                    of(&object)?.lock().append(part).map_err(failed)?;
                    Ok(Value::Object(object))
                })))
            },
        )
        .method(
            "setBody(body: string) -> this",
            "Sets the text; before parts it is the preamble.",
            |_, object, args| {
                with(object, |builder| {
                    builder.set_body(args.bytes(0).to_vec());
                    Ok(())
                })
            },
        )
        .method(
            "setType(type: string) -> this",
            "Sets the type; parameters may follow.",
            |_, object, args| {
                with(object, |builder| {
                    builder.set_type(&args.string(0).to_text());
                    Ok(())
                })
            },
        )
        .method(
            "setBoundary(boundary: string) -> this",
            "Sets the boundary between parts.",
            |_, object, args| {
                with(object, |builder| {
                    builder.set_boundary(&args.string(0).to_text());
                    Ok(())
                })
            },
        )
        .method("setDate(timestamp?: number) -> this", "Adds a Date field.", |_, object, args| {
            let time = match args.given(0) {
                Some(_) => args.integer(0)?,
                None => super::dkim::now_s().try_into().unwrap_or(0),
            };
            with(object, |builder| builder.set_date(&Zoned::local(time)?))
        })
        .method("setFileName(filename: string) -> this", "Makes the part a file.", |_, object, args| {
            with(object, |builder| {
                builder.set_file_name(&args.string(0).to_text());
                Ok(())
            })
        })
        .method(
            "setDisposition(type: string) -> this",
            "Sets the disposition, such as inline.",
            |_, object, args| {
                with(object, |builder| {
                    builder.set_disposition(&args.string(0).to_text());
                    Ok(())
                })
            },
        )
        .method("toString() -> string", "The message.", |_, object, _| {
            Ok(Value::from(of(object)?.lock().message().map_err(failed)?).into())
        })
        .method("toFile() -> File", "The message as a file.", |_, object, _| {
            let bytes = of(object)?.lock().message().map_err(failed)?;
            Ok(file::from_content(Arc::new(MemoryContent(bytes.into()))).into())
        });
    Arc::new(send::builder_methods(dkim::builder_methods(class)))
});

/// The class.
pub(super) fn class() -> Arc<NativeClass> {
    Arc::clone(&CLASS)
}
