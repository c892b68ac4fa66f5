//! The class `File` (library section C4): reading of virtual files, files below the script root, and bytes in memory.
//! Nothing can be written. Reading from disk happens off the script's thread.

use crate::environment;
use crate::files::{Opened, ScriptFiles};
use crate::support::check_string;
use hsl::{Args, Error, FunctionDef, NativeClass, NativeCx, NativeObject, Object, Outcome, Value};
use parking_lot::Mutex;
use std::fs;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

/// Bytes fetched at once when looking for the end of a line.
const BUFFER: usize = 8192;

/// What is read from.
pub(crate) enum Source {
    /// Bytes in memory.
    Memory(Cursor<Arc<[u8]>>),
    /// A file on disk.
    Disk(fs::File, PathBuf),
    /// A message with its changes, at a position.
    Content(ContentReader),
    /// Closed by the script.
    Closed,
}

/// Content of a message as a file.
pub(crate) struct ContentReader {
    content: Arc<dyn mail::Content>,
    at: u64,
}

impl Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = self.content.len().saturating_sub(self.at);
        let n = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        self.content.read_at(self.at, &mut buf[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for ContentReader {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.content.len().checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A file on disk as content; it must not be changed meanwhile.
struct DiskContent {
    file: fs::File,
    len: u64,
}

impl mail::Content for DiskContent {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        None
    }
}

impl Source {
    fn reader(&mut self) -> Option<(&mut dyn ReadSeek, bool)> {
        match self {
            Source::Memory(cursor) => Some((cursor, false)),
            Source::Disk(file, _) => Some((file, true)),
            Source::Content(reader) => Some((reader, true)),
            Source::Closed => None,
        }
    }
}

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// The Rust side of a `File`.
#[derive(Clone)]
pub struct FileObject(Arc<Mutex<Source>>);

impl NativeObject for FileObject {}

impl FileObject {
    /// Access to the source, for those who need the file itself.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Source) -> R) -> R {
        f(&mut self.0.lock())
    }

    /// Everything, whatever the position; `None` when it cannot be read.
    pub(crate) fn contents(&self) -> Option<Vec<u8>> {
        let mut source = self.0.lock();
        let (reader, _) = source.reader()?;
        let back = reader.stream_position().ok()?;
        let mut out = Vec::new();
        reader.seek(SeekFrom::Start(0)).ok()?;
        reader.read_to_end(&mut out).ok()?;
        reader.seek(SeekFrom::Start(back)).ok()?;
        Some(out)
    }
}

impl FileObject {
    /// The whole file as content of a message, whatever the position; `None` when it is closed or cannot be read.
    pub(crate) fn content(&self) -> Option<Arc<dyn mail::Content>> {
        match &*self.0.lock() {
            Source::Memory(cursor) => {
                let bytes = bytes::Bytes::from_owner(Arc::clone(cursor.get_ref()));
                Some(Arc::new(mail::MemoryContent(bytes)))
            }
            Source::Disk(file, _) => {
                let len = file.metadata().ok()?.len();
                Some(Arc::new(DiskContent { file: file.try_clone().ok()?, len }))
            }
            Source::Content(reader) => Some(Arc::clone(&reader.content)),
            Source::Closed => None,
        }
    }
}

/// A `File` over the content of a message.
pub(crate) fn from_content(content: Arc<dyn mail::Content>) -> Value {
    object(Source::Content(ContentReader { content, at: 0 }))
}

/// A `File` over bytes in memory.
pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Value {
    object(Source::Memory(Cursor::new(bytes.into())))
}

/// A `File` over an open file.
pub fn from_disk(file: fs::File, path: PathBuf) -> Value {
    object(Source::Disk(file, path))
}

fn object(source: Source) -> Value {
    Object::native(&CLASS, FileObject(Arc::new(Mutex::new(source))))
}

/// The Rust side of an object of the class.
pub(crate) fn of(value: &Value) -> Option<&FileObject> {
    match value {
        Value::Object(object) => object.data(),
        _ => None,
    }
}

fn this(object: &Arc<Object>) -> Result<FileObject, Error> {
    object.data::<FileObject>().cloned().ok_or_else(|| Error::exception("Not a File"))
}

/// Runs a read: at once in memory, on another thread for the disk.
fn reading(
    object: &Arc<Object>,
    read: impl FnOnce(&mut dyn ReadSeek) -> std::io::Result<Value> + Send + 'static,
) -> Result<Outcome, Error> {
    let file = this(object)?;
    // Errors of reading give none by contract.
    let run = move |file: &FileObject| {
        let mut source = file.0.lock();
        source.reader().and_then(|(reader, _)| read(reader).ok()).unwrap_or_default()
    };
    let disk = matches!(&*file.0.lock(), Source::Disk(..) | Source::Content(..));
    if !disk {
        return Ok(run(&file).into());
    }
    Ok(Outcome::Pending(Box::pin(async move {
        let value = tokio::task::spawn_blocking(move || run(&file)).await;
        value.map_err(|e| Error::fatal(format!("File: {e}")))
    })))
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("File")
        .doc("A file that can be read.")
        .constructor(FunctionDef::full(
            "File(fileresource: FileResource or string) -> File or none",
            "A virtual file, or a file below the script root; none when it is missing.",
            open,
        ))
        .method(
            "read(length?: number) -> string or none",
            "Up to so many bytes, or all the rest; empty at the end.",
            |_, o, a| {
                let length = match a.given(0) {
                    Some(_) => u64::try_from(a.integer(0)?)
                        .map_err(|_| Error::exception("read(): expected a length of 0 or more"))?,
                    None => u64::MAX,
                };
                let max = u64::try_from(crate::support::STRING_MAX).unwrap_or(u64::MAX);
                reading(o, move |reader| {
                    let mut out = Vec::new();
                    reader.take(length.min(max)).read_to_end(&mut out)?;
                    Ok(out.into())
                })
            },
        )
        .method(
            "readline() -> string or boolean or none",
            "The next line without its end; false at the end of the file.",
            |_, o, _| reading(o, read_line),
        )
        .method(
            "seek(offset: number, whence?: string) -> number or none",
            "Moves to an offset from SEEK_SET, SEEK_CUR or SEEK_END; the new position.",
            |_, o, a| {
                let offset = a.integer(0)?;
                let to = match a.given(1).map(Value::to_str).as_ref().map(|w| w.as_bytes()) {
                    None | Some(b"SEEK_SET") => u64::try_from(offset).ok().map(SeekFrom::Start),
                    Some(b"SEEK_CUR") => Some(SeekFrom::Current(offset)),
                    Some(b"SEEK_END") => (offset <= 0).then_some(SeekFrom::End(offset)),
                    Some(_) => None,
                };
                let mut source = this(o)?;
                let source = &mut source;
                let at = to.and_then(|to| source.0.lock().reader()?.0.seek(to).ok());
                Ok(Value::from(at).into())
            },
        )
        .method("tell() -> number or none", "The position.", |_, o, _| {
            let file = this(o)?;
            let at = file.0.lock().reader().and_then(|(reader, _)| reader.stream_position().ok());
            Ok(Value::from(at).into())
        })
        .method("getPath() -> string or none", "The path; none for bytes in memory.", |_, o, _| {
            let path = this(o)?.with(|source| match source {
                Source::Disk(_, path) => Some(path.display().to_string()),
                _ => None,
            });
            Ok(Value::from(path).into())
        })
        .method("close() -> none", "Closes the file.", |_, o, _| {
            this(o)?.with(|source| *source = Source::Closed);
            Ok(Value::None.into())
        })
        .method(
            "toFFIValue() -> FFIValue or none",
            "A FILE of C with the content and the position, valid while the value lives.",
            |cx, o, _| Ok(crate::ffi::file_pointer(cx, &this(o)?).into()),
        )
        .function(FunctionDef::pure(
            "String(data: string) -> File",
            "A file over bytes in memory.",
            |_, a| Ok(from_bytes(a.bytes(0))),
        ))
        .function(FunctionDef::full(
            "read(filename: string) -> string or none",
            "The whole content of a file.",
            |cx, a| {
                let files = Arc::clone(&environment::of(cx).files);
                let name = a.string(0).to_text().into_owned();
                Ok(Outcome::Pending(Box::pin(async move {
                    let read = move || match files.open(&name).ok()? {
                        Opened::Memory(bytes) => Some(bytes.to_vec()),
                        Opened::Disk(mut file, _) => {
                            let mut out = Vec::new();
                            file.read_to_end(&mut out).ok()?;
                            Some(out)
                        }
                    };
                    let bytes = tokio::task::spawn_blocking(read).await;
                    let bytes = bytes.map_err(|e| Error::fatal(format!("File: {e}")))?;
                    if let Some(bytes) = &bytes {
                        check_string("File::read", bytes.len())?;
                    }
                    Ok(bytes.into())
                })))
            },
        ));
    Arc::new(class)
});

