//! [`Environment`]: what the library knows of the program that runs a script: names, files, keys, resolver, metrics
//! and the running server. A host gives it through [`hsl::Host::environment`]; without one the defaults hold.

use crate::ScriptFiles;
use crate::crypto::keys::PrivateKey;
use crate::mail::MailQueue;
use crate::metrics::Metrics;
use crate::server::Server;
use hsl::NativeCx;
use openssl::x509::X509;
pub use publicsuffix::List;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// A private key with its certificates.
#[derive(Clone)]
pub struct Credential {
    /// The key.
    pub key: PrivateKey,
    /// Its certificate; keys for signatures alone have none.
    pub certificate: Option<X509>,
    /// Certificates between it and a root.
    pub chain: Vec<X509>,
}

impl Credential {
    /// Reads PEM texts: a key, its certificate, and the certificates above it.
    ///
    /// # Errors
    /// Which text is not usable.
    pub fn from_pem(key: &[u8], certificate: Option<&[u8]>, chain: &[Vec<u8>]) -> Result<Credential, String> {
        let key = PrivateKey::from_pem(key).ok_or(
            "privatekey: expected an RSA, P-256, P-384, P-521 or Ed25519 key in PEM without password",
        )?;
        Credential::from_key(key, certificate, chain)
    }

    /// As [`from_pem`](Credential::from_pem) with a key that was read already.
    ///
    /// # Errors
    /// Which text is not usable.
    pub fn from_key(
        key: PrivateKey,
        certificate: Option<&[u8]>,
        chain: &[Vec<u8>],
    ) -> Result<Credential, String> {
        let certificates = |text: &[u8], name: &str| {
            X509::stack_from_pem(text)
                .ok()
                .filter(|list| !list.is_empty())
                .ok_or_else(|| format!("{name}: expected a certificate in PEM"))
        };
        let mut own = match certificate {
            Some(text) => certificates(text, "certificate")?,
            None => Vec::new(),
        };
        let mut chain_list = own.split_off(own.len().min(1));
        for text in chain {
            chain_list.extend(certificates(text, "chain")?);
        }
        let certificate = own.pop();
        if let Some(certificate) = &certificate
            && !certificate.public_key().is_ok_and(|public| public.public_eq(&key.key))
        {
            return Err("certificate: it is of another key".to_owned());
        }
        Ok(Credential { key, certificate, chain: chain_list })
    }
}

/// Settings of the program around a script.
pub struct Environment {
    /// `environment.hostname`; the system's name when absent.
    pub hostname: Option<String>,
    /// Version of `uuid()`: 1 for time, 4 for random.
    pub uuid_version: u8,
    /// `environment.publicsuffix`; the list that is compiled in when absent.
    pub public_suffixes: Option<List>,
    /// What scripts can read.
    pub files: Arc<ScriptFiles>,
    /// Whether the class `FFI` may be used.
    pub ffi: bool,
    /// Configured keys by id.
    pub keys: HashMap<String, Credential>,
    /// Configured certificate authorities, beside those of the system.
    pub authorities: Vec<X509>,
    /// Configured source addresses by id.
    pub addresses: HashMap<String, Vec<IpAddr>>,
    /// The resolver of the process.
    pub resolver: net::Resolver,
    /// Metrics of scripts.
    pub metrics: Arc<Metrics>,
    /// The server that scripts look at and act on; absent outside of one.
    pub server: Option<Arc<dyn Server>>,
    /// The queue for messages of scripts; absent outside of a server.
    pub mail_queue: Option<Arc<dyn MailQueue>>,
    /// Socket of the daemon that sends HTTP requests in the background.
    pub httprd: PathBuf,
    /// Socket of the daemon that counts for `rate`.
    pub rated: PathBuf,
    /// Writes a line about something that went wrong where no script can learn of it.
    pub log: fn(std::fmt::Arguments<'_>),
}

impl Default for Environment {
    fn default() -> Environment {
        Environment {
            hostname: None,
            uuid_version: 4,
            public_suffixes: None,
            files: Arc::default(),
            ffi: false,
            keys: HashMap::new(),
            authorities: Vec::new(),
            addresses: HashMap::new(),
            resolver: RESOLVER.clone(),
            metrics: Arc::default(),
            server: None,
            mail_queue: None,
            httprd: PathBuf::from("/var/run/halon/httprd.sock"),
            rated: PathBuf::from("/var/run/halon/rated.sock"),
            log: |line| eprintln!("{line}"),
        }
    }
}

/// Entries that the resolver of a program without one of its own remembers.
const CACHE_ENTRIES: usize = 10_000;

static RESOLVER: LazyLock<net::Resolver> = LazyLock::new(|| {
    net::Resolver::new(net::resolver::Settings { cache_size: CACHE_ENTRIES, ..Default::default() })
});

static DEFAULT: LazyLock<Arc<Environment>> = LazyLock::new(Arc::default);

/// Reads a public suffix list.
///
/// # Errors
/// A message that names the file.
pub fn read_public_suffixes(path: &Path) -> Result<List, String> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    List::from_bytes(&text).map_err(|e| format!("{}: no public suffix list: {e}", path.display()))
}

/// The environment of a call.
pub(crate) fn of(cx: &NativeCx<'_>) -> Arc<Environment> {
    cx.environment().unwrap_or_else(|| Arc::clone(&DEFAULT))
}

/// The system's name of this host.
pub(crate) fn system_hostname() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned())
}
