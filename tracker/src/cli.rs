//! The command line: the daemon, and what its operator asks of it.
//!
//! Every command but `run`, `id`, `config` and `completions` asks the tracker that runs on the data folder, with the
//! operator's token from there.

mod client;
mod copies;
mod customer;
mod device;
mod plans;
mod preload;
mod publisher;
mod queue;
mod rating;
mod seed;
mod site;
mod title;
mod traffic;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use daemon::config::ConfigCommand;
use daemon::{Exit, Shutdown, command, logs, run_main};

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

type Global = command::Global<Config>;

#[derive(Subcommand)]
enum Command {
    /// Run this tracker
    Run(RunArgs),
    /// Add customers, limit, suspend, close, export and delete them
    #[command(subcommand)]
    Customer(customer::CustomerCommand),
    /// Invite or pair devices, list, move, limit, revoke them
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Admit publishers
    #[command(subcommand)]
    Publisher(publisher::PublisherCommand),
    /// List, hide, show titles
    #[command(subcommand)]
    Title(title::TitleCommand),
    /// Look at a customer's queue, change it
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Print why who sends a title to a box
    Explain(plans::OnArgs),
    /// Print when a title would be complete on a box
    Estimate(plans::OnArgs),
    /// Say when the lines of sites are idle, and what bytes cost
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// List, drain seeds; look at what they keep
    #[command(subcommand)]
    Seed(seed::SeedCommand),
    /// List seeds
    #[command(hide = true)]
    Seeds,
    /// Have titles wait on boxes before anybody asks
    #[command(subcommand)]
    Preload(preload::PreloadCommand),
    /// Print who holds a title
    Copies(copies::CopiesArgs),
    /// Print how much boxes and seeds have sent
    Traffic(traffic::TrafficArgs),
    /// Print which part of all bytes boxes have sent
    Offload(traffic::Since),
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
    match command::parse(command(), args) {
        Ok(Cli { global, command, .. }) => run_main(global.json, Box::pin(dispatch(global, command))),
        Err(exit) => exit,
    }
}

fn command() -> clap::Command {
    command::brief(Cli::command())
}

async fn dispatch(global: Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run_daemon(&global, args).await,
        Command::Customer(command) => customer::run(&global, command).await,
        Command::Device(command) => device::run(&global, command).await,
        Command::Publisher(command) => publisher::run(&global, command).await,
        Command::Title(command) => title::run(&global, command).await,
        Command::Queue(command) => queue::run(&global, command).await,
        Command::Explain(args) => plans::explain(&global, args).await,
        Command::Estimate(args) => plans::estimate(&global, args).await,
        Command::Site(command) => site::run(&global, command).await,
        Command::Seed(command) => seed::run(&global, command).await,
        Command::Seeds => seed::run(&global, seed::SeedCommand::Ls).await,
        Command::Preload(command) => preload::run(&global, command).await,
        Command::Copies(args) => copies::run(&global, args).await,
        Command::Traffic(args) => traffic::run(&global, args).await,
        Command::Offload(since) => traffic::offload(&global, since).await,
        Command::Id => id(&global),
        Command::Config(command) => command.run::<Config>(&global.sources(), global.json, &mut std::io::stdout()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut self::command(), "tracker", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

async fn run_daemon(global: &Global, args: RunArgs) -> anyhow::Result<Exit> {
    logs::init(&global.logs)?;
    let sources = global.sources().flag("--listen", "server.listen", args.listen);
    let shutdown = Shutdown::listen()?;
    if args.exit_with_parent {
        shutdown.end_with_parent();
    }
    let announce = |ready: &server::Ready| command::say_ready(global.json, "tracker", &ready.url, "/", &ready.id);
    server::run(global.data_folder()?, &sources, shutdown, announce).await
}

fn id(global: &Global) -> anyhow::Result<Exit> {
    let id = server::id_of(&global.data_folder()?)?;
    global.print(&serde_json::json!({ "id": id }), || format!("{id}\n"))
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
        assert!(help.lines().count() <= 36, "{} lines:\n{help}", help.lines().count());
    }
}
