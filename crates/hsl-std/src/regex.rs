//! Regular expressions (library section 13).

use crate::support::check_string;
use hsl::{
    Args, Array, Continuation, Error, FunctionDef, Key, NativeCall, NativeCx, Next, Outcome, Regex, Str,
    Value,
};

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "pcre_match(pattern: Regex or string, subject: string) -> array",
            "Groups of the first match.",
            |_, a| {
                let regex = Regex::from_value(a.get(0))?;
                let mut result = Array::new();
                let subject = a.bytes(1);
                regex.with_groups(subject, 0, |groups| {
                    let named = regex.names().iter().any(Option::is_some);
                    let group = |i: usize| groups.get(i).map_or(b"".as_slice(), |(s, e)| &subject[s..e]);
                    if named {
                        for i in 0..groups.len() {
                            insert_group(&mut result, &regex, i, Value::bytes(group(i)));
                        }
                    } else {
                        let mut list = Vec::with_capacity(groups.len());
                        list.extend((0..groups.len()).map(|i| Value::bytes(group(i))));
                        result = Array::from_list(list);
                    }
                })?;
                Ok(result.into())
            },
        ),
        FunctionDef::pure(
            "pcre_match_all(pattern: Regex or string, subject: string) -> array",
            "All matches by group.",
            match_all,
        ),
        FunctionDef::pure("pcre_quote(string: string) -> string", "Escapes pattern characters.", |_, a| {
            let mut out = Vec::new();
            for c in a.bytes(0) {
                match c {
                    0 => out.extend_from_slice(b"\\000"),
                    c if b".\\+*?[^]$(){}=!<>|:-#/".contains(c) => out.extend_from_slice(&[b'\\', *c]),
                    c => out.push(*c),
                }
            }
            Ok(out.into())
        }),
        FunctionDef::pure("pcre_compile(pattern: string) -> Regex", "A Regex object.", |_, a| {
            Ok(Regex::from_value(a.get(0))?.to_value())
        }),
        FunctionDef::full(
            "pcre_replace(pattern: Regex or string, replace: function or string, subject: string, limit?: number) -> string",
            "Replaces matches.",
            replace,
        ),
    ]
}

type Groups = hsl::Groups;

fn insert_group(result: &mut Array, regex: &Regex, i: usize, value: Value) {
    if let Some(Some(name)) = regex.names().get(i) {
        result.insert(Key::of_str(&Str::from(&**name)), value.clone());
    }
    result.insert(Key::Int(i as i64), value);
}

fn text<'s>(subject: &'s [u8], groups: &Groups, i: usize) -> &'s [u8] {
    groups.get(i).copied().flatten().map_or(b"", |(s, e)| &subject[s..e])
}

fn group_array(regex: &Regex, subject: &[u8], groups: &Groups) -> Array {
    let mut result = Array::new();
    for i in 0..groups.len() {
        insert_group(&mut result, regex, i, Value::bytes(text(subject, groups, i)));
    }
    result
}

/// Walks over the matches as `/g` does: behind an empty match it goes on one character later.
struct Matches {
    regex: Regex,
    at: usize,
}

impl Matches {
    fn new(regex: Regex) -> Matches {
        Matches { regex, at: 0 }
    }

    fn next(&mut self, subject: &[u8]) -> Result<Option<Groups>, Error> {
        let Some(groups) = self.regex.groups(subject, self.at)? else { return Ok(None) };
        let Some((start, end)) = groups.first().copied().flatten() else { return Ok(None) };
        self.at = if start == end { self.step(subject, end) } else { end };
        Ok(Some(groups))
    }

    fn step(&self, subject: &[u8], at: usize) -> usize {
        let mut next = at + 1;
        while self.regex.unicode() && subject.get(next).is_some_and(|c| c & 0xc0 == 0x80) {
            next += 1;
        }
        next
    }
}

fn match_all(_: &mut NativeCx<'_>, a: Args<'_>) -> Result<Value, Error> {
    let regex = Regex::from_value(a.get(0))?;
    let subject = a.bytes(1);
    let mut matches = Matches::new(regex.clone());
    let mut columns: Vec<Vec<Value>> = Vec::new();
    while let Some(groups) = matches.next(subject)? {
        columns.resize_with(groups.len(), Vec::new);
        for (i, column) in columns.iter_mut().enumerate() {
            column.push(Value::bytes(text(subject, &groups, i)));
        }
    }
    let mut result = Array::new();
    for (i, column) in columns.into_iter().enumerate() {
        insert_group(&mut result, &regex, i, column.into());
    }
    Ok(result.into())
}

