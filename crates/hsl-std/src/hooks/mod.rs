//! The hooks as scripts see them: which functions end them, which variables they have, and the options of
//! those functions as plain values. The daemon runs hooks with these tables and the linter compiles against
//! them, so both agree on every name.

mod delivery_options;
pub mod options;
pub mod recipient;
mod reply_options;
mod try_options;

use crate::Environment;
use hsl::{Args, Error, FunctionDef, Host, NativeCx, Outcome, Place, Registry, Value};
use options::{BounceOptions, QueueOptions, ReplyOptions, TryOptions, Verdict};
use std::any::Any;
use std::sync::Arc;

/// The hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the hooks")]
pub enum Hook {
    Connect,
    Proxy,
    Helo,
    Auth,
    MailFrom,
    RcptTo,
    Eod,
    EodRcpt,
    Disconnect,
    PreDelivery,
    PostDelivery,
}

impl Hook {
    /// All of them.
    pub const ALL: [Hook; 11] = [
        Hook::Connect,
        Hook::Proxy,
        Hook::Helo,
        Hook::Auth,
        Hook::MailFrom,
        Hook::RcptTo,
        Hook::Eod,
        Hook::EodRcpt,
        Hook::Disconnect,
        Hook::PreDelivery,
        Hook::PostDelivery,
    ];

    /// The name in configuration, folders and counters.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Connect => "connect",
            Hook::Proxy => "proxy",
            Hook::Helo => "helo",
            Hook::Auth => "auth",
            Hook::MailFrom => "mailfrom",
            Hook::RcptTo => "rcptto",
            Hook::Eod => "eod",
            Hook::EodRcpt => "eodrcpt",
            Hook::Disconnect => "disconnect",
            Hook::PreDelivery => "predelivery",
            Hook::PostDelivery => "postdelivery",
        }
    }

    /// The hook of a name.
    pub fn from_name(name: &str) -> Option<Hook> {
        Hook::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// Variables that a script of this hook has, with whether they are read-only.
    pub fn variables(self) -> &'static [(&'static str, bool)] {
        match self {
            Hook::PreDelivery => &[("arguments", true), ("message", true), ("context", false)],
            Hook::PostDelivery => &[("arguments", true), ("message", true), ("context", true)],
            Hook::EodRcpt => recipient::VARIABLES,
            _ => &[("arguments", true), ("connection", true), ("transaction", true), ("context", false)],
        }
    }
}

/// Gets the output of `echo`, with its place.
pub type EchoSink = Box<dyn FnMut(&[u8], &Place) + Send>;

/// Gets the lines of `History`.
pub type HistorySink = Box<dyn FnMut(&[u8]) + Send>;

/// What the daemon gives to an execution of a hook.
pub struct HookHost {
    /// Gets the output of `echo`.
    pub log: EchoSink,
    /// Metadata of the entry, for the delivery hooks.
    pub metadata: options::Metadata,
    /// `SetMetaData` was called.
    pub metadata_changed: bool,
    /// The message that the script is about, if it is about one: the cache option `per_message` needs it.
    pub message: Option<String>,
    /// What the library knows of the daemon.
    pub environment: Option<Arc<Environment>>,
    /// Gets the lines of `History`.
    pub history: Option<HistorySink>,
    /// The recipient that the older end-of-data hook runs for.
    pub recipient: Option<recipient::RecipientRun>,
}

impl HookHost {
    /// With a sink for `echo` and no metadata.
    pub fn new(log: EchoSink) -> HookHost {
        HookHost {
            log,
            metadata: Vec::new(),
            metadata_changed: false,
            message: None,
            environment: None,
            history: None,
            recipient: None,
        }
    }
}

impl Host for HookHost {
    fn echo(&mut self, text: &[u8], place: &Place) {
        (self.log)(text, place);
    }

    fn message_id(&self) -> Option<&str> {
        self.message.as_deref()
    }

    fn environment(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.environment.clone().map(|e| e as Arc<dyn Any + Send + Sync>)
    }
}

