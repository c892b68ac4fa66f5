//! The class `Iconv` (library section C3): charsets of iconv(3).

use crate::support::STRING_MAX;
use crate::sys;
use hsl::{Error, FunctionDef, NativeClass, NativeObject, Object, Value};
use parking_lot::Mutex;
use std::sync::{Arc, LazyLock};

#[derive(Default)]
struct Iconv(Mutex<State>);

#[derive(Default)]
struct State {
    converter: Option<sys::Iconv>,
    errno: i32,
}

impl NativeObject for Iconv {}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("Iconv")
        .doc("Converts text between charsets, with the names of iconv(3) including //TRANSLIT and //IGNORE.")
        .constructor(FunctionDef::pure(
            "Iconv(fromcharset: string, tocharset: string) -> Iconv",
            "A converter; throws for an unknown charset.",
            |_, a| {
                let converter = sys::Iconv::open(a.bytes(0), a.bytes(1)).ok_or_else(|| {
                    let (from, to) = (a.string(0), a.string(1));
                    Error::exception(format!(
                        "Iconv: no conversion from '{}' to '{}'",
                        from.to_text(),
                        to.to_text()
                    ))
                })?;
                Ok(Object::native(&CLASS, Iconv(Mutex::new(State { converter: Some(converter), errno: 0 }))))
            },
        ))
        .method("convert(text: string) -> string or none", "Converts a whole text.", |_, o, a| {
            let mut state = this(o)?.0.lock();
            let Some(converter) = &mut state.converter else { return Ok(Value::None.into()) };
            let result = converter.convert(a.bytes(0), STRING_MAX);
            state.errno = result.as_ref().err().copied().unwrap_or(0);
            drop(state);
            match result {
                Ok(text) => {
                    crate::support::check_string("convert", text.len())?;
                    Ok(Value::from(text).into())
                }
                Err(_) => Ok(Value::None.into()),
            }
        })
        .method(
            "errno() -> number",
            "Error of the last conversion: 84 EILSEQ, 22 EINVAL, 7 E2BIG; 0 after a success.",
            |_, o, _| Ok(Value::from(this(o)?.0.lock().errno).into()),
        )
        .method("close() -> none", "Frees the converter.", |_, o, _| {
            this(o)?.0.lock().converter = None;
            Ok(Value::None.into())
        });
    Arc::new(class)
});

fn this(object: &Arc<Object>) -> Result<&Iconv, Error> {
    object.data().ok_or_else(|| Error::exception("Not an Iconv"))
}

/// The class.
pub(crate) fn class() -> Arc<NativeClass> {
    Arc::clone(&CLASS)
}
