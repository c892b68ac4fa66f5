//! The condition options that `queue list`, `groupby`, `update` and `unload` share.

use clap::Args;
use control::smtpd::condition::{
    AnyMatch, CompareStringRegexValue, CompareStringValue, Fields, FreezeState, MailAddress, MapStringValue,
    QueueItemId, QueueState, WorkingState, compare_string_regex_value,
};
use control::smtpd::{
    BoolValue, Condition, Freeze, Queue, StringMatch, StringRegexValue, Working, string_match,
    string_regex_value,
};

use super::CliError;
use super::values::{self, exclusion, expression};

/// Condition options. Values of the same option are alternatives, different options must all hold.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "Conditions (texts take /regex/; a leading ! excludes; numbers take >, >=, <, <=, =, A..B)"
)]
pub(crate) struct ConditionArgs {
    /// Filter on transport ID (repeatable)
    #[arg(long, value_name = "STRING")]
    transportid: Vec<String>,
    /// Filter on job ID (repeatable)
    #[arg(long, value_name = "STRING")]
    jobid: Vec<String>,
    /// Filter on tenant ID (repeatable)
    #[arg(long, value_name = "STRING")]
    tenantid: Vec<String>,
    /// Filter on grouping (repeatable)
    #[arg(long, value_name = "STRING")]
    grouping: Vec<String>,
    /// Filter on sender domain (repeatable)
    #[arg(long, value_name = "DOMAIN")]
    senderdomain: Vec<String>,
    /// Filter on recipient domain (repeatable)
    #[arg(long, value_name = "DOMAIN")]
    recipientdomain: Vec<String>,
    /// Filter on sender; empty for the null sender (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    sender: Vec<String>,
    /// Filter on recipient (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    recipient: Vec<String>,
    /// Filter on ID, with or without :queue (repeatable)
    #[arg(long, value_name = "ID")]
    id: Vec<String>,
    /// Filter on state: ACTIVE, DEFER, HOLD, UPDATE, UNKNOWN, SENDING (repeatable)
    #[arg(long, value_name = "STATE", ignore_case = true)]
    state: Vec<StateArg>,
    /// All states, working ones included
    #[arg(long, conflicts_with = "state")]
    all_states: bool,
    /// Filter on retry count (operators, repeatable)
    #[arg(long, value_name = "NUMBER")]
    retrycount: Vec<String>,
    /// Filter on seconds until the next retry (operators, repeatable)
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    retrydelay: Vec<String>,
    /// Filter on age in seconds (operators, repeatable)
    #[arg(long, value_name = "SECONDS")]
    age: Vec<String>,
    /// Filter on received time (operators, repeatable)
    #[arg(long, value_name = "ISO8601")]
    ts: Vec<String>,
    /// Filter on size, with B, KiB, MiB… (operators, repeatable)
    #[arg(long, value_name = "SIZE")]
    size: Vec<String>,
    /// Filter on priority (operators, repeatable)
    #[arg(long, value_name = "NUMBER")]
    priority: Vec<String>,
    /// Filter on metadata: key=value, key~part, key=/regex/, key>N (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    metadata: Vec<String>,
    /// Filter on source address or network (repeatable)
    #[arg(long, value_name = "IP")]
    localip: Vec<String>,
    /// Filter on next-hop address or network (repeatable)
    #[arg(long, value_name = "IP")]
    remoteip: Vec<String>,
    /// Filter on client address or network (repeatable)
    #[arg(long, value_name = "IP")]
    senderip: Vec<String>,
    /// Filter on MX name, also *.domain (repeatable)
    #[arg(long, value_name = "DOMAIN")]
    remotemx: Vec<String>,
    /// Filter on server ID (repeatable)
    #[arg(long, value_name = "STRING")]
    serverid: Vec<String>,
    /// Filter on live stage ID (repeatable)
    #[arg(long, value_name = "STRING")]
    stageid: Vec<String>,
    /// Filter on quota name (repeatable)
    #[arg(long, value_name = "STRING")]
    quota: Vec<String>,
    /// Filter on policy or suspend tag (repeatable)
    #[arg(long, value_name = "STRING")]
    tag: Vec<String>,
    /// Filter on part of the subject; =text for all of it (repeatable)
    #[arg(long, value_name = "TEXT")]
    subject: Vec<String>,
    /// Filter on part of the retry reason; =text for all of it (repeatable)
    #[arg(long, value_name = "TEXT")]
    retryreason: Vec<String>,
    /// Working entries marked by an earlier freeze
    #[arg(long, conflicts_with = "no_updatefreezing")]
    updatefreezing: bool,
    /// Working entries not marked by a freeze
    #[arg(long)]
    no_updatefreezing: bool,
    /// A random share, 0 to 1
    #[arg(long, value_name = "SHARE")]
    probability: Option<f32>,
    /// Compare values as the policy with these fields rolls them up (comma list)
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    policygrouping: Vec<String>,
}

