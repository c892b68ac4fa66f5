//! Messages as JSON: the proto3 mapping with the field names of the schema, 64-bit integers as text, four
//! spaces of indentation.
//!
//! Requests are printed without default values, replies with them. Absent messages and unset alternatives are
//! never printed, a set alternative always is. A list item that consists of one enum shows it even at its
//! default, since `{}` would say nothing.

use std::sync::LazyLock;

use base64::Engine as _;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};

use crate::error::ControlError;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice();
    // The bytes were written by the build script of this very crate.
    DescriptorPool::decode(bytes).expect("the descriptors of our own schema are valid")
});

/// The descriptors of the whole schema.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The descriptor of a message of package `smtpd`.
pub fn descriptor(message: &str) -> Result<MessageDescriptor, ControlError> {
    let name = format!("smtpd.{message}");
    POOL.get_message_by_name(&name).ok_or(ControlError::UnknownMessage(name))
}

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Only what was set.
    Request,
    /// Default values of plain fields as well.
    Reply,
}

/// The bytes of a message as a dynamic one.
pub fn decode(message: &str, bytes: &[u8]) -> Result<DynamicMessage, ControlError> {
    let descriptor = descriptor(message)?;
    DynamicMessage::decode(descriptor, bytes).map_err(|e| ControlError::Protocol(e.to_string()))
}

/// JSON of an encoded message.
pub fn to_json(message: &str, bytes: &[u8], style: Style) -> Result<String, ControlError> {
    let mut out = String::new();
    write_message(&decode(message, bytes)?, style, false, 0, &mut out);
    Ok(out)
}

/// JSON of a generated message.
pub fn message_to_json<M: Message>(name: &str, message: &M, style: Style) -> Result<String, ControlError> {
    to_json(name, &message.encode_to_vec(), style)
}

/// The encoded form of a message given as JSON. Unknown fields are refused; 64-bit integers may be numbers or
/// text, enums names or numbers.
pub fn from_json(message: &str, json: &str) -> Result<Vec<u8>, ControlError> {
    let fail = |source| ControlError::Json { message: message.to_owned(), source };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let parsed = DynamicMessage::deserialize_with_options(descriptor(message)?, &mut deserializer, &options)
        .map_err(fail)?;
    deserializer.end().map_err(fail)?;
    Ok(parsed.encode_to_vec())
}

fn write_message(message: &DynamicMessage, style: Style, in_list: bool, depth: usize, out: &mut String) {
    let descriptor = message.descriptor();
    let mut fields: Vec<FieldDescriptor> = descriptor.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    let of_one_enum = fields.iter().filter(|field| matches!(field.kind(), Kind::Enum(_))).count() == 1;
    // The enum that the item is about has number 1: states, not the way a text is compared.
    let lone_enum = |field: &FieldDescriptor| {
        in_list && of_one_enum && field.number() == 1 && matches!(field.kind(), Kind::Enum(_))
    };
    fields.retain(|field| {
        message.has_field(field) || lone_enum(field) || (style == Style::Reply && shows_default(field))
    });
    write_items('{', '}', fields.iter(), depth, out, |field, out| {
        write_text(field.name(), out);
        out.push_str(": ");
        write_field(&message.get_field(field), field, style, depth + 1, out);
    });
}

/// Plain fields, lists and maps have a default worth printing; messages and alternatives are absent.
fn shows_default(field: &FieldDescriptor) -> bool {
    let alternative = field.containing_oneof().is_some();
    let message = matches!(field.kind(), Kind::Message(_)) && !field.is_list() && !field.is_map();
    !alternative && !message
}

fn write_field(value: &Value, field: &FieldDescriptor, style: Style, depth: usize, out: &mut String) {
    match value {
        Value::List(items) => write_items('[', ']', items.iter(), depth, out, |item, out| {
            write_value(item, &field.kind(), style, true, depth + 1, out);
        }),
        Value::Map(map) => {
            let Kind::Message(entry) = field.kind() else { return };
            let kind = entry.map_entry_value_field().kind();
            let mut items: Vec<(&MapKey, &Value)> = map.iter().collect();
            items.sort_by(|a, b| a.0.cmp(b.0));
            write_items('{', '}', items.iter(), depth, out, |(key, value), out| {
                match key {
                    MapKey::String(text) => write_text(text, out),
                    MapKey::Bool(value) => out.push_str(&format!("\"{value}\"")),
                    MapKey::I32(value) => out.push_str(&format!("\"{value}\"")),
                    MapKey::I64(value) => out.push_str(&format!("\"{value}\"")),
                    MapKey::U32(value) => out.push_str(&format!("\"{value}\"")),
                    MapKey::U64(value) => out.push_str(&format!("\"{value}\"")),
                }
                out.push_str(": ");
                write_value(value, &kind, style, false, depth + 1, out);
            });
        }
        single => write_value(single, &field.kind(), style, false, depth, out),
    }
}

