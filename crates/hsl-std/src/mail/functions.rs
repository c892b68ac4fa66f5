//! Addresses and tag lists (library section 8).

use super::object::options;
use crate::support::flag;
use hsl::{Array, Error, FunctionDef, OptionDef, Value, option};
use mail::address_list;
use mail::dkim::TagList;

const EXTRACT: &[OptionDef] = &[
    option("field", "boolean", "false", "The value is a whole field, name included."),
    option("name", "boolean", "false", "Items are arrays with `name` and `address`."),
];
const DECODE: &[OptionDef] =
    &[option("field", "boolean", "false", "The value is a whole field, name included.")];

/// The functions of the group.
pub(super) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "envelope_address_parse(address: string) -> array or none",
            "localpart (unquoted) and domain of an address; none if it is none.",
            |_, args| {
                let parts = std::str::from_utf8(args.bytes(0)).ok().and_then(address_list::envelope_parts);
                let Some((localpart, domain)) = parts else { return Ok(Value::None) };
                let mut array = Array::new();
                array.insert_str("localpart", localpart);
                array.insert_str("domain", domain);
                Ok(array.into())
            },
        ),
        FunctionDef::pure(
            "envelope_localpart_escape(localpart: string) -> string",
            "A local part as it stands in an address: quoted where it must be.",
            |_, args| Ok(address_list::escaped_localpart(&args.string(0).to_text()).into()),
        ),
        FunctionDef::pure(
            "header_addresslist_compile(addresses: array) -> string",
            "An address list for a header, of arrays with name and address or plain addresses.",
            |_, args| {
                let mut pairs = Vec::new();
                for item in args.array(0).values() {
                    pairs.push(match item {
                        Value::Array(one) => {
                            let text =
                                |key: &str| one.get_str(key).map(Value::to_string_lossy).unwrap_or_default();
                            (text("name"), text("address"))
                        }
                        Value::Str(address) => (String::new(), address.to_text().into_owned()),
                        other => {
                            return Err(Error::exception(format!(
                                "header_addresslist_compile(): expected arrays or strings, {} given",
                                other.type_name()
                            )));
                        }
                    });
                }
                let pairs = pairs.iter().map(|(name, address)| (&**name, &**address));
                Ok(address_list::compile(pairs).into())
            },
        ),
        FunctionDef::pure(
            "header_addresslist_extract(value: string, options?: array) -> array or none",
            "The addresses of an address list; none if it is none.",
            |_, args| {
                let options = options(&args, 1);
                let named = flag(&options, "name", false);
                let value = value(args.bytes(0), &options);
                let Some(list) = value.and_then(address_list::parse) else { return Ok(Value::None) };
                let items = list.into_iter().map(|one| {
                    if !named {
                        return Value::from(one.address);
                    }
                    let mut array = Array::new();
                    array.insert_str("name", one.name);
                    array.insert_str("address", one.address);
                    array.into()
                });
                Ok(items.collect::<Array>().into())
            },
        )
        .with_options(EXTRACT),
        FunctionDef::pure(
            "header_dkim_decode(value: string, options?: array) -> array or none",
            "The tags of a tag list (RFC 6376 3.2); none if it is none.",
            |_, args| {
                let tags = value(args.bytes(0), &options(&args, 1)).and_then(TagList::parse);
                let Some(tags) = tags else { return Ok(Value::None) };
                let mut array = Array::new();
                for tag in tags.tags() {
                    array.insert_str(&tag.name, tag.value.as_slice());
                }
                Ok(array.into())
            },
        )
        .with_options(DECODE),
    ]
}

/// The value of a field, or the text itself; `None` for a field without colon.
fn value<'a>(text: &'a [u8], options: &Array) -> Option<&'a [u8]> {
    if !flag(options, "field", false) {
        return Some(text);
    }
    memchr::memchr(b':', text).map(|colon| &text[colon + 1..])
}
