//! Reading a file into its type, with errors that name file, key path, line and column.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used. Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Broken syntax, an unknown key, a wrong type or a value out of range.
    #[error("{file}:{line}:{column}: {}{message}", pointer_prefix(pointer))]
    Value {
        /// The file's name as given.
        file: String,
        /// From 1; 0 where it is not known.
        line: u64,
        /// From 1; 0 where it is not known.
        column: u64,
        /// Key path as a JSON pointer; empty for the document itself.
        pointer: String,
        /// What was found and expected.
        message: String,
    },
    /// A well-formed value that does not fit the rest of the configuration.
    #[error("{file}: {pointer}: {message}")]
    Meaning {
        /// The file's name as given.
        file: String,
        /// Key path as a JSON pointer.
        pointer: String,
        /// What is wrong and, where it helps, what to do.
        message: String,
    },
}

fn pointer_prefix(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!("{pointer}: ") }
}

/// The largest configuration file read, in octets; scripts and data files are packed into it.
pub const FILE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Reads and parses a file.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &text)
}

/// Parses the text of a file; `file` is only used in messages.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Error> {
    let value = |line, column, pointer, message| Error::Value {
        file: file.to_owned(),
        line,
        column,
        pointer,
        message,
    };
    if text.len() > FILE_BYTES_MAX {
        return Err(value(0, 0, String::new(), format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let filled = crate::environment::fill(file, text)?;
    let text = filled.as_deref().unwrap_or(text);
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    if let Some(budget) = options.budget.as_mut() {
        budget.max_total_scalar_bytes = FILE_BYTES_MAX;
        budget.max_reader_input_bytes = Some(FILE_BYTES_MAX);
    }
    let mut pointer = String::new();
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        let mut track = serde_path_to_error::Track::new();
        let result = T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track));
        if result.is_err() {
            pointer = json_pointer(&track.path());
        }
        result
    });
    result.map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let message = error.without_snippet().to_string();
        // The library appends its own form of the place, which ours already has.
        let message =
            message.split(" at line ").next().unwrap_or(&message).lines().next().unwrap_or("").to_owned();
        value(line, column, pointer, message)
    })
}

fn json_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")));
            }
            Segment::Unknown => {}
        }
    }
    pointer
}