fn write_value(value: &Value, kind: &Kind, style: Style, in_list: bool, depth: usize, out: &mut String) {
    match value {
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::I32(value) => out.push_str(&value.to_string()),
        Value::U32(value) => out.push_str(&value.to_string()),
        Value::I64(value) => out.push_str(&format!("\"{value}\"")),
        Value::U64(value) => out.push_str(&format!("\"{value}\"")),
        // The shortest text that reads back as the same number, in its own precision.
        Value::F32(value) if value.is_finite() => out.push_str(&value.to_string()),
        Value::F64(value) if value.is_finite() => out.push_str(&value.to_string()),
        Value::F32(value) => write_not_finite(f64::from(*value), out),
        Value::F64(value) => write_not_finite(*value, out),
        Value::String(text) => write_text(text, out),
        Value::Bytes(bytes) => {
            write_text(&base64::engine::general_purpose::STANDARD.encode(bytes), out);
        }
        Value::EnumNumber(number) => {
            let name = match kind {
                Kind::Enum(of) => of.get_value(*number).map(|value| value.name().to_owned()),
                _ => None,
            };
            match name {
                Some(name) => write_text(&name, out),
                None => out.push_str(&number.to_string()),
            }
        }
        Value::Message(message) => write_message(message, style, in_list, depth, out),
        // Lists and maps do not nest directly in protobuf.
        Value::List(_) | Value::Map(_) => out.push_str("null"),
    }
}

fn write_not_finite(value: f64, out: &mut String) {
    out.push_str(match value {
        value if value.is_nan() => "\"NaN\"",
        value if value > 0.0 => "\"Infinity\"",
        _ => "\"-Infinity\"",
    });
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn write_items<T>(
    open: char,
    close: char,
    items: impl ExactSizeIterator<Item = T>,
    depth: usize,
    out: &mut String,
    mut write: impl FnMut(T, &mut String),
) {
    out.push(open);
    let empty = items.len() == 0;
    for (i, item) in items.enumerate() {
        out.push_str(if i == 0 { "\n" } else { ",\n" });
        out.push_str(&"    ".repeat(depth + 1));
        write(item, out);
    }
    if !empty {
        out.push('\n');
        out.push_str(&"    ".repeat(depth));
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtpd::*;

    fn compact(json: &str) -> String {
        json.lines().map(str::trim).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn requests_show_what_was_set() {
        let request = QueueUpdateRequest {
            conditions: Some(Condition {
                queues: vec![condition::QueueState { queue: Queue::Active as i32 }],
                jobids: vec![condition::CompareStringRegexValue {
                    value: "foobar".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            task: Some(queue_update_request::Task::Actiontype(ActionType::Delete as i32)),
            ..Default::default()
        };
        let json = message_to_json("QueueUpdateRequest", &request, Style::Request).unwrap();
        let expected = r#"{ "conditions": { "queues": [ { "queue": "ACTIVE" } ], "jobids": [ { "value": "foobar" } ] }, "actiontype": "DELETE" }"#;
        assert_eq!(compact(&json), expected);
        assert_eq!(json.lines().nth(1), Some("    \"conditions\": {"));
        assert_eq!(from_json("QueueUpdateRequest", &json).unwrap(), request.encode_to_vec());
    }

    #[test]
    fn replies_show_defaults_but_no_absent_messages() {
        let reply = QueueListResponse {
            items: vec![queue_list_response::QueueItem {
                metadata: [("k".to_owned(), "v\n".to_owned())].into(),
                retrydelay: 0.5,
                size: 5_000_000_000,
                state: Some(queue_list_response::queue_item::State::Queue(
                    queue_list_response::queue_item::QueueState { queue: 0 },
                )),
                ..Default::default()
            }],
            paging: None,
        };
        let json = compact(&message_to_json("QueueListResponse", &reply, Style::Reply).unwrap());
        for part in [
            r#""queue": { "queue": "ACTIVE" }"#,
            r#""metadata": { "k": "v\n" }"#,
            r#""retrydelay": 0.5"#,
            r#""size": "5000000000""#,
            r#""jobid": """#,
            r#""localips": []"#,
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
        for part in ["\"paging\"", "\"id\"", "\"freeze\"", "\"dsn\""] {
            assert!(!json.contains(part), "{part} in {json}");
        }
    }

    #[test]
    fn input_takes_numbers_and_refuses_unknown_fields() {
        let numbers = from_json("QueueListRequest", r#"{"paging": {"limit": 5, "offset": "7"}}"#).unwrap();
        let request = QueueListRequest::decode(&numbers[..]).unwrap();
        assert_eq!(request.paging, Some(queue_list_request::Paging { offset: 7, limit: 5 }));
        let number = from_json("QueueListRequest", r#"{"conditions": {"queues": [{"queue": 1}]}}"#).unwrap();
        let request = QueueListRequest::decode(&number[..]).unwrap();
        assert_eq!(request.conditions.unwrap().queues[0].queue, Queue::Defer as i32);
        for bad in [r#"{"nonsense": 1}"#, r#"{"paging": 3}"#, "{} x", ""] {
            assert!(from_json("QueueListRequest", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn floats_keep_their_own_precision() {
        let condition = Condition { probability: 0.1, ..Default::default() };
        let json = message_to_json("Condition", &condition, Style::Request).unwrap();
        assert_eq!(compact(&json), r#"{ "probability": 0.1 }"#);
    }
}
