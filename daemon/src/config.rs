//! One configuration from four places: flag, environment, file, default, in this order.
//!
//! Every value remembers where it came from, so that a complaint and `config show --origin` can name the flag, the
//! variable or the line. Nothing is guessed: an unknown key, a wrong type and a value given twice in one place are
//! refused, with the nearest key that exists. A [`Settings`] type serialises to the tree of all its keys; its structs
//! carry `#[serde(default, deny_unknown_fields)]`, so that a file may leave out what it does not change.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::data_folder;
use crate::exit::{Exit, Failure};

/// The largest configuration file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Below this similarity (Jaro-Winkler) a suggestion would confuse more than it helps.
const MIN_SIMILARITY: f64 = 0.75;

/// The configuration of one role.
pub trait Settings: Serialize + DeserializeOwned + Default {
    /// The name of the role, such as `peer-node`: names the file, the variables and the folders.
    const ROLE: &'static str;

    /// The commented default that `config init` prints; [`example_is_default`] tests that it is one.
    const EXAMPLE: &'static str;

    /// What types alone cannot check, such as one limit being below another.
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// A value that has the right type and still makes no sense. Name it and tell what would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The dotted key.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
    /// What to write instead.
    pub hint: String,
}

impl Invalid {
    /// The value at `key` makes no sense, for this reason; `hint` says what would.
    pub fn new(key: impl Into<String>, why: impl fmt::Display, hint: impl fmt::Display) -> Invalid {
        Invalid { key: key.into(), why: why.to_string(), hint: hint.to_string() }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
    },
    /// The environment variable of this name.
    Environment(String),
    /// This flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// The flags about configuration that every program has.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Read this configuration file instead of the usual ones
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// Set one configuration key, such as `server.listen=127.0.0.1:7001`
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Configuration")]
    pub set: Vec<String>,
}

/// A value given as text, before it is known to fit.
#[derive(Debug, Clone)]
struct Override {
    key: String,
    text: String,
    origin: Origin,
}

/// The places a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    text: Option<(PathBuf, String)>,
    search: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    set: Vec<String>,
    flags: Vec<Override>,
}

impl Sources {
    /// The usual places of this role: the real environment, and the file under `$XDG_CONFIG_HOME` or `/etc` unless the
    /// flags name another.
    pub fn usual<S: Settings>(args: &ConfigArgs) -> Sources {
        let role_file = format!("{}.toml", S::ROLE);
        let user = data_folder::config_home().map(|home| home.join("reelswarm").join(&role_file));
        Sources {
            file: args.config.clone(),
            text: None,
            search: user.into_iter().chain([Path::new("/etc/reelswarm").join(&role_file)]).collect(),
            environment: environment(),
            set: args.set.clone(),
            flags: Vec::new(),
        }
    }

    /// No file, no environment, no flags: what tests start from.
    pub fn none() -> Sources {
        Sources::default()
    }

    /// Reads exactly this file.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Sources {
        self.file = Some(path.into());
        self
    }

    /// Reads this text as if it were the file of that name.
    pub fn text(mut self, name: impl Into<PathBuf>, text: impl Into<String>) -> Sources {
        self.text = Some((name.into(), text.into()));
        self
    }

    /// Takes these variables as the environment.
    pub fn environment<K: Into<String>, V: Into<String>>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Sources {
        self.environment = vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        self
    }

    /// Adds a `KEY=VALUE` as `--set` takes it.
    pub fn set(mut self, assignment: impl Into<String>) -> Sources {
        self.set.push(assignment.into());
        self
    }

    /// Maps a flag of a program, if it was given, onto a key.
    pub fn flag(mut self, flag: &str, key: &str, value: Option<impl fmt::Display>) -> Sources {
        self.flags.extend(value.map(|value| Override {
            key: key.to_owned(),
            text: value.to_string(),
            origin: Origin::Flag(flag.to_owned()),
        }));
        self
    }

    /// Reads, merges and checks everything.
    pub fn load<S: Settings>(&self) -> Result<Loaded<S>, Failure> {
        let mut loaded = Loaded::<S>::of_defaults()?;
        let prefix = variable_prefix(S::ROLE);
        if let Some((name, text)) = &self.text {
            loaded.merge_text(name, text)?;
        } else if let Some(path) = self.file_to_read(&prefix)? {
            loaded.merge_text(&path, &read_text(&path)?)?;
        }
        let environment = overrides_of_environment(&self.environment, &prefix);
        loaded.merge_overrides(environment)?;
        let mut flags = self.flags.clone();
        for assignment in &self.set {
            flags.push(override_of_assignment(assignment)?);
        }
        loaded.merge_overrides(flags)?;
        loaded.check()?;
        Ok(loaded)
    }

    fn file_to_read(&self, prefix: &str) -> Result<Option<PathBuf>, Failure> {
        let variable = format!("{prefix}CONFIG");
        let named = self.environment.iter().find(|(name, _)| *name == variable).map(|(_, path)| PathBuf::from(path));
        if let Some(path) = self.file.clone().or(named) {
            return Ok(Some(path));
        }
        for path in &self.search {
            match fs::metadata(path) {
                Ok(_) => return Ok(Some(path.clone())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(path, &error)),
            }
        }
        Ok(None)
    }
}

