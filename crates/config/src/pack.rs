//! A source tree (`src/config`, `src/hooks`, `src/files`) packed into the files a daemon reads, and back.

use crate::load::{self, Error};
use crate::node::Node;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The hook folders that belong to phases of a server.
pub const PHASES: [&str; 9] =
    ["connect", "proxy", "helo", "auth", "mailfrom", "rcptto", "eod", "eodrcpt", "disconnect"];

/// What a pack gives.
#[derive(Debug, Default)]
pub struct Packed {
    /// File name to text, in the order of names.
    pub files: BTreeMap<String, String>,
    /// What looks like a mistake but is none.
    pub warnings: Vec<String>,
}

/// How to pack.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Patterns like lines of a `.halonignore` in `src/files`.
    pub exclude: Vec<String>,
}

/// Packs the tree below `source`. Nothing is written.
pub fn pack(source: &Path, options: &Options) -> Result<Packed, Error> {
    let config = source.join("config");
    let mut packed = Packed::default();
    for name in sorted_names(&config)? {
        let path = config.join(&name);
        if name.starts_with('.') || !name.ends_with(".yaml") || !path.is_file() {
            continue;
        }
        let text = read_text(&path)?;
        if text.trim().is_empty() {
            continue;
        }
        let node: Node = load::parse(&path.display().to_string(), &text)?;
        let text = if name == "smtpd-app.yaml" {
            let mut node = node;
            pack_app(source, &path, &mut node, options, &mut packed.warnings)?;
            node.to_yaml()
        } else {
            text
        };
        packed.files.insert(name, text);
    }
    if packed.files.is_empty() {
        return Err(Error::Meaning {
            file: config.display().to_string(),
            pointer: "/".to_owned(),
            message: "no configuration file found, expected smtpd.yaml and smtpd-app.yaml".to_owned(),
        });
    }
    Ok(packed)
}

fn pack_app(
    source: &Path,
    app_path: &Path,
    app: &mut Node,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let hooks_folder = source.join("hooks");
    let wanted = hook_ids(app);
    for phase in PHASES {
        let mut scripts = Vec::new();
        for (id, pointer) in wanted.iter().filter(|((of, _), _)| of == phase).map(|((_, id), at)| (id, at)) {
            if id.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
                return Err(meaning(app_path, pointer, format!("hook id \"{id}\" cannot be a file name")));
            }
            let path = hooks_folder.join(phase).join(format!("{id}.hsl"));
            if !path.is_file() {
                let message = format!("hook \"{id}\" has no file {}", path.display());
                return Err(meaning(app_path, pointer, message));
            }
            scripts.push(Node::Map(vec![
                ("id".to_owned(), Node::Str(id.clone())),
                ("data".to_owned(), Node::Str(read_text(&path)?)),
            ]));
        }
        for unused in hook_files(&hooks_folder.join(phase))? {
            if !wanted.contains_key(&(phase.to_owned(), unused.clone())) {
                warnings
                    .push(format!("hooks/{phase}/{unused}.hsl is not used by any server and was not packed"));
            }
        }
        if !scripts.is_empty() {
            let hooks = app.entry("scripting", Node::Map(Vec::new())).entry("hooks", Node::Map(Vec::new()));
            hooks.set(phase, Node::List(scripts));
        }
    }
    for name in ["predelivery", "postdelivery"] {
        let path = hooks_folder.join("queue").join(format!("{name}.hsl"));
        if path.is_file() {
            let hooks = app.entry("scripting", Node::Map(Vec::new())).entry("hooks", Node::Map(Vec::new()));
            hooks.set(name, Node::Str(read_text(&path)?));
        }
    }
    let files_folder = source.join("files");
    if files_folder.is_dir() {
        pack_files(&files_folder, app, options)?;
    }
    Ok(())
}

