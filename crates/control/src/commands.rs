//! The commands of smtpd: letter, name, request and reply messages.

use crate::frame::Version;

/// What a reply consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// Nothing.
    Empty,
    /// A message of this name.
    Message(&'static str),
    /// Raw bytes.
    Bytes,
    /// Interim frames of text lines, then nothing.
    Lines,
    /// Interim frames of this message until the connection closes.
    Stream(&'static str),
}

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Letter on the wire.
    pub letter: u8,
    /// Name in the API.
    pub name: &'static str,
    /// Request message; `None`: no body and no length on the wire.
    pub request: Option<&'static str>,
    /// Reply.
    pub reply: ReplyKind,
}

impl Command {
    /// Whether a length and a body follow the letter. Clients before 5.5 sent none with `s` and `C`.
    pub fn has_body(&self, version: Version) -> bool {
        let before_bodies = version < Version { major: 5, minor: 5 } && matches!(self.letter, b's' | b'C');
        self.request.is_some() && !before_bodies
    }

    /// Whether the reply may take as long as the client likes, so that its leaving ends the request.
    pub fn is_open_ended(&self) -> bool {
        matches!(self.letter, b'e' | b'V' | b'3')
    }
}

/// The command of a letter.
pub fn find(letter: u8) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.letter == letter)
}

