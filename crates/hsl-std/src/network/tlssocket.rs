//! The class `TLSSocket` (library section C9): TLS over a connected `Socket`.

use super::socket::{self, within};
use super::tls::{TlsOptions, verify_names};
use crate::crypto::openssl_extra::ssl_shutdown_state;
use crate::crypto::x509;
use crate::environment;
use crate::tls_options;
use hsl::{
    Args, Array, Error, FunctionDef, NativeClass, NativeCx, NativeObject, Object, OptionDef, Outcome, Value,
    option,
};
use openssl::ssl::{ErrorCode, ShutdownState, Ssl};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::Mutex;
use tokio_openssl::SslStream;

/// Longest single `recv`, bytes.
const RECV_MAX: usize = 64 << 20;
/// Most bytes of one TLS record.
const RECORD: usize = 16_384;

const OPTIONS: &[OptionDef] = &[
    tls_options::PROTOCOLS,
    tls_options::CIPHERS,
    tls_options::VERIFY_NAME,
    option("tls_verify_ca", "boolean", "false", "Checks the chain of the certificate."),
    tls_options::DEFAULT_CA,
    option("tls_sni", "string", "", "Name that the server is told."),
    tls_options::CLIENT_CERT,
];

/// A watched socket as a byte stream.
struct Bytes(AsyncFd<socket2::Socket>);