/// Hooks named by the servers, phase and id to the key path of the first use, in the order of use.
fn hook_ids(app: &Node) -> Vec2Map {
    let mut wanted = Vec2Map::default();
    for (index, server) in app.get("servers").map(Node::items).unwrap_or_default().iter().enumerate() {
        for phase in PHASES {
            let Some(hook) =
                server.get("phases").and_then(|phases| phases.get(phase)).and_then(|p| p.get("hook"))
            else {
                continue;
            };
            let at = format!("/servers/{index}/phases/{phase}/hook");
            if let Some(id) = hook.as_str() {
                wanted.add(phase, id, at);
                continue;
            }
            if let Some(id) = hook.get("id").and_then(Node::as_str) {
                wanted.add(phase, id, format!("{at}/id"));
            }
            if let Some(Node::Map(pairs)) = hook.get("recipientdomains") {
                for (domain, id) in pairs {
                    if let Some(id) = id.as_str() {
                        wanted.add(phase, id, format!("{at}/recipientdomains/{domain}"));
                    }
                }
            }
        }
    }
    wanted
}

#[derive(Default)]
struct Vec2Map(Vec<((String, String), String)>);

impl Vec2Map {
    fn add(&mut self, phase: &str, id: &str, pointer: String) {
        let key = (phase.to_owned(), id.to_owned());
        if !self.contains_key(&key) {
            self.0.push((key, pointer));
        }
    }

    fn contains_key(&self, key: &(String, String)) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }

    fn iter(&self) -> impl Iterator<Item = (&(String, String), &String)> {
        self.0.iter().map(|(key, pointer)| (key, pointer))
    }
}

/// Ids of the `.hsl` files below a hook folder.
fn hook_files(folder: &Path) -> Result<Vec<String>, Error> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    walk(folder, String::new(), &[], &mut found)?;
    Ok(found.into_iter().filter_map(|(id, _)| id.strip_suffix(".hsl").map(str::to_owned)).collect())
}

fn pack_files(folder: &Path, app: &mut Node, options: &Options) -> Result<(), Error> {
    let rules: Vec<Ignore> = options.exclude.iter().map(|pattern| Ignore::new("", pattern)).collect();
    let mut found = Vec::new();
    walk(folder, String::new(), &rules, &mut found)?;
    found.sort();
    let files = app.entry("scripting", Node::Map(Vec::new())).entry("files", Node::List(Vec::new()));
    for (id, path) in found {
        let bytes = std::fs::read(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        let mut file = vec![("id".to_owned(), Node::Str(id.clone()))];
        match String::from_utf8(bytes) {
            Ok(text) => file.push(("data".to_owned(), Node::Str(text))),
            Err(error) => {
                use base64::Engine;
                let text = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
                file.push(("data".to_owned(), Node::Str(text)));
                file.push(("binary".to_owned(), Node::Bool(true)));
            }
        }
        let Node::List(items) = files else { continue };
        let file = Node::Map(file);
        match items.iter_mut().find(|item| item.get("id").and_then(Node::as_str) == Some(&id)) {
            Some(item) => *item = file,
            None => items.push(file),
        }
    }
    if matches!(files, Node::List(items) if items.is_empty())
        && let Some(scripting) = Some(app.entry("scripting", Node::Map(Vec::new())))
    {
        scripting.remove("files");
    }
    Ok(())
}

/// A line of a `.halonignore`: a glob valid below the folder it stands in.
#[derive(Clone, Debug)]
struct Ignore {
    base: String,
    pattern: String,
}

impl Ignore {
    fn new(base: &str, pattern: &str) -> Ignore {
        Ignore { base: base.to_owned(), pattern: pattern.trim_end_matches('/').to_owned() }
    }

    fn matches(&self, id: &str) -> bool {
        let Some(below) = id.strip_prefix(self.base.as_str()) else { return false };
        if self.pattern.contains('/') {
            glob(self.pattern.trim_start_matches('/').as_bytes(), below.as_bytes())
        } else {
            below.split('/').any(|part| glob(self.pattern.as_bytes(), part.as_bytes()))
        }
    }
}

/// `*` and `?` stay within a path part, `**` crosses them.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => {
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            (0..=text.len()).any(|at| glob(rest, &text[at..]))
        }
        [b'*', rest @ ..] => {
            let end = text.iter().position(|&b| b == b'/').unwrap_or(text.len());
            (0..=end).any(|at| glob(rest, &text[at..]))
        }
        [b'?', rest @ ..] => text.first().is_some_and(|&b| b != b'/') && glob(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

/// Nested folders followed at most.
const DEPTH_MAX: usize = 64;

fn walk(
    folder: &Path,
    prefix: String,
    rules: &[Ignore],
    found: &mut Vec<(String, PathBuf)>,
) -> Result<(), Error> {
    if prefix.matches('/').count() > DEPTH_MAX {
        return Err(meaning(folder, "/", format!("nested deeper than {DEPTH_MAX} folders")));
    }
    let mut rules = rules.to_vec();
    let ignore = folder.join(".halonignore");
    if ignore.is_file() {
        let text = read_text(&ignore)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        rules.extend(lines.map(|line| Ignore::new(&prefix, line)));
    }
    for name in sorted_names(folder)? {
        let path = folder.join(&name);
        let id = format!("{prefix}{name}");
        if name.starts_with('.') || rules.iter().any(|rule| rule.matches(&id)) {
            continue;
        }
        if path.is_dir() {
            walk(&path, format!("{id}/"), &rules, found)?;
        } else {
            found.push((id, path));
        }
    }
    Ok(())
}

fn sorted_names(folder: &Path) -> Result<Vec<String>, Error> {
    let error = |source| Error::File { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        match name.into_string() {
            Ok(name) => names.push(name),
            Err(name) => {
                let message = format!("file name {} is not UTF-8", name.to_string_lossy());
                return Err(meaning(folder, "/", message));
            }
        }
    }
    names.sort();
    Ok(names)
}

fn read_text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn meaning(file: &Path, pointer: &str, message: String) -> Error {
    Error::Meaning { file: file.display().to_string(), pointer: pointer.to_owned(), message }
}

/// Splits packed files into a source tree: relative path to content. The reverse of [`pack`].
pub fn unpack(files: &BTreeMap<String, String>) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut tree = BTreeMap::new();
    for (name, text) in files {
        if name != "smtpd-app.yaml" {
            tree.insert(format!("config/{name}"), text.clone().into_bytes());
            continue;
        }
        let mut app: Node = load::parse(name, text)?;
        if let Some(mut scripting) = app.remove("scripting") {
            unpack_scripting(name, &mut scripting, &mut tree)?;
            if !matches!(&scripting, Node::Map(pairs) if pairs.is_empty()) {
                app.set("scripting", scripting);
            }
        }
        tree.insert(format!("config/{name}"), app.to_yaml().into_bytes());
    }
    Ok(tree)
}

