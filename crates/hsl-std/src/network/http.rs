//! `http` (library section 7).

use super::background;
use super::connect::{Route, environment_proxy, parse_proxy};
use super::pool::{self, Body, Sender};
use super::tls::TlsOptions;
use crate::environment::{self, Environment};
use crate::file;
use crate::support::{STRING_MAX, flag, options};
use crate::tls_options;
use bytes::Bytes;
use hsl::{
    Args, Array, CallArgs, Continuation, Error, FunctionDef, NativeCx, Next, OptionDef, Outcome, Str, Value,
    option,
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, Uri, Version};
use parking_lot::Mutex;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use url::Url;

/// Redirections followed at most, also when the script sets no limit.
const REDIRECTS_MAX: u32 = 50;
/// Bytes that a producer of a body is asked for.
const CHUNK: u32 = 64 << 10;
/// Longest patience that still means something, seconds.
const TIMEOUT_MAX_S: f64 = 1e7;
/// Names of older scripts begin with this.
const OLD_PREFIX: &str = "ssl_";

const OPTIONS: &[OptionDef] = &[
    option(
        "extended_result",
        "boolean",
        "false",
        "Gives an array with `status` and `content`, for any status.",
    ),
    option(
        "response_headers",
        "boolean",
        "false",
        "With `extended_result` adds `headers`, a list of name and value; alone the text begins with the header.",
    ),
    option("connect_timeout", "number", "10", "Seconds to connect."),
    option("timeout", "number", "none", "Seconds for request and answer once connected."),
    option("max_file_size", "number", "none", "Longest answer, bytes."),
    option("method", "string", "GET, or POST with a body", "Method of the request."),
    option("headers", "array", "", "List of `Name: value`; `Name:` takes a default away."),
    option("redirects", "number", "0", "Redirections to follow; -1 for up to 50."),
    option("sourceip", "string", "system", "Source address."),
    option("sourceipid", "string", "", "Id of a configured source address."),
    option("unix_socket_path", "string", "", "Connects to this Unix socket."),
    option("proxy", "string", "environment", "URL of a proxy; empty for none."),
    option("tls_verify_peer", "boolean", "true", "Checks the chain of the certificate."),
    option("tls_verify_host", "boolean", "false", "Checks the name in the certificate."),
    tls_options::DEFAULT_CA,
    tls_options::CLIENT_CERT,
    tls_options::PROTOCOLS,
    tls_options::CIPHERS,
    option("ssl_verify_peer", "boolean", "true", "Older name of `tls_verify_peer`."),
    option("ssl_verify_host", "boolean", "false", "Older name of `tls_verify_host`."),
    option("ssl_default_ca", "boolean", "false", "Older name of `tls_default_ca`."),
    option("ssl_client_cert", "string or array", "", "Older name of `tls_client_cert`."),
    option("username", "string", "", "Name for basic authentication."),
    option("password", "string", "", "Password for basic authentication."),
    option("encoder", "string", "", "`base64` encodes the body."),
    option("background", "boolean", "false", "Sends it later: true when it is queued."),
    option("background_hash", "number", "0", "Queue, modulo the number of queues; each keeps its order."),
    option("background_retry_count", "number", "0", "Retries after the first failure."),
    option("background_retry_delay", "number", "0", "Seconds before each retry."),
];

/// The function.
pub(super) fn function() -> FunctionDef {
    FunctionDef::full(
        "http(url: string, options?: array, get?: array, post?: array or string or function) -> string or array or none",
        "Sends an HTTP request; the body of an answer with status 2xx, none for everything else. `$1`, `$2` in the URL \
         are replaced by the items of `get`. `post` is a body, an array of fields, or a function that gives pieces of a \
         body until an empty one.",
        http,
    )
    .with_options(OPTIONS)
}

