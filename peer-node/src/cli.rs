//! The command line: what can be asked for, and who answers.
//!
//! `run` is the device itself. Most commands are a question to the one that runs on this data folder; `enrol` and `id`
//! also work before it has ever run, and `publish` works beside it.

mod daemon_client;
mod enrol;
mod get;
mod id;
mod pay;
mod play;
mod publish;
mod queue;
pub mod show;
mod status;
mod titles;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use daemon::config::{ConfigArgs, ConfigCommand, Loaded, Settings, Sources};
use daemon::data_folder;
use daemon::exit::{Exit, Failure, run_main};
use daemon::logs::{self, LogArgs};
use serde::Serialize;

use crate::config::Config;
use crate::node;

/// Shown above everything else: most people look for a command to copy.
const EXAMPLES: &str = "\
Examples:
  peer-node run --enrol 7KQ2-M9X7          start this box, the first time
  peer-node get \"Harbour at dawn\"          fetch a title and watch it arrive
  peer-node pay \"Harbour at dawn\"          buy it; then play \"Harbour at dawn\" --open";

const PUBLISH_EXAMPLES: &str = "\
Examples:
  peer-node publish dawn.mp4 --title \"Harbour at dawn\" --offer rent:2.99EUR:48h
  peer-node publish reef.mkv --title Reef --offer buy:9.99EUR --offer pass:1 --poster reef.jpg";

/// Everything on one screen, the flags of configuration and logs left to `--help`.
const TEMPLATE: &str = "{before-help}{usage-heading} {usage}\n\n{subcommands}\n\nOptions:\n{options}";

#[derive(Parser)]
#[command(name = "peer-node", version, about = "The Reelswarm box and seed: fetches, passes on and plays")]
#[command(before_help = EXAMPLES, help_template = TEMPLATE, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Data folder [default: $XDG_DATA_HOME/reelswarm/peer-node]
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
    /// Run this device
    Run(RunArgs),
    /// Make this device a customer's, with a code of the operator
    Enrol(enrol::EnrolArgs),
    /// Fetch a title and watch it arrive
    Get(get::GetArgs),
    /// Show or change the customer's queue
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Show this device and what it holds
    Status(status::StatusArgs),
    /// Look for titles
    #[command(subcommand)]
    Catalog(titles::CatalogCommand),
    /// Buy a title
    Pay(pay::PayArgs),
    /// Print the address at which a title plays
    Play(play::PlayArgs),
    /// Seal a media file and offer it
    #[command(before_help = PUBLISH_EXAMPLES)]
    Publish(publish::PublishArgs),
    /// Show or make the key that signs what is published here
    #[command(subcommand)]
    Publisher(publish::PublisherCommand),
    /// Print who this device is
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
    /// Enrol with this code first, unless that has been done
    #[arg(long, value_name = "CODE")]
    enrol: Option<String>,
    /// Where the tracker is (tracker.url)
    #[arg(long, value_name = "URL")]
    tracker: Option<String>,
    /// Where keys are sold (keyserver.url)
    #[arg(long, value_name = "URL")]
    keyserver: Option<String>,
    /// What people call this device (name)
    #[arg(long)]
    name: Option<String>,
    /// Address of the player's port (server.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Multiaddrs for the swarm's side, separated by commas (net.listen)
    #[arg(long, value_name = "MULTIADDRS")]
    swarm_listen: Option<String>,
    /// Stop when the program that started this one is gone
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

/// The whole program: parses the arguments (the first being the program's name), runs, and answers how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let Cli { global, command } = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    run_main(global.json, Box::pin(dispatch(global, command)))
}

/// The command as clap has it, with what few people need out of the way of the short help.
fn command() -> clap::Command {
    let version = Arg::new("version").short('V').long("version").action(ArgAction::Version).help("Print version");
    let command = Cli::command().disable_version_flag(true).arg(version);
    command.mut_args(|arg| match arg.get_id().as_str() {
        "config" | "set" | "log_level" | "log_format" | "version" => arg.hide_short_help(true),
        _ => arg,
    })
}

async fn dispatch(global: Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run_device(&global, args).await,
        Command::Enrol(args) => enrol::run(&global, args).await,
        Command::Get(args) => get::run(&global, args).await,
        Command::Queue(command) => queue::run(&global, command).await,
        Command::Status(args) => status::run(&global, args).await,
        Command::Catalog(command) => titles::run(&global, command).await,
        Command::Pay(args) => pay::run(&global, args).await,
        Command::Play(args) => play::run(&global, args).await,
        Command::Publish(args) => publish::run(&global, args).await,
        Command::Publisher(command) => publish::run_publisher(&global, command),
        Command::Id => id::run(&global),
        Command::Config(command) => {
            command.run::<Config>(&Sources::usual::<Config>(&global.config), global.json, &mut std::io::stdout())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut self::command(), "peer-node", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

async fn run_device(global: &Global, args: RunArgs) -> anyhow::Result<Exit> {
    logs::init(&global.logs)?;
    let sources = Sources::usual::<Config>(&global.config)
        .flag("--tracker", "tracker.url", args.tracker)
        .flag("--keyserver", "keyserver.url", args.keyserver)
        .flag("--name", "name", args.name)
        .flag("--listen", "server.listen", args.listen)
        .flag("--swarm-listen", "net.listen", args.swarm_listen);
    let Loaded { settings, .. } = sources.load::<Config>()?;
    let options = node::Options {
        folder: global.data_folder()?,
        enrol: args.enrol,
        json: global.json,
        exit_with_parent: args.exit_with_parent,
    };
    node::run(settings, options).await
}

impl Global {
    /// The data folder that the command is about.
    fn data_folder(&self) -> Result<PathBuf, Failure> {
        self.data.clone().map_or_else(|| data_folder::default_path(Config::ROLE), Ok)
    }

    /// The configuration, for commands that do part of a device's work themselves.
    fn settings(&self) -> Result<Config, Failure> {
        Ok(Sources::usual::<Config>(&self.config).load::<Config>()?.settings)
    }

    /// Prints an answer: as JSON if asked to, else as the text that is made of it.
    fn print<T: Serialize>(&self, answer: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string(answer)?)?,
            false => write!(out, "{}", text())?,
        }
        out.flush()?;
        Ok(())
    }

    /// Whether a person looks at this while it happens.
    fn is_watched(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
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
        let example = help.find("peer-node get").expect("there are examples");
        assert!(example < help.find("Usage:").expect("there is a usage line"), "{help}");
        assert!(help.lines().count() <= 25, "{} lines:\n{help}", help.lines().count());
    }
}
