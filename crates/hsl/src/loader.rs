//! Where included and imported files come from, and how their paths are resolved (language section 12).

use crate::array::Array;
use crate::value::Value;
use std::sync::Arc;

/// Gives the compiler the files that a script names. Paths arrive in canonical form: `NAME` for virtual files, or
/// `SCHEME://PATH`; `.` and `..` segments are already resolved.
pub trait Loader: Send + Sync {
    /// Reads a file.
    ///
    /// # Errors
    /// [`LoadError`], shown to the author of the script.
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError>;

    /// Decodes imported data. `kind` is `json`, `yaml`, `csv`, `txt`, `key` or `crt`.
    ///
    /// # Errors
    /// [`DataError`] with the line in the data file.
    fn decode(&self, kind: &str, data: &[u8], options: &Array) -> Result<Value, DataError> {
        match kind {
            "txt" => Ok(decode_text(data, options)),
            _ => Err(DataError { line: 1, message: format!("No decoder for '{kind}' data") }),
        }
    }
}

/// Why a file cannot be loaded.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("not found")]
    NotFound,
    /// The path or its scheme is not allowed here, or reading failed.
    #[error("{0}")]
    Refused(String),
}

/// Imported data that does not parse.
#[derive(Debug, Clone)]
pub struct DataError {
    /// Line in the data file, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// A loader without any file.
pub struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, _path: &str) -> Result<Arc<[u8]>, LoadError> {
        Err(LoadError::NotFound)
    }
}

/// Text data: the whole text, or with option `array` its lines without line ends.
pub fn decode_text(data: &[u8], options: &Array) -> Value {
    if !options.get_str("array").is_some_and(Value::truthy) {
        return Value::bytes(data);
    }
    let mut lines: Vec<&[u8]> = data.split(|c| *c == b'\n').collect();
    if lines.last().is_some_and(|l| l.is_empty()) {
        lines.pop();
    }
    lines.into_iter().map(|l| Value::bytes(l.strip_suffix(b"\r").unwrap_or(l))).collect::<Array>().into()
}

/// Brings a path into canonical form. `importer` is the canonical path of the file that names it.
pub(crate) fn resolve(path: &[u8], importer: &str) -> Result<String, String> {
    let path = std::str::from_utf8(path).map_err(|_| "Path is not valid UTF-8".to_owned())?;
    if path.contains('\0') || path.is_empty() {
        return Err("Path is empty or contains a NUL byte".into());
    }
    let relative = path.starts_with("./") || path.starts_with("../");
    let (scheme, rest) = if relative {
        let (scheme, file) = importer.split_once("://").map_or(("", importer), |(s, f)| (s, f));
        let folder = file.rsplit_once('/').map_or("", |(d, _)| d);
        (scheme, format!("{folder}/{path}"))
    } else if let Some((scheme, rest)) = path.split_once("://") {
        (scheme, rest.to_owned())
    } else {
        ("", path.strip_prefix("file:").unwrap_or(path).to_owned())
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return Err(format!("Path '{path}' leaves its root"));
                }
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(format!("Path '{path}' names no file"));
    }
    let joined = parts.join("/");
    Ok(if scheme.is_empty() { joined } else { format!("{scheme}://{joined}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, importer, result) in [
            ("a/b.hsl", "x", Some("a/b.hsl")),
            ("file:a", "x", Some("a")),
            ("file://m/./x.hsl", "e", Some("file://m/x.hsl")),
            ("./y.hsl", "file://m/x.hsl", Some("file://m/y.hsl")),
            ("../y.hsl", "file://m/x.hsl", Some("file://y.hsl")),
            ("../../y.hsl", "file://m/x.hsl", None),
            ("file://../etc/passwd", "x", None),
            ("./y", "dir/x", Some("dir/y")),
            ("", "x", None),
        ] {
            assert_eq!(resolve(path.as_bytes(), importer).ok().as_deref(), result, "{path}");
        }
    }
}
