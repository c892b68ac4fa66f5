//! YAML 1.2 (library section 6, `yaml_decode`): the first document, core schema, built from the events of the parser so
//! that tags can call script functions.

use crate::support::options;
use granit_parser::{Event, Parser, ScalarStyle, Tag};
use hsl::{
    Args, Array, CallArgs, Continuation, Error, FunctionDef, Key, NativeCall, NativeCx, Next, OptionDef,
    Outcome, Value, option,
};
use std::collections::HashMap;

/// Nesting of collections.
const DEPTH_MAX: usize = 512;
/// Nodes of a document, those behind aliases counted each time.
const NODES_MAX: usize = 1 << 20;
/// Prefix of the tags of the core schema.
const CORE: &str = "tag:yaml.org,2002:";

const OPTIONS: &[OptionDef] =
    &[option("tags", "array", "", "Tag such as `!Set` to a function whose result replaces the node.")];

/// The function `yaml_decode`.
pub(crate) fn function() -> FunctionDef {
    FunctionDef::full(
        "yaml_decode(string: string, options?: array) -> any",
        "The first document of a YAML text.",
        run,
    )
    .with_options(OPTIONS)
}

/// Why a text is no YAML.
pub(crate) struct YamlError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// Parses the first document; tags have no functions.
pub(crate) fn decode(text: &[u8]) -> Result<Value, YamlError> {
    let mut builder = Builder::new(text, Array::new())?;
    loop {
        match builder.step()? {
            Step::Done(value) => return Ok(value),
            // Without functions there is nothing to call, but the node itself is right in any case.
            Step::Call(_, value) => builder.place(value)?,
        }
    }
}

fn run(_: &mut NativeCx<'_>, args: Args<'_>) -> Result<Outcome, Error> {
    let tags = options(&args, 1).get_str("tags").and_then(Value::as_array).cloned().unwrap_or_default();
    // Errors of the text give none by contract.
    let Ok(builder) = Builder::new(args.bytes(0), tags) else { return Ok(Value::None.into()) };
    let mut state = Decoding(builder);
    Ok(match state.go_on() {
        Next::Call(function, args) => {
            Outcome::Call(Box::new(NativeCall { function, args, then: Box::new(state) }))
        }
        Next::Value(value) => value.into(),
        _ => return Err(Error::fatal("yaml_decode: nothing to wait for")),
    })
}

struct Decoding(Builder);

impl Decoding {
    fn go_on(&mut self) -> Next {
        match self.0.step() {
            Ok(Step::Done(value)) => Next::Value(value),
            Ok(Step::Call(function, value)) => Next::Call(function, CallArgs::from([value])),
            Err(_) => Next::Value(Value::None),
        }
    }
}

impl Continuation for Decoding {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        Ok(match self.0.place(result) {
            Ok(()) => self.go_on(),
            Err(_) => Next::Value(Value::None),
        })
    }
}

/// A tag that matters: of the core schema, or with a function.
#[derive(Clone)]
enum Meaning {
    None,
    Core(String),
    Function(Value),
    /// `!`: the scalar is a string.
    Plain,
}

enum Item {
    Scalar { text: String, plain: bool, anchor: usize, tag: Meaning },
    Sequence { anchor: usize, tag: Meaning },
    Mapping { anchor: usize, tag: Meaning },
    End,
    Alias(usize),
}

enum Content {
    List(Vec<Value>),
    Map { array: Array, key: Option<Value>, merged: Vec<Value> },
}

struct Frame {
    content: Content,
    anchor: usize,
    tag: Meaning,
    nodes: usize,
}

enum Step {
    Done(Value),
    Call(Value, Value),
}

struct Builder {
    items: std::vec::IntoIter<(Item, u32)>,
    line: u32,
    stack: Vec<Frame>,
    /// Values by anchor, with their nodes.
    anchors: HashMap<usize, (Value, usize)>,
    /// Anchor and nodes of the value that is to be placed.
    pending: (usize, usize),
    result: Option<Value>,
}

