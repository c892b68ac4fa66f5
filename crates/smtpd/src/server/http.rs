//! Submission over HTTP and HTTPS (`smtp-hooks` 7.1): a message and its envelope in one request, decided by the same eod
//! hook as over SMTP.

use crate::daemon::Daemon;
use crate::generation::{Generation, VirtualServer};
use crate::hooks::ContextValue;
use crate::server::facts::{Connection, Recipient, Transaction};
use crate::server::form::{self, Form, FormError};
use crate::server::message::{Answer, Submission, received_field};
use crate::server::stream::Stream;
use crate::{clock, debug, error, info, warning};
use hsl::{Array, Value};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use smtp::reply::Enhanced;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Fields of a request at most.
const FIELDS_MAX: usize = 100;

/// Header of a request at most, octets.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The field with the key; scripts do not see it.
const API_KEY: &str = "x-api-key";

/// A connection of a client, which may carry several requests one after the other.
struct Client {
    daemon: Arc<Daemon>,
    generation: Arc<Generation>,
    server: Arc<VirtualServer>,
    connection: Connection,
    context: Mutex<ContextValue>,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    daemon: Arc<Daemon>,
    generation: Arc<Generation>,
    server: Arc<VirtualServer>,
    stream: Stream,
    connection: Connection,
) {
    let mut shutdown = daemon.shutdown.clone();
    let id = connection.id;
    let idle = server.idle;
    let client = Arc::new(Client { daemon, generation, server, connection, context: Mutex::default() });
    let service = service_fn(move |request| {
        let client = client.clone();
        // A task of its own: a client that goes away does not end the hook in the middle.
        let answer = tokio::spawn(async move { client.answer(request).await });
        async move {
            Ok::<_, Infallible>(answer.await.unwrap_or_else(|failure| {
                error!(id, "HTTP request: {failure}");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "temporary server error").response()
            }))
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_headers(FIELDS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        _ = shutdown.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // The request that is going on is answered.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(failure) = ended {
        debug!(id, "HTTP connection: {failure}");
    }
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match self.submit(request).await {
            Ok((answer, transaction)) => result(&answer, &transaction),
            Err(refusal) => {
                info!(
                    self.connection.id,
                    "HTTP {} to {}: {}",
                    refusal.status.as_u16(),
                    self.connection.remote_ip,
                    refusal.text
                );
                refusal.response()
            }
        }
    }

    async fn submit(&self, request: Request<Incoming>) -> Result<(Answer, Transaction), Refusal> {
        let server = &self.server;
        if request.uri().path() != server.http_path {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "no such path"));
        }
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "expected POST"));
        }
        let key = request.headers().get(API_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
        if !is_known(key, &server.api_keys) {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "unknown X-API-Key"));
        }
        let length =
            request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > server.http_bytes_max) {
            return Err(Refusal::too_large(server));
        }
        if self.daemon.spool.low_space() {
            warning!(self.connection.id, "mail refused: free space of the spool is below its minimum");
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "insufficient system storage"));
        }
        let mut transaction = Transaction::new(self.daemon.ids.next());
        transaction.ts_s = clock::now_s();
        let http = http_array(&request);
        let form = self.read(request, &transaction).await?;
        transaction.sender = Some(form.envelope.sender);
        let recipients = form.envelope.recipients.into_iter();
        let recipients =
            recipients.map(|address| Recipient::new(address, Vec::new(), server.transport.clone()));
        transaction.recipients = recipients.collect();
        if let Some(refusal) = form.refusal {
            info!(transaction.id, "message refused: {refusal}");
            let answer = Answer { reply: refusal, disconnect: false, metadata: Value::None };
            return Ok((answer, transaction));
        }
        let mut arguments = vec![("http", http)];
        if !form.envelope.metadata.is_none() {
            arguments.push(("metadata", form.envelope.metadata));
        }
        let mut context = self.context.lock().await;
        let submission = Submission {
            daemon: &self.daemon,
            generation: &self.generation,
            server,
            connection: &self.connection,
            transaction: &transaction,
            context: &mut context,
            arguments,
            bytes: form.bytes,
        };
        let answer = submission.decide(form.staging).await;
        drop(context);
        Ok((answer, transaction))
    }

    /// Reads the parts of the body; the message goes to the store as it comes.
    async fn read(&self, request: Request<Incoming>, transaction: &Transaction) -> Result<Form, Refusal> {
        let protocol = match self.connection.tls {
            Some(_) => mail::received::Protocol::Https,
            None => mail::received::Protocol::Http,
        };
        let failed = |failure: &dyn std::fmt::Display| {
            error!(transaction.id, "cannot store a message: {failure}");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "temporary server error")
        };
        let received = received_field(&self.server, &self.connection, transaction, protocol);
        let received = received.map_err(|text| failed(&text))?;
        let mut staging = self.daemon.spool.stage(transaction.id);
        staging.write(received.as_bytes()).map_err(|error| failed(&error))?;
        form::read(request, &self.server, staging).await.map_err(|error| match error {
            FormError::Malformed(text) => Refusal::new(StatusCode::BAD_REQUEST, text),
            FormError::TooLarge => Refusal::too_large(&self.server),
            FormError::TooSlow => Refusal::new(StatusCode::REQUEST_TIMEOUT, "request too slow"),
            FormError::Spool(error) => failed(&error),
        })
    }
}

