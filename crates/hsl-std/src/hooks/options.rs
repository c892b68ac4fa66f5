//! The options of terminating functions, read from script arrays with errors that name option, expected and
//! found type.

pub use super::delivery_options::*;
pub use super::reply_options::*;
pub use super::try_options::*;
use hsl::{Array, Error, Value};
use mail::Address;

/// Metadata of an entry: key and value.
pub type Metadata = Vec<(String, Vec<u8>)>;

/// Reads typed options out of one array.
pub(super) struct Reader<'a> {
    pub(super) array: Option<&'a Array>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(value: &'a Value) -> Result<Reader<'a>, Error> {
        match value {
            Value::Array(array) => Ok(Reader { array: Some(array) }),
            value if value.is_none() => Ok(Reader { array: None }),
            other => Err(expected("options", "array", other)),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.array?.get_str(key).filter(|value| !value.is_none())
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::Str(_)) => Ok(Some(value.to_string_lossy())),
            Some(other) => Err(expected(key, "string", other)),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_finite() => Ok(Some(*number)),
            Some(other) => Err(expected(key, "finite number", other)),
        }
    }

    pub(super) fn integer(&self, key: &str, min: f64, max: f64) -> Result<Option<u64>, Error> {
        match self.number(key)? {
            Some(number) if !(min..=max).contains(&number) => {
                Err(Error::exception(format!("Option '{key}' is {number}, expected {min} to {max}")))
            }
            number => Ok(number.map(|number| number as u64)),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(expected(key, "boolean", other)),
        }
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<String>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::Str(_)) => Ok(Some(vec![value.to_string_lossy()])),
            Some(Value::Array(list)) => list
                .values()
                .map(|item| match item {
                    Value::Str(_) => Ok(item.to_string_lossy()),
                    other => Err(expected(key, "array of strings", other)),
                })
                .collect::<Result<Vec<_>, _>>()
                .map(Some),
            Some(other) => Err(expected(key, "string or array", other)),
        }
    }

    pub(super) fn address(&self, key: &str) -> Result<Option<Address>, Error> {
        self.get(key).map(|value| read_address(key, value)).transpose()
    }

    pub(super) fn metadata(&self, key: &str) -> Result<Option<Metadata>, Error> {
        self.get(key).map(|value| read_metadata(key, value)).transpose()
    }

    pub(super) fn nested(&self, key: &str) -> Result<Option<Reader<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(Reader { array: Some(array) })),
            Some(other) => Err(expected(key, "array", other)),
        }
    }
}

pub(super) fn expected(key: &str, wanted: &str, found: &Value) -> Error {
    Error::exception(format!("Option '{key}' expects {wanted}, {} given", found.type_name()))
}

/// An address given as string or as array with `localpart` and `domain` (`smtp-hooks` 4.5).
pub fn read_address(key: &str, value: &Value) -> Result<Address, Error> {
    let result = match value {
        Value::Str(text) => Address::parse(&text.to_text()),
        Value::Array(array) => {
            let part = |name: &str| array.get_str(name).map(Value::to_string_lossy).unwrap_or_default();
            Address::new(&part("localpart"), &part("domain"))
        }
        other => return Err(expected(key, "string or array", other)),
    };
    result.map_err(|error| Error::exception(format!("Option '{key}' is no address: {error}")))
}

/// Metadata: an array with string keys and string values.
pub fn read_metadata(key: &str, value: &Value) -> Result<Metadata, Error> {
    let Value::Array(array) = value else { return Err(expected(key, "array", value)) };
    array
        .iter()
        .map(|(name, value)| match value {
            Value::Str(text) => Ok((name.to_value().to_string_lossy(), text.as_bytes().to_vec())),
            other => Err(expected(key, "array of strings", other)),
        })
        .collect()
}
