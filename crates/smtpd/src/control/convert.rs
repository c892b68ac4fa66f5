//! Conditions, lists, distributions and updates: protobuf to the queue's types and back.
//!
//! Errors are the texts of the protocol's `E` frames.

use ::control::smtpd as pb;
use pb::condition::{self as pbc, compare_string_regex_value};
use queue::{
    AddressChange, AddressTest, Changes, Compare, CompareTime, Condition, Count, CountReturn, CountTest,
    EntryView, Field, FieldSet, GroupField, GroupRequest, GroupRollup, GroupRow, GroupSortField,
    GroupSorting, IdTest, Item, MetadataTest, MetadataValueTest, Pattern, Regex, SortField, Sorting, State,
    StateTest, States, Task, TextTest, Time, TimeValue, UpdateRequest,
};
use uuid::Uuid;

/// Text of an `E` frame.
pub type Refusal = String;

/// The answer to requests that make no sense.
pub const INVALID: &str = "Invalid request";

/// What is to become of entries an update takes out of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingAction {
    /// Bounce rather than delete.
    pub bounce: bool,
    /// Status for the notification (RFC 3463); by default 5.4.7.
    pub status: Option<(u64, u64, u64)>,
    /// Text for the notification.
    pub diagnosticcode: Option<String>,
}

fn regex(pattern: &str, caseless: bool) -> Result<Regex, Refusal> {
    Regex::new(pattern, caseless).map_err(|e| e.to_string())
}

fn collect<T, U>(items: &[T], convert: impl Fn(&T) -> Result<U, Refusal>) -> Result<Vec<U>, Refusal> {
    items.iter().map(convert).collect()
}

fn item<T>(exclude: bool, test: T) -> Item<T> {
    Item { exclude, test }
}

/// A condition; `None` matches everything.
pub fn condition(condition: Option<&pb::Condition>) -> Result<Condition, Refusal> {
    let Some(c) = condition else { return Ok(Condition::default()) };
    let plain =
        |value: &pbc::CompareStringValue| Ok(item(value.exclude, TextTest::Exact(value.value.clone())));
    let net = |value: &pbc::CompareStringValue| {
        let net = queue::parse_net(&value.value).map_err(|e| e.to_string())?;
        Ok(item(value.exclude, net))
    };
    Ok(Condition {
        states: states(c)?,
        ids: collect(&c.ids, id)?,
        hold: c.hold.map(|hold| hold.value),
        server_ids: collect(&c.serverids, plain)?,
        sender_ips: collect(&c.senderips, net)?,
        transport_ids: collect(&c.transportids, |value| text_or_regex(value, false))?,
        job_ids: collect(&c.jobids, |value| text_or_regex(value, false))?,
        tenant_ids: collect(&c.tenantids, |value| text_or_regex(value, false))?,
        stage_ids: collect(&c.stageids, plain)?,
        senders: collect(&c.senders, address)?,
        recipients: collect(&c.recipients, address)?,
        received: collect(&c.tss, compare_time)?,
        retry_at: collect(&c.retrytss, compare_time)?,
        retry_counts: c.retrycounts.iter().map(compare_number).collect(),
        subjects: collect(&c.subjects, string_match)?,
        metadata: collect(&c.metadatas, metadata)?,
        quotas: collect(&c.quotas, plain)?,
        sizes: c.sizes.iter().map(compare_number).collect(),
        retry_reasons: collect(&c.retryreasons, string_match)?,
        local_ips: collect(&c.localips, net)?,
        remote_ips: collect(&c.remoteips, net)?,
        remote_mxs: collect(&c.remotemxs, |value| text_or_regex(value, true))?,
        tags: collect(&c.tags, plain)?,
        priorities: c.priorities.iter().map(compare_number).collect(),
        policy_grouping: c.policygroupings.as_ref().map(condition_fields),
        groupings: collect(&c.groupings, |value| text_or_regex(value, false))?,
        probability: match f64::from(c.probability) {
            share if (0.0..=1.0).contains(&share) => share,
            _ => return Err(INVALID.to_owned()),
        },
    })
}