fn unpack_scripting(
    name: &str,
    scripting: &mut Node,
    tree: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), Error> {
    let refuse = |pointer: &str, message: String| meaning(Path::new(name), pointer, message);
    let field = |item: &Node, key: &str, pointer: &str| -> Result<String, Error> {
        let text = item.get(key).and_then(Node::as_str);
        text.map(str::to_owned).ok_or_else(|| refuse(pointer, format!("'{key}' with a string expected")))
    };
    let safe = |id: &str, pointer: &str| -> Result<(), Error> {
        let unsafe_part = id.split('/').any(|part| part.is_empty() || part == "." || part == "..");
        if unsafe_part { Err(refuse(pointer, format!("id \"{id}\" would leave the tree"))) } else { Ok(()) }
    };
    if let Some(hooks) = scripting.remove("hooks") {
        for phase in PHASES {
            for (index, script) in hooks.get(phase).map(Node::items).unwrap_or_default().iter().enumerate() {
                let at = format!("/scripting/hooks/{phase}/{index}");
                let id = field(script, "id", &at)?;
                safe(&id, &at)?;
                tree.insert(format!("hooks/{phase}/{id}.hsl"), field(script, "data", &at)?.into_bytes());
            }
        }
        for queue_hook in ["predelivery", "postdelivery"] {
            if let Some(text) = hooks.get(queue_hook).and_then(Node::as_str) {
                tree.insert(format!("hooks/queue/{queue_hook}.hsl"), text.as_bytes().to_vec());
            }
        }
    }
    if let Some(files) = scripting.remove("files") {
        for (index, file) in files.items().iter().enumerate() {
            let at = format!("/scripting/files/{index}");
            let id = field(file, "id", &at)?;
            safe(&id, &at)?;
            let data = field(file, "data", &at)?;
            let bytes = if file.get("binary") == Some(&Node::Bool(true)) {
                use base64::Engine;
                let decoded = base64::engine::general_purpose::STANDARD.decode(data.trim());
                decoded.map_err(|error| refuse(&at, format!("'data' is no base64: {error}")))?
            } else {
                data.into_bytes()
            };
            tree.insert(format!("files/{id}"), bytes);
        }
    }
    Ok(())
}