/// A request as the script describes it.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) url: Url,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) route: Route,
    /// The proxy comes from the environment, which is asked for each URL.
    proxy_from_environment: bool,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Option<Duration>,
    max_bytes: usize,
    redirects: u32,
    extended: bool,
    with_headers: bool,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    version: Version,
    reason: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn http(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Outcome, Error> {
    let o = modern(options(&args, 1));
    let environment = environment::of(cx);
    let producer = args.given(3).filter(|v| matches!(v, Value::Function(_))).cloned();
    let Some(call) = Call::read(&args, &o, &environment)? else { return Ok(Value::None.into()) };
    if flag(&o, "background", false) {
        if producer.is_some() {
            return Ok(Value::None.into());
        }
        let job = background::Job::read(call, &o);
        return Ok(Outcome::Pending(Box::pin(async move {
            Ok(if background::enqueue(job, environment).await { true.into() } else { Value::None })
        })));
    }
    let Some(producer) = producer else {
        return Ok(Outcome::Pending(Box::pin(async move {
            let body = Body::Whole(call.body.clone());
            Ok(call.run(body, &environment).await.map_or_else(|_| Value::None, |answer| call.value(answer)))
        })));
    };
    let (sender, pieces) = mpsc::channel(1);
    let task = Arc::new(Mutex::new(None));
    let started = Arc::clone(&task);
    let start = Box::pin(async move {
        *started.lock() = Some(tokio::spawn(async move {
            let body = Body::Stream(pieces, false);
            call.run(body, &environment).await.map_or_else(|_| Value::None, |answer| call.value(answer))
        }));
        Ok(Value::None)
    });
    let state = Streaming { producer, sender: Some(sender), task, stage: Stage::Sent };
    Ok(Outcome::Wait(start, Box::new(state)))
}

/// The options with the older prefix replaced.
fn modern(mut options: Array) -> Array {
    let old: Vec<(String, Value)> = options
        .iter()
        .map(|(key, value)| (key.to_value().to_string_lossy(), value.clone()))
        .filter(|(key, _)| key.starts_with(OLD_PREFIX))
        .collect();
    for (key, value) in old {
        let new = format!("tls_{}", &key[OLD_PREFIX.len()..]);
        if options.get_str(&new).is_none() {
            options.insert_str(&new, value);
        }
    }
    options
}

/// A body that a script produces piece by piece, while the request runs in a task.
struct Streaming {
    producer: Value,
    sender: Option<mpsc::Sender<Option<Bytes>>>,
    task: Arc<Mutex<Option<JoinHandle<Value>>>>,
    stage: Stage,
}

enum Stage {
    /// A piece was taken, or the request has begun.
    Sent,
    /// The producer was called.
    Asked,
    /// The body is complete, or nobody wants more of it.
    Answer,
}

impl Streaming {
    fn answer(&mut self) -> Next {
        self.stage = Stage::Answer;
        let task = self.task.lock().take();
        Next::Pending(Box::pin(async move {
            match task {
                Some(task) => task.await.map_err(|e| Error::fatal(format!("http(): {e}"))),
                None => Ok(Value::None),
            }
        }))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // The script failed: the request has no reader any more.
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Continuation for Streaming {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        match self.stage {
            Stage::Sent if matches!(result, Value::Bool(false)) => Ok(self.answer()),
            Stage::Sent => {
                self.stage = Stage::Asked;
                Ok(Next::Call(self.producer.clone(), CallArgs::from([Value::from(CHUNK)])))
            }
            Stage::Asked => {
                let piece = if result.is_none() { Str::new() } else { result.to_str() };
                let end = piece.is_empty();
                let message = (!end).then(|| Bytes::copy_from_slice(piece.as_bytes()));
                let Some(sender) = self.sender.clone() else { return Ok(self.answer()) };
                if !end {
                    self.stage = Stage::Sent;
                    return Ok(Next::Pending(Box::pin(async move {
                        Ok(Value::Bool(sender.send(message).await.is_ok()))
                    })));
                }
                self.sender = None;
                self.stage = Stage::Answer;
                let task = self.task.lock().take();
                Ok(Next::Pending(Box::pin(async move {
                    // The request may have ended early; its answer counts.
                    let _ = sender.send(None).await;
                    match task {
                        Some(task) => task.await.map_err(|e| Error::fatal(format!("http(): {e}"))),
                        None => Ok(Value::None),
                    }
                })))
            }
            Stage::Answer => Ok(Next::Value(result)),
        }
    }
}

fn seconds(options: &Array, key: &str) -> Option<Duration> {
    let n = options.get_str(key).filter(|v| !v.is_none()).map(Value::to_number)?;
    (n > 0.0).then(|| Duration::from_secs_f64(n.min(TIMEOUT_MAX_S)))
}

/// `Basic` credentials.
fn basic(name: &str, password: &str) -> String {
    let text = crate::encoding::base64_encode(format!("{name}:{password}").as_bytes());
    format!("Basic {}", String::from_utf8_lossy(&text))
}

/// The credentials in a URL.
pub(super) fn url_credentials(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let plain =
        |text: &str| String::from_utf8_lossy(&crate::encoding::url_decode(text.as_bytes())).into_owned();
    Some(basic(&plain(url.username()), &plain(url.password().unwrap_or_default())))
}

/// Puts the items of `get` into the places `$1`, `$2` of a URL.
fn fill(url: &str, items: &Array) -> String {
    let items: Vec<Str> = items.values().map(Value::to_str).collect();
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count().min(9);
        let fit = (1..=digits).rev().find_map(|n| {
            let index: usize = rest[..n].parse().ok()?;
            Some((n, items.get(index.checked_sub(1)?)?))
        });
        match fit {
            Some((n, item)) => {
                let text = crate::encoding::url_encode(item.as_bytes());
                out.push_str(&String::from_utf8_lossy(&text));
                rest = &rest[n..];
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

impl Call {
    /// Reads the arguments. `Ok(None)` for data that no request can be made of.
    fn read(args: &Args<'_>, o: &Array, environment: &Environment) -> Result<Option<Call>, Error> {
        let text = |key: &str| o.get_str(key).filter(|v| !v.is_none()).map(Value::to_string_lossy);
        let given = args.string(0).to_text().into_owned();
        let given = if given.contains("://") { given } else { format!("http://{given}") };
        let Ok(mut url) = Url::parse(&fill(&given, &args.array(2))) else { return Ok(None) };
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Ok(None);
        }
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static(concat!("hsl/", env!("CARGO_PKG_VERSION"))));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        let mut body = match args.get(3) {
            Value::Str(raw) => {
                Some((raw.as_bytes().to_vec(), "application/x-www-form-urlencoded".to_owned()))
            }
            Value::Array(fields) => Some(form(fields)?),
            Value::Function(_) => Some((Vec::new(), "application/x-www-form-urlencoded".to_owned())),
            _ => None,
        };
        match (&mut body, text("encoder").as_deref()) {
            (Some((bytes, _)), Some("base64")) => *bytes = crate::encoding::base64_encode(bytes),
            (_, None | Some("base64" | "")) => {}
            (_, Some(other)) => {
                return Err(Error::exception(format!(
                    "http() option 'encoder' expects base64, '{other}' given"
                )));
            }
        }
        if let Some((_, kind)) = &body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static("")));
        }
        let credentials = match (text("username"), text("password")) {
            (None, None) => url_credentials(&url),
            (name, password) => Some(basic(&name.unwrap_or_default(), &password.unwrap_or_default())),
        };
        // They do not belong on the wire.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        if let Some(value) = credentials.and_then(|c| HeaderValue::from_str(&c).ok()) {
            headers.insert(AUTHORIZATION, value);
        }
        for line in o.get_str("headers").and_then(Value::as_array).iter().flat_map(|l| l.values()) {
            let line = line.to_str();
            let Some(at) = memchr::memchr(b':', line.as_bytes()) else { return Ok(None) };
            let (name, value) = (&line.as_bytes()[..at], line.as_bytes()[at + 1..].trim_ascii());
            let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.trim_ascii()), HeaderValue::from_bytes(value))
            else {
                return Ok(None);
            };
            if value.is_empty() {
                headers.remove(&name);
            } else if matches!(
                name.as_str(),
                "user-agent" | "accept" | "content-type" | "authorization" | "host"
            ) {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        let method = text("method").unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.to_owned());
        let Ok(method) = Method::from_bytes(method.as_bytes()) else { return Ok(None) };
        let Some(sources) = sources(&text, environment) else { return Ok(None) };
        let proxy = text("proxy");
        let proxy_from_environment = proxy.is_none();
        let proxy = match proxy {
            Some(text) if !text.is_empty() => match parse_proxy(&text) {
                Some(url) => Some(url),
                None => return Ok(None),
            },
            _ => None,
        };
        let redirects = o.get_str("redirects").map_or(0.0, Value::to_number);
        let max = o.get_str("max_file_size").map(Value::to_number).filter(|n| *n > 0.0);
        Ok(Some(Call {
            url,
            method,
            headers,
            body: body.map(|(bytes, _)| Bytes::from(bytes)),
            route: Route {
                sources,
                unix: text("unix_socket_path").filter(|p| !p.is_empty()).map(PathBuf::from),
                proxy,
                tls: TlsOptions::read(o, "tls_verify_peer", true, environment)?,
                verify_host: flag(o, "tls_verify_host", false),
            },
            proxy_from_environment,
            connect_timeout: seconds(o, "connect_timeout").unwrap_or(Duration::from_secs(10)),
            timeout: seconds(o, "timeout"),
            max_bytes: max.map_or(STRING_MAX, |n| (n as usize).min(STRING_MAX)),
            redirects: if redirects < 0.0 { REDIRECTS_MAX } else { (redirects as u32).min(REDIRECTS_MAX) },
            extended: flag(o, "extended_result", false),
            with_headers: flag(o, "response_headers", false),
        }))
    }

    /// Redirections to follow.
    pub(super) fn redirect_limit(&self) -> u32 {
        self.redirects
    }

    /// Sends the request and follows redirections. `None` without a valid answer.
    pub(super) async fn run(&self, mut body: Body, environment: &Environment) -> io::Result<Answer> {
        let mut call = self.clone();
        let mut left = self.redirects;
        loop {
            let answer = call.once(body, environment).await?;
            let target = match answer.status {
                301 | 302 | 303 | 307 | 308 if left > 0 => answer.headers.get(LOCATION),
                _ => None,
            };
            let Some(target) = target else { return Ok(answer) };
            left -= 1;
            let target = target.to_str().map_err(io::Error::other)?;
            let url = call.url.join(target).map_err(io::Error::other)?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(io::Error::other(format!("redirected to scheme {}", url.scheme())));
            }
            if (url.scheme(), url.host_str(), url.port_or_known_default())
                != (call.url.scheme(), call.url.host_str(), call.url.port_or_known_default())
            {
                call.headers.remove(AUTHORIZATION);
                call.headers.remove(HOST);
            }
            call.url = url;
            let repeats = matches!(answer.status, 307 | 308);
            if !repeats && !matches!(call.method, Method::GET | Method::HEAD) {
                call.method = Method::GET;
                call.body = None;
                call.headers.remove(CONTENT_TYPE);
            }
            if repeats && self.body.is_some() && call.body.as_ref().is_some_and(Bytes::is_empty) {
                return Err(io::Error::other("redirected, and the body that a script produced is gone"));
            }
            body = Body::Whole(call.body.clone());
        }
    }

    fn request(&self, body: Body, route: &Route, http2: bool) -> Result<Request<Body>, hyper::http::Error> {
        let path = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let target: Uri = if http2 || route.absolute_form(&self.url) {
            format!("{}://{host}{path}", self.url.scheme()).parse()?
        } else {
            path.parse()?
        };
        let mut request = Request::builder().method(self.method.clone()).uri(target).body(body)?;
        *request.headers_mut() = self.headers.clone();
        if http2 {
            request.headers_mut().remove(HOST);
        } else if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
        }
        if route.absolute_form(&self.url)
            && let Some(value) = route.proxy.as_ref().and_then(url_credentials)
        {
            request.headers_mut().insert("proxy-authorization", HeaderValue::from_str(&value)?);
        }
        Ok(request)
    }

    /// One request and its answer. A waiting connection that the server has closed meanwhile is replaced by a new one.
    async fn once(&self, body: Body, environment: &Environment) -> io::Result<Answer> {
        let mut route = self.route.clone();
        if self.proxy_from_environment {
            route.proxy = environment_proxy(&self.url);
        }
        let place = route.fingerprint(&self.url);
        let again = match &body {
            Body::Whole(bytes) => Some(bytes.clone()),
            Body::Stream(..) => None,
        };
        if again.is_some()
            && let Some(mut sender) = pool::take(&place).await
        {
            let request = self.request(body, &route, sender.is_http2()).map_err(io::Error::other)?;
            return match self.exchange(&mut sender, request).await {
                Err(error) if stale(&error) => {
                    let body = Body::Whole(again.flatten());
                    self.fresh(body, &route, &place, environment).await
                }
                result => {
                    if result.is_ok() {
                        pool::give_back(&place, sender);
                    }
                    result
                }
            };
        }
        self.fresh(body, &route, &place, environment).await
    }

    async fn fresh(
        &self,
        body: Body,
        route: &Route,
        place: &str,
        environment: &Environment,
    ) -> io::Result<Answer> {
        let connecting = async {
            let connected = route.connect(&self.url, environment).await?;
            Sender::start(connected).await.map_err(io::Error::other)
        };
        let mut sender = tokio::time::timeout(self.connect_timeout, connecting).await??;
        let request = self.request(body, route, sender.is_http2()).map_err(io::Error::other)?;
        let answer = self.exchange(&mut sender, request).await?;
        pool::give_back(place, sender);
        Ok(answer)
    }

    async fn exchange(&self, sender: &mut Sender, request: Request<Body>) -> io::Result<Answer> {
        super::socket::within(self.timeout, async {
            let response = sender.send(request).await.map_err(io::Error::other)?;
            self.collect(response).await
        })
        .await
    }

    async fn collect(&self, response: Response<Incoming>) -> io::Result<Answer> {
        let status = response.status();
        let (version, headers) = (response.version(), response.headers().clone());
        let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
        let reason = reason.map(|r| String::from_utf8_lossy(r.as_bytes()).into_owned());
        let reason = reason.or_else(|| status.canonical_reason().map(str::to_owned)).unwrap_or_default();
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                if body.len() + data.len() > self.max_bytes {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                body.extend_from_slice(&data);
            }
        }
        Ok(Answer { status: status.as_u16(), version, reason, headers, body })
    }

    /// What the script gets.
    fn value(&self, answer: Answer) -> Value {
        if self.extended {
            let mut out = Array::new();
            out.insert_str("status", answer.status);
            out.insert_str("content", answer.body);
            if self.with_headers {
                let headers = answer.headers.iter().map(|(name, value)| {
                    let mut item = Array::new();
                    item.insert_str("name", name.as_str());
                    item.insert_str("value", value.as_bytes());
                    Value::from(item)
                });
                out.insert_str("headers", headers.collect::<Array>());
            }
            return out.into();
        }
        if self.with_headers {
            let mut out =
                format!("{:?} {} {}\r\n", answer.version, answer.status, answer.reason).into_bytes();
            for (name, value) in &answer.headers {
                out.extend_from_slice(name.as_str().as_bytes());
                out.extend_from_slice(b": ");
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&answer.body);
            return out.into();
        }
        if (200..300).contains(&answer.status) { answer.body.into() } else { Value::None }
    }
}

