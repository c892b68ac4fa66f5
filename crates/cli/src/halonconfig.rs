//! `halonconfig`: read, pack, validate, lint, write; or the reverse. Nothing is written when a step fails.

use clap::Parser;
use config::pack::{self, Options};
use config::{App, DeliveryFile, Error, Policy, Startup, Suspend, load, validate};
use hsl::{Compiler, Loader, Registry};
use hsl_std::ScriptFiles;
use hsl_std::hooks::{self, Hook};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Checks a configuration tree and packs it.
#[derive(Parser, Debug)]
#[command(
    name = "halonconfig",
    version,
    after_help = "\
Examples:
  halonconfig                          pack ./src into ./dist
  halonconfig --check                  do everything but write
  halonconfig --init minimal           start a tree in ./src from an example
  halonconfig --unpack                 split ./dist into ./src
  halonconfig && cp dist/* /etc/halon/ && halonctl config reload

Exit status: 0 done; 1 the configuration has errors (file:line:column: or file: /key/path: on standard error); 2 usage."
)]
pub struct Arguments {
    /// Folder of the source tree
    #[arg(long, value_name = "DIR", default_value = "./src")]
    src_dir: PathBuf,
    /// Folder of the packed files
    #[arg(long, value_name = "DIR", default_value = "./dist")]
    dist_dir: PathBuf,
    /// Do not compile the scripts
    #[arg(long)]
    no_check_hsl: bool,
    /// Do not validate the files
    #[arg(long)]
    no_check_schema: bool,
    /// Leave files out, like a line of src/files/.halonignore (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Do everything but write
    #[arg(long)]
    check: bool,
    /// The reverse: split packed files into a source tree
    #[arg(long)]
    unpack: bool,
    /// Let --unpack and --init write into a folder that is not empty
    #[arg(long)]
    force: bool,
    /// Copy an example tree: minimal or playground
    #[arg(long, value_name = "EXAMPLE", num_args = 0..=1, default_missing_value = "minimal")]
    init: Option<String>,
}

/// The example trees, compiled in so that the program needs no other file.
const EXAMPLES: [(&str, &[(&str, &str)]); 2] = [
    (
        "minimal",
        &[
            ("config/smtpd.yaml", include_str!("../../../share/examples/minimal/config/smtpd.yaml")),
            ("config/smtpd-app.yaml", include_str!("../../../share/examples/minimal/config/smtpd-app.yaml")),
            ("hooks/eod/default.hsl", include_str!("../../../share/examples/minimal/hooks/eod/default.hsl")),
            (
                "hooks/queue/predelivery.hsl",
                include_str!("../../../share/examples/minimal/hooks/queue/predelivery.hsl"),
            ),
            (
                "hooks/queue/postdelivery.hsl",
                include_str!("../../../share/examples/minimal/hooks/queue/postdelivery.hsl"),
            ),
        ],
    ),
    (
        "playground",
        &[
            ("config/smtpd.yaml", include_str!("../../../share/examples/playground/config/smtpd.yaml")),
            (
                "config/smtpd-app.yaml",
                include_str!("../../../share/examples/playground/config/smtpd-app.yaml"),
            ),
            (
                "config/smtpd-policy.yaml",
                include_str!("../../../share/examples/playground/config/smtpd-policy.yaml"),
            ),
            (
                "hooks/mailfrom/sender.hsl",
                include_str!("../../../share/examples/playground/hooks/mailfrom/sender.hsl"),
            ),
            (
                "hooks/rcptto/recipient.hsl",
                include_str!("../../../share/examples/playground/hooks/rcptto/recipient.hsl"),
            ),
            (
                "hooks/eod/message.hsl",
                include_str!("../../../share/examples/playground/hooks/eod/message.hsl"),
            ),
            (
                "hooks/queue/postdelivery.hsl",
                include_str!("../../../share/examples/playground/hooks/queue/postdelivery.hsl"),
            ),
            (
                "files/lib/subject.hsl",
                include_str!("../../../share/examples/playground/files/lib/subject.hsl"),
            ),
        ],
    ),
];

/// Does what the arguments say; the errors are complete lines.
pub fn run(arguments: &Arguments) -> Result<(), Vec<String>> {
    if let Some(name) = &arguments.init {
        return init(arguments, name);
    }
    if arguments.unpack {
        return unpack(arguments);
    }
    let options = Options { exclude: arguments.exclude.clone() };
    let packed = pack::pack(&arguments.src_dir, &options).map_err(|error| vec![error.to_string()])?;
    for warning in &packed.warnings {
        eprintln!("warning: {warning}");
    }
    let config = arguments.src_dir.join("config");
    let mut errors = Vec::new();
    if !arguments.no_check_schema {
        errors.extend(check_files(&config, &packed.files));
    }
    if !arguments.no_check_hsl && errors.is_empty() {
        errors.extend(check_scripts(&arguments.src_dir, &packed.files));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if arguments.check {
        return Ok(());
    }
    write_tree(&arguments.dist_dir, packed.files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())))
}

/// Validates every packed file whose kind is known; the places of errors are those of the sources.
fn check_files(config: &Path, files: &BTreeMap<String, String>) -> Vec<String> {
    fn typed<T: serde::de::DeserializeOwned>(
        name: &str,
        text: &str,
        check: impl Fn(&str, &T) -> Result<(), Vec<Error>>,
    ) -> Vec<String> {
        match load::parse::<T>(name, text) {
            Err(error) => vec![error.to_string()],
            Ok(value) => {
                check(name, &value).err().into_iter().flatten().map(|error| error.to_string()).collect()
            }
        }
    }
    let mut errors = Vec::new();
    for (name, packed) in files {
        let path = config.join(name);
        let shown = path.display().to_string();
        errors.extend(match name.as_str() {
            "smtpd.yaml" => typed::<Startup>(&shown, packed, validate::startup),
            "smtpd-policy.yaml" => typed::<Policy>(&shown, packed, validate::policy),
            "smtpd-suspend.yaml" => typed::<Suspend>(&shown, packed, validate::suspend),
            "smtpd-delivery.yaml" => typed::<DeliveryFile>(&shown, packed, validate::delivery),
            "smtpd-app.yaml" => {
                // Lines of the packed file differ from those of the source, so the source is read for them.
                match std::fs::read_to_string(&path).map(|source| load::parse::<App>(&shown, &source)) {
                    Err(error) => vec![format!("{shown}: {error}")],
                    Ok(Err(error)) => vec![error.to_string()],
                    Ok(Ok(_)) => typed::<App>(&shown, packed, validate::app),
                }
            }
            _ => Vec::new(),
        });
    }
    errors
}

fn check_scripts(source: &Path, files: &BTreeMap<String, String>) -> Vec<String> {
    let Some(app) =
        files.get("smtpd-app.yaml").and_then(|text| load::parse::<App>("smtpd-app.yaml", text).ok())
    else {
        return Vec::new();
    };
    let library = hsl_std::shared_registry();
    let mut files = ScriptFiles::new();
    for file in &app.scripting.files {
        let data = file.data.as_bytes();
        files
            .insert(file.id.as_str(), if file.binary { hsl_std::base64_decode(data) } else { data.to_vec() });
    }
    let loader: Arc<dyn Loader> = Arc::new(files);
    let mut errors = Vec::new();
    let mut compile = |hook: Hook, path: &Path, text: &str| {
        errors.extend(compile_errors(hook, path, text, &library, &loader));
    };
    let scripting = &app.scripting.hooks;
    for hook in Hook::ALL {
        for script in validate::scripts(&app, hook.name()) {
            let path = source.join("hooks").join(hook.name()).join(format!("{}.hsl", script.id));
            compile(hook, &path, &script.data);
        }
    }
    for (hook, text) in
        [(Hook::PreDelivery, &scripting.predelivery), (Hook::PostDelivery, &scripting.postdelivery)]
    {
        if let Some(text) = text {
            let path = source.join("hooks/queue").join(format!("{}.hsl", hook.name()));
            compile(hook, &path, text);
        }
    }
    errors
}

fn compile_errors(
    hook: Hook,
    path: &Path,
    text: &str,
    library: &Arc<Registry>,
    loader: &Arc<dyn Loader>,
) -> Vec<String> {
    let mut compiler = Compiler::new(hooks::registry(hook, library)).loader(loader.clone());
    for (name, readonly) in hook.variables() {
        compiler = compiler.context_variable(name, *readonly);
    }
    match compiler.compile(&path.display().to_string(), text.as_bytes()) {
        Err(errors) => errors.iter().map(hsl::Diagnostic::render).collect(),
        Ok(compiled) => {
            for warning in compiled.warnings {
                eprintln!("{warning}");
            }
            Vec::new()
        }
    }
}

fn init(arguments: &Arguments, name: &str) -> Result<(), Vec<String>> {
    let Some((_, files)) = EXAMPLES.iter().find(|(known, _)| *known == name) else {
        return Err(vec![format!("--init: no example \"{name}\", expected minimal or playground")]);
    };
    refuse_filled(&arguments.src_dir, arguments.force)?;
    write_tree(&arguments.src_dir, files.iter().map(|(path, text)| (*path, text.as_bytes())))
}

fn unpack(arguments: &Arguments) -> Result<(), Vec<String>> {
    refuse_filled(&arguments.src_dir, arguments.force)?;
    let failed = |error: std::io::Error| vec![format!("{}: {error}", arguments.dist_dir.display())];
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&arguments.dist_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.ends_with(".yaml") {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| vec![format!("{}: {error}", path.display())])?;
            files.insert(name, text);
        }
    }
    let tree = pack::unpack(&files).map_err(|error| vec![error.to_string()])?;
    write_tree(&arguments.src_dir, tree.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())))
}

fn refuse_filled(folder: &Path, force: bool) -> Result<(), Vec<String>> {
    let filled = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if filled && !force {
        return Err(vec![format!("{}: not empty; use --force to write into it", folder.display())]);
    }
    Ok(())
}

/// Writes all files, each under a temporary name first, so that a reader never sees half of one.
fn write_tree<'a>(
    folder: &Path,
    files: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), Vec<String>> {
    for (name, bytes) in files {
        let path = folder.join(name);
        let failed = |error: std::io::Error| vec![format!("{}: {error}", path.display())];
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, bytes).map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
    }
    Ok(())
}