/// The conditions on the hold flag. `queue update` has its own meaning for `--hold`, hence apart.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HoldArgs {
    /// On hold
    #[arg(long, conflicts_with = "no_hold")]
    hold: bool,
    /// Not on hold
    #[arg(long)]
    no_hold: bool,
}

impl HoldArgs {
    /// Puts the condition in.
    pub(crate) fn put(&self, condition: &mut Condition) {
        if self.hold || self.no_hold {
            condition.hold = Some(BoolValue { value: self.hold });
        }
    }
}

/// A state by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
enum StateArg {
    Active,
    Defer,
    Hold,
    Update,
    Unknown,
    Sending,
}

impl ConditionArgs {
    /// Whether nothing was asked for, states included.
    pub(crate) fn is_empty(&self) -> Result<bool, CliError> {
        Ok(!self.names_states() && self.condition()? == Condition::default())
    }

    /// Whether a state option was given.
    pub(crate) fn names_states(&self) -> bool {
        !self.state.is_empty() || self.all_states || self.updatefreezing || self.no_updatefreezing
    }

    /// The message.
    pub(crate) fn condition(&self) -> Result<Condition, CliError> {
        let mut condition = Condition {
            ids: each(&self.id, id)?,
            serverids: self.serverid.iter().map(|text| plain(text)).collect(),
            senderips: self.senderip.iter().map(|text| plain(text)).collect(),
            transportids: self.transportid.iter().map(|text| regex_value(text)).collect(),
            jobids: self.jobid.iter().map(|text| regex_value(text)).collect(),
            tenantids: self.tenantid.iter().map(|text| regex_value(text)).collect(),
            groupings: self.grouping.iter().map(|text| regex_value(text)).collect(),
            stageids: self.stageid.iter().map(|text| plain(text)).collect(),
            senders: addresses(&self.sender, &self.senderdomain),
            recipients: addresses(&self.recipient, &self.recipientdomain),
            tss: [each(&self.age, values::compare_age)?, each(&self.ts, values::compare_moment)?].concat(),
            retrytss: each(&self.retrydelay, values::compare_delay)?,
            retrycounts: each(&self.retrycount, values::compare_number)?,
            subjects: self.subject.iter().map(|text| loose(text)).collect(),
            metadatas: each(&self.metadata, metadata)?,
            quotas: self.quota.iter().map(|text| plain(text)).collect(),
            sizes: each(&self.size, values::compare_size)?,
            retryreasons: self.retryreason.iter().map(|text| loose(text)).collect(),
            localips: self.localip.iter().map(|text| plain(text)).collect(),
            remoteips: self.remoteip.iter().map(|text| plain(text)).collect(),
            remotemxs: self.remotemx.iter().map(|text| mx(text)).collect(),
            tags: self.tag.iter().map(|text| plain(text)).collect(),
            priorities: each(&self.priority, values::compare_number)?,
            policygroupings: policy_fields(&self.policygrouping)?,
            probability: self.share()?,
            ..Condition::default()
        };
        self.put_states(&mut condition);
        Ok(condition)
    }

    fn share(&self) -> Result<f32, CliError> {
        match self.probability {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(CliError::usage("--probability takes a number from 0 to 1".to_owned()))
            }
            share => Ok(share.unwrap_or(0.0)),
        }
    }

    fn put_states(&self, condition: &mut Condition) {
        let all = [
            StateArg::Active,
            StateArg::Defer,
            StateArg::Hold,
            StateArg::Update,
            StateArg::Unknown,
            StateArg::Sending,
        ];
        let given: &[StateArg] = if self.all_states { &all } else { &self.state };
        let freezing = match (self.updatefreezing, self.no_updatefreezing) {
            (true, _) => Some(BoolValue { value: true }),
            (_, true) => Some(BoolValue { value: false }),
            _ => None,
        };
        let mut put = |state: &StateArg| match state {
            StateArg::Active => condition.queues.push(QueueState { queue: Queue::Active as i32 }),
            StateArg::Defer => condition.queues.push(QueueState { queue: Queue::Defer as i32 }),
            StateArg::Hold => condition.freezes.push(FreezeState { freeze: Freeze::Hold as i32 }),
            StateArg::Update => condition.freezes.push(FreezeState { freeze: Freeze::Update as i32 }),
            StateArg::Unknown | StateArg::Sending => {
                let working = if *state == StateArg::Unknown { Working::Unknown } else { Working::Sending };
                condition.workings.push(WorkingState { working: working as i32, updatefreezing: freezing });
            }
        };
        given.iter().for_each(&mut put);
        if given.is_empty() && freezing.is_some() {
            [StateArg::Unknown, StateArg::Sending].iter().for_each(&mut put);
        }
    }
}

/// States an update or unload means when none is named: ACTIVE, DEFER and HOLD.
pub(crate) fn put_queued_states(condition: &mut Condition) {
    condition.queues = [Queue::Active, Queue::Defer].map(|queue| QueueState { queue: queue as i32 }).to_vec();
    condition.freezes = vec![FreezeState { freeze: Freeze::Hold as i32 }];
}

