//! What the command lines of all programs here have in common: the options of every command, and how answers are
//! printed.
//!
//! Knows no command. A program says `type Global = command::Global<Config>`, flattens it into its arguments, and
//! prints nothing to standard output but through it.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, FromArgMatches};
use serde::Serialize;

use crate::config::{ConfigArgs, Loaded, Settings, Sources};
use crate::data_folder;
use crate::exit::{Exit, Failure};
use crate::logs::LogArgs;

/// What every command of a program with these settings understands.
#[derive(Args)]
pub struct Global<S: Settings> {
    /// Data folder [default: the role's below $XDG_DATA_HOME/reelswarm]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    pub json: bool,
    /// Where settings come from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How much is logged.
    #[command(flatten)]
    pub logs: LogArgs,
    #[arg(skip)]
    settings: PhantomData<fn() -> S>,
}

impl<S: Settings> Global<S> {
    /// The data folder that the command is about.
    pub fn data_folder(&self) -> Result<PathBuf, Failure> {
        self.data.clone().map_or_else(|| data_folder::default_path(S::ROLE), Ok)
    }

    /// Where the settings come from; flags of a command are added to them.
    pub fn sources(&self) -> Sources {
        Sources::usual::<S>(&self.config)
    }

    /// The settings, for commands that do part of a daemon's work themselves.
    pub fn settings(&self) -> Result<S, Failure> {
        let Loaded { settings, .. } = self.sources().load::<S>()?;
        Ok(settings)
    }

    /// Prints an answer: as JSON if asked to, else as the text that is made of it.
    pub fn print<T: Serialize>(&self, answer: &T, text: impl FnOnce() -> String) -> anyhow::Result<Exit> {
        write(&if self.json { json_line(answer)? } else { text() })
    }

    /// Prints a list: as one JSON object per line if asked to, else as the table that is made of it.
    pub fn print_list<T: Serialize>(&self, rows: &[T], table: impl FnOnce() -> String) -> anyhow::Result<Exit> {
        write(&if self.json { rows.iter().map(json_line).collect::<Result<String, _>>()? } else { table() })
    }

    /// Whether a person looks at this while it happens.
    pub fn is_watched(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }
}

/// The arguments of a program, the first being its name; else how it ends, with help or the complaint printed.
pub fn parse<C: FromArgMatches>(
    command: clap::Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<C, ExitCode> {
    command.try_get_matches_from(args).and_then(|matches| C::from_arg_matches(&matches)).map_err(|error| {
        // Nobody is left to tell when even this cannot be printed.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
    })
}

/// The command with the flags of configuration and logs out of the way of the short help.
pub fn brief(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| match arg.get_id().as_str() {
        "config" | "set" | "log_level" | "log_format" | "version" => arg.hide_short_help(true),
        _ => arg,
    })
}

/// The one line on standard output that a person or a script waits for: who serves, where and as whom. `page` is what
/// a person would open.
pub fn say_ready(json: bool, role: &str, url: &str, page: &str, id: &dyn fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match json {
        true => {
            let ready =
                serde_json::json!({ "ready": role, "url": url, "id": id.to_string(), "pid": std::process::id() });
            writeln!(out, "{ready}")?;
        }
        false => writeln!(out, "{role} ready {url}{page} id {id}")?,
    }
    out.flush()
}

fn json_line(answer: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(answer).map(|json| format!("{json}\n"))
}

fn write(text: &str) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(Exit::Done)
}
