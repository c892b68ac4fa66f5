//! What a server allows, from `servers[]` of the running configuration.

use super::parameters::Extensions;
use crate::content::BareLineFeed;

/// The limits and offers of a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name in the greeting and the HELO reply.
    pub hostname: String,
    /// `phases.data.maxsize`, octets, 0 = no limit.
    pub size_max: u64,
    /// `phases.data.maxhops`, Received fields, 0 = no limit.
    pub hops_max: u32,
    /// `phases.data.maxlinelength`, octets, 0 = no limit.
    pub data_line_bytes_max: u64,
    /// `phases.data.barelinefeed`.
    pub bare_line_feed: BareLineFeed,
    /// `phases.rcptto.maxrecipients`.
    pub recipients_max: usize,
    /// `phases.mailfrom.maxmessages`, 0 = no limit.
    pub messages_max: u64,
    /// `maxerrors`: protocol errors in a row, 0 = no limit.
    pub errors_max: u32,
    /// `phases.helo.required`.
    pub helo_required: bool,
    /// Announced by default after EHLO, in order. STARTTLS and AUTH are left out of an announcement while they
    /// cannot be used.
    pub extensions: Extensions,
    /// TLS of this server.
    pub tls: TlsSettings,
    /// AUTH; none without an auth hook.
    pub auth: Option<AuthSettings>,
    /// `phases.mailfrom.authonly`.
    pub auth_required: bool,
    /// Which commands are shown to the proxy hook first.
    pub proxied: Proxied,
    /// Collect the lines of the dialogue for [`take_dialogue`](super::Server::take_dialogue).
    pub verbose: bool,
}

impl Settings {
    /// The documented defaults, without TLS, AUTH and proxy hook.
    pub fn new(hostname: impl Into<String>) -> Settings {
        let size_max: u64 = 50 * 1024 * 1024;
        Settings {
            hostname: hostname.into(),
            size_max,
            hops_max: 100,
            data_line_bytes_max: 0,
            bare_line_feed: BareLineFeed::Normalize,
            recipients_max: 1000,
            messages_max: 0,
            errors_max: 20,
            helo_required: true,
            extensions: Extensions::new([
                "PIPELINING".to_owned(),
                format!("SIZE {size_max}"),
                "8BITMIME".to_owned(),
                "SMTPUTF8".to_owned(),
                "CHUNKING".to_owned(),
                "ENHANCEDSTATUSCODES".to_owned(),
            ]),
            tls: TlsSettings::default(),
            auth: None,
            auth_required: false,
            proxied: Proxied::None,
            verbose: false,
        }
    }
}

/// TLS as far as the dialogue knows of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsSettings {
    /// The server has a certificate, so STARTTLS can succeed.
    pub available: bool,
    /// `tls.required`: MAIL needs TLS.
    pub required: bool,
    /// `tls.peercert: require`: MAIL needs a client certificate.
    pub peer_certificate_required: bool,
}

/// AUTH (RFC 4954).
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// `phases.auth.tlsonly`: neither announced nor accepted without TLS.
    pub tls_only: bool,
    /// `phases.auth.maxfailures`: refusals until the connection is closed, 0 = no limit.
    pub failures_max: u32,
}

/// Which commands the proxy hook sees before the machine does.
#[derive(Clone, Debug, Default)]
pub enum Proxied {
    /// No hook.
    #[default]
    None,
    /// Every command.
    All,
    /// Lines with one of these first words, in Unicode upper case.
    Words(Vec<String>),
}

impl Proxied {
    /// From `phases.proxy.commands`: an empty list means every command.
    pub fn commands(words: &[String]) -> Proxied {
        match words {
            [] => Proxied::All,
            words => Proxied::Words(words.iter().map(|word| word.to_uppercase()).collect()),
        }
    }

    pub(super) fn wants(&self, line: &[u8]) -> bool {
        match self {
            Proxied::None => false,
            Proxied::All => true,
            Proxied::Words(words) => {
                let end = line.iter().position(|&b| b == b' ' || b == b'\t').unwrap_or(line.len());
                let word = String::from_utf8_lossy(&line[..end]).to_uppercase();
                words.contains(&word)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_compare_in_unicode_upper_case() {
        let words = Proxied::commands(&["hejdå".to_owned(), "XCLIENT".to_owned()]);
        assert!(words.wants("HejdÅ".as_bytes()));
        assert!(words.wants(b"xclient ADDR=1.2.3.4"));
        assert!(!words.wants(b"XCLIENTS"));
        assert!(!words.wants(b"\xff\xfe"));
        assert!(Proxied::commands(&[]).wants(b""));
        assert!(!Proxied::None.wants(b"QUIT"));
    }
}
