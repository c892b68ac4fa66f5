//! The read-only variables of connection hooks, rebuilt for each execution from the state of the server.

use crate::hooks::script::Script;
use crate::server::facts::{Connection, Recipient, Transaction};
use crate::server::tls::TlsFacts;
use hsl::{Array, Value};
use mail::Address;

/// `$arguments`, `$connection` and `$transaction`; those that the script does not name are not made.
pub(super) fn variables(
    script: &Script,
    arguments: impl FnOnce() -> Array,
    connection: impl FnOnce() -> Array,
    transaction: impl FnOnce() -> Array,
) -> Vec<(&'static str, Value)> {
    let mut variables = Vec::with_capacity(3);
    if script.uses("arguments") {
        variables.push(("arguments", arguments().into()));
    }
    if script.uses("connection") {
        variables.push(("connection", connection().into()));
    }
    if script.uses("transaction") {
        variables.push(("transaction", transaction().into()));
    }
    variables
}

pub(super) fn id_of(transaction: &Transaction) -> Array {
    let mut array = Array::new();
    array.insert_str("id", transaction.id.to_string());
    array
}

pub(super) fn connection_array(connection: &Connection) -> Array {
    let mut array = Array::new();
    array.insert_str("id", connection.id.to_string());
    array.insert_str("priority", connection.priority);
    array.insert_str("remoteip", connection.remote_ip.as_str());
    array.insert_str("remoteport", f64::from(connection.remote_port));
    if let Some(name) = &connection.remote_ptr {
        array.insert_str("remoteptr", name.as_str());
    }
    if let Some(uid) = connection.remote_uid {
        array.insert_str("remoteuid", f64::from(uid));
    }
    array.insert_str("localip", connection.local.ip().to_string());
    array.insert_str("localport", f64::from(connection.local.port()));
    array.insert_str("serverid", connection.server_id.as_str());
    if let Some(tls) = &connection.tls {
        array.insert_str("tls", tls_array(tls));
    }
    if let Some(auth) = &connection.auth {
        let mut of_auth = Array::new();
        of_auth.insert_str("mechanism", auth.mechanism.as_str());
        if let Some(username) = &auth.username {
            of_auth.insert_str("username", username.as_slice());
        }
        array.insert_str("auth", of_auth);
    }
    if let Some((verb, host)) = &connection.helo {
        let mut helo = Array::new();
        helo.insert_str("verb", *verb);
        helo.insert_str("host", host.as_str());
        array.insert_str(HELO, helo);
    }
    array
}

/// As [`connection_array`] for the helo hook, which decides about the greeting: the one before is not shown.
pub(super) fn ungreeted_array(connection: &Connection) -> Array {
    let mut array = connection_array(connection);
    array.remove(&HELO.into());
    array
}

/// The key of the greeting in `$connection`.
const HELO: &str = "helo";

/// `$connection["tls"]`.
fn tls_array(tls: &TlsFacts) -> Array {
    let mut array = Array::new();
    array.insert_str("protocol", tls.protocol.as_str());
    array.insert_str("cipher", tls.cipher.as_str());
    array.insert_str("keysize", f64::from(tls.keysize_bits));
    if let Some(sni) = &tls.sni {
        array.insert_str("sni", sni.as_str());
    }
    if let Some(peer) = &tls.peer {
        let mut of_peer = Array::new();
        of_peer.insert_str("x509", hsl_std::certificate_value(peer.certificate.clone()));
        let chain = peer.chain.iter().map(|one| hsl_std::certificate_value(one.clone()));
        of_peer.insert_str("chain", chain.collect::<Array>());
        of_peer.insert_str("error", f64::from(peer.error));
        array.insert_str("peercert", of_peer);
    }
    array
}

pub(super) fn transaction_array(transaction: &Transaction, at_eod: bool) -> Array {
    let mut array = id_of(transaction);
    if at_eod {
        array.insert_str("ts", transaction.ts_s);
    }
    if let Some(sender) = &transaction.sender {
        array.insert_str("sender", sender.to_lower());
        array.insert_str("senderaddress", address_array(sender));
        array.insert_str("senderparams", parameters_array(&transaction.sender_parameters));
    }
    let recipients = transaction.recipients.iter();
    let recipients = recipients.map(|one| one.value.get_or_init(|| recipient_array(one).into()).clone());
    array.insert_str("recipients", recipients.collect::<Array>());
    array
}

fn recipient_array(recipient: &Recipient) -> Array {
    let mut array = Array::new();
    array.insert_str("recipient", recipient.address.to_lower());
    array.insert_str("address", address_array(&recipient.address));
    array.insert_str("params", parameters_array(&recipient.parameters));
    if let Some(transport) = &recipient.transport {
        array.insert_str("transportid", transport.as_str());
    }
    array
}

/// `localpart` and `domain` of an address.
pub(super) fn address_array(address: &Address) -> Array {
    let mut array = Array::new();
    array.insert_str("localpart", address.localpart.as_str());
    array.insert_str("domain", address.domain.as_str());
    array
}

pub(super) fn parameters_array(parameters: &[(String, String)]) -> Array {
    let mut array = Array::new();
    for (keyword, value) in parameters {
        array.insert_str(keyword, value.as_str());
    }
    array
}
