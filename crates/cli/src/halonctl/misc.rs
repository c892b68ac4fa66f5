//! `plugin`, `license` and `queue policy grouping`.

use std::path::PathBuf;

use clap::Subcommand;
use control::smtpd::policy_grouping_list_response::{Grouping, grouping};
use control::smtpd::policy_grouping_request::{Field as Member, Fields};
use control::smtpd::{
    PluginCommandRequest, PluginCommandResponse, PluginListResponse, PolicyGroupingListRequest,
    PolicyGroupingListResponse, PolicyGroupingRequest, PolicyGroupingResponse, policy_grouping_list_request,
};

use super::selectors::SelectorArgs;
use super::{CliError, Context};
use crate::table::{Align, Table};

/// Subcommands of `plugin`.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List loaded plugins
    List,
    /// Send a command to a plugin
    Command {
        /// The plugin
        id: String,
        /// Arguments
        argument: Vec<String>,
    },
}

/// Subcommands of `license`.
#[derive(Debug, Subcommand)]
pub(crate) enum LicenseCommand {
    /// Accepted for scripts written for licensed installations
    Fetch {
        #[arg(long, hide = true)]
        username: Option<String>,
        #[arg(long, hide = true)]
        password: Option<String>,
        /// Write an empty file here
        #[arg(long, value_name = "FILE")]
        path: Option<PathBuf>,
        #[arg(long, hide = true)]
        syslog: bool,
    },
}

/// Subcommands of `queue policy grouping`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupingCommand {
    /// List groups with their fields
    List {
        /// Show at most so many, 0 for all
        #[arg(long, default_value_t = 0)]
        limit: u64,
        /// Leave out so many
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Show the members of a group
    Show {
        #[command(flatten)]
        selectors: Box<SelectorArgs>,
        /// Fields of the policy (repeatable, or a comma list)
        #[arg(short = 'F', long, value_name = "FIELD", value_delimiter = ',')]
        fields: Vec<String>,
    },
}

pub(crate) async fn plugin(context: &mut Context, command: PluginCommand) -> Result<(), CliError> {
    match command {
        PluginCommand::List => {
            let Some(reply) = context.fetch::<PluginListResponse>(b'1').await? else { return Ok(()) };
            let mut table = Table::new(["id", "path", "exports"].map(|name| (name, Align::Left)));
            for plugin in reply.plugins {
                table.row([plugin.id, plugin.path, plugin.exports.join(", ")]);
            }
            context.print(&table.render());
        }
        PluginCommand::Command { id, argument } => {
            let arguments = argument.into_iter().map(String::into_bytes).collect();
            let request = PluginCommandRequest { id, arguments };
            if let Some(reply) = context.request::<_, PluginCommandResponse>(b'L', &request).await? {
                context.print_bytes(&reply.response);
            }
        }
    }
    Ok(())
}

/// There is no licence: nothing is sent, whatever is given.
pub(crate) fn license(context: &mut Context, command: LicenseCommand) -> Result<(), CliError> {
    let LicenseCommand::Fetch { path, .. } = command;
    if let Some(path) = path {
        std::fs::write(&path, "").map_err(|error| CliError::File(path.display().to_string(), error))?;
    }
    context.print("no licence needed\n");
    Ok(())
}

pub(crate) async fn grouping(context: &mut Context, command: GroupingCommand) -> Result<(), CliError> {
    match command {
        GroupingCommand::List { limit, offset } => {
            let paging = policy_grouping_list_request::Paging { offset, limit };
            let request = PolicyGroupingListRequest {
                paging: (paging != policy_grouping_list_request::Paging::default()).then_some(paging),
            };
            let Some(reply) = context.request::<_, PolicyGroupingListResponse>(b'T', &request).await? else {
                return Ok(());
            };
            let mut table = Table::new(["fields", "field", "name"].map(|name| (name, Align::Left)));
            for group in &reply.groupings {
                let (field, name) = group_name(group);
                table.row([group_fields(group), field.to_owned(), name.to_owned()]);
            }
            context.print(&table.render());
        }
        GroupingCommand::Show { selectors, fields } => {
            let request = PolicyGroupingRequest {
                fields: Some(policy_fields(&fields)?),
                field: Some(member(&selectors)?),
            };
            if let Some(reply) = context.request::<_, PolicyGroupingResponse>(b'U', &request).await? {
                reply.items.iter().for_each(|item| context.print(&format!("{item}\n")));
            }
        }
    }
    Ok(())
}

fn group_name(group: &Grouping) -> (&'static str, &str) {
    use grouping::Field;
    match &group.field {
        Some(Field::Transportid(name)) => ("transportid", name),
        Some(Field::Localip(name)) => ("localip", name),
        Some(Field::Remoteip(name)) => ("remoteip", name),
        Some(Field::Remotemx(name)) => ("remotemx", name),
        Some(Field::Recipientdomain(name)) => ("recipientdomain", name),
        Some(Field::Jobid(name)) => ("jobid", name),
        Some(Field::Grouping(name)) => ("grouping", name),
        Some(Field::Tenantid(name)) => ("tenantid", name),
        None => ("", ""),
    }
}

fn group_fields(group: &Grouping) -> String {
    let fields = group.fields.unwrap_or_default();
    let named = [
        (fields.tenantid, "tenantid"),
        (fields.transportid, "transportid"),
        (fields.localip, "localip"),
        (fields.remoteip, "remoteip"),
        (fields.remotemx, "remotemx"),
        (fields.recipientdomain, "recipientdomain"),
        (fields.jobid, "jobid"),
        (fields.grouping, "grouping"),
    ];
    named.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

fn policy_fields(names: &[String]) -> Result<Fields, CliError> {
    let mut fields = Fields::default();
    for name in names {
        let field = match name.trim() {
            "transportid" => &mut fields.transportid,
            "localip" => &mut fields.localip,
            "remoteip" => &mut fields.remoteip,
            "remotemx" => &mut fields.remotemx,
            "recipientdomain" => &mut fields.recipientdomain,
            "jobid" => &mut fields.jobid,
            "grouping" => &mut fields.grouping,
            "tenantid" => &mut fields.tenantid,
            other => return Err(CliError::usage(format!("\"{other}\" is not a queue field"))),
        };
        *field = true;
    }
    Ok(fields)
}

/// Exactly one selector names the group.
fn member(selectors: &SelectorArgs) -> Result<Member, CliError> {
    let given = [
        selectors.transportid.clone().map(Member::Transportid),
        selectors.localip.clone().map(Member::Localip),
        selectors.remoteip.clone().map(Member::Remoteip),
        selectors.remotemx.clone().map(Member::Remotemx),
        selectors.recipientdomain.clone().map(Member::Recipientdomain),
        selectors.jobid.clone().map(Member::Jobid),
        selectors.grouping.clone().map(Member::Grouping),
        selectors.tenantid.clone().map(Member::Tenantid),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(member), None) => Ok(member),
        _ => Err(CliError::usage("name the group with exactly one option, like --remotemx '#hosted'")),
    }
}
