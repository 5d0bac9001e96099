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
use std::process::ExitCode;

use clap::{Arg, ArgAction, Args, CommandFactory, Parser, Subcommand};
use daemon::config::{ConfigCommand, Loaded};
use daemon::exit::{Exit, run_main};
use daemon::{command, logs};

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

type Global = command::Global<Config>;

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
    match command::parse(command(), args) {
        Ok(Cli { global, command }) => run_main(global.json, Box::pin(dispatch(global, command))),
        Err(exit) => exit,
    }
}

fn command() -> clap::Command {
    let version = Arg::new("version").short('V').long("version").action(ArgAction::Version).help("Print version");
    command::brief(Cli::command().disable_version_flag(true).arg(version))
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
        Command::Config(command) => command.run::<Config>(&global.sources(), global.json, &mut std::io::stdout()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut self::command(), "peer-node", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

async fn run_device(global: &Global, args: RunArgs) -> anyhow::Result<Exit> {
    logs::init(&global.logs)?;
    let sources = global
        .sources()
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
