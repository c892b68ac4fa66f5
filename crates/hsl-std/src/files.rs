//! Files below the script root (`scripting.rootpath`): nothing outside of it can be reached.

use hsl::LoadError;
use std::path::Path;
use std::sync::Arc;

/// The largest file that scripts may include or import, octets.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Reads a file below `root`. `..` and links that lead out of it are refused.
///
/// # Errors
/// [`LoadError`], shown to the author of the script.
pub fn read_below(root: &Path, below: &str) -> Result<Arc<[u8]>, LoadError> {
    let refused = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => LoadError::NotFound,
        _ => LoadError::Refused(error.to_string()),
    };
    let root = root.canonicalize().map_err(refused)?;
    let path = root.join(below.trim_start_matches('/')).canonicalize().map_err(refused)?;
    if !path.starts_with(&root) {
        return Err(LoadError::Refused("outside of the script root".to_owned()));
    }
    let size = std::fs::metadata(&path).map_err(refused)?.len();
    if size > FILE_BYTES_MAX {
        return Err(LoadError::Refused(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(&path).map(Into::into).map_err(refused)
}