/// The functions of a hook over the library.
pub fn registry(hook: Hook, library: &Arc<Registry>) -> Arc<Registry> {
    let mut registry = Registry::child(library);
    match hook {
        Hook::Connect | Hook::Helo | Hook::MailFrom | Hook::RcptTo => add_verdicts(&mut registry, hook),
        Hook::Auth => {
            add_verdicts(&mut registry, hook);
            registry.add_function(verdict(
                hook,
                Verdict::Reply,
                "Reply(reply?: string, options?: array)",
                "Sends a challenge (334); the client's answer runs the hook again.",
            ));
        }
        Hook::Proxy => {
            registry.add_function(verdict(
                hook,
                Verdict::Pass,
                "Pass(options?: array)",
                "Lets the command through, or the one in the option command.",
            ));
            registry.add_function(verdict(
                hook,
                Verdict::Reply,
                "Reply(reason?: string or array, options?: array)",
                "Answers the command (250); it is not processed.",
            ));
        }
        Hook::Eod => {
            add_verdicts(&mut registry, hook);
            registry.add_function(FunctionDef::pure(
                "History(action: string, recipient: string or array, options?: array)",
                "Writes a line about a recipient to the log; the action is REJECT, DELETE, DELIVER, DEFER or ERROR.",
                history,
            ));
        }
        Hook::EodRcpt => recipient::add(&mut registry),
        Hook::Disconnect => registry.add_function(FunctionDef::full("Pass()", "Ends the script.", |_, _| {
            Ok(Outcome::End(Vec::new()))
        })),
        Hook::PreDelivery => {
            registry.add_function(ending(
                "Try(options?: array)",
                "Goes on to DNS and the active queue; options override the transport for this attempt.",
                |value| TryOptions::read(value).map(drop),
            ));
            add_delivery(&mut registry);
            registry.add_function(ending(
                "Delete(options?: array)",
                "Skips the attempt; post-delivery runs with action DELETE.",
                |value| options::read_reason(value).map(drop),
            ));
        }
        Hook::PostDelivery => {
            add_delivery(&mut registry);
            registry.add_function(FunctionDef::full(
                "Delete()",
                "Removes the entry without a report.",
                |_, _| Ok(Outcome::End(Vec::new())),
            ));
            registry.add_function(FunctionDef::full("Default()", "Takes the pending action.", |_, _| {
                Ok(Outcome::End(Vec::new()))
            }));
        }
    }
    Arc::new(registry)
}

/// `Accept`, `Reject` and `Defer`. Their options are checked at the call, so that a mistake is a script error
/// at its place.
fn add_verdicts(registry: &mut Registry, hook: Hook) {
    for (signature, doc, ends_with) in [
        (
            "Accept(options?: array)",
            "Accepts, with options of the hook such as reason and reply_codes.",
            Verdict::Accept,
        ),
        ("Reject(reason?: string or array, options?: array)", "Refuses for good (5xx).", Verdict::Reject),
        ("Defer(reason?: string or array, options?: array)", "Refuses for now (4xx).", Verdict::Defer),
    ] {
        registry.add_function(verdict(hook, ends_with, signature, doc));
    }
}

fn verdict(hook: Hook, verdict: Verdict, signature: &'static str, doc: &'static str) -> FunctionDef {
    FunctionDef::full(signature, doc, move |_, mut args| {
        if !verdict.has_reason() {
            ReplyOptions::read(hook, verdict, &Value::None, args.get(0))?;
            return Ok(Outcome::End(vec![args.take(0)]));
        }
        ReplyOptions::read(hook, verdict, args.get(0), args.get(1))?;
        Ok(Outcome::End(vec![args.take(0), args.take(1)]))
    })
}

/// Actions of `History`.
const ACTIONS: [&str; 5] = ["REJECT", "DELETE", "DELIVER", "DEFER", "ERROR"];

fn history(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let action = args.get(0).to_string_lossy();
    if !ACTIONS.contains(&action.as_str()) {
        return Err(Error::exception(format!(
            "History() has no action '{action}', expected REJECT, DELETE, DELIVER, DEFER or ERROR"
        )));
    }
    let recipient = options::read_address("recipient", args.get(1))?;
    let line = options::history_line(&action, &recipient, args.get(2))?;
    let Some(host) = cx.host::<HookHost>() else {
        return Err(Error::exception("History() has no message here"));
    };
    if let Some(history) = &mut host.history {
        history(line.as_bytes());
    }
    Ok(Value::None)
}

fn add_delivery(registry: &mut Registry) {
    registry.add_function(ending(
        "Queue(options?: array)",
        "Queues the entry again; options are delay, hold, reason, increment_retry, reset_retry and more.",
        |value| QueueOptions::read(value).map(drop),
    ));
    registry.add_function(ending(
        "Bounce(options?: array)",
        "Ends the entry with a report of failure to the sender.",
        |value| BounceOptions::read(value).map(drop),
    ));
    registry.add_function(FunctionDef::pure(
        "SetMetaData(metadata: array)",
        "Replaces the entry's metadata; keys and values are strings.",
        set_metadata,
    ));
    registry.add_function(FunctionDef::pure("GetMetaData()", "The entry's metadata.", |cx, _| {
        let mut array = hsl::Array::new();
        if let Some(host) = cx.host::<HookHost>() {
            for (key, value) in &host.metadata {
                array.insert_str(key, value.as_slice());
            }
        }
        Ok(Value::from(array))
    }));
}

fn set_metadata(cx: &mut NativeCx<'_>, args: Args<'_>) -> Result<Value, Error> {
    let metadata = options::read_metadata("metadata", args.get(0))?;
    let Some(host) = cx.host::<HookHost>() else {
        return Err(Error::exception("SetMetaData() has no entry here"));
    };
    host.metadata = metadata;
    host.metadata_changed = true;
    Ok(Value::None)
}

fn ending(
    signature: &'static str,
    doc: &'static str,
    check: impl Fn(&Value) -> Result<(), Error> + Send + Sync + 'static,
) -> FunctionDef {
    FunctionDef::full(signature, doc, move |_, mut args| {
        check(args.get(0))?;
        Ok(Outcome::End(vec![args.take(0)]))
    })
}
