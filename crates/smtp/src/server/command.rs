//! Command lines: verbs, paths and parameters. RFC 5321 4.1.1 and 4.1.2.

use mail::Address;

/// A MAIL or RCPT parameter: keyword in upper case, value as sent ("" where there was no `=`).
pub type Parameter = (String, String);

/// A command line, parsed as far as its verb tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Helo {
        extended: bool,
        host: &'a [u8],
    },
    Mail(&'a [u8]),
    Rcpt(&'a [u8]),
    Data,
    Bdat(&'a [u8]),
    StartTls,
    Auth(&'a [u8]),
    Rset,
    Noop,
    Vrfy(&'a [u8]),
    Expn,
    Help,
    Quit,
    /// Known, but never offered by this server.
    NotOffered,
    /// A client of another protocol (HTTP).
    Foreign,
    Unknown,
    /// A known verb with an argument where none is allowed, or the reverse.
    BadArgument,
}

impl Command<'_> {
    /// The name as scripts and logs see it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Command::Helo { extended: false, .. } => "HELO",
            Command::Helo { .. } => "EHLO",
            Command::Mail(_) => "MAIL",
            Command::Rcpt(_) => "RCPT",
            Command::Data => "DATA",
            Command::Bdat(_) => "BDAT",
            Command::StartTls => "STARTTLS",
            Command::Auth(_) => "AUTH",
            Command::Rset => "RSET",
            Command::Noop => "NOOP",
            Command::Vrfy(_) => "VRFY",
            Command::Expn => "EXPN",
            Command::Help => "HELP",
            Command::Quit => "QUIT",
            Command::NotOffered | Command::Foreign | Command::Unknown | Command::BadArgument => "UNKNOWN",
        }
    }
}

/// Splits the verb off and recognises it.
pub(super) fn parse(line: &[u8]) -> Command<'_> {
    let end = line.iter().position(|&b| b == b' ' || b == b'\t').unwrap_or(line.len());
    let argument = line[end..].trim_ascii();
    let mut verb = [0u8; 8];
    let Some(verb) = verb.get_mut(..end) else { return Command::Unknown };
    verb.copy_from_slice(&line[..end]);
    verb.make_ascii_uppercase();
    let none = |command| if argument.is_empty() { command } else { Command::BadArgument };
    match &*verb {
        b"HELO" => Command::Helo { extended: false, host: argument },
        b"EHLO" => Command::Helo { extended: true, host: argument },
        b"MAIL" => Command::Mail(argument),
        b"RCPT" => Command::Rcpt(argument),
        b"DATA" => none(Command::Data),
        b"BDAT" => Command::Bdat(argument),
        b"STARTTLS" => none(Command::StartTls),
        b"AUTH" => Command::Auth(argument),
        b"RSET" => none(Command::Rset),
        b"NOOP" => Command::Noop,
        b"VRFY" if argument.is_empty() => Command::BadArgument,
        b"VRFY" => Command::Vrfy(argument),
        b"EXPN" => Command::Expn,
        b"HELP" => Command::Help,
        b"QUIT" => none(Command::Quit),
        b"ETRN" | b"TURN" | b"ATRN" | b"XCLIENT" => Command::NotOffered,
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"OPTIONS" | b"CONNECT" | b"DELETE" | b"PATCH" | b"TRACE" => {
            Command::Foreign
        }
        _ => Command::Unknown,
    }
}

/// What is wrong with the argument of MAIL or RCPT.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PathError {
    /// No `FROM:<...>` / `TO:<...>`, or no valid address inside.
    Address,
    /// Non-ASCII bytes in the address although SMTPUTF8 is not in force.
    NotAscii,
    /// A parameter that is no `keyword[=value]`.
    Parameter,
}

