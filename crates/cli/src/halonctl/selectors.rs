//! The options that name queue fields: `--transportid`, `--localip` and so on.

use clap::Args;
use control::smtpd::StringValue;

/// Queue fields with single values.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Queue fields")]
pub(crate) struct SelectorArgs {
    /// Transport ID
    #[arg(long, value_name = "STRING", num_args = 0..=1, default_missing_value = "")]
    pub(crate) transportid: Option<String>,
    /// Source address
    #[arg(long, value_name = "IP", num_args = 0..=1, default_missing_value = "")]
    pub(crate) localip: Option<String>,
    /// Next-hop address
    #[arg(long, value_name = "IP", num_args = 0..=1, default_missing_value = "")]
    pub(crate) remoteip: Option<String>,
    /// MX name
    #[arg(long, value_name = "DOMAIN", num_args = 0..=1, default_missing_value = "")]
    pub(crate) remotemx: Option<String>,
    /// Recipient domain
    #[arg(long, value_name = "DOMAIN", num_args = 0..=1, default_missing_value = "")]
    pub(crate) recipientdomain: Option<String>,
    /// Job ID
    #[arg(long, value_name = "STRING", num_args = 0..=1, default_missing_value = "")]
    pub(crate) jobid: Option<String>,
    /// Grouping
    #[arg(long, value_name = "STRING", num_args = 0..=1, default_missing_value = "")]
    pub(crate) grouping: Option<String>,
    /// Tenant ID
    #[arg(long, value_name = "STRING", num_args = 0..=1, default_missing_value = "")]
    pub(crate) tenantid: Option<String>,
}

impl SelectorArgs {
    /// The value as the protocol has it.
    pub(crate) fn value(text: &Option<String>) -> Option<StringValue> {
        text.clone().map(|value| StringValue { value })
    }
}

/// Names of the selector fields in the order of the tables.
pub(crate) const COLUMNS: [&str; 7] =
    ["transportid", "localip", "remoteip", "remotemx", "recipientdomain", "jobid", "grouping"];

/// Text of an optional value.
pub(crate) fn text(value: &Option<StringValue>) -> String {
    value.as_ref().map(|value| value.value.clone()).unwrap_or_default()
}