fn condition_fields(fields: &pbc::Fields) -> FieldSet {
    field_set([
        (Field::TransportId, fields.transportid),
        (Field::LocalIp, fields.localip),
        (Field::RemoteIp, fields.remoteip),
        (Field::RemoteMx, fields.remotemx),
        (Field::RecipientDomain, fields.recipientdomain),
        (Field::JobId, fields.jobid),
        (Field::Grouping, fields.grouping),
        (Field::TenantId, fields.tenantid),
    ])
}

/// The fields whose flag is set.
pub fn field_set(flags: impl IntoIterator<Item = (Field, bool)>) -> FieldSet {
    flags.into_iter().filter(|(_, set)| *set).map(|(field, _)| field).collect()
}

fn queue_state(number: i32) -> Result<State, Refusal> {
    match pb::Queue::try_from(number) {
        Ok(pb::Queue::Active) => Ok(State::Active),
        Ok(pb::Queue::Defer) => Ok(State::Defer),
        Err(_) => Err(INVALID.to_owned()),
    }
}

fn freeze_state(number: i32) -> Result<State, Refusal> {
    match pb::Freeze::try_from(number) {
        Ok(pb::Freeze::Hold) => Ok(State::Hold),
        Ok(pb::Freeze::Update) => Ok(State::Update),
        Err(_) => Err(INVALID.to_owned()),
    }
}

fn working_state(number: i32) -> Result<State, Refusal> {
    match pb::Working::try_from(number) {
        Ok(pb::Working::Unknown) => Ok(State::Unknown),
        Ok(pb::Working::Sending) => Ok(State::Sending),
        Err(_) => Err(INVALID.to_owned()),
    }
}

fn states(c: &pb::Condition) -> Result<StateTest, Refusal> {
    let queues = c.queues.iter().map(|state| queue_state(state.queue));
    let freezes = c.freezes.iter().map(|state| freeze_state(state.freeze));
    let workings = c.workings.iter().map(|state| working_state(state.working));
    let states: States = queues.chain(freezes).chain(workings).collect::<Result<_, _>>()?;
    let freezing = c.workings.iter().find_map(|state| state.updatefreezing).map(|flag| flag.value);
    Ok(StateTest { states, freezing })
}

fn uuid(text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text).map_err(|_| INVALID.to_owned())
}

fn id(value: &pbc::QueueItemId) -> Result<Item<IdTest>, Refusal> {
    let queue_id = (value.queue != 0).then_some(value.queue);
    Ok(item(value.exclude, IdTest { message: uuid(&value.transaction)?, queue_id }))
}

fn text_or_regex(value: &pbc::CompareStringRegexValue, domain: bool) -> Result<Item<TextTest>, Refusal> {
    use compare_string_regex_value::MatchType;
    let test = match MatchType::try_from(value.r#type) {
        Ok(MatchType::Exact) if domain => TextTest::Exact(value.value.to_ascii_lowercase()),
        Ok(MatchType::Exact) => TextTest::Exact(value.value.clone()),
        Ok(MatchType::Regex) => TextTest::Regex(regex(&value.value, domain)?),
        Err(_) => return Err(INVALID.to_owned()),
    };
    Ok(item(value.exclude, test))
}

