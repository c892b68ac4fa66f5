//! [`ScriptFiles`]: the virtual files of a configuration and the script root, as a loader for the compiler.

use crate::decode;
use hsl::{Array, DataError, LoadError, Loader, Value};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A file that was opened.
pub enum Opened {
    /// A virtual file.
    Memory(Arc<[u8]>),
    /// A file below the root.
    Disk(std::fs::File, PathBuf),
}

/// Where scripts find what they include and import (language section 12.1).
#[derive(Default, Clone)]
pub struct ScriptFiles {
    virtual_files: HashMap<String, Arc<[u8]>>,
    root: Option<PathBuf>,
    bare_names_in_root: bool,
}

impl ScriptFiles {
    /// No files.
    pub fn new() -> ScriptFiles {
        ScriptFiles::default()
    }

    /// Adds or replaces a virtual file (`scripting.files[]`).
    pub fn insert(&mut self, id: impl Into<String>, data: impl Into<Arc<[u8]>>) {
        self.virtual_files.insert(id.into(), data.into());
    }

    /// Sets the folder behind `file://` (`scripting.rootpath`).
    pub fn set_root(&mut self, root: impl Into<PathBuf>) {
        self.root = Some(root.into());
    }

    /// The name that scripts have for a file on disk, if it is below the root.
    pub fn name_of(&self, path: &std::path::Path) -> Option<String> {
        let root = self.root.as_ref()?.canonicalize().ok()?;
        let full = path.canonicalize().ok()?;
        Some(format!("file://{}", full.strip_prefix(root).ok()?.to_str()?))
    }

    /// The virtual files that `other` has not or has with other data, and those that only `other` has.
    pub fn changed<'a>(&'a self, other: &'a ScriptFiles) -> Vec<&'a str> {
        let same = |name: &String, data: &Arc<[u8]>| other.virtual_files.get(name) == Some(data);
        let own = self.virtual_files.iter().filter(|(name, data)| !same(name, data)).map(|(name, _)| &**name);
        let new = other.virtual_files.keys().filter(|name| !self.virtual_files.contains_key(*name));
        own.chain(new.map(|name| &**name)).collect()
    }

    /// Lets names without scheme that are no virtual file fall back to the root, as `hsh` does.
    pub fn bare_names_in_root(&mut self, yes: bool) {
        self.bare_names_in_root = yes;
    }

    /// Opens a file for the class `File`. Names are those of imports; what is not found as a virtual file may be below
    /// the root, and the other way round. Only regular files are opened.
    ///
    /// # Errors
    /// Not there, or not allowed.
    pub fn open(&self, name: &str) -> Result<Opened, LoadError> {
        let in_memory =
            |name: &str| self.virtual_files.get(name).map(|data| Opened::Memory(Arc::clone(data)));
        let path = match name.split_once("://") {
            Some(("file", path)) => match self.below_root(path) {
                Ok(path) => path,
                Err(error) => return in_memory(path).ok_or(error),
            },
            Some((scheme, _)) => {
                return Err(LoadError::Refused(format!("Scheme '{scheme}' is not available here")));
            }
            None => {
                let name = name.strip_prefix("file:").unwrap_or(name);
                match in_memory(name) {
                    Some(opened) => return Ok(opened),
                    None => self.below_root(name)?,
                }
            }
        };
        let refused = |e: std::io::Error| LoadError::Refused(e.to_string());
        if !std::fs::metadata(&path).map_err(refused)?.is_file() {
            return Err(LoadError::Refused("Not a regular file".into()));
        }
        let file = std::fs::File::open(&path).map_err(refused)?;
        Ok(Opened::Disk(file, path))
    }

    fn read_root(&self, name: &str) -> Result<Arc<[u8]>, LoadError> {
        std::fs::read(self.below_root(name)?).map(Arc::from).map_err(|e| LoadError::Refused(e.to_string()))
    }

    /// The full path of a name below the root, symbolic links followed.
    fn below_root(&self, name: &str) -> Result<PathBuf, LoadError> {
        let refused = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => LoadError::NotFound,
            _ => LoadError::Refused(e.to_string()),
        };
        let root = self.root.as_ref().ok_or_else(|| LoadError::Refused("No script root is set".into()))?;
        let root = root.canonicalize().map_err(refused)?;
        let full = root.join(name).canonicalize().map_err(refused)?;
        if !full.starts_with(&root) {
            return Err(LoadError::Refused("The path leaves the script root".into()));
        }
        Ok(full)
    }
}

impl Loader for ScriptFiles {
    fn load(&self, path: &str) -> Result<Arc<[u8]>, LoadError> {
        match path.split_once("://") {
            Some(("file", name)) => self.read_root(name),
            Some((scheme, _)) => Err(LoadError::Refused(format!("Scheme '{scheme}' is not available here"))),
            None => match self.virtual_files.get(path) {
                Some(data) => Ok(Arc::clone(data)),
                None if self.bare_names_in_root && self.root.is_some() => self.read_root(path),
                None => Err(LoadError::NotFound),
            },
        }
    }

    fn decode(&self, kind: &str, data: &[u8], options: &Array) -> Result<Value, DataError> {
        decode(kind, data, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_below_the_root() {
        let folder = std::env::temp_dir().join(format!("hsl-files-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("root")).unwrap();
        std::fs::write(folder.join("secret"), "s").unwrap();
        std::fs::write(folder.join("root/a.hsl"), "a").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("root/link")).unwrap();
        let mut files = ScriptFiles::new();
        files.set_root(folder.join("root"));
        files.insert("v", &b"virtual"[..]);
        assert_eq!(&*files.load("file://a.hsl").unwrap(), b"a");
        assert_eq!(&*files.load("v").unwrap(), b"virtual");
        assert!(matches!(files.load("a.hsl"), Err(LoadError::NotFound)));
        assert!(matches!(files.load("file://link"), Err(LoadError::Refused(_))));
        assert!(matches!(files.load("http://x"), Err(LoadError::Refused(_))));
        files.bare_names_in_root(true);
        assert_eq!(&*files.load("a.hsl").unwrap(), b"a");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