fn each<T>(texts: &[String], parse: impl Fn(&str) -> Result<T, CliError>) -> Result<Vec<T>, CliError> {
    texts.iter().map(|text| parse(text)).collect()
}

fn plain(text: &str) -> CompareStringValue {
    let (exclude, value) = exclusion(text);
    CompareStringValue { exclude, value: value.to_owned() }
}

fn regex_value(text: &str) -> CompareStringRegexValue {
    use compare_string_regex_value::MatchType;
    let (exclude, value) = exclusion(text);
    match expression(value) {
        Some(regex) => {
            CompareStringRegexValue { exclude, value: regex.to_owned(), r#type: MatchType::Regex as i32 }
        }
        None => CompareStringRegexValue { exclude, value: value.to_owned(), r#type: MatchType::Exact as i32 },
    }
}

/// `*.domain` has no form of its own in the protocol: it becomes an expression.
fn mx(text: &str) -> CompareStringRegexValue {
    let (exclude, value) = exclusion(text);
    match value.strip_prefix("*.") {
        Some(domain) => {
            let escaped: String = domain
                .chars()
                .flat_map(|c| {
                    let escape = !c.is_alphanumeric() && c != '-';
                    escape.then_some('\\').into_iter().chain([c.to_ascii_lowercase()])
                })
                .collect();
            CompareStringRegexValue {
                exclude,
                value: format!("\\.{escaped}$"),
                r#type: compare_string_regex_value::MatchType::Regex as i32,
            }
        }
        None => regex_value(text),
    }
}

fn string_match(exclude: bool, value: &str, kind: string_match::MatchType, caseless: bool) -> StringMatch {
    StringMatch { exclude, value: value.to_owned(), r#type: kind as i32, caseless }
}

/// Partial and caseless unless written as `=text` or `/regex/`.
fn loose(text: &str) -> StringMatch {
    use string_match::MatchType::{Exact, Partial, Regex};
    let (exclude, value) = exclusion(text);
    if let Some(regex) = expression(value) {
        return string_match(exclude, regex, Regex, false);
    }
    match value.strip_prefix('=') {
        Some(whole) => string_match(exclude, whole, Exact, false),
        None => string_match(exclude, value, Partial, true),
    }
}

fn addresses(addresses: &[String], domains: &[String]) -> Vec<MailAddress> {
    use string_regex_value::MatchType;
    let exact =
        |value: &str| StringRegexValue { value: value.to_ascii_lowercase(), r#type: MatchType::Exact as i32 };
    let whole = addresses.iter().map(|text| {
        let (exclude, value) = exclusion(text);
        let (localpart, domain) = value.rsplit_once('@').unwrap_or((value, ""));
        MailAddress {
            localpart: Some(string_match(false, localpart, string_match::MatchType::Exact, false)),
            domain: Some(exact(domain)),
            exclude,
        }
    });
    let by_domain = domains.iter().map(|text| {
        let (exclude, value) = exclusion(text);
        let domain = match expression(value) {
            Some(regex) => StringRegexValue { value: regex.to_owned(), r#type: MatchType::Regex as i32 },
            None => exact(value),
        };
        MailAddress { localpart: None, domain: Some(domain), exclude }
    });
    whole.chain(by_domain).collect()
}

fn id(text: &str) -> Result<QueueItemId, CliError> {
    let (exclude, value) = exclusion(text);
    let (transaction, queue) = values::item_id(value)?;
    Ok(QueueItemId { transaction, queue, exclude })
}

fn metadata(text: &str) -> Result<MapStringValue, CliError> {
    use string_match::MatchType::{Exact, Partial, Regex};
    let (exclude, rest) = exclusion(text);
    let at = rest.find(['=', '~', '>', '<']).filter(|&at| at > 0);
    let Some(at) = at else {
        let message = format!("\"{text}\" is not of the form key=value, key~part, key=/regex/ or key>N");
        return Err(CliError::usage(message));
    };
    // The operators are ASCII, so both cuts are at character boundaries.
    let (key, test) = rest.split_at(at);
    let mut any = AnyMatch::default();
    let (operator, value) = test.split_at(1);
    match (operator, expression(value)) {
        ("=", Some(regex)) => any.string.push(string_match(false, regex, Regex, false)),
        ("=", None) => any.string.push(string_match(false, value, Exact, false)),
        ("~", _) => any.string.push(string_match(false, value, Partial, false)),
        _ => any.double.push(values::compare_double(test)?),
    }
    Ok(MapStringValue { value: [(key.to_owned(), any)].into(), exclude })
}

/// The field names of a comma list.
fn policy_fields(names: &[String]) -> Result<Option<Fields>, CliError> {
    if names.is_empty() {
        return Ok(None);
    }
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
    Ok(Some(fields))
}