/// Compares with every key, each in a time that does not tell how much of it was right.
fn is_known(key: &[u8], known: &[String]) -> bool {
    let equal = |one: &String| one.len() == key.len() && openssl::memcmp::eq(one.as_bytes(), key);
    known.is_empty() || known.iter().filter(|one| equal(one)).count() > 0
}

/// `$arguments["http"]`.
fn http_array(request: &Request<Incoming>) -> Value {
    let headers = request.headers().iter().filter(|(name, _)| name.as_str() != API_KEY);
    let pair = |(name, value): (&hyper::header::HeaderName, &HeaderValue)| {
        Value::from(
            [Value::from(name.as_str()), Value::from(value.as_bytes())].into_iter().collect::<Array>(),
        )
    };
    let mut array = Array::new();
    array.insert_str("headers", headers.map(pair).collect::<Array>());
    array.insert_str("path", request.uri().path());
    array.into()
}

/// The answer wherever the hook, or a limit, gave a result.
fn result(answer: &Answer, transaction: &Transaction) -> Response<Full<Bytes>> {
    let number = |number: u16| Value::from(f64::from(number));
    let mut result = Array::new();
    result.insert_str("code", number(answer.reply.code));
    let enhanced = match answer.reply.enhanced {
        Some(Enhanced(a, b, c)) => [a, b, c].into_iter().map(number).collect::<Array>(),
        None => Array::new(),
    };
    result.insert_str("enhanced", enhanced);
    let reason = answer.reply.text_lines().into_iter().map(Value::from);
    result.insert_str("reason", reason.collect::<Array>());
    let mut of_transaction = Array::new();
    of_transaction.insert_str("id", transaction.id.to_string());
    let mut body = Array::new();
    body.insert_str("result", result);
    body.insert_str("transaction", of_transaction);
    if !answer.metadata.is_none() {
        body.insert_str("metadata", answer.metadata.clone());
    }
    match hsl_std::to_json(&body.into()) {
        Some(text) => {
            let mut response = json(StatusCode::OK, text);
            if answer.disconnect {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        // The message is decided; only the script's metadata can be of a kind that JSON has no form for.
        None => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "metadata has no JSON form").response(),
    }
}

fn json(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A request that comes to no decision.
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal { status, text: text.into() }
    }

    fn too_large(server: &VirtualServer) -> Refusal {
        let text = format!("request larger than {} bytes", server.http_bytes_max);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    fn response(&self) -> Response<Full<Bytes>> {
        let mut error = Array::new();
        error.insert_str("error", self.text.as_str());
        // A text always has a JSON form.
        let mut response = json(self.status, hsl_std::to_json(&error.into()).unwrap_or_default());
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}