/// The command of a name.
pub fn find_name(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

const fn command(letter: u8, name: &'static str, request: Option<&'static str>, reply: ReplyKind) -> Command {
    Command { letter, name, request, reply }
}

use ReplyKind::{Bytes, Empty, Lines, Message, Stream};

/// All commands of smtpd.
pub const COMMANDS: &[Command] = &[
    command(b'a', "ConfigGreenDeploy", Some("ConfigGreenDeployRequest"), Empty),
    command(b'b', "ConfigGreenStatus", None, Message("ConfigGreenStatusResponse")),
    command(b'c', "ConfigGreenCancel", None, Empty),
    command(b'd', "HSLBreakPoint", Some("HSLBreakPointRequest"), Message("HSLBreakPointResponse")),
    command(b'e', "HSLBreakPointWait", None, Message("HSLBreakPointResponse")),
    command(b'f', "HSLBreakPointContinue", None, Empty),
    command(b'g', "HSLCache", None, Message("HSLCacheResponse")),
    command(b'h', "HSLCacheClear", Some("HSLCacheClearRequest"), Message("HSLCacheClearResponse")),
    command(b'k', "ReloadResolver", None, Empty),
    command(b'n', "Users", None, Message("UsersResponse")),
    command(b'o', "ReloadSuspend", None, Empty),
    command(b'p', "ReloadPolicy", None, Empty),
    command(b'q', "ProcessStats", None, Message("ProcessStatsResponse")),
    command(b'r', "ReloadConfig", None, Empty),
    command(b's', "Suspend", Some("SuspendRequest"), Message("SuspendResponse")),
    command(b't', "SuspendAdd", Some("SuspendAddRequest"), Message("SuspendAddResponse")),
    command(b'u', "SuspendDelete", Some("SuspendDeleteRequest"), Message("SuspendDeleteResponse")),
    command(b'v', "PolicyCondition", None, Message("PolicyConditionResponse")),
    command(
        b'w',
        "PolicyConditionAdd",
        Some("PolicyConditionAddRequest"),
        Message("PolicyConditionAddResponse"),
    ),
    command(
        b'x',
        "PolicyConditionDelete",
        Some("PolicyConditionDeleteRequest"),
        Message("PolicyConditionDeleteResponse"),
    ),
    command(b'y', "HSLMemory", Some("HSLMemoryRequest"), Message("HSLMemoryResponse")),
    command(b'z', "HSLMemoryStore", Some("HSLMemoryStoreRequest"), Message("HSLMemoryStoreResponse")),
    command(b'A', "HSLMemoryDelete", Some("HSLMemoryDeleteRequest"), Message("HSLMemoryDeleteResponse")),
    command(b'B', "PolicyRateRefill", Some("PolicyRateRefillRequest"), Message("PolicyRateRefillResponse")),
    command(
        b'C',
        "ResolverCacheClear",
        Some("ResolverCacheClearRequest"),
        Message("ResolverCacheClearResponse"),
    ),
    command(b'D', "QueueGroupBy", Some("QueueGroupByRequest"), Message("QueueGroupByResponse")),
    command(b'E', "QueueImport", Some("QueueImportRequest"), Message("QueueImportResponse")),
    command(b'F', "QueueList", Some("QueueListRequest"), Message("QueueListResponse")),
    command(b'G', "QueueUpdate", Some("QueueUpdateRequest"), Message("QueueUpdateResponse")),
    command(b'H', "ReloadDelivery", None, Empty),
    command(b'I', "QueueQuota", Some("QueueQuotaRequest"), Message("QueueQuotaResponse")),
    command(b'J', "QueueUnload", Some("QueueUnloadRequest"), Message("QueueUnloadResponse")),
    command(b'K', "HSLMemoryList", Some("HSLMemoryListRequest"), Message("HSLMemoryListResponse")),
    command(b'L', "PluginCommand", Some("PluginCommandRequest"), Message("PluginCommandResponse")),
    command(
        b'M',
        "ServerConnectionsList",
        Some("ServerConnectionsListRequest"),
        Message("ServerConnectionsListResponse"),
    ),
    command(
        b'N',
        "ServerConnectionsClose",
        Some("ServerConnectionsCloseRequest"),
        Message("ServerConnectionsCloseResponse"),
    ),
    command(b'O', "SuspendUpdate", Some("SuspendUpdateRequest"), Message("SuspendUpdateResponse")),
    command(
        b'P',
        "PolicyConditionUpdate",
        Some("PolicyConditionUpdateRequest"),
        Message("PolicyConditionUpdateResponse"),
    ),
    command(
        b'Q',
        "QueueConnectionsList",
        Some("QueueConnectionsListRequest"),
        Message("QueueConnectionsListResponse"),
    ),
    command(
        b'R',
        "QueueConnectionsClose",
        Some("QueueConnectionsCloseRequest"),
        Message("QueueConnectionsCloseResponse"),
    ),
    command(b'S', "PolicyMatch", Some("PolicyMatchRequest"), Message("PolicyMatchResponse")),
    command(
        b'T',
        "PolicyGroupingList",
        Some("PolicyGroupingListRequest"),
        Message("PolicyGroupingListResponse"),
    ),
    command(b'U', "PolicyGrouping", Some("PolicyGroupingRequest"), Message("PolicyGroupingResponse")),
    command(b'V', "TraceSMTP", Some("TraceSMTPRequest"), Lines),
    command(b'W', "QueueExport", Some("QueueExportRequest"), Bytes),
    command(b'X', "Version", None, Message("VersionResponse")),
    command(b'0', "HSLDocs", Some("HSLDocsRequest"), Message("HSLDocsResponse")),
    command(b'1', "PluginList", None, Message("PluginListResponse")),
    command(b'2', "ResolverQuery", Some("ResolverQueryRequest"), Message("ResolverQueryResponse")),
    command(b'3', "LogSubscribe", Some("LogSubscribeRequest"), Stream("LogEntry")),
    command(b'4', "ConfigGet", Some("ConfigGetRequest"), Message("ConfigGetResponse")),
    command(b'5', "ConfigCheck", Some("ConfigCheckRequest"), Message("ConfigCheckResponse")),
    command(b'6', "Health", None, Message("HealthResponse")),
    command(b'7', "QueueExplain", Some("QueueExplainRequest"), Message("QueueExplainResponse")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_named_is_in_the_schema_and_letters_are_unique() {
        for (i, command) in COMMANDS.iter().enumerate() {
            let reply = match command.reply {
                Message(name) | Stream(name) => Some(name),
                Empty | Bytes | Lines => None,
            };
            for name in command.request.into_iter().chain(reply) {
                assert!(crate::json::descriptor(name).is_ok(), "{name}");
            }
            assert!(COMMANDS[..i].iter().all(|other| other.letter != command.letter), "{}", command.name);
            assert!(COMMANDS[..i].iter().all(|other| other.name != command.name), "{}", command.name);
        }
    }
}
