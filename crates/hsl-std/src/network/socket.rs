//! The class `Socket` (library section C8): BSD sockets that suspend the script. Addresses are literal, nothing is
//! resolved.

use hsl::{Args, Error, FunctionDef, NativeClass, NativeObject, Object, OptionDef, Outcome, Value, option};
use parking_lot::Mutex;
use socket2::{Domain, SockAddr, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest single `recv`, bytes.
const RECV_MAX: usize = 64 << 20;

const BIND_OPTIONS: &[OptionDef] =
    &[option("nonlocal", "boolean", "false", "The address need not be one of this host (IP_FREEBIND).")];

/// The Rust side of a `Socket`.
pub(super) struct SocketObject {
    domain: Domain,
    stream: bool,
    state: Mutex<State>,
}

struct State {
    socket: Option<Arc<socket2::Socket>>,
    timeout: Option<Duration>,
    errno: i32,
    /// A layer above has a descriptor of its own for the connection.
    layered: bool,
}

impl NativeObject for SocketObject {}

impl SocketObject {
    /// The open socket and the patience of its operations.
    pub(super) fn parts(&self) -> Option<(Arc<socket2::Socket>, Option<Duration>)> {
        let state = self.state.lock();
        Some((state.socket.clone()?, state.timeout))
    }

    /// Notes that a layer above uses the connection, so that closing has to end it for both.
    pub(super) fn set_layered(&self) {
        self.state.lock().layered = true;
    }

    fn failed(&self, error: &io::Error) {
        self.state.lock().errno = errno(error);
    }

    /// Notes the outcome for `errno()`; errors give none by contract.
    fn note<T>(&self, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.state.lock().errno = 0;
                Some(value)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }
}

/// The number of an error; ETIMEDOUT when the patience is over.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::TimedOut => libc::ETIMEDOUT,
        io::ErrorKind::InvalidInput => libc::EINVAL,
        io::ErrorKind::NotConnected => libc::ENOTCONN,
        _ => libc::EIO,
    })
}

/// Runs an operation within a patience.
pub(super) async fn within<T>(
    timeout: Option<Duration>,
    operation: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match timeout {
        None => operation.await,
        Some(timeout) => match tokio::time::timeout(timeout, operation).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
    }
}

/// The socket as the event loop sees it. A descriptor can be watched only once, so each operation has its own.
#[allow(unsafe_code, reason = "tokio wants a promise about the descriptor")]
pub(super) fn watched(socket: &socket2::Socket) -> io::Result<AsyncFd<socket2::Socket>> {
    // SAFETY: the socket owns its descriptor, gives the same one every time, and closes it only when it is dropped.
    unsafe { AsyncFd::register(socket.try_clone()?) }.map_err(io::Error::from)
}

fn this(object: &Arc<Object>) -> Result<&SocketObject, Error> {
    object.data().ok_or_else(|| Error::exception("Not a Socket"))
}

/// The Rust side of an object of the class.
pub(super) fn of(value: &Value) -> Option<(&Arc<Object>, &SocketObject)> {
    match value {
        Value::Object(object) => Some((object, object.data()?)),
        _ => None,
    }
}

/// The class.
pub(super) fn class() -> Arc<NativeClass> {
    Arc::clone(&CLASS)
}

fn object(domain: Domain, stream: bool, socket: socket2::Socket) -> Value {
    let state = State { socket: Some(Arc::new(socket)), timeout: None, errno: 0, layered: false };
    Object::native(&CLASS, SocketObject { domain, stream, state: Mutex::new(state) })
}

/// What an operation gives when the socket is closed.
fn closed(socket: &SocketObject) -> Outcome {
    socket.state.lock().errno = libc::EBADF;
    Value::None.into()
}

/// Suspends for an operation on the open socket.
fn waiting<F>(
    object: &Arc<Object>,
    operation: impl FnOnce(AsyncFd<socket2::Socket>) -> F + Send + 'static,
) -> Result<Outcome, Error>
where
    F: Future<Output = io::Result<Value>> + Send,
{
    let Some((socket, timeout)) = this(object)?.parts() else { return Ok(closed(this(object)?)) };
    let object = Arc::clone(object);
    Ok(Outcome::Pending(Box::pin(async move {
        let result = match watched(&socket) {
            Ok(fd) => within(timeout, operation(fd)).await,
            Err(error) => Err(error),
        };
        Ok(this(&object)?.note(result).unwrap_or_default())
    })))
}