/// A configuration, and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded<S> {
    /// The configuration.
    pub settings: S,
    values: Table,
    origins: BTreeMap<String, Origin>,
}

impl<S: Settings> Loaded<S> {
    /// Where the value of this dotted key came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every key with its value and its origin, in order of keys.
    pub fn entries(&self) -> Vec<(String, Value, Origin)> {
        let mut leaves = BTreeMap::new();
        flatten(&self.values, "", &mut leaves);
        leaves.into_iter().map(|(key, value)| (key.clone(), value, self.origin(&key))).collect()
    }

    fn of_defaults() -> Result<Loaded<S>, Failure> {
        let settings = S::default();
        let values = Table::try_from(&settings).map_err(|error| {
            Failure::new(Exit::Config, "E-CONFIG-09", "the defaults cannot be written as TOML").why(error)
        })?;
        Ok(Loaded { settings, values, origins: BTreeMap::new() })
    }

    fn merge_text(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        if let Err(error) = toml::from_str::<S>(text) {
            return Err(self.complaint(&error, &place_in(path, text, error.span())));
        }
        let not_toml = |error: toml::de::Error| self.complaint(&error, &place_in(path, text, error.span()));
        let spanned = DeTable::parse(text).map_err(not_toml)?;
        let values: Table = toml::from_str(text).map_err(not_toml)?;
        let mut lines = BTreeMap::new();
        lines_of_leaves(spanned.get_ref(), "", text, &mut lines);
        overlay(&mut self.values, values);
        self.origins.extend(lines.into_iter().map(|(key, line)| (key, Origin::File { path: path.to_owned(), line })));
        self.settings =
            S::deserialize(self.values.clone()).map_err(|error| self.complaint(&error, &path.display().to_string()))?;
        Ok(())
    }

    fn merge_overrides(&mut self, overrides: Vec<Override>) -> Result<(), Failure> {
        let mut seen: BTreeMap<String, Origin> = BTreeMap::new();
        for Override { key, text, origin } in overrides {
            if let Some(earlier) = seen.insert(key.clone(), origin.clone()) {
                return Err(Failure::new(Exit::Config, "E-CONFIG-04", format!("two values for {key}"))
                    .why(format!("given by {earlier} and by {origin}"))
                    .hint("keep one of the two"));
            }
            self.merge_override(&key, &text, origin)?;
        }
        Ok(())
    }

