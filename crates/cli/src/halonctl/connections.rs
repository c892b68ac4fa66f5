//! `queue connections` and `server connections`.

use clap::{Args, Subcommand};
use control::smtpd::{
    QueueConnectionsCloseRequest, QueueConnectionsCloseResponse, QueueConnectionsListRequest,
    QueueConnectionsListResponse, QueueItemId, ServerConnectionsCloseRequest, ServerConnectionsCloseResponse,
    ServerConnectionsListRequest, ServerConnectionsListResponse, queue_connections_list_request,
    server_connections_close_request, server_connections_list_request,
};

use super::values::item_id;
use super::{CliError, Context};
use crate::table::{Align, Table, six_digits};

/// Subcommands of `queue connections`.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueConnectionsCommand {
    /// List outbound connections
    List {
        #[command(flatten)]
        filter: QueueFilter,
        #[command(flatten)]
        paging: PagingArgs,
    },
    /// Close outbound connections
    Close {
        #[command(flatten)]
        filter: QueueFilter,
        /// Close all, no filter being given
        #[arg(long)]
        all: bool,
    },
}

/// Subcommands of `server connections`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerConnectionsCommand {
    /// List inbound connections
    List {
        #[command(flatten)]
        filter: ServerFilter,
        #[command(flatten)]
        paging: PagingArgs,
    },
    /// Close inbound connections
    Close {
        #[command(flatten)]
        filter: ServerFilter,
        /// Close all, no filter being given
        #[arg(long)]
        all: bool,
        /// Code of the last reply
        #[arg(long, default_value_t = 421, value_parser = clap::value_parser!(u64).range(400..=599))]
        code: u64,
        /// Text of the last reply
        #[arg(long, value_name = "TEXT", default_value = "Service shutting down")]
        reason: String,
    },
}

/// Filters of outbound connections.
#[derive(Debug, Args)]
pub(crate) struct QueueFilter {
    /// Connection ID
    #[arg(long, value_name = "ID")]
    connectionid: Option<String>,
    /// Source address
    #[arg(long, value_name = "IP")]
    localip: Option<String>,
    /// Address of the other side
    #[arg(long, value_name = "IP")]
    remoteip: Option<String>,
    /// Address of the proxy
    #[arg(long, value_name = "IP")]
    proxyip: Option<String>,
    /// Message being sent, with or without :queue
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// MX name
    #[arg(long, value_name = "DOMAIN")]
    remotemx: Option<String>,
}

/// Filters of inbound connections.
#[derive(Debug, Args)]
pub(crate) struct ServerFilter {
    /// Connection ID
    #[arg(long, value_name = "ID")]
    connectionid: Option<String>,
    /// Address of the client
    #[arg(long, value_name = "IP")]
    remoteip: Option<String>,
    /// Server ID
    #[arg(long, value_name = "ID")]
    serverid: Option<String>,
    /// Our address
    #[arg(long, value_name = "IP")]
    localip: Option<String>,
}

/// A part of a list.
#[derive(Debug, Args)]
pub(crate) struct PagingArgs {
    /// Show at most so many, 0 for all
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// Leave out so many
    #[arg(long, default_value_t = 0)]
    offset: u64,
}

