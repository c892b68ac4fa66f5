//! `spf_query` (library section 8).

use super::dkim::now_s;
use super::dns::MailDns;
use super::object::{hostname, options};
use crate::environment;
use hsl::{Array, FunctionDef, OptionDef, Outcome, option};
use mail::spf::SpfQuery;

const SPF: &[OptionDef] = &[
    option("timeout", "number", "5", "Seconds for each query."),
    option("servers", "array", "those of the system", "Addresses of name servers."),
    option("port", "number", "53", "Port of the servers."),
];

/// The functions of the group.
pub(super) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::full(
            "spf_query(ip: string, helo: string, sender: string, options?: array) -> array",
            "Checks whether an address may send for a domain (RFC 7208): result, and reason when known.",
            |cx, args| {
                let environment = environment::of(cx);
                let dns = MailDns::read(&options(&args, 3), &environment)?;
                let text = |i: usize| args.string(i).to_text().into_owned();
                let mut array = Array::new();
                let Ok(ip) = text(0).parse() else {
                    array.insert_str("result", "invalid");
                    return Ok(Outcome::Value(array.into()));
                };
                let query = SpfQuery {
                    ip,
                    helo: text(1),
                    sender: text(2),
                    hostname: hostname(&environment),
                    now_s: now_s(),
                };
                Ok(Outcome::Pending(Box::pin(async move {
                    let outcome = mail::spf::check(&dns, &query).await;
                    array.insert_str("result", outcome.result.name());
                    if let Some(reason) = outcome.reason {
                        array.insert_str("reason", reason);
                    }
                    Ok(array.into())
                })))
            },
        )
        .with_options(SPF),
    ]
}
