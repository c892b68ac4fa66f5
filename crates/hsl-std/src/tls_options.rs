//! Options of TLS that several functions share (library sections 7, 10 and 11).

use hsl::{OptionDef, option};

/// Protocol versions.
pub(crate) const PROTOCOLS: OptionDef = option(
    "tls_protocols",
    "string",
    "!SSLv2,!SSLv3,!TLSv1,!TLSv1.1",
    "Allowed protocols, or forbidden ones with `!`.",
);

/// Cipher list.
pub(crate) const CIPHERS: OptionDef =
    option("tls_ciphers", "string", "those of OpenSSL", "Cipher list of OpenSSL.");

/// Trust in the authorities of the system.
pub(crate) const DEFAULT_CA: OptionDef =
    option("tls_default_ca", "boolean", "false", "Trusts the authorities of the system.");

/// Own certificate and key.
pub(crate) const CLIENT_CERT: OptionDef = option(
    "tls_client_cert",
    "string or array",
    "",
    "Id of a configured key, or x509, privatekey and chain.",
);

/// Names to look for in the certificate.
pub(crate) const VERIFY_NAME: OptionDef =
    option("tls_verify_name", "array", "", "Names of which the certificate must carry one.");