    /// Takes the first reading of the text that the type of the key accepts.
    fn merge_override(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), Failure> {
        let mut refusal = None;
        for value in readings(value_at(&self.values, key), text) {
            let mut values = self.values.clone();
            if !insert(&mut values, key, value) {
                return Err(self.unknown_key(key, &origin.to_string()));
            }
            match S::deserialize(values.clone()) {
                Ok(settings) => {
                    (self.settings, self.values) = (settings, values);
                    self.origins.insert(key.to_owned(), origin);
                    return Ok(());
                }
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        let refusal = refusal.expect("every text has at least one reading");
        match unknown_field(refusal.message()) {
            Some(_) => Err(self.unknown_key(key, &origin.to_string())),
            None => Err(wrong_value(&format!("{key} = {text:?}"), &refusal)
                .why(format!("{origin}: {}", refusal.message().trim()))),
        }
    }

    fn check(&self) -> Result<(), Failure> {
        self.settings.check().map_err(|Invalid { key, why, hint }| {
            let value = value_at(&self.values, &key).map(|value| format!(" = {value}")).unwrap_or_default();
            let why = format!("{}: {why}", self.origin(&key));
            Failure::new(Exit::Config, "E-CONFIG-05", format!("{key}{value} makes no sense")).why(why).hint(hint)
        })
    }

    /// What a person reads about an error of the deserialiser at this place.
    fn complaint(&self, error: &toml::de::Error, place: &str) -> Failure {
        match unknown_field(error.message()) {
            Some(unknown) => self.unknown_key(unknown, place).hint(
                nearest(unknown, fields_expected(error.message()).chain(self.last_parts().iter().map(String::as_str)))
                    .map(|near| format!("did you mean {near}?"))
                    .unwrap_or_else(|| "config init prints every key there is".to_owned()),
            ),
            None => wrong_value(place, error).why(error.message().trim()),
        }
    }

    fn unknown_key(&self, key: &str, place: &str) -> Failure {
        let keys: Vec<String> = self.entries().into_iter().map(|(key, ..)| key).collect();
        let hint = match nearest(key, keys.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "config show prints every key there is".to_owned(),
        };
        Failure::new(Exit::Config, "E-CONFIG-02", format!("unknown key {key}")).why(place).hint(hint)
    }

    fn last_parts(&self) -> Vec<String> {
        self.entries().into_iter().filter_map(|(key, ..)| key.rsplit('.').next().map(str::to_owned)).collect()
    }
}

/// The commands about configuration that every program has.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print the configuration in effect
    Show {
        /// Also print where each value came from
        #[arg(long)]
        origin: bool,
    },
    /// Check a configuration file and print what is wrong with it
    Check {
        /// The file to check
        file: PathBuf,
    },
    /// Print the commented default configuration
    Init,
}

impl ConfigCommand {
    /// Does what the command says and writes the answer to `out`.
    pub fn run<S: Settings>(&self, sources: &Sources, json: bool, out: &mut impl Write) -> anyhow::Result<Exit> {
        match self {
            ConfigCommand::Show { origin } => show(&sources.load::<S>()?, *origin, json, out)?,
            ConfigCommand::Check { file } => {
                Sources::none().file(file).load::<S>()?;
                match json {
                    true => writeln!(out, "{}", serde_json::json!({ "file": file, "ok": true }))?,
                    false => writeln!(out, "{}: ok", file.display())?,
                }
            }
            ConfigCommand::Init => write!(out, "{}", S::EXAMPLE)?,
        }
        Ok(Exit::Done)
    }
}

/// Whether [`Settings::EXAMPLE`] spells out exactly the defaults; the error names the first key that differs.
pub fn example_is_default<S: Settings>() -> Result<(), String> {
    let defaults = Loaded::<S>::of_defaults().map_err(|failure| failure.to_string())?;
    toml::from_str::<S>(S::EXAMPLE).map_err(|error| error.to_string())?;
    let example: Table = toml::from_str(S::EXAMPLE).map_err(|error| error.to_string())?;
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    flatten(&defaults.values, "", &mut ours);
    flatten(&example, "", &mut theirs);
    match ours.keys().chain(theirs.keys()).find(|key| ours.get(*key) != theirs.get(*key)) {
        Some(key) => Err(format!("{key}: default is {:?}, example says {:?}", ours.get(key), theirs.get(key))),
        None => Ok(()),
    }
}

fn show<S: Settings>(loaded: &Loaded<S>, origin: bool, json: bool, out: &mut impl Write) -> io::Result<()> {
    for (key, value, from) in loaded.entries() {
        match (json, origin) {
            (true, true) => {
                writeln!(out, "{}", serde_json::json!({ "key": key, "value": value, "origin": from.to_string() }))?
            }
            (true, false) => writeln!(out, "{}", serde_json::json!({ "key": key, "value": value }))?,
            (false, true) => writeln!(out, "{key} = {value}  # {from}")?,
            (false, false) => writeln!(out, "{key} = {value}")?,
        }
    }
    Ok(())
}

/// The variables of this process. Names that are not text cannot be ours.
fn environment() -> Vec<(String, String)> {
    let vars = std::env::vars_os();
    vars.filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))).collect()
}

/// `REELSWARM_PEER_NODE_` for `peer-node`.
fn variable_prefix(role: &str) -> String {
    format!("REELSWARM_{}_", role.to_uppercase().replace('-', "_"))
}