impl Builder {
    fn new(text: &[u8], tags: Array) -> Result<Builder, YamlError> {
        let text = std::str::from_utf8(text)
            .map_err(|_| YamlError { line: 1, message: "Not valid UTF-8".into() })?;
        let meaning = |tag: Option<std::borrow::Cow<'_, Tag>>| {
            let Some(tag) = tag else { return Meaning::None };
            let written = format!("{}{}", tag.original_handle(), tag.suffix());
            let full = format!("{}{}", tag.handle(), tag.suffix());
            if let Some(function) = tags.get_str(&written).or_else(|| tags.get_str(&full)) {
                return Meaning::Function(function.clone());
            }
            match full.strip_prefix(CORE) {
                Some(name) => Meaning::Core(name.to_owned()),
                None if full == "!" => Meaning::Plain,
                None => Meaning::None,
            }
        };
        let mut items = Vec::new();
        let mut depth = 0_usize;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|e| YamlError {
                line: u32::try_from(e.marker().line()).unwrap_or(u32::MAX),
                message: e.to_string().lines().next().unwrap_or("Invalid YAML").to_owned(),
            })?;
            let item = match event {
                Event::Scalar(text, style, anchor, tag) => Item::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                    anchor,
                    tag: meaning(tag),
                },
                Event::SequenceStart(_, anchor, tag) => Item::Sequence { anchor, tag: meaning(tag) },
                Event::MappingStart(_, anchor, tag) => Item::Mapping { anchor, tag: meaning(tag) },
                Event::SequenceEnd | Event::MappingEnd => Item::End,
                Event::Alias(anchor) => Item::Alias(anchor),
                // What follows the first document is not looked at.
                Event::DocumentEnd => break,
                _ => continue,
            };
            let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
            match item {
                Item::Sequence { .. } | Item::Mapping { .. } => depth += 1,
                Item::End => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH_MAX || items.len() > 2 * NODES_MAX {
                return Err(YamlError { line, message: "Too deep or too large".into() });
            }
            items.push((item, line));
        }
        Ok(Builder {
            items: items.into_iter(),
            line: 1,
            stack: Vec::new(),
            anchors: HashMap::new(),
            pending: (0, 0),
            result: None,
        })
    }

    fn wrong(&self, message: impl Into<String>) -> YamlError {
        YamlError { line: self.line, message: message.into() }
    }

    /// Goes on until the document is complete or a function is to be called with a node.
    fn step(&mut self) -> Result<Step, YamlError> {
        loop {
            if let Some(value) = self.result.take() {
                return Ok(Step::Done(value));
            }
            let Some((item, line)) = self.items.next() else {
                // An empty document is a null.
                return if self.stack.is_empty() {
                    Ok(Step::Done(Value::None))
                } else {
                    Err(self.wrong("The document ends early"))
                };
            };
            self.line = line;
            let (value, anchor, tag, nodes) = match item {
                Item::Sequence { anchor, tag } => {
                    self.stack.push(Frame { content: Content::List(Vec::new()), anchor, tag, nodes: 1 });
                    continue;
                }
                Item::Mapping { anchor, tag } => {
                    let content = Content::Map { array: Array::new(), key: None, merged: Vec::new() };
                    self.stack.push(Frame { content, anchor, tag, nodes: 1 });
                    continue;
                }
                Item::Alias(anchor) => {
                    let (value, nodes) =
                        self.anchors.get(&anchor).cloned().ok_or_else(|| self.wrong("Unknown alias"))?;
                    (value, 0, Meaning::None, nodes)
                }
                Item::Scalar { text, plain, anchor, tag } => {
                    if plain && text == "<<" && self.wants_key() {
                        self.begin_merge();
                        continue;
                    }
                    (self.scalar(text, plain, &tag)?, anchor, tag, 1)
                }
                Item::End => {
                    let Some(frame) = self.stack.pop() else { return Err(self.wrong("Unexpected end")) };
                    let value = match frame.content {
                        Content::List(list) => list.into(),
                        Content::Map { array, merged, .. } => self.merge(array, merged)?.into(),
                    };
                    (value, frame.anchor, frame.tag, frame.nodes)
                }
            };
            self.pending = (anchor, nodes);
            if let Meaning::Function(function) = tag {
                return Ok(Step::Call(function, value));
            }
            self.place(value)?;
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame { content: Content::Map { key: None, .. }, .. }))
    }

    /// Marks that the next value of the mapping is to be merged into it.
    fn begin_merge(&mut self) {
        if let Some(Frame { content: Content::Map { key, .. }, .. }) = self.stack.last_mut() {
            // No node of a document is undefined, so this cannot be a key of its own.
            *key = Some(MERGE.clone());
        }
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, value: Value) -> Result<(), YamlError> {
        let (anchor, nodes) = self.pending;
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), nodes));
        }
        let line = self.line;
        let wrong = |message: &str| YamlError { line, message: message.to_owned() };
        let Some(frame) = self.stack.last_mut() else {
            self.result = Some(value);
            return Ok(());
        };
        frame.nodes += nodes;
        if frame.nodes > NODES_MAX {
            return Err(wrong("Too many nodes"));
        }
        match &mut frame.content {
            Content::List(list) => list.push(value),
            Content::Map { array, key, merged } => match key.take() {
                None => *key = Some(value),
                Some(k) if is_merge(&k) => merged.push(value),
                Some(k) => {
                    let k = Key::from_value(&k).map_err(|_| wrong("Key cannot be nan or infinite"))?;
                    if array.insert(k, value).is_some() {
                        return Err(wrong("Duplicate key"));
                    }
                }
            },
        }
        Ok(())
    }

    /// Puts what `<<` names in front of the mapping's own keys, which win as earlier mappings do.
    fn merge(&self, own: Array, merged: Vec<Value>) -> Result<Array, YamlError> {
        if merged.is_empty() {
            return Ok(own);
        }
        let mut array = Array::new();
        for value in merged {
            let maps: Vec<Array> = match value {
                Value::Array(list) if list.is_list() && !list.is_empty() => {
                    let maps = list.values().map(|v| v.as_array().cloned());
                    maps.collect::<Option<_>>().ok_or_else(|| self.wrong("'<<' expects mappings"))?
                }
                Value::Array(map) => vec![map],
                _ => return Err(self.wrong("'<<' expects a mapping")),
            };
            for (key, value) in maps.iter().flat_map(Array::iter) {
                if array.get(&key).is_none() {
                    array.insert(key, value.clone());
                }
            }
        }
        for (key, value) in own.iter() {
            array.insert(key, value.clone());
        }
        Ok(array)
    }

    fn scalar(&self, text: String, plain: bool, tag: &Meaning) -> Result<Value, YamlError> {
        let kind = match tag {
            Meaning::Plain => return Ok(text.into()),
            Meaning::Core(kind) => kind.as_str(),
            // A function gets what the node would be without its tag.
            Meaning::None | Meaning::Function(_) if plain => return Ok(resolve(&text)),
            Meaning::None | Meaning::Function(_) => return Ok(text.into()),
        };
        let resolved = resolve(&text);
        let fits = match kind {
            "str" => return Ok(text.into()),
            "null" => matches!(resolved, Value::None),
            "bool" => matches!(resolved, Value::Bool(_)),
            "int" | "float" => matches!(resolved, Value::Number(_)),
            _ => return Ok(if plain { resolved } else { text.into() }),
        };
        if fits { Ok(resolved) } else { Err(self.wrong(format!("'{text}' is no {kind}"))) }
    }
}