pub(super) fn string_match(value: &pb::StringMatch) -> Result<Item<TextTest>, Refusal> {
    use pb::string_match::MatchType;
    let text = value.value.clone();
    let test = match (MatchType::try_from(value.r#type), value.caseless) {
        (Ok(MatchType::Exact), false) => TextTest::Exact(text),
        (Ok(MatchType::Exact), true) => TextTest::ExactCaseless(text),
        (Ok(MatchType::Partial), false) => TextTest::Partial(text),
        (Ok(MatchType::Partial), true) => TextTest::PartialCaseless(text),
        (Ok(MatchType::Regex), caseless) => TextTest::Regex(regex(&text, caseless)?),
        (Err(_), _) => return Err(INVALID.to_owned()),
    };
    Ok(item(value.exclude, test))
}

fn address(value: &pbc::MailAddress) -> Result<Item<AddressTest>, Refusal> {
    use pb::string_regex_value::MatchType;
    let domain = match &value.domain {
        None => None,
        Some(domain) => Some(match MatchType::try_from(domain.r#type) {
            Ok(MatchType::Exact) => TextTest::Exact(domain.value.to_ascii_lowercase()),
            Ok(MatchType::Regex) => TextTest::Regex(regex(&domain.value, true)?),
            Err(_) => return Err(INVALID.to_owned()),
        }),
    };
    let localpart = value.localpart.as_ref().map(string_match).transpose()?;
    Ok(item(value.exclude, AddressTest { localpart, domain }))
}

fn time_value(value: &pb::TimeValue) -> Result<TimeValue, Refusal> {
    use pb::time_value::Time;
    match value.time {
        Some(Time::Absolute(seconds)) if seconds.is_finite() => Ok(TimeValue::Absolute(seconds)),
        Some(Time::Relative(seconds)) if seconds.is_finite() => Ok(TimeValue::Relative(seconds)),
        _ => Err(INVALID.to_owned()),
    }
}

fn compare_time(value: &pb::CompareTime) -> Result<CompareTime, Refusal> {
    let one = |value: &Option<pb::TimeValue>| value.as_ref().map(time_value).transpose();
    Ok(Compare {
        eq: one(&value.eq)?,
        neq: one(&value.neq)?,
        lt: one(&value.lt)?,
        gt: one(&value.gt)?,
        gte: one(&value.gte)?,
        lte: one(&value.lte)?,
    })
}

fn compare_number(value: &pb::CompareUInt64) -> Compare<u64> {
    let one = |value: Option<pb::UInt64Value>| value.map(|value| value.value);
    Compare {
        eq: one(value.eq),
        neq: one(value.neq),
        lt: one(value.lt),
        gt: one(value.gt),
        gte: one(value.gte),
        lte: one(value.lte),
    }
}

fn compare_double(value: &pb::CompareDouble) -> Compare<f64> {
    let one = |value: Option<pb::DoubleValue>| value.map(|value| value.value);
    Compare {
        eq: one(value.eq),
        neq: one(value.neq),
        lt: one(value.lt),
        gt: one(value.gt),
        gte: one(value.gte),
        lte: one(value.lte),
    }
}

fn metadata(value: &pbc::MapStringValue) -> Result<Item<MetadataTest>, Refusal> {
    let key = |(key, any): (&String, &pbc::AnyMatch)| {
        let texts = collect(&any.string, string_match)?;
        let numbers = any.double.iter().map(compare_double).collect();
        Ok((key.clone(), MetadataValueTest { texts, numbers }))
    };
    let keys = value.value.iter().map(key).collect::<Result<_, Refusal>>()?;
    Ok(item(value.exclude, MetadataTest { keys }))
}

/// The sortings of a list.
pub fn list_sortings(sortings: &[pb::queue_list_request::Sorting]) -> Result<Vec<Sorting>, Refusal> {
    use pb::queue_list_request::{
        sorting, sorting_mail_address::SortingMailAddress as Part, sorting_working::SortingWorking,
    };
    collect(sortings, |one| {
        let (field, order) = match one.sorting.as_ref().ok_or(INVALID)? {
            sorting::Sorting::Ts(order) => (SortField::Received, *order),
            sorting::Sorting::Sender(part) => match part.sorting_mail_address.as_ref().ok_or(INVALID)? {
                Part::Localpart(order) => (SortField::SenderLocalpart, *order),
                Part::Domain(order) => (SortField::SenderDomain, *order),
            },
            sorting::Sorting::Recipient(part) => match part.sorting_mail_address.as_ref().ok_or(INVALID)? {
                Part::Localpart(order) => (SortField::RecipientLocalpart, *order),
                Part::Domain(order) => (SortField::RecipientDomain, *order),
            },
            sorting::Sorting::Working(working) => match working.sorting_working.as_ref().ok_or(INVALID)? {
                SortingWorking::Duration(order) => (SortField::WorkingDuration, *order),
            },
            sorting::Sorting::Retryts(order) => (SortField::RetryAt, *order),
            sorting::Sorting::Size(order) => (SortField::Size, *order),
            sorting::Sorting::Retrycount(order) => (SortField::RetryCount, *order),
        };
        Ok(Sorting { field, descending: descending(order)? })
    })
}

fn descending(order: i32) -> Result<bool, Refusal> {
    match pb::Order::try_from(order) {
        Ok(order) => Ok(order == pb::Order::Desc),
        Err(_) => Err(INVALID.to_owned()),
    }
}

/// An entry of a list. `hqfpath` is where its file is or will be.
pub fn list_item(view: EntryView<'_>, now: Time, hqfpath: String) -> pb::queue_list_response::QueueItem {
    use pb::queue_list_response::queue_item::{
        Dsn, FreezeState, MailAddress, QueueState, State as PbState, WorkingState,
    };
    let working = |working: pb::Working| {
        let info = view.work();
        PbState::Working(WorkingState {
            working: working as i32,
            updatefreezing: info.is_some_and(|info| info.freezing),
            duration: info.map_or(0.0, |info| now.since(info.since).as_secs_f64()),
        })
    };
    let state = match view.state() {
        State::Active => PbState::Queue(QueueState { queue: pb::Queue::Active as i32 }),
        State::Defer => PbState::Queue(QueueState { queue: pb::Queue::Defer as i32 }),
        State::Hold => PbState::Freeze(FreezeState { freeze: pb::Freeze::Hold as i32 }),
        State::Update => PbState::Freeze(FreezeState { freeze: pb::Freeze::Update as i32 }),
        State::Unknown => working(pb::Working::Unknown),
        State::Sending => working(pb::Working::Sending),
    };
    let ip = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let mail_address = |localpart: &str, domain: &str| {
        Some(MailAddress { localpart: localpart.to_owned(), domain: domain.to_owned() })
    };
    pb::queue_list_response::QueueItem {
        id: Some(pb::QueueItemId { transaction: view.message_id().to_string(), queue: view.queue_id() }),
        state: Some(state),
        hqfpath,
        ts: view.received().as_secs_f64(),
        hold: view.hold(),
        jobid: view.job_id().to_owned(),
        stageid: view.stage_id().to_owned(),
        metadata: view.metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        serverid: view.server_id().to_owned(),
        transportid: view.transport_id().to_owned(),
        sender: mail_address(view.sender_localpart(), view.sender_domain()),
        recipient: mail_address(view.recipient_localpart(), view.recipient_domain()),
        retrycount: u64::from(view.retry_count()),
        retrydelay: (view.retry_at().0.saturating_sub(now.0)) as f64 / 1e6,
        retryreason: view.retry_reason().to_owned(),
        size: view.size(),
        senderip: ip(view.sender_ip()),
        senderhelo: view.sender_helo().to_owned(),
        saslusername: view.sasl_username().to_owned(),
        subject: view.subject().to_owned(),
        localips: view.local_ips().iter().map(ToString::to_string).collect(),
        remoteip: ip(view.remote_ip()),
        remotemx: view.remote_mx().to_owned(),
        tags: view.tags(),
        quotas: view.quotas().map(str::to_owned).collect(),
        dsn: view.dsn().map(|dsn| Dsn {
            envid: dsn.envid.clone(),
            ret: dsn.ret.clone(),
            notify: dsn.notify.clone(),
            orcpt: dsn.orcpt.clone(),
        }),
        priority: u64::from(view.priority()),
        localipsordered: view.local_ips_ordered(),
        grouping: view.grouping().to_owned(),
        tenantid: view.tenant_id().to_owned(),
    }
}

/// A distribution.
pub fn group_request(request: &pb::QueueGroupByRequest) -> Result<GroupRequest, Refusal> {
    use pb::queue_group_by_request::{ReturnType, group_by::GroupUnique, sorting::SortingType};
    let groups = collect(&request.groupbys, |group| {
        Ok(match group.group_unique.as_ref().ok_or(INVALID)? {
            GroupUnique::Transportid(_) => GroupField::TransportId,
            GroupUnique::Recipientdomain(_) => GroupField::RecipientDomain,
            GroupUnique::Senderdomain(_) => GroupField::SenderDomain,
            GroupUnique::Jobid(_) => GroupField::JobId,
            GroupUnique::Metadata(key) => GroupField::Metadata(key.clone()),
            GroupUnique::Senderip(_) => GroupField::SenderIp,
            GroupUnique::Remoteip(_) => GroupField::RemoteIp,
            GroupUnique::Remotemx(_) => GroupField::RemoteMx,
            GroupUnique::Localip(_) => GroupField::LocalIp,
            GroupUnique::Grouping(_) => GroupField::Grouping,
            GroupUnique::Tenantid(_) => GroupField::TenantId,
            GroupUnique::Serverid(_) => GroupField::ServerId,
        })
    })?;
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let sortings = collect(&request.sortings, |sorting| {
        let field = match sorting.sorting_type.as_ref().ok_or(INVALID)? {
            SortingType::Groupby(number) => GroupSortField::Group(index(*number)),
            SortingType::Total(_) => GroupSortField::Total,
            SortingType::Count(number) => GroupSortField::Count(index(*number)),
        };
        Ok(GroupSorting { field, descending: descending(sorting.order)? })
    })?;
    let paging = request.paging.unwrap_or_default();
    Ok(GroupRequest {
        condition: condition(request.conditions.as_ref())?,
        groups,
        counts: collect(&request.counts, count)?,
        bytes: request.r#return == ReturnType::Bytes as i32,
        sortings,
        offset: paging.offset,
        limit: paging.limit,
        rollups: rollups(&request.groupings)?,
        policy_grouping: request.policygroupings.as_ref().map(|fields| {
            field_set([
                (Field::TransportId, fields.transportid),
                (Field::LocalIp, fields.localip),
                (Field::RemoteIp, fields.remoteip),
                (Field::RemoteMx, fields.remotemx),
                (Field::RecipientDomain, fields.recipientdomain),
                (Field::JobId, fields.jobid),
                (Field::Grouping, fields.grouping),
                (Field::TenantId, fields.tenantid),
            ])
        }),
    })
}

fn count(count: &pb::queue_group_by_request::Counts) -> Result<Count, Refusal> {
    use pb::queue_group_by_request::counts::{
        Type, return_type, return_type::ReturnType, return_type::unique::Unique,
    };
    let test = match count.r#type.as_ref().ok_or(INVALID)? {
        Type::Queue(state) => CountTest::State(queue_state(*state)?),
        Type::Freeze(state) => CountTest::State(freeze_state(*state)?),
        Type::Working(state) => CountTest::State(working_state(*state)?),
        Type::Ts(compare) => CountTest::Received(compare_time(compare)?),
        Type::Retryts(compare) => CountTest::RetryAt(compare_time(compare)?),
        Type::Retrycount(compare) => CountTest::RetryCount(compare_number(compare)),
        Type::Priority(compare) => CountTest::Priority(compare_number(compare)),
    };
    let returns = match count.r#return.as_ref().and_then(|returns| returns.return_type.as_ref()) {
        None => None,
        Some(ReturnType::Type(kind)) if *kind == return_type::Type::Bytes as i32 => Some(CountReturn::Bytes),
        Some(ReturnType::Type(_)) => Some(CountReturn::Count),
        Some(ReturnType::Unique(unique)) => {
            let field = match unique.unique.as_ref().ok_or(INVALID)? {
                Unique::Transportid(_) => GroupField::TransportId,
                Unique::Recipientdomain(_) => GroupField::RecipientDomain,
                Unique::Senderdomain(_) => GroupField::SenderDomain,
                Unique::Jobid(_) => GroupField::JobId,
                Unique::Metadata(key) => GroupField::Metadata(key.clone()),
                Unique::Senderip(_) => GroupField::SenderIp,
                Unique::Remoteip(_) => GroupField::RemoteIp,
                Unique::Remotemx(_) => GroupField::RemoteMx,
                Unique::Localip(_) => GroupField::LocalIp,
                Unique::Grouping(_) => GroupField::Grouping,
                Unique::Tenantid(_) => GroupField::TenantId,
                Unique::Serverid(_) => GroupField::ServerId,
            };
            Some(CountReturn::Unique { field, whole: unique.nogrouping })
        }
    };
    Ok(Count { test, returns })
}