impl QueueFilter {
    fn id(&self) -> Result<Option<QueueItemId>, CliError> {
        let id = self.id.as_deref().map(item_id).transpose()?;
        Ok(id.map(|(transaction, queue)| QueueItemId { transaction, queue }))
    }
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

/// Address and port; the port alone is nothing.
fn with_port(address: &str, port: u32) -> String {
    match (address.is_empty() || port == 0, address.contains(':')) {
        (true, _) => address.to_owned(),
        (false, true) => format!("[{address}]:{port}"),
        (false, false) => format!("{address}:{port}"),
    }
}

/// Closing everything has to be meant.
fn check_meant(empty: bool, all: bool) -> Result<(), CliError> {
    match empty && !all {
        true => Err(CliError::usage("this would close every connection: give a filter, or --all")),
        false => Ok(()),
    }
}

pub(crate) async fn run_queue(
    context: &mut Context,
    command: QueueConnectionsCommand,
) -> Result<(), CliError> {
    match command {
        QueueConnectionsCommand::List { filter, paging } => list_queue(context, &filter, &paging).await,
        QueueConnectionsCommand::Close { filter, all } => {
            let request = QueueConnectionsCloseRequest {
                connectionid: text(&filter.connectionid),
                localip: text(&filter.localip),
                remoteip: text(&filter.remoteip),
                proxyip: text(&filter.proxyip),
                id: filter.id()?,
                remotemx: text(&filter.remotemx),
            };
            check_meant(request == QueueConnectionsCloseRequest::default(), all)?;
            if let Some(reply) = context.request::<_, QueueConnectionsCloseResponse>(b'R', &request).await? {
                context.print(&format!("{} connections closed\n", reply.affected));
            }
            Ok(())
        }
    }
}

async fn list_queue(
    context: &mut Context,
    filter: &QueueFilter,
    paging: &PagingArgs,
) -> Result<(), CliError> {
    use queue_connections_list_request::{Condition, Paging};
    let condition = Condition {
        connectionid: text(&filter.connectionid),
        localip: text(&filter.localip),
        remoteip: text(&filter.remoteip),
        proxyip: text(&filter.proxyip),
        id: filter.id()?,
        remotemx: text(&filter.remotemx),
    };
    let paging = Paging { offset: paging.offset, limit: paging.limit };
    let request = QueueConnectionsListRequest {
        condition: (condition != Condition::default()).then_some(condition),
        paging: (paging != Paging::default()).then_some(paging),
    };
    let Some(reply) = context.request::<_, QueueConnectionsListResponse>(b'Q', &request).await? else {
        return Ok(());
    };
    let texts = ["connectionid", "localip", "remoteip", "remotemx", "proxyip", "id", "state"];
    let numbers = ["stateduration", "duration", "transactions"];
    let columns = texts.map(|name| (name, Align::Left)).into_iter();
    let mut table = Table::new(columns.chain(numbers.map(|name| (name, Align::Right))));
    for connection in reply.connections {
        let id = connection.id.map(|id| format!("{}:{}", id.transaction, id.queue));
        table.row([
            connection.connectionid,
            with_port(&connection.localip, connection.localport),
            with_port(&connection.remoteip, connection.remoteport),
            connection.remotemx,
            connection.proxyip,
            id.unwrap_or_default(),
            connection.state,
            six_digits(connection.stateduration),
            six_digits(connection.duration),
            connection.transactions.to_string(),
        ]);
    }
    context.print(&table.render());
    Ok(())
}

pub(crate) async fn run_server(
    context: &mut Context,
    command: ServerConnectionsCommand,
) -> Result<(), CliError> {
    match command {
        ServerConnectionsCommand::List { filter, paging } => list_server(context, &filter, &paging).await,
        ServerConnectionsCommand::Close { filter, all, code, reason } => {
            let request = ServerConnectionsCloseRequest {
                reply: None,
                connectionid: text(&filter.connectionid),
                remoteip: text(&filter.remoteip),
                serverid: text(&filter.serverid),
                localip: text(&filter.localip),
            };
            check_meant(request == ServerConnectionsCloseRequest::default(), all)?;
            let reply = server_connections_close_request::Reply { code, reason };
            let request = ServerConnectionsCloseRequest { reply: Some(reply), ..request };
            if let Some(reply) = context.request::<_, ServerConnectionsCloseResponse>(b'N', &request).await? {
                context.print(&format!("{} connections closed\n", reply.affected));
            }
            Ok(())
        }
    }
}

async fn list_server(
    context: &mut Context,
    filter: &ServerFilter,
    paging: &PagingArgs,
) -> Result<(), CliError> {
    use server_connections_list_request::{Condition, Paging};
    let condition = Condition {
        connectionid: text(&filter.connectionid),
        remoteip: text(&filter.remoteip),
        serverid: text(&filter.serverid),
        localip: text(&filter.localip),
    };
    let paging = Paging { offset: paging.offset, limit: paging.limit };
    let request = ServerConnectionsListRequest {
        condition: (condition != Condition::default()).then_some(condition),
        paging: (paging != Paging::default()).then_some(paging),
    };
    let Some(reply) = context.request::<_, ServerConnectionsListResponse>(b'M', &request).await? else {
        return Ok(());
    };
    let texts = ["connectionid", "serverid", "remoteip", "remoteptr", "localip"];
    let columns = texts.map(|name| (name, Align::Left)).into_iter();
    let numbers = ["duration", "transactions"].map(|name| (name, Align::Right));
    let mut table = Table::new(columns.chain(numbers));
    for connection in reply.connections {
        table.row([
            connection.connectionid,
            connection.serverid,
            with_port(&connection.remoteip, connection.remoteport),
            connection.remoteptr,
            with_port(&connection.localip, connection.localport),
            six_digits(connection.duration),
            connection.transactions.to_string(),
        ]);
    }
    context.print(&table.render());
    Ok(())
}
