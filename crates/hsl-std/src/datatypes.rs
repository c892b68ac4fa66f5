//! Data types (library section 3).

use hsl::{FunctionDef, Value};

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "length(value: any) -> number or none",
            "Items of an array, bytes of a string.",
            |_, a| {
                Ok(match a.get(0) {
                    Value::Array(array) => array.len().into(),
                    Value::Str(s) => s.len().into(),
                    _ => Value::None,
                })
            },
        ),
        FunctionDef::pure("boolean(value: any) -> boolean", "Truthiness.", |_, a| {
            Ok(a.get(0).truthy().into())
        }),
        FunctionDef::pure("number(value: any) -> number", "Conversion to number.", |_, a| {
            Ok(a.get(0).to_number().into())
        }),
        FunctionDef::pure("string(value: any) -> string", "Conversion to string.", |_, a| {
            Ok(a.get(0).to_str().into())
        }),
        FunctionDef::pure("is_array(value: any) -> boolean", "Type test.", |_, a| {
            Ok(matches!(a.get(0), Value::Array(_)).into())
        }),
        FunctionDef::pure("is_boolean(value: any) -> boolean", "Type test.", |_, a| {
            Ok(matches!(a.get(0), Value::Bool(_)).into())
        }),
        FunctionDef::pure("is_function(value: any) -> boolean", "Type test.", |_, a| {
            Ok(matches!(a.get(0), Value::Function(_)).into())
        }),
        FunctionDef::pure("is_number(value: any) -> boolean", "Type test.", |_, a| {
            Ok(matches!(a.get(0), Value::Number(_)).into())
        }),
        FunctionDef::pure("is_object(value: any) -> boolean", "Type test.", |_, a| {
            Ok(matches!(a.get(0), Value::Object(_)).into())
        }),
        FunctionDef::pure("is_string(value: any) -> boolean", "Type test.", |_, a| {
            Ok(matches!(a.get(0), Value::Str(_)).into())
        }),
    ]
}