impl AsyncRead for Bytes {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = out.initialize_unfilled();
            match guard.try_io(|fd| io::Read::read(&mut fd.get_ref(), room)) {
                Ok(Ok(n)) => {
                    out.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| fd.get_ref().send_with_flags(data, libc::MSG_NOSIGNAL)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

enum State {
    /// Not yet on the event loop.
    New(Box<Ssl>),
    /// The handshake may be still to come.
    Open(Box<SslStream<Bytes>>, bool),
    Failed,
}

struct TlsObject {
    socket: Value,
    state: Mutex<State>,
    errno: AtomicI32,
}

impl NativeObject for TlsObject {}

/// Numbers of `SSL_get_error`.
const SSL: i32 = 1;
const SYSCALL: i32 = 5;
const ZERO_RETURN: i32 = 6;

fn this(object: &Arc<Object>) -> Result<&TlsObject, Error> {
    object.data().ok_or_else(|| Error::exception("Not a TLSSocket"))
}

fn code(error: &io::Error) -> i32 {
    let ssl = error.get_ref().and_then(|e| e.downcast_ref::<openssl::ssl::Error>());
    match ssl.map(openssl::ssl::Error::code) {
        Some(ErrorCode::SSL) => SSL,
        Some(ErrorCode::ZERO_RETURN) => ZERO_RETURN,
        _ => SYSCALL,
    }
}

impl TlsObject {
    /// Runs an operation on the stream after its handshake.
    async fn run<T>(
        &self,
        operation: impl AsyncFnOnce(&mut SslStream<Bytes>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock().await;
        let (socket, timeout) = match socket::of(&self.socket).and_then(|(_, s)| s.parts()) {
            Some(parts) => parts,
            None => return Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        if let State::New(_) = &*state {
            let State::New(ssl) = std::mem::replace(&mut *state, State::Failed) else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            *state = State::Open(Box::new(SslStream::new(*ssl, Bytes(socket::watched(&socket)?))?), false);
        }
        let State::Open(stream, done) = &mut *state else { return Err(io::ErrorKind::NotConnected.into()) };
        let result = within(timeout, async {
            if !*done {
                Pin::new(&mut **stream)
                    .connect()
                    .await
                    .map_err(|e| e.into_io_error().unwrap_or_else(io::Error::other))?;
                *done = true;
            }
            operation(stream).await
        })
        .await;
        if matches!(&*state, State::Open(_, false)) {
            // A handshake that broke off cannot be taken up again.
            *state = State::Failed;
        }
        result
    }

    fn note<T>(&self, result: io::Result<T>) -> Option<T> {
        self.errno.store(result.as_ref().err().map_or(0, code), Ordering::Relaxed);
        result.ok()
    }
}

/// Suspends for an operation; its value, or none.
fn waiting<F>(
    object: &Arc<Object>,
    operation: impl FnOnce(Arc<Object>) -> F + Send + 'static,
) -> Result<Outcome, Error>
where
    F: Future<Output = Result<Value, Error>> + Send + 'static,
{
    this(object)?;
    Ok(Outcome::Pending(Box::pin(operation(Arc::clone(object)))))
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("TLSSocket")
        .doc("TLS over a connected Socket. Nothing is verified unless the options say so.")
        .constructor(
            FunctionDef::pure(
                "TLSSocket(socket: Socket, options?: array) -> TLSSocket",
                "TLS over a socket.",
                create,
            )
            .with_options(OPTIONS),
        )
        .method("handshake() -> this or none", "Shakes hands.", |_, o, _| {
            waiting(o, async move |o| {
                let tls = this(&o)?;
                let result = tls.run(async |_| Ok(())).await;
                Ok(tls.note(result).map(|()| Value::Object(Arc::clone(&o))).unwrap_or_default())
            })
        })
        .method(
            "recv(length: number) -> string or none",
            "Receives up to so many bytes; empty when the other side has closed.",
            |_, o, a| {
                let length = usize::try_from(a.integer(0)?).unwrap_or(0).min(RECV_MAX);
                waiting(o, async move |o| {
                    let tls = this(&o)?;
                    let result = tls.run(async |stream| {
                        let mut out = vec![0; length.min(RECORD)];
                        let n = stream.read(&mut out).await?;
                        out.truncate(n);
                        Ok(out)
                    });
                    let data = tls.note(result.await);
                    if length > 0 && data.as_ref().is_some_and(Vec::is_empty) {
                        tls.errno.store(ZERO_RETURN, Ordering::Relaxed);
                    }
                    Ok(data.into())
                })
            },
        )
        .method("send(data: string) -> number or none", "Sends all of it; the number of bytes.", |_, o, a| {
            let data = a.string(0);
            waiting(o, async move |o| {
                let tls = this(&o)?;
                let result = tls.run(async |stream| {
                    stream.write_all(data.as_bytes()).await?;
                    stream.flush().await?;
                    Ok(data.len())
                });
                Ok(tls.note(result.await).into())
            })
        })
        .method(
            "shutdown() -> number or none",
            "Ends TLS: 0 when the end was sent, 1 when both sides are done.",
            |_, o, _| {
                waiting(o, async move |o| {
                    let tls = this(&o)?;
                    let result = tls.run(async |stream| shutdown(stream).await);
                    Ok(tls.note(result.await).into())
                })
            },
        )
        .method(
            "errno() -> number",
            "Last error as SSL_get_error numbers them: 0 none, 1 TLS, 5 system, 6 closed.",
            |_, o, _| Ok(Value::from(this(o)?.errno.load(Ordering::Relaxed)).into()),
        )
        .method("getpeerx509() -> X509 or none", "The certificate of the other side.", |_, o, _| {
            waiting(o, async move |o| {
                let state = this(&o)?.state.lock().await;
                let certificate = match &*state {
                    State::Open(stream, _) => stream.ssl().peer_certificate(),
                    _ => None,
                };
                Ok(certificate.map(x509::object).unwrap_or_default())
            })
        })
        .method("toSocket() -> Socket", "The socket below.", |_, o, _| Ok(this(o)?.socket.clone().into()));
    Arc::new(class)
});

/// Sends the end, or takes the other side's where ours is sent already.
async fn shutdown(stream: &mut SslStream<Bytes>) -> io::Result<u32> {
    let sent = ssl_shutdown_state(stream.ssl()).contains(ShutdownState::SENT);
    if !sent {
        // The stream's own shutdown sends and does not wait for the answer.
        stream.shutdown().await?;
        let both = ssl_shutdown_state(stream.ssl()).contains(ShutdownState::RECEIVED);
        return Ok(u32::from(both));
    }
    let mut rest = [0; RECORD];
    while stream.read(&mut rest).await? > 0 {}
    Ok(1)
}

/// The class.
pub(super) fn class() -> Arc<NativeClass> {
    Arc::clone(&CLASS)
}

fn names(options: &Array) -> Vec<String> {
    match options.get_str("tls_verify_name") {
        Some(Value::Array(list)) => list.values().map(Value::to_string_lossy).collect(),
        Some(Value::None) | None => Vec::new(),
        Some(one) => vec![one.to_string_lossy()],
    }
}

fn create(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let Some((_, below)) = socket::of(args.get(0)) else {
        return Err(Error::exception("TLSSocket expects a Socket"));
    };
    below.set_layered();
    let o = args.array(1);
    let environment = environment::of(cx);
    let tls = TlsOptions::read(&o, "tls_verify_ca", false, &environment)?;
    let failed = |e: openssl::error::ErrorStack| Error::exception(format!("TLSSocket: {e}"));
    let context = tls.context(&environment).map_err(failed)?.build();
    let mut ssl = Ssl::new(&context).map_err(failed)?;
    verify_names(&mut ssl, &names(&o), tls.verify_ca).map_err(failed)?;
    if let Some(name) = o.get_str("tls_sni").filter(|v| v.truthy()) {
        ssl.set_hostname(&name.to_string_lossy()).map_err(failed)?;
    }
    let socket = args.get(0).clone();
    let state = Mutex::new(State::New(Box::new(ssl)));
    Ok(Object::native(&CLASS, TlsObject { socket, state, errno: AtomicI32::new(0) }))
}