/// The object itself after a success, for chaining.
fn chained(object: &Arc<Object>, result: io::Result<()>) -> Result<Outcome, Error> {
    let value = this(object)?.note(result).map(|()| Value::Object(Arc::clone(object)));
    Ok(value.unwrap_or_default().into())
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("Socket")
        .doc("A socket. Methods give none on errors, and errno() tells which.")
        .constructor(FunctionDef::pure(
            "Socket(family: string, type: string) -> Socket",
            "A socket of family AF_INET, AF_INET6 or AF_UNIX and type SOCK_STREAM or SOCK_DGRAM.",
            |_, a| create(&a),
        ))
        .method(
            "bind(address: string, port?: number, options?: array) -> this or none",
            "Binds to an address, or a path.",
            |_, o, a| {
                let socket = this(o)?;
                let Some((fd, _)) = socket.parts() else { return Ok(closed(socket)) };
                let nonlocal = crate::support::flag(&crate::support::options(&a, 2), "nonlocal", false);
                let result = address(socket.domain, &a).and_then(|address| {
                    if nonlocal && socket.domain == Domain::IPV4 {
                        fd.set_freebind_v4(true)?;
                    } else if nonlocal && socket.domain == Domain::IPV6 {
                        fd.set_freebind_v6(true)?;
                    }
                    fd.bind(&address)
                });
                chained(o, result)
            },
        )
        .with_options(BIND_OPTIONS)
        .method(
            "connect(address: string, port?: number) -> this or none",
            "Connects to an address, or a path.",
            |_, o, a| {
                let socket = this(o)?;
                let to = match address(socket.domain, &a) {
                    Ok(to) => to,
                    Err(error) => return chained(o, Err(error)),
                };
                let me = Value::Object(Arc::clone(o));
                waiting(o, async move |fd| connect(&fd, &to).await.map(|()| me))
            },
        )
        .method("send(data: string) -> number or none", "Sends all of it; the number of bytes.", |_, o, a| {
            let stream = this(o)?.stream;
            let data = a.string(0);
            waiting(o, async move |fd| send(&fd, data.as_bytes(), stream).await.map(Value::from))
        })
        .method(
            "recv(length: number, flags?: string or array) -> string or none",
            "Receives up to so many bytes; empty when the other side has closed. Flags: MSG_PEEK, MSG_WAITALL, \
             MSG_DONTWAIT.",
            |_, o, a| {
                let length = usize::try_from(a.integer(0)?).unwrap_or(0).min(RECV_MAX);
                let flags = flags(a.get(1))?;
                let stream = this(o)?.stream;
                waiting(o, async move |fd| receive(&fd, length, flags, stream).await.map(Value::from))
            },
        )
        .method("settimeout(seconds: number) -> this", "Patience of each operation; 0 for none.", |_, o, a| {
            let seconds = a.number(0);
            let timeout = (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten();
            this(o)?.state.lock().timeout = timeout;
            Ok(Value::Object(Arc::clone(o)).into())
        })
        .method("shutdown(how: string) -> this or none", "SHUT_RD, SHUT_WR or SHUT_RDWR.", |_, o, a| {
            let socket = this(o)?;
            let Some((fd, _)) = socket.parts() else { return Ok(closed(socket)) };
            let result = match a.bytes(0) {
                b"SHUT_RD" => fd.shutdown(Shutdown::Read),
                b"SHUT_WR" => fd.shutdown(Shutdown::Write),
                b"SHUT_RDWR" => fd.shutdown(Shutdown::Both),
                _ => Err(io::ErrorKind::InvalidInput.into()),
            };
            chained(o, result)
        })
        .method("close() -> this or none", "Closes the socket.", |_, o, _| {
            let socket = this(o)?;
            let (open, layered) = {
                let mut state = socket.state.lock();
                (state.socket.take(), state.layered)
            };
            let Some(open) = open else { return Ok(closed(socket)) };
            if layered {
                // A connection that is gone already is as good as ended.
                let _ = open.shutdown(Shutdown::Both);
            }
            Ok(Value::Object(Arc::clone(o)).into())
        })
        .method("errno() -> number", "Number of the last error; 0 after a success.", |_, o, _| {
            Ok(Value::from(this(o)?.state.lock().errno).into())
        })
        .method("toFFIValue() -> FFIValue or none", "The descriptor as a number of C.", |cx, o, _| {
            let fd = this(o)?.parts().map(|(socket, _)| socket.as_raw_fd());
            Ok(fd.map_or(Value::None, |fd| crate::ffi::descriptor(cx, o, fd)).into())
        })
        .function(FunctionDef::pure(
            "AF(address: string) -> string or none",
            "The family of an address: AF_INET or AF_INET6.",
            |_, a| {
                Ok(match a.string(0).to_text().parse::<IpAddr>() {
                    Ok(IpAddr::V4(_)) => "AF_INET".into(),
                    Ok(IpAddr::V6(_)) => "AF_INET6".into(),
                    Err(_) => Value::None,
                })
            },
        ))
        .function(FunctionDef::pure(
            "Resource(socket: SocketResource) -> Socket or none",
            "Adopts the socket of a plugin.",
            |_, a| Ok(adopt(a.get(0)).unwrap_or_default()),
        ));
    Arc::new(class)
});

/// A socket that a plugin hands over, taken out by the script that adopts it.
pub struct SocketResource(Mutex<Option<socket2::Socket>>);

impl SocketResource {
    /// Wraps a connected or bound socket.
    pub fn new(socket: socket2::Socket) -> SocketResource {
        SocketResource(Mutex::new(Some(socket)))
    }
}