/// `REELSWARM_TRACKER_SERVER__LISTEN` sets `server.listen`; the variable `…_CONFIG` names the file instead.
fn overrides_of_environment(environment: &[(String, String)], prefix: &str) -> Vec<Override> {
    let of_role = environment.iter().filter_map(|(name, text)| Some((name, name.strip_prefix(prefix)?, text)));
    of_role
        .filter(|(_, rest, _)| *rest != "CONFIG")
        .map(|(name, rest, text)| Override {
            key: rest.to_lowercase().replace("__", "."),
            text: text.clone(),
            origin: Origin::Environment(name.clone()),
        })
        .collect()
}

fn override_of_assignment(assignment: &str) -> Result<Override, Failure> {
    let (key, text) = assignment.split_once('=').ok_or_else(|| {
        Failure::new(Exit::Config, "E-CONFIG-06", format!("--set {assignment} has no value"))
            .hint("write --set KEY=VALUE, for example --set server.listen=127.0.0.1:7001")
    })?;
    let key = key.trim().to_owned();
    Ok(Override { origin: Origin::Flag(format!("--set {key}")), key, text: text.trim().to_owned() })
}

/// The values that a text may stand for, the likeliest first, given the value it replaces.
fn readings(current: Option<&Value>, text: &str) -> Vec<Value> {
    let as_text = Value::String(text.to_owned());
    let as_toml = toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut table| table.remove("value"));
    let as_list =
        || Value::Array(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Value::from).collect());
    match current {
        Some(Value::String(_)) => vec![as_text],
        Some(Value::Array(_)) if !text.trim_start().starts_with('[') => vec![as_list()],
        _ => as_toml.into_iter().chain([as_text]).collect(),
    }
}

fn value_at<'a>(values: &'a Table, key: &str) -> Option<&'a Value> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    match (values.get(first)?, rest) {
        (value, None) => Some(value),
        (Value::Table(inner), Some(rest)) => value_at(inner, rest),
        (_, Some(_)) => None,
    }
}

/// Puts a value at a dotted key; false if a part of the key on the way is not a table.
fn insert(values: &mut Table, key: &str, value: Value) -> bool {
    match key.split_once('.') {
        None => {
            values.insert(key.to_owned(), value);
            true
        }
        Some((first, rest)) => match values.entry(first).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => insert(inner, rest, value),
            _ => false,
        },
    }
}

/// Replaces leaves of `below` by those of `above`, table by table.
fn overlay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(upper)) => overlay(inner, upper),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

fn flatten(values: &Table, prefix: &str, leaves: &mut BTreeMap<String, Value>) {
    for (key, value) in values {
        let key = joined(prefix, key);
        match value {
            Value::Table(inner) => flatten(inner, &key, leaves),
            leaf => {
                leaves.insert(key, leaf.clone());
            }
        }
    }
}

fn lines_of_leaves(table: &DeTable<'_>, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path = joined(prefix, key.get_ref());
        match Spanned::get_ref(value) {
            DeValue::Table(inner) => lines_of_leaves(inner, &path, text, lines),
            _ => {
                lines.insert(path, line_and_column(text, key.span().start).0);
            }
        }
    }
}

fn joined(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let size = fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    if size > MAX_FILE_BYTES {
        return Err(Failure::new(
            Exit::Config,
            "E-CONFIG-07",
            format!("configuration {} is too large", path.display()),
        )
        .why(format!("{size} bytes, at most {MAX_FILE_BYTES} are read"))
        .hint("is this really the configuration file?"));
    }
    fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Config, "E-CONFIG-01", format!("cannot read configuration {}", path.display()))
        .why(error)
        .hint("check the path given with --config; config init prints a file to start from")
}

fn wrong_value(place: &str, error: &toml::de::Error) -> Failure {
    match error.message().contains("duplicate key") {
        true => Failure::new(Exit::Config, "E-CONFIG-04", format!("two values for one key at {place}"))
            .hint("keep one of the two"),
        false => Failure::new(Exit::Config, "E-CONFIG-03", format!("wrong value at {place}"))
            .hint("config init prints every key with its type and default"),
    }
}

