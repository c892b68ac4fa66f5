//! TLS of outgoing connections, on OpenSSL.

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use std::pin::Pin;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// What a handshake gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// For example `TLSv1.3`.
    pub protocol: String,
    /// OpenSSL's name of the cipher.
    pub cipher: String,
    /// Symmetric bits.
    pub keysize_bits: i32,
}

/// Why TLS did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The library cannot be set up: ours.
    #[error("TLS set-up: {0}")]
    Setup(#[from] openssl::error::ErrorStack),
    /// The peer's certificate is not what was asked for.
    #[error("certificate of {name}: {reason}")]
    Certificate {
        /// The name that was checked.
        name: String,
        /// OpenSSL's words.
        reason: String,
    },
    /// The handshake broke off.
    #[error("TLS handshake: {0}")]
    Handshake(String),
    /// The peer did not answer in time.
    #[error("TLS handshake timed out")]
    Timeout,
}

/// Makes handshakes; holds the library's contexts and is cheap to clone.
#[derive(Clone)]
pub struct TlsClient {
    unverified: SslConnector,
    verified: SslConnector,
}

impl TlsClient {
    /// Contexts with TLS 1.2 as the oldest version; the verified one trusts the system's roots.
    pub fn new() -> Result<TlsClient, TlsError> {
        let mut unverified = SslConnector::builder(SslMethod::tls_client())?;
        unverified.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        unverified.set_verify(SslVerifyMode::NONE);
        let mut verified = SslConnector::builder(SslMethod::tls_client())?;
        verified.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        Ok(TlsClient { unverified: unverified.build(), verified: verified.build() })
    }

    /// Shakes hands. With `verify` the chain must lead to a system root and the certificate must carry `name`.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        name: &str,
        verify: bool,
        patience: Duration,
    ) -> Result<(SslStream<TcpStream>, TlsFacts), TlsError> {
        let connector = if verify { &self.verified } else { &self.unverified };
        let mut configuration = connector.configure()?;
        // The peer is told no name unless it is checked, as the manual's default of `sni` wants it.
        configuration.set_use_server_name_indication(verify);
        configuration.set_verify_hostname(verify);
        let ssl = configuration.into_ssl(name)?;
        let mut stream = SslStream::new(ssl, stream)?;
        match tokio::time::timeout(patience, Pin::new(&mut stream).connect()).await {
            Err(_) => Err(TlsError::Timeout),
            Ok(Err(error)) => {
                let result = stream.ssl().verify_result();
                if verify && result != openssl::x509::X509VerifyResult::OK {
                    let reason = result.error_string().to_owned();
                    return Err(TlsError::Certificate { name: name.to_owned(), reason });
                }
                Err(TlsError::Handshake(error.to_string()))
            }
            Ok(Ok(())) => {
                let ssl = stream.ssl();
                let cipher = ssl.current_cipher();
                let facts = TlsFacts {
                    protocol: ssl.version_str().to_owned(),
                    cipher: cipher.map(|cipher| cipher.name().to_owned()).unwrap_or_default(),
                    keysize_bits: cipher.map_or(0, |cipher| cipher.bits().secret),
                };
                Ok((stream, facts))
            }
        }
    }
}