fn open(cx: &mut NativeCx<'_>, a: Args<'_>) -> Result<Outcome, Error> {
    match a.get(0) {
        Value::Resource(resource) => match resource.data::<FileObject>() {
            Some(file) => Ok(Object::native(&CLASS, file.clone()).into()),
            None => Err(Error::exception("File expects a file resource or a name")),
        },
        Value::Str(name) => {
            let files: Arc<ScriptFiles> = Arc::clone(&environment::of(cx).files);
            let name = name.to_text().into_owned();
            Ok(Outcome::Pending(Box::pin(async move {
                let opened = tokio::task::spawn_blocking(move || files.open(&name)).await;
                let opened = opened.map_err(|e| Error::fatal(format!("File: {e}")))?;
                Ok(match opened {
                    Ok(Opened::Memory(bytes)) => from_bytes(bytes),
                    Ok(Opened::Disk(file, path)) => from_disk(file, path),
                    Err(_) => Value::None,
                })
            })))
        }
        _ => Err(Error::exception("File expects a file resource or a name")),
    }
}

fn read_line(reader: &mut dyn ReadSeek) -> std::io::Result<Value> {
    let mut line: Vec<u8> = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        if let Some(end) = memchr::memchr(b'\n', &buffer[..n]) {
            line.extend_from_slice(&buffer[..end]);
            // The rest belongs to the next call.
            reader.seek(SeekFrom::Current(end as i64 + 1 - n as i64))?;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(line.into());
        }
        line.extend_from_slice(&buffer[..n]);
        if line.len() > crate::support::STRING_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
    }
    Ok(if line.is_empty() { false.into() } else { line.into() })
}

/// The class.
pub(crate) fn class() -> Arc<NativeClass> {
    Arc::clone(&CLASS)
}