/// Stands for the key `<<`; a resource is never made by a document.
static MERGE: std::sync::LazyLock<Value> =
    std::sync::LazyLock::new(|| Value::Resource(hsl::Resource::new((), true)));

fn is_merge(key: &Value) -> bool {
    matches!(key, Value::Resource(_)) && key.strict_eq(&MERGE)
}

/// The value of a plain scalar (YAML 1.2.2 section 10.3.2).
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::None,
        "true" | "True" | "TRUE" => return true.into(),
        "false" | "False" | "FALSE" => return false.into(),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return f64::INFINITY.into(),
        "-.inf" | "-.Inf" | "-.INF" => return f64::NEG_INFINITY.into(),
        ".nan" | ".NaN" | ".NAN" => return f64::NAN.into(),
        _ => {}
    }
    let radix = |digits: &str, radix: u32| {
        let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        all.then(|| {
            digits.chars().fold(0.0, |n, c| n * f64::from(radix) + f64::from(c.to_digit(radix).unwrap_or(0)))
        })
    };
    let number = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(hex), _) => radix(hex, 16),
        (_, Some(octal)) => radix(octal, 8),
        _ => float(text),
    };
    number.map_or_else(|| text.into(), Value::from)
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn float(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['-', '+']).unwrap_or(e))),
        None => (body, None),
    };
    let digits = |s: &str| s.bytes().all(|c| c.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let good = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && digits(e));
    if good { text.parse().ok() } else { None }
}
