//! Connections of `http`: TCP from a source address or a Unix socket, through a proxy, with TLS.

use super::tls::{TlsOptions, verify_names};
use crate::environment::Environment;
use hyper_util::rt::TokioIo;
use openssl::ssl::Ssl;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UnixStream};
use tokio_openssl::SslStream;
use url::{Host, Url};

/// Longest answer of a proxy to CONNECT, bytes.
const PROXY_ANSWER_MAX: usize = 16 << 10;

/// A byte stream of any kind.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// How to reach a server.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) sources: Vec<IpAddr>,
    pub(super) unix: Option<PathBuf>,
    pub(super) proxy: Option<Url>,
    pub(super) tls: TlsOptions,
    pub(super) verify_host: bool,
}

/// A connection, and whether HTTP/2 was agreed upon.
pub(super) struct Connected {
    pub(super) io: TokioIo<Box<dyn Io>>,
    pub(super) http2: bool,
}

impl Route {
    /// Everything that a connection depends on, for the pool.
    pub(super) fn fingerprint(&self, url: &Url) -> String {
        let certificate = self.tls.credential.as_ref().and_then(|c| c.certificate.as_ref()?.to_der().ok());
        format!(
            "{}://{}:{} {:?} {:?} {:?} {:?} {:?} {} {} {} {:?}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            port(url),
            self.sources,
            self.unix,
            self.proxy.as_ref().map(Url::as_str),
            self.tls.protocols,
            self.tls.ciphers,
            self.tls.verify_ca,
            self.tls.default_ca,
            self.verify_host,
            certificate.map(|der| openssl::sha::sha256(&der)),
        )
    }

    /// Whether requests go to a proxy in absolute form.
    pub(super) fn absolute_form(&self, url: &Url) -> bool {
        self.proxy.is_some() && self.unix.is_none() && url.scheme() == "http"
    }

    /// Connects.
    pub(super) async fn connect(&self, url: &Url, environment: &Environment) -> io::Result<Connected> {
        let host = url.host().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let stream: Box<dyn Io> = match (&self.unix, &self.proxy) {
            (Some(path), _) => Box::new(UnixStream::connect(path).await?),
            (None, Some(proxy)) => self.through(proxy, url).await?,
            (None, None) => self.dial(&host, port(url)).await?,
        };
        if url.scheme() != "https" {
            return Ok(Connected { io: TokioIo::new(stream), http2: false });
        }
        let mut context = self.tls.context(environment)?;
        context.set_alpn_protos(b"\x02h2\x08http/1.1")?;
        let mut ssl = Ssl::new(&context.build())?;
        let name = match &host {
            Host::Domain(name) => {
                ssl.set_hostname(name)?;
                name.clone()
            }
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        if self.verify_host {
            verify_names(&mut ssl, &[name], self.tls.verify_ca)?;
        }
        let mut stream = SslStream::new(ssl, stream)?;
        Pin::new(&mut stream).connect().await.map_err(io::Error::other)?;
        let http2 = stream.ssl().selected_alpn_protocol() == Some(b"h2");
        Ok(Connected { io: TokioIo::new(Box::new(stream)), http2 })
    }

    async fn dial(&self, host: &Host<String>, port: u16) -> io::Result<Box<dyn Io>> {
        let addresses: Vec<SocketAddr> = match host {
            Host::Ipv4(ip) => vec![(*ip, port).into()],
            Host::Ipv6(ip) => vec![(*ip, port).into()],
            Host::Domain(name) => tokio::net::lookup_host((name.as_str(), port)).await?.collect(),
        };
        let mut error = io::Error::new(io::ErrorKind::NotFound, "no address");
        for address in addresses {
            let source = self.sources.iter().find(|s| s.is_ipv4() == address.is_ipv4());
            if source.is_none() && !self.sources.is_empty() {
                error = io::Error::new(io::ErrorKind::AddrNotAvailable, "no source address of that family");
                continue;
            }
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(source) = source {
                socket.bind(SocketAddr::new(*source, 0))?;
            }
            match socket.connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Box::new(stream));
                }
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    /// A connection to the proxy, for `https` with a tunnel to the server (RFC 9110 section 9.3.6).
    async fn through(&self, proxy: &Url, url: &Url) -> io::Result<Box<dyn Io>> {
        if proxy.scheme() != "http" {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only http proxies are supported"));
        }
        let host = proxy.host().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let mut stream = self.dial(&host, port(proxy)).await?;
        if url.scheme() != "https" {
            return Ok(stream);
        }
        let target = format!("{}:{}", url.host_str().unwrap_or_default(), port(url));
        let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = super::http::url_credentials(proxy) {
            head.push_str(&format!("Proxy-Authorization: {credentials}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() > PROXY_ANSWER_MAX {
                return Err(io::Error::other("the proxy's answer is too long"));
            }
            answer.push(stream.read_u8().await?);
        }
        let status = answer.split(|c| *c == b' ').nth(1).unwrap_or_default();
        if status.first() != Some(&b'2') {
            return Err(io::Error::other("the proxy refused"));
        }
        Ok(stream)
    }
}

/// The port of a URL.
pub(super) fn port(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or(80)
}

/// The proxy that the environment names for a URL.
pub(super) fn environment_proxy(url: &Url) -> Option<Url> {
    let variable =
        |names: &[&str]| names.iter().find_map(|n| std::env::var(n).ok()).filter(|v| !v.is_empty());
    let host = url.host_str()?;
    let except = variable(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
    let excepted = except.split(',').map(str::trim).filter(|n| !n.is_empty()).any(|name| {
        let name = name.trim_start_matches('.');
        name == "*" || host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
    });
    if excepted {
        return None;
    }
    // The upper-case name of the first could be set by the header `Proxy` of a CGI request.
    let own = match url.scheme() {
        "https" => variable(&["https_proxy", "HTTPS_PROXY"]),
        _ => variable(&["http_proxy"]),
    };
    parse_proxy(&own.or_else(|| variable(&["all_proxy", "ALL_PROXY"]))?)
}

/// A proxy as configured; the scheme may be left out.
pub(super) fn parse_proxy(text: &str) -> Option<Url> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    Url::parse(&full).ok()
}