/// Whether a request on a waiting connection failed because the server had closed it.
fn stale(error: &io::Error) -> bool {
    let hyper = error.get_ref().and_then(|e| e.downcast_ref::<hyper::Error>());
    hyper.is_some_and(|e| e.is_canceled() || e.is_closed() || e.is_incomplete_message())
}

/// The source addresses; `None` for an unknown id or a malformed address.
fn sources(text: &dyn Fn(&str) -> Option<String>, environment: &Environment) -> Option<Vec<IpAddr>> {
    if let Some(address) = text("sourceip") {
        return Some(vec![address.parse().ok()?]);
    }
    match text("sourceipid") {
        Some(id) => environment.addresses.get(&id).cloned(),
        None => Some(Vec::new()),
    }
}

/// Form fields as a body with its type: urlencoded, or multipart when a field is a file or an array.
fn form(fields: &Array) -> Result<(Vec<u8>, String), Error> {
    let multipart = fields.values().any(|v| matches!(v, Value::Array(_) | Value::Object(_)));
    let mut out = Vec::new();
    if !multipart {
        for (key, value) in fields.iter() {
            if !out.is_empty() {
                out.push(b'&');
            }
            out.extend_from_slice(&crate::encoding::url_encode(key.to_value().to_str().as_bytes()));
            out.push(b'=');
            out.extend_from_slice(&crate::encoding::url_encode(value.to_str().as_bytes()));
        }
        return Ok((out, "application/x-www-form-urlencoded".to_owned()));
    }
    let boundary = uuid::Uuid::new_v4().simple().to_string();
    // A quote or line end in a name would break the header (as the HTML standard escapes them).
    let quoted = |text: &str| text.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
    for (key, value) in fields.iter() {
        let name = quoted(&key.to_value().to_string_lossy());
        let (data, kind, filename) = match value {
            Value::Array(part) => {
                let text = |key: &str| part.get_str(key).filter(|v| !v.is_none()).map(Value::to_string_lossy);
                let data = part.get_str("data").cloned().unwrap_or_default();
                (contents(&data)?, text("type"), text("filename").or_else(|| path(&data)))
            }
            value => (contents(value)?, None, path(value)),
        };
        let mut head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"");
        if let Some(filename) = filename {
            head.push_str(&format!("; filename=\"{}\"", quoted(&filename)));
        }
        if let Some(kind) = kind {
            head.push_str(&format!("\r\nContent-Type: {}", kind.replace(['\r', '\n'], " ")));
        }
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok((out, format!("multipart/form-data; boundary={boundary}")))
}

fn contents(value: &Value) -> Result<Vec<u8>, Error> {
    match value {
        Value::Object(_) => file::of(value)
            .and_then(|file| file.contents())
            .ok_or_else(|| Error::exception("http(): a form field cannot be read as a File")),
        value => Ok(value.to_str().into_vec()),
    }
}

fn path(value: &Value) -> Option<String> {
    file::of(value)?.with(|source| match source {
        file::Source::Disk(_, path) => path.file_name().map(|n| n.to_string_lossy().into_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_the_url() {
        let items = Array::from_list(vec!["a b".into(), "&".into()]);
        assert_eq!(fill("http://x/$1?q=$2&r=$3$", &items), "http://x/a%20b?q=%26&r=$3$");
        assert_eq!(fill("http://x/$10", &items), "http://x/a%20b0");
    }
}
