//! `hsl`: shared memory and function cache of the script engine.

use clap::Subcommand;
use control::smtpd::{
    HslCacheClearRequest, HslCacheClearResponse, HslCacheResponse, HslMemoryDeleteRequest,
    HslMemoryDeleteResponse, HslMemoryListRequest, HslMemoryListResponse, HslMemoryRequest,
    HslMemoryResponse, HslMemoryStoreRequest, HslMemoryStoreResponse, StringMatch, StringValue,
    hsl_memory_list_request, string_match,
};

use super::values::{exclusion, expression, number};
use super::{CliError, Context};
use crate::table::{Align, Table, six_digits};

/// Subcommands of `hsl`.
#[derive(Debug, Subcommand)]
pub(crate) enum HslCommand {
    /// Shared memory
    #[command(subcommand)]
    Memory(MemoryCommand),
    /// Function cache
    #[command(subcommand)]
    Cache(CacheCommand),
}

/// Subcommands of `hsl memory`.
#[derive(Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// Store a value
    Store {
        /// Key
        key: String,
        /// JSON
        value: String,
        /// The value is plain text, not JSON
        #[arg(long)]
        string: bool,
        /// Print the value it replaces
        #[arg(long = "return")]
        give_back: bool,
    },
    /// List keys
    List {
        /// Part of the key; /regex/, =exact, leading ! for not
        #[arg(long = "match", value_name = "TEXT")]
        pattern: Option<String>,
        /// Upper and lower case are alike
        #[arg(long)]
        caseless: bool,
        /// Show at most so many, 0 for all
        #[arg(long, default_value_t = 0)]
        limit: u64,
        /// Leave out so many
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Print a value
    Fetch {
        /// Key
        key: String,
    },
    /// Delete a value
    Delete {
        /// Key
        key: String,
        /// Print it
        #[arg(long = "return")]
        give_back: bool,
    },
}

/// Subcommands of `hsl cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List buckets
    List {
        /// More columns
        #[arg(long)]
        wide: bool,
    },
    /// Clear buckets or entries
    Clear {
        /// Of this namespace
        #[arg(long, value_name = "STRING")]
        namespace: Option<String>,
        /// Of this function
        #[arg(long, value_name = "STRING")]
        function: Option<String>,
        /// With this argument, counted from 0 (repeatable)
        #[arg(long, value_name = "N=JSON")]
        argument: Vec<String>,
    },
}

pub(crate) async fn run(context: &mut Context, command: HslCommand) -> Result<(), CliError> {
    match command {
        HslCommand::Memory(command) => memory(context, command).await,
        HslCommand::Cache(CacheCommand::List { wide }) => cache_list(context, wide).await,
        HslCommand::Cache(CacheCommand::Clear { namespace, function, argument }) => {
            let value = |text: Option<String>| text.map(|value| StringValue { value });
            let request = HslCacheClearRequest {
                namespace: value(namespace),
                function: value(function),
                arguments: argument.iter().map(|text| cache_argument(text)).collect::<Result<_, _>>()?,
            };
            if let Some(reply) = context.request::<_, HslCacheClearResponse>(b'h', &request).await? {
                context.print(&format!("{} buckets cleared\n", reply.affected));
            }
            Ok(())
        }
    }
}

fn cache_argument(text: &str) -> Result<(u64, String), CliError> {
    match text.split_once('=') {
        Some((index, json)) => Ok((number(index)?, checked_json(json)?)),
        None => Err(CliError::usage(format!("\"{text}\" is not of the form N=JSON"))),
    }
}

fn checked_json(text: &str) -> Result<String, CliError> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(CliError::usage(format!(
            "\"{text}\" is not JSON ({error}); for plain text use --string or quotes within the quotes"
        ))),
    }
}

async fn memory(context: &mut Context, command: MemoryCommand) -> Result<(), CliError> {
    match command {
        MemoryCommand::Store { key, value, string, give_back } => {
            let value =
                if string { serde_json::Value::from(value).to_string() } else { checked_json(&value)? };
            let request = HslMemoryStoreRequest { key, value, r#return: give_back };
            let reply = context.request::<_, HslMemoryStoreResponse>(b'z', &request).await?;
            if let Some(reply) = reply.filter(|reply| give_back && !reply.value.is_empty()) {
                context.print(&format!("{}\n", reply.value));
            }
        }
        MemoryCommand::List { pattern, caseless, limit, offset } => {
            use hsl_memory_list_request::{Condition, Paging};
            let key = pattern.map(|text| key_match(&text, caseless));
            let paging = Paging { offset, limit };
            let request = HslMemoryListRequest {
                condition: key.map(|key| Condition { key: Some(key) }),
                paging: (paging != Paging::default()).then_some(paging),
            };
            if let Some(reply) = context.request::<_, HslMemoryListResponse>(b'K', &request).await? {
                reply.keys.iter().for_each(|key| context.print(&format!("{key}\n")));
            }
        }
        MemoryCommand::Fetch { key } => {
            let request = HslMemoryRequest { key };
            if let Some(reply) = context.request::<_, HslMemoryResponse>(b'y', &request).await? {
                context.print(&format!("{}\n", reply.value));
            }
        }
        MemoryCommand::Delete { key, give_back } => {
            let request = HslMemoryDeleteRequest { key: key.clone(), r#return: give_back };
            match context.request::<_, HslMemoryDeleteResponse>(b'A', &request).await? {
                Some(reply) if reply.affected == 0 => {
                    return Err(CliError::NotFound(format!("no key {key}")));
                }
                Some(reply) if give_back => context.print(&format!("{}\n", reply.value)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn key_match(text: &str, caseless: bool) -> StringMatch {
    use string_match::MatchType::{Exact, Partial, Regex};
    let (exclude, rest) = exclusion(text);
    let (value, kind) = match (expression(rest), rest.strip_prefix('=')) {
        (Some(regex), _) => (regex, Regex),
        (None, Some(whole)) => (whole, Exact),
        (None, None) => (rest, Partial),
    };
    StringMatch { exclude, value: value.to_owned(), r#type: kind as i32, caseless }
}

async fn cache_list(context: &mut Context, wide: bool) -> Result<(), CliError> {
    let Some(reply) = context.fetch::<HslCacheResponse>(b'g').await? else { return Ok(()) };
    let numbers = ["Max size", "Size", "Hits", "Misses", "Evicts", "Hit rate"];
    let columns = ["Namespace", "Function"].map(|name| (name, Align::Left)).into_iter();
    let columns = columns.chain(numbers.map(|name| (name, Align::Right)));
    let mut table = Table::new(columns.chain(wide.then_some(("Waits", Align::Right))));
    for item in reply.items {
        let calls = item.hits.saturating_add(item.misses);
        let rate = if calls == 0 { 0.0 } else { item.hits as f64 * 100.0 / calls as f64 };
        table.row([
            item.namespace,
            item.function,
            item.maxsize.to_string(),
            item.size.to_string(),
            item.hits.to_string(),
            item.misses.to_string(),
            item.evicts.to_string(),
            six_digits(rate),
            item.waits.to_string(),
        ]);
    }
    context.print(&table.render());
    Ok(())
}
