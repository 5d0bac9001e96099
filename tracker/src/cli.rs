//! The command line: the daemon, and what its operator asks of it.
//!
//! Every command but `run`, `id`, `config` and `completions` asks the tracker that runs on the data folder, with the
//! operator's token from there.

mod operator;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use daemon::config::{ConfigArgs, ConfigCommand, Settings, Sources};
use daemon::logs::{self, LogArgs};
use daemon::{Exit, Failure, Shutdown, data_folder, run_main};
use serde::Serialize;

use crate::config::Config;
use crate::server;

/// Shown above everything else: most people look for a command to copy.
const EXAMPLES: &str = "\
Examples:
  tracker run                                 serve a catalog and its devices
  tracker device invite 'Ada Example'         a code for a customer's new box
  tracker copies 'Harbour at dawn'            who holds it";

const TEMPLATE: &str =
    "{about}\n\n{before-help}{usage-heading} {usage}\nCommands:\n{subcommands}\n\nOptions:\n{options}";

#[derive(Parser)]
#[command(name = "tracker", version, about = "The Reelswarm tracker: knows the titles, the devices and who sends what")]
#[command(before_help = EXAMPLES, help_template = TEMPLATE, disable_help_subcommand = true)]
#[command(args_override_self = false, disable_version_flag = true)]
struct Cli {
    /// Print version
    #[arg(short = 'V', long, action = clap::ArgAction::Version, hide_short_help = true)]
    version: Option<bool>,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Args, Clone)]
struct Global {
    /// Data folder [default: $XDG_DATA_HOME/reelswarm/tracker]
    #[arg(long, global = true, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    logs: LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run this tracker
    Run(RunArgs),
    /// Add, list, suspend customers
    #[command(subcommand)]
    Customer(operator::CustomerCommand),
    /// Invite, list, revoke devices
    #[command(subcommand)]
    Device(operator::DeviceCommand),
    /// Admit publishers
    #[command(subcommand)]
    Publisher(operator::PublisherCommand),
    /// List, hide, show titles
    #[command(subcommand)]
    Title(operator::TitleCommand),
    /// Look at a customer's queue, change it
    #[command(subcommand)]
    Queue(operator::QueueCommand),
    /// Print who holds a title
    Copies(operator::CopiesArgs),
    /// Print how much boxes and seeds have sent
    Traffic,
    /// Print who this tracker is
    Id,
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct RunArgs {
    /// Address and port (server.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Stop when the program that started this one is gone
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

/// The whole program: parses the arguments (the first being the program's name), runs, and answers how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let Cli { global, command, .. } = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // Nobody is left to tell when even this cannot be printed.
            let _ = error.print();
            return exit.into();
        }
    };
    run_main(global.json, Box::pin(dispatch(global, command)))
}

/// The command as clap has it, with the flags of every command out of the way of the short help.
fn command() -> clap::Command {
    Cli::command().mut_args(|arg| match arg.get_id().as_str() {
        "config" | "set" | "log_level" | "log_format" => arg.hide_short_help(true),
        _ => arg,
    })
}

async fn dispatch(global: Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run_daemon(&global, args).await,
        Command::Customer(command) => operator::customer(&global, command).await,
        Command::Device(command) => operator::device(&global, command).await,
        Command::Publisher(command) => operator::publisher(&global, command).await,
        Command::Title(command) => operator::title(&global, command).await,
        Command::Queue(command) => operator::queue(&global, command).await,
        Command::Copies(args) => operator::copies(&global, args).await,
        Command::Traffic => operator::traffic(&global).await,
        Command::Id => id(&global),
        Command::Config(command) => {
            let sources = Sources::usual::<Config>(&global.config);
            command.run::<Config>(&sources, global.json, &mut std::io::stdout())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut self::command(), "tracker", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

async fn run_daemon(global: &Global, args: RunArgs) -> anyhow::Result<Exit> {
    logs::init(&global.logs)?;
    let sources = Sources::usual::<Config>(&global.config).flag("--listen", "server.listen", args.listen);
    let shutdown = Shutdown::listen()?;
    if args.exit_with_parent {
        shutdown.end_with_parent();
    }
    let announce = |ready: &server::Ready| {
        let mut out = std::io::stdout().lock();
        let server::Ready { url, id } = ready;
        match global.json {
            true => {
                let line = serde_json::json!({ "ready": "tracker", "url": url, "id": id, "pid": std::process::id() });
                writeln!(out, "{line}")?;
            }
            false => writeln!(out, "tracker ready {url}/ id {id}")?,
        }
        out.flush()
    };
    server::run(global.data_folder()?, &sources, shutdown, announce).await
}

fn id(global: &Global) -> anyhow::Result<Exit> {
    let id = server::id_of(&global.data_folder()?)?;
    global.print(&serde_json::json!({ "id": id }), || format!("{id}\n"))
}

impl Global {
    /// The data folder that the command is about.
    fn data_folder(&self) -> Result<PathBuf, Failure> {
        self.data.clone().map_or_else(|| data_folder::default_path(Config::ROLE), Ok)
    }

    /// Prints an answer: as JSON if asked to, else as the text that is made of it.
    fn print<T: Serialize>(&self, answer: &T, text: impl FnOnce() -> String) -> anyhow::Result<Exit> {
        self.write(if self.json { format!("{}\n", serde_json::to_string(answer)?) } else { text() })
    }

    /// Prints a list: as one JSON object per line if asked to, else as the table that is made of it.
    fn print_list<T: Serialize>(&self, rows: &[T], table: impl FnOnce() -> String) -> anyhow::Result<Exit> {
        let line = |row: &T| serde_json::to_string(row).map(|json| format!("{json}\n"));
        self.write(if self.json { rows.iter().map(line).collect::<Result<_, _>>()? } else { table() })
    }

    fn write(&self, text: String) -> anyhow::Result<Exit> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn short_help_begins_with_examples_and_fits_a_screen() {
        let help = command().render_help().to_string();
        let example = help.find("tracker run").expect("there are examples");
        assert!(example < help.find("Usage:").expect("there is a usage line"), "{help}");
        assert!(help.lines().count() <= 25, "{} lines:\n{help}", help.lines().count());
    }
}