/// Reads `FROM:<path> parameters` (`keyword` is `FROM` or `TO`), with one optional space after the colon.
/// `utf8_allowed` tells whether SMTPUTF8 is in the effective set; whether MAIL named it is looked up in the
/// parameters themselves, which follow the address.
pub(super) fn parse_path(
    argument: &[u8],
    keyword: &str,
    utf8: impl FnOnce(&[Parameter]) -> bool,
) -> Result<(Address, Vec<Parameter>), PathError> {
    let head = argument.get(..keyword.len()).ok_or(PathError::Address)?;
    if !head.eq_ignore_ascii_case(keyword.as_bytes()) {
        return Err(PathError::Address);
    }
    let rest = argument[keyword.len()..].trim_ascii_start();
    let rest = rest.strip_prefix(b":").ok_or(PathError::Address)?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let rest = rest.strip_prefix(b"<").ok_or(PathError::Address)?;
    let end = path_end(rest).ok_or(PathError::Address)?;
    let (path, tail) = (&rest[..end], &rest[end + 1..]);
    if !tail.is_empty() && !tail.starts_with(b" ") {
        return Err(PathError::Address);
    }
    let parameters = parse_parameters(tail)?;
    if !path.is_ascii() && !utf8(&parameters) {
        return Err(PathError::NotAscii);
    }
    let address = Address::parse_path(path, true).map_err(|_| PathError::Address)?;
    Ok((address, parameters))
}

/// The `>` that closes the path; one inside a quoted local part does not count.
fn path_end(rest: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in rest.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn parse_parameters(tail: &[u8]) -> Result<Vec<Parameter>, PathError> {
    let text = std::str::from_utf8(tail).map_err(|_| PathError::Parameter)?;
    let mut parameters: Vec<Parameter> = Vec::new();
    for word in text.split([' ', '\t']).filter(|word| !word.is_empty()) {
        let (keyword, value) = word.split_once('=').unwrap_or((word, ""));
        let valid = !keyword.is_empty()
            && keyword.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && keyword.as_bytes()[0] != b'-'
            && !value.bytes().any(|b| b <= b' ' || b == b'=' || b == 0x7f);
        let keyword = keyword.to_ascii_uppercase();
        if !valid || parameters.iter().any(|(known, _)| *known == keyword) {
            return Err(PathError::Parameter);
        }
        parameters.push((keyword, value.to_owned()));
    }
    Ok(parameters)
}

/// True for a HELO/EHLO argument that may be stored: 1 to 255 octets without white space and controls.
pub(super) fn is_valid_host(host: &[u8]) -> bool {
    !host.is_empty() && host.len() <= 255 && host.iter().all(|&b| b > b' ' && b != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_verbs_in_any_case() {
        assert_eq!(parse(b"ehlo  a.example "), Command::Helo { extended: true, host: b"a.example" });
        assert_eq!(parse(b"quit"), Command::Quit);
        assert_eq!(parse(b"QUIT now"), Command::BadArgument);
        assert_eq!(parse(b"VRFY"), Command::BadArgument);
        assert_eq!(parse(b"GET / HTTP/1.1"), Command::Foreign);
        assert_eq!(parse(b""), Command::Unknown);
        assert_eq!(parse(b"ABSOLUTELY nothing"), Command::Unknown);
    }

    #[test]
    fn reads_paths_and_parameters() {
        let read = |text: &str| parse_path(text.as_bytes(), "FROM", |_| false);
        let (address, parameters) = read("FROM:<Joe@Example.COM> size=10 BODY=8BITMIME X").unwrap();
        assert_eq!((address.localpart.as_str(), address.domain.as_str()), ("Joe", "example.com"));
        let expected = [("SIZE", "10"), ("BODY", "8BITMIME"), ("X", "")];
        assert_eq!(parameters, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(read("from: <>").unwrap().0.localpart.is_empty());
        assert!(read("FROM:<@a,@b:u@c>").unwrap().0.domain == "c");
        assert_eq!(read("FROM:<\"a>b\"@c>").unwrap().0.localpart, "a>b");
        for (bad, error) in [
            ("FROM:a@b", PathError::Address),
            ("FROM:<a@b", PathError::Address),
            ("FROM:<a@b>SIZE=1", PathError::Address),
            ("TO:<a@b>", PathError::Address),
            ("FROM:<a b@c>", PathError::Address),
            ("FROM:<a@b> SIZE=1 SIZE=2", PathError::Parameter),
            ("FROM:<a@b> =x", PathError::Parameter),
            ("FROM:<ä@b>", PathError::NotAscii),
        ] {
            assert_eq!(read(bad).unwrap_err(), error, "{bad}");
        }
        assert!(parse_path("FROM:<ä@b> SMTPUTF8".as_bytes(), "FROM", |p| !p.is_empty()).is_ok());
    }
}
