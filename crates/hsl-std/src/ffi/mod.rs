//! placeholder
use hsl::{NativeClass, NativeCx, Object, Value};
use openssl::x509::X509;
use std::sync::Arc;

pub(crate) fn certificate_pointer(_: &NativeCx<'_>, _: &Arc<Object>, _: &X509) -> Value {
    Value::None
}

pub(crate) fn file_pointer(_: &NativeCx<'_>, _: &crate::file::FileObject) -> Value {
    Value::None
}

pub(crate) fn descriptor(_: &NativeCx<'_>, _: &Arc<Object>, _: i32) -> Value {
    Value::None
}

pub(crate) fn classes() -> Vec<Arc<NativeClass>> {
    Vec::new()
}