fn rollups(
    groupings: &std::collections::BTreeMap<String, pb::Groupings>,
) -> Result<Vec<GroupRollup>, Refusal> {
    use pb::string_regex_value::MatchType;
    let mut rollups = Vec::new();
    for (name, members) in groupings {
        let texts = [
            (Field::TransportId, &members.transportid),
            (Field::RemoteMx, &members.remotemx),
            (Field::RecipientDomain, &members.recipientdomain),
            (Field::JobId, &members.jobid),
            (Field::Grouping, &members.grouping),
            (Field::TenantId, &members.tenantid),
        ];
        for (field, values) in texts {
            let patterns = collect(values, |value| match MatchType::try_from(value.r#type) {
                Ok(MatchType::Regex) => Ok(Pattern::Regex(regex(&value.value, true)?)),
                Ok(MatchType::Exact) => match value.value.strip_prefix("*.").filter(|_| field.is_domain()) {
                    Some(domain) => Ok(Pattern::Below(domain.to_ascii_lowercase())),
                    None if field.is_domain() => Ok(Pattern::Exact(value.value.to_ascii_lowercase())),
                    None => Ok(Pattern::Exact(value.value.clone())),
                },
                Err(_) => Err(INVALID.to_owned()),
            })?;
            if !patterns.is_empty() {
                rollups.push(GroupRollup { name: name.clone(), field, patterns });
            }
        }
        for (field, values) in [(Field::LocalIp, &members.localip), (Field::RemoteIp, &members.remoteip)] {
            let net = |value: &pb::StringValue| {
                queue::parse_net(&value.value).map(Pattern::Net).map_err(|e| e.to_string())
            };
            let patterns = collect(values, net)?;
            if !patterns.is_empty() {
                rollups.push(GroupRollup { name: name.clone(), field, patterns });
            }
        }
    }
    Ok(rollups)
}