fn place_in(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let (line, column) = line_and_column(text, span.map_or(0, |span| span.start));
    format!("{}, line {line}, column {column}", path.display())
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The field that serde does not know, from its message "unknown field `x`, expected …".
fn unknown_field(message: &str) -> Option<&str> {
    message.trim().strip_prefix("unknown field `")?.split('`').next()
}

/// The fields that serde names as expected in the same message.
fn fields_expected(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(3).step_by(2)
}

fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|key| (strsim::jaro_winkler(unknown, key), key))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::units::{ByteSize, Duration};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        name: String,
        hosts: Vec<String>,
        note: Option<String>,
        server: Server,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Server {
        port: u16,
        request_timeout: Duration,
        cache: ByteSize,
        insecure: bool,
    }

    impl Default for Example {
        fn default() -> Example {
            Example { name: "box".to_owned(), hosts: Vec::new(), note: None, server: Server::default() }
        }
    }

    impl Default for Server {
        fn default() -> Server {
            Server { port: 7001, request_timeout: Duration::from_secs(10), cache: ByteSize::mib(8), insecure: false }
        }
    }

    impl Settings for Example {
        const ROLE: &'static str = "peer-node";
        const EXAMPLE: &'static str = "# Who am I?\nname = \"box\"\nhosts = []\n# note = \"…\"\n\n[server]\nport = 7001\n\
                                       request_timeout = \"10s\"\ncache = \"8 MiB\"\ninsecure = false\n";

        fn check(&self) -> Result<(), Invalid> {
            match self.server.cache.bytes() {
                0 => Err(Invalid::new("server.cache", "a cache of zero bytes holds nothing", "at least 1 MiB")),
                _ => Ok(()),
            }
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer-node.toml");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn refusal(sources: &Sources) -> Failure {
        let failure = sources.load::<Example>().unwrap_err();
        assert_eq!(failure.exit, Exit::Config, "{failure:?}");
        failure
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let (_folder, path) = file("name = \"f\"\n[server]\nport = 1\nrequest_timeout = \"1s\"\n");
        let loaded: Loaded<Example> = Sources::none()
            .file(&path)
            .environment([
                ("REELSWARM_PEER_NODE_SERVER__PORT", "2"),
                ("REELSWARM_PEER_NODE_NAME", "e"),
                ("HOME", "/root"),
            ])
            .flag("--name", "name", Some("g"))
            .load()
            .unwrap();
        assert_eq!(loaded.settings.name, "g");
        assert_eq!(loaded.settings.server.port, 2);
        assert_eq!(loaded.settings.server.request_timeout, Duration::from_secs(1));
        assert_eq!(loaded.settings.server.cache, ByteSize::mib(8));
        assert_eq!(loaded.origin("name"), Origin::Flag("--name".to_owned()));
        assert_eq!(loaded.origin("server.port"), Origin::Environment("REELSWARM_PEER_NODE_SERVER__PORT".to_owned()));
        assert_eq!(loaded.origin("server.request_timeout"), Origin::File { path, line: 4 });
        assert_eq!(loaded.origin("server.cache"), Origin::Default);
    }

    #[test]
    fn every_key_can_be_set_from_every_place() {
        for (key, text) in [
            ("name", "7"),
            ("hosts", "a.example, b.example"),
            ("note", "hello"),
            ("server.port", "9"),
            ("server.request_timeout", "5s"),
            ("server.cache", "1 GiB"),
            ("server.insecure", "true"),
        ] {
            let variable = format!("REELSWARM_PEER_NODE_{}", key.to_uppercase().replace('.', "__"));
            let by_flag = Sources::none().set(format!("{key}={text}")).load::<Example>().unwrap();
            let by_environment = Sources::none().environment([(variable, text)]).load::<Example>().unwrap();
            assert_eq!(by_flag.settings, by_environment.settings);
            assert_ne!(by_flag.settings, Example::default(), "{key} had no effect");
            assert_ne!(by_flag.origin(key), Origin::Default);
        }
    }

    #[test]
    fn unknown_key_in_a_file_is_named_with_line_column_and_nearest_key() {
        let (_folder, path) = file("name = \"x\"\n[server]\nprot = 1\n");
        let failure = refusal(&Sources::none().file(&path));
        assert_eq!(failure.what, "unknown key prot");
        assert_eq!(failure.why, Some(format!("{}, line 3, column 1", path.display())));
        assert_eq!(failure.hint.as_deref(), Some("did you mean port?"));
    }

    #[test]
    fn misspelt_optional_key_is_corrected_too() {
        let (_folder, path) = file("noot = \"x\"\n");
        assert_eq!(refusal(&Sources::none().file(&path)).hint.as_deref(), Some("did you mean note?"));
    }

    #[test]
    fn unknown_key_in_environment_or_flag_is_named_with_nearest_key() {
        let failure = refusal(&Sources::none().environment([("REELSWARM_PEER_NODE_SERVER__PROT", "1")]));
        assert_eq!(failure.what, "unknown key server.prot");
        assert_eq!(failure.hint.as_deref(), Some("did you mean server.port?"));
        let failure = refusal(&Sources::none().set("nmae=x"));
        assert_eq!(failure.hint.as_deref(), Some("did you mean name?"));
        let failure = refusal(&Sources::none().set("name.first=x"));
        assert_eq!(failure.what, "unknown key name.first");
    }

    #[test]
    fn wrong_type_is_named_with_line_and_column() {
        let (_folder, path) = file("[server]\nport = \"high\"\n");
        let failure = refusal(&Sources::none().file(&path));
        assert_eq!(failure.what, format!("wrong value at {}, line 2, column 8", path.display()));
        let failure = refusal(&Sources::none().set("server.port=high"));
        assert_eq!(failure.what, "wrong value at server.port = \"high\"");
    }

    #[test]
    fn duration_without_unit_is_refused_with_an_example() {
        let (_folder, path) = file("[server]\nrequest_timeout = 10\n");
        let why = refusal(&Sources::none().file(&path)).why.unwrap();
        assert!(why.contains("a duration such as \"30s\""), "{why}");
    }

    #[test]
    fn two_values_for_one_key_are_refused() {
        let (_folder, path) = file("name = \"a\"\nname = \"b\"\n");
        assert_eq!(refusal(&Sources::none().file(&path)).code, "E-CONFIG-04");
        assert_eq!(refusal(&Sources::none().set("name=a").set("name=b")).code, "E-CONFIG-04");
        let failure = refusal(&Sources::none().flag("--name", "name", Some("a")).set("name=b"));
        assert_eq!(failure.why.as_deref(), Some("given by flag --name and by flag --set name"));
    }

    #[test]
    fn senseless_value_is_blamed_on_its_origin() {
        let failure = refusal(&Sources::none().set("server.cache=0 B"));
        assert_eq!(failure.what, "server.cache = \"0 B\" makes no sense");
        assert_eq!(failure.why.as_deref(), Some("flag --set server.cache: a cache of zero bytes holds nothing"));
    }

    #[test]
    fn missing_file_that_was_asked_for_is_refused() {
        assert_eq!(refusal(&Sources::none().file("/nowhere/at/all.toml")).code, "E-CONFIG-01");
        let by_variable = Sources::none().environment([("REELSWARM_PEER_NODE_CONFIG", "/nowhere/at/all.toml")]);
        assert_eq!(refusal(&by_variable).code, "E-CONFIG-01");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_to_be_refused(text in "[a-z\\[\\]\"'=.#\\n\\\\0-9äß🎬 ]{0,40}") {
            let (_folder, path) = file(&text);
            if let Err(failure) = Sources::none().file(&path).load::<Example>() {
                prop_assert_eq!(failure.exit, Exit::Config);
            }
            if let Err(failure) = Sources::none().set(&text).load::<Example>() {
                prop_assert_eq!(failure.exit, Exit::Config);
            }
        }
    }

    #[test]
    fn show_prints_each_value_with_its_origin() {
        let mut out = Vec::new();
        let command = ConfigCommand::Show { origin: true };
        command.run::<Example>(&Sources::none().set("server.port=9"), false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("name = \"box\"  # default\n"), "{text}");
        assert!(text.contains("server.port = 9  # flag --set server.port\n"), "{text}");
    }

    #[test]
    fn show_prints_json_lines() {
        let mut out = Vec::new();
        ConfigCommand::Show { origin: true }.run::<Example>(&Sources::none(), true, &mut out).unwrap();
        let first: serde_json::Value = serde_json::from_slice(out.split(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!(first, serde_json::json!({ "key": "hosts", "value": [], "origin": "default" }));
    }

    #[test]
    fn check_accepts_what_init_prints() {
        let mut out = Vec::new();
        ConfigCommand::Init.run::<Example>(&Sources::none(), false, &mut out).unwrap();
        let (_folder, path) = file(&String::from_utf8(out).unwrap());
        let check = ConfigCommand::Check { file: path };
        assert_eq!(check.run::<Example>(&Sources::none(), false, &mut Vec::new()).unwrap(), Exit::Done);
        assert_eq!(example_is_default::<Example>(), Ok(()));
    }
}