/// Expands `$n`, `${n}`, `${name}` and `$$`.
fn expand(out: &mut Vec<u8>, template: &[u8], regex: &Regex, subject: &[u8], groups: &Groups) {
    let mut rest = template;
    while let Some(at) = memchr::memchr(b'$', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let braced = rest.first() == Some(&b'{');
        let body = if braced { &rest[1..] } else { rest };
        if !braced && rest.first() == Some(&b'$') {
            out.push(b'$');
            rest = &rest[1..];
            continue;
        }
        let len = if braced {
            body.iter().position(|c| *c == b'}')
        } else {
            Some(body.iter().take(2).take_while(|c| c.is_ascii_digit()).count()).filter(|n| *n > 0)
        };
        let Some(len) = len else {
            out.push(b'$');
            continue;
        };
        let name = &body[..len];
        let number = std::str::from_utf8(name).ok().and_then(|n| n.parse::<usize>().ok());
        let index = number
            .or_else(|| regex.names().iter().position(|n| n.as_ref().is_some_and(|n| n.as_bytes() == name)));
        if let Some(i) = index {
            out.extend_from_slice(text(subject, groups, i));
        }
        rest = &body[len + usize::from(braced)..];
    }
    out.extend_from_slice(rest);
}

/// Replacing through a callback.
struct Replace {
    matches: Matches,
    subject: Str,
    out: Vec<u8>,
    copied: usize,
    /// End of the match that the callback is asked about.
    end: usize,
    rest: u64,
}

impl Replace {
    fn advance(&mut self) -> Result<Option<Value>, Error> {
        if self.rest == 0 {
            return Ok(None);
        }
        self.rest -= 1;
        let Some(groups) = self.matches.next(self.subject.as_bytes())? else { return Ok(None) };
        let Some((start, end)) = groups.first().copied().flatten() else { return Ok(None) };
        self.out.extend_from_slice(&self.subject.as_bytes()[self.copied..start]);
        self.copied = end;
        self.end = end;
        Ok(Some(group_array(&self.matches.regex, self.subject.as_bytes(), &groups).into()))
    }

    fn finish(&mut self) -> Value {
        self.out.extend_from_slice(&self.subject.as_bytes()[self.copied..]);
        std::mem::take(&mut self.out).into()
    }
}

impl Continuation for Replace {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        result.write_string(&mut self.out);
        check_string("pcre_replace", self.out.len())?;
        Ok(match self.advance()? {
            Some(groups) => Next::Again([groups].into()),
            None => Next::Value(self.finish()),
        })
    }
}

fn replace(_: &mut NativeCx<'_>, mut a: Args<'_>) -> Result<Outcome, Error> {
    let regex = Regex::from_value(a.get(0))?;
    let limit = a.integer_or(3, 0)?;
    let rest = if limit <= 0 { u64::MAX } else { limit.unsigned_abs() };
    let mut matches = Matches::new(regex.clone());
    if let Value::Function(_) = a.get(1) {
        let mut state = Replace { matches, subject: a.string(2), out: Vec::new(), copied: 0, end: 0, rest };
        return Ok(match state.advance()? {
            Some(groups) => Outcome::Call(Box::new(NativeCall {
                function: a.take(1),
                args: [groups].into(),
                then: Box::new(state),
            })),
            None => state.finish().into(),
        });
    }
    let (template, subject) = (a.bytes(1), a.bytes(2));
    let mut out = Vec::new();
    let mut copied = 0;
    for _ in 0..rest {
        let Some(groups) = matches.next(subject)? else { break };
        let Some((start, end)) = groups.first().copied().flatten() else { break };
        out.extend_from_slice(&subject[copied..start]);
        expand(&mut out, template, &regex, subject, &groups);
        copied = end;
        check_string("pcre_replace", out.len())?;
    }
    out.extend_from_slice(&subject[copied..]);
    Ok(Value::from(out).into())
}