/// The reply to a distribution.
pub fn group_response(total: u64, rows: Vec<GroupRow>) -> pb::QueueGroupByResponse {
    use pb::queue_group_by_response::{Item, Paging};
    let items = rows
        .into_iter()
        .map(|row| Item { groupbys: row.groups, counts: row.counts, total: row.total })
        .collect();
    pb::QueueGroupByResponse { items, paging: Some(Paging { total }) }
}

/// An update, and what becomes of the entries it releases.
pub fn update_request(
    request: &pb::QueueUpdateRequest,
) -> Result<(UpdateRequest, Option<PendingAction>), Refusal> {
    use pb::queue_update_request::Task as PbTask;
    let mut action = None;
    let task = match &request.task {
        None => None,
        Some(PbTask::Move(to)) => Some(move_task(to)?),
        Some(PbTask::Actiontype(kind)) => {
            action = Some(PendingAction { bounce: bounces(*kind)?, status: None, diagnosticcode: None });
            Some(Task::Release)
        }
        Some(PbTask::Action(given)) => {
            let dsn = given.dsn.clone().unwrap_or_default();
            action = Some(PendingAction {
                bounce: bounces(given.r#type)?,
                status: dsn.status.map(|status| (status.class, status.subject, status.detail)),
                diagnosticcode: (!dsn.diagnosticcode.is_empty()).then_some(dsn.diagnosticcode),
            });
            Some(Task::Release)
        }
    };
    let text = |value: &Option<pb::StringValue>| value.as_ref().map(|value| value.value.clone());
    let address = |change: &Option<pb::queue_update_request::MailAddress>| {
        change.as_ref().map_or_else(AddressChange::default, |change| AddressChange {
            localpart: text(&change.localpart),
            domain: text(&change.domain),
        })
    };
    let priority = match request.priority.map(|priority| priority.value) {
        None => None,
        Some(priority @ 0..=1) => Some(priority as u8),
        Some(_) => return Err(INVALID.to_owned()),
    };
    let retry_count = match request.retrycount.map(|count| u32::try_from(count.value)) {
        None => None,
        Some(Ok(count)) => Some(count),
        Some(Err(_)) => return Err(INVALID.to_owned()),
    };
    let changes = Changes {
        transport_id: text(&request.transportid),
        job_id: text(&request.jobid),
        metadata: request.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        priority,
        retry_count,
        sender: address(&request.sender),
        recipient: address(&request.recipient),
    };
    let update = UpdateRequest {
        condition: condition(request.conditions.as_ref())?,
        task,
        changes,
        freeze: request.freeze,
        duplicate: request.duplicate,
        limit: request.paging.map_or(0, |paging| paging.limit),
    };
    Ok((update, action))
}

fn bounces(kind: i32) -> Result<bool, Refusal> {
    match pb::ActionType::try_from(kind) {
        Ok(kind) => Ok(kind == pb::ActionType::Bounce),
        Err(_) => Err(INVALID.to_owned()),
    }
}

fn move_task(to: &pb::queue_update_request::Move) -> Result<Task, Refusal> {
    use pb::queue_update_request::r#move::Destination;
    Ok(match to.destination.as_ref().ok_or(INVALID)? {
        Destination::Queue(state) if queue_state(*state)? == State::Active => Task::Active,
        Destination::Queue(_) => Task::Defer {
            at: to.retryts.as_ref().map(time_value).transpose()?.unwrap_or(TimeValue::Relative(0.0)),
            jitter: std::time::Duration::from_secs(to.retrytsjitter.map_or(0, |jitter| jitter.value)),
        },
        Destination::Freeze(state) if freeze_state(*state)? == State::Hold => Task::Hold,
        Destination::Freeze(_) => Task::Freeze,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_json<M: prost::Message + Default>(name: &str, json: &str) -> M {
        M::decode(&::control::json::from_json(name, json).unwrap()[..]).unwrap()
    }

    fn parse(json: &str) -> Result<Condition, Refusal> {
        condition(Some(&from_json("Condition", json)))
    }

    #[test]
    fn conditions_by_field() {
        let exact = |text: &str| TextTest::Exact(text.into());
        let states = States::NONE.with(State::Active).with(State::Hold).with(State::Sending);
        let message = Uuid::try_parse("c6321f4c-1671-11ea-885e-005056914940").unwrap();
        for (json, expected) in [
            ("{}", Condition::default()),
            (
                r#"{"queues": [{"queue": "ACTIVE"}], "freezes": [{"freeze": "HOLD"}],
                    "workings": [{"working": "SENDING", "updatefreezing": {"value": true}}]}"#,
                Condition { states: StateTest { states, freezing: Some(true) }, ..Default::default() },
            ),
            (
                r#"{"ids": [{"transaction": "c6321f4c-1671-11ea-885e-005056914940", "queue": 2, "exclude": true}]}"#,
                Condition {
                    ids: vec![Item::exclude(IdTest { message, queue_id: Some(2) })],
                    ..Default::default()
                },
            ),
            (
                r#"{"transportids": [{"value": "T"}], "remotemxs": [{"value": "MX.Example"}]}"#,
                Condition {
                    transport_ids: vec![Item::include(exact("T"))],
                    remote_mxs: vec![Item::include(exact("mx.example"))],
                    ..Default::default()
                },
            ),
            (
                r#"{"senders": [{"localpart": {"value": ""}, "domain": {"value": ""}}]}"#,
                Condition {
                    senders: vec![Item::include(AddressTest {
                        localpart: Some(Item::include(exact(""))),
                        domain: Some(exact("")),
                    })],
                    ..Default::default()
                },
            ),
            (
                r#"{"tss": [{"lt": {"relative": -3600}}], "sizes": [{"gte": {"value": "1"}, "lte": {"value": 5}}]}"#,
                Condition {
                    received: vec![Compare { lt: Some(TimeValue::Relative(-3600.0)), ..Default::default() }],
                    sizes: vec![Compare { gte: Some(1), lte: Some(5), ..Default::default() }],
                    ..Default::default()
                },
            ),
            (
                r#"{"subjects": [{"value": "x", "type": "PARTIAL", "caseless": true}], "tags": [{"value": "t"}]}"#,
                Condition {
                    subjects: vec![Item::include(TextTest::PartialCaseless("x".into()))],
                    tags: vec![Item::include(exact("t"))],
                    ..Default::default()
                },
            ),
            (
                r#"{"policygroupings": {"remotemx": true, "tenantid": true}, "probability": 0.5, "hold": {}}"#,
                Condition {
                    policy_grouping: Some([Field::RemoteMx, Field::TenantId].into_iter().collect()),
                    probability: 0.5,
                    hold: Some(false),
                    ..Default::default()
                },
            ),
        ] {
            assert_eq!(parse(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            r#"{"ids": [{"transaction": "x"}]}"#,
            r#"{"queues": [{"queue": 7}]}"#,
            r#"{"localips": [{"value": "x"}]}"#,
            r#"{"tss": [{"lt": {}}]}"#,
            r#"{"jobids": [{"value": "(", "type": "REGEX"}]}"#,
            r#"{"subjects": [{"value": "x", "type": 9}]}"#,
            r#"{"probability": 1.5}"#,
        ] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn update_tasks() {
        for (json, task, action) in [
            (r#"{"actiontype": "DELETE"}"#, Some(Task::Release), Some((false, None, None))),
            (
                r#"{"action": {"type": "BOUNCE", "dsn": {"status": {"class": 5, "subject": 1, "detail": 2}, "diagnosticcode": "t"}}}"#,
                Some(Task::Release),
                Some((true, Some((5, 1, 2)), Some("t"))),
            ),
            (r#"{"move": {"queue": "ACTIVE"}}"#, Some(Task::Active), None),
            (
                r#"{"move": {"queue": "DEFER", "retryts": {"relative": 60}, "retrytsjitter": {"value": 5}}}"#,
                Some(Task::Defer {
                    at: TimeValue::Relative(60.0),
                    jitter: std::time::Duration::from_secs(5),
                }),
                None,
            ),
            (r#"{"move": {"freeze": "UPDATE"}}"#, Some(Task::Freeze), None),
            (r#"{"transportid": {"value": "t"}}"#, None, None),
        ] {
            let (update, pending) = update_request(&from_json("QueueUpdateRequest", json)).unwrap();
            assert_eq!(update.task, task, "{json}");
            let expected = action.map(|(bounce, status, text): (bool, _, Option<&str>)| PendingAction {
                bounce,
                status,
                diagnosticcode: text.map(str::to_owned),
            });
            assert_eq!(pending, expected, "{json}");
        }
        for json in [r#"{"move": {}}"#, r#"{"priority": {"value": 2}}"#, r#"{"actiontype": 5}"#] {
            assert!(update_request(&from_json("QueueUpdateRequest", json)).is_err(), "{json}");
        }
    }

    #[test]
    fn group_requests() {
        let request = from_json(
            "QueueGroupByRequest",
            r#"{"groupbys": [{"remotemx": true}, {"metadata": "k"}],
                "counts": [{"working": "SENDING", "return": {"type": "BYTES"}},
                           {"retrycount": {"gt": {"value": 1}}, "return": {"unique": {"jobid": true, "nogrouping": true}}}],
                "sortings": [{"count": 1, "order": "DESC"}], "return": "BYTES", "paging": {"limit": 7},
                "groupings": {"big": {"remotemx": [{"value": "*.example"}]}}}"#,
        );
        let got = group_request(&request).unwrap();
        assert_eq!(got.groups, [GroupField::RemoteMx, GroupField::Metadata("k".into())]);
        assert_eq!(got.counts[0].test, CountTest::State(State::Sending));
        assert_eq!(got.counts[0].returns, Some(CountReturn::Bytes));
        let unique = CountReturn::Unique { field: GroupField::JobId, whole: true };
        assert_eq!(got.counts[1].returns, Some(unique));
        assert_eq!(got.sortings, [GroupSorting { field: GroupSortField::Count(1), descending: true }]);
        assert_eq!((got.bytes, got.limit), (true, 7));
        assert_eq!(got.rollups[0].patterns, [Pattern::Below("example".into())]);
    }
}
