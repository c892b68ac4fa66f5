//! Classes that belong to the language itself: `Exception`, `Regex`, `Iterator`.

use crate::error::Error;
use crate::object::{Exception, Object};
use crate::registry::{FunctionDef, NativeClass, Outcome};
use crate::value::Value;
use std::sync::{Arc, LazyLock};

/// Class of compiled patterns.
pub(crate) static REGEX_CLASS: LazyLock<Arc<NativeClass>> =
    LazyLock::new(|| Arc::new(NativeClass::new("Regex")));

/// Class of iterators over native objects.
pub(crate) static ITERATOR_CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("Iterator").method("next()", "The next value.", |_, o, _| {
        let item = match o.as_native() {
            Some(data) => data.next()?,
            None => None,
        };
        let done = item.is_none();
        let value = item.map_or(Value::None, |(_, v)| v);
        Ok(Outcome::Value(super::frames::next_result(value, done)))
    });
    Arc::new(class)
});

static EXCEPTION_CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let this = |o: &Arc<Object>| -> Result<(Value, Option<crate::diag::Place>), Error> {
        o.data::<Exception>()
            .map(|e| (Value::Str(e.message.clone()), e.place.clone()))
            .ok_or_else(|| Error::exception("Not an Exception"))
    };
    let class = NativeClass::new("Exception")
        .constructor(FunctionDef::pure(
            "Exception(message: string) -> Exception",
            "Creates an exception.",
            |_, args| {
                Ok(Object::native(&EXCEPTION_CLASS, Exception { message: args.string(0), place: None }))
            },
        ))
        .method("message() -> string", "What happened.", move |_, o, _| Ok(Outcome::Value(this(o)?.0)))
        .method("toString() -> string", "Place and message.", |_, o, _| {
            let mut out = Vec::new();
            o.write_string(&mut out);
            Ok(Outcome::Value(out.into()))
        })
        .method("file() -> string or none", "File of the failure.", move |_, o, _| {
            Ok(Outcome::Value(this(o)?.1.map(|p| p.file_or_entry().to_owned()).into()))
        })
        .method("line() -> number or none", "Line of the failure.", move |_, o, _| {
            Ok(Outcome::Value(this(o)?.1.map(|p| p.line).into()))
        })
        .method("column() -> number or none", "Column of the failure.", move |_, o, _| {
            Ok(Outcome::Value(this(o)?.1.map(|p| p.column).into()))
        });
    Arc::new(class)
});

/// The class of runtime errors.
pub(crate) fn exception_class() -> Arc<NativeClass> {
    Arc::clone(&EXCEPTION_CLASS)
}