fn adopt(value: &Value) -> Option<Value> {
    let Value::Resource(resource) = value else { return None };
    let socket = resource.data::<SocketResource>()?.0.lock().take()?;
    socket.set_nonblocking(true).ok()?;
    let domain = socket.domain().ok()?;
    let stream = socket.r#type().ok()? == Type::STREAM;
    Some(object(domain, stream, socket))
}

fn create(args: &Args<'_>) -> Result<Value, Error> {
    let domain = match args.bytes(0) {
        b"AF_INET" => Domain::IPV4,
        b"AF_INET6" => Domain::IPV6,
        b"AF_UNIX" => Domain::UNIX,
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(Error::exception(format!(
                "Socket: unknown family '{other}', expected AF_INET, AF_INET6, AF_UNIX"
            )));
        }
    };
    let (kind, stream) = match args.bytes(1) {
        b"SOCK_STREAM" => (Type::STREAM, true),
        b"SOCK_DGRAM" => (Type::DGRAM, false),
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(Error::exception(format!(
                "Socket: unknown type '{other}', expected SOCK_STREAM, SOCK_DGRAM"
            )));
        }
    };
    let socket = socket2::Socket::new(domain, kind, None).and_then(|s| s.set_nonblocking(true).map(|()| s));
    socket.map(|s| object(domain, stream, s)).map_err(|e| Error::exception(format!("Socket: {e}")))
}

fn address(domain: Domain, args: &Args<'_>) -> io::Result<SockAddr> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let text = args.string(0);
    if domain == Domain::UNIX {
        use std::os::unix::ffi::OsStrExt as _;
        return SockAddr::unix(std::ffi::OsStr::from_bytes(text.as_bytes()));
    }
    let ip: IpAddr = text.to_text().parse().map_err(|_| invalid())?;
    let port = if args.given(1).is_some() { args.number(1) } else { 0.0 };
    if !(0.0..=65535.0).contains(&port) {
        return Err(invalid());
    }
    if ip.is_ipv4() != (domain == Domain::IPV4) {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    }
    Ok(SocketAddr::new(ip, port as u16).into())
}

fn flags(value: &Value) -> Result<i32, Error> {
    let one = |name: &Value| match name.to_str().as_bytes() {
        b"MSG_PEEK" => Ok(libc::MSG_PEEK),
        b"MSG_WAITALL" => Ok(libc::MSG_WAITALL),
        b"MSG_DONTWAIT" => Ok(libc::MSG_DONTWAIT),
        other => Err(Error::exception(format!(
            "recv(): unknown flag '{}', expected MSG_PEEK, MSG_WAITALL, MSG_DONTWAIT",
            String::from_utf8_lossy(other)
        ))),
    };
    match value {
        Value::None => Ok(0),
        Value::Array(list) => list.values().try_fold(0, |all, name| Ok(all | one(name)?)),
        name => one(name),
    }
}

async fn connect(fd: &AsyncFd<socket2::Socket>, to: &SockAddr) -> io::Result<()> {
    match fd.get_ref().connect(to) {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => return other,
    }
    fd.writable().await?.retain_ready();
    match fd.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

async fn send(fd: &AsyncFd<socket2::Socket>, data: &[u8], stream: bool) -> io::Result<usize> {
    let mut sent = 0;
    loop {
        sent +=
            fd.async_io(Interest::WRITABLE, |s| s.send_with_flags(&data[sent..], libc::MSG_NOSIGNAL)).await?;
        if !stream || sent >= data.len() {
            return Ok(sent);
        }
    }
}

async fn receive(
    fd: &AsyncFd<socket2::Socket>,
    length: usize,
    flags: i32,
    stream: bool,
) -> io::Result<Vec<u8>> {
    let mut out: Vec<u8> = Vec::new();
    let once = |socket: &socket2::Socket, room: usize| -> io::Result<Vec<u8>> {
        let mut buffer = vec![MaybeUninit::<u8>::zeroed(); room];
        let n = socket.recv_with_flags(&mut buffer, flags & !libc::MSG_WAITALL)?;
        Ok(buffer[..n].iter().map(initialised).collect())
    };
    if flags & libc::MSG_DONTWAIT != 0 {
        return once(fd.get_ref(), length);
    }
    let all = flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0 && stream;
    loop {
        // Memory grows with what arrives, not with what is asked for.
        let room = (length - out.len()).min(1 << 20);
        let part = fd.async_io(Interest::READABLE, |s| once(s, room)).await?;
        let end = part.is_empty();
        out.extend_from_slice(&part);
        if end || !all || out.len() >= length {
            return Ok(out);
        }
    }
}

#[allow(unsafe_code, reason = "the buffer of socket2 is not marked as initialised")]
fn initialised(byte: &MaybeUninit<u8>) -> u8 {
    // SAFETY: every byte of the buffer was set to zero before the call.
    unsafe { byte.assume_init() }
}
