//! The command line: the daemon, and what its operator asks of it.
//!
//! Commands about passes, orders, grants and publishers ask the keyserver that runs on the data folder, with the operator's
//! token from there. `audit` and `webhook` work on the files, whether it runs or not.

mod audit;
mod key;
mod money;
mod operator;
mod recover;
mod rights;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use daemon::config::ConfigCommand;
use daemon::{DataFolder, Exit, Failure, Shutdown, command, logs, run_main, secrets};
use serde::Serialize;
use swarm_proto::id::ServerId;
use swarm_proto::signed::SigningKey;
use swarm_proto::wrap::HpkeSecret;

use crate::config::Config;
use crate::{secret, server, vault};

/// Shown above everything else: most people look for a command to copy.
const EXAMPLES: &str = "\
Examples:
  keyserver run --trust-tracker 4f1c…         sell keys to that tracker's devices
  keyserver pass create --credits 10 --valid 90d";

const TEMPLATE: &str =
    "{about}\n\n{before-help}{usage-heading} {usage}\n\nCommands:\n{subcommands}\n\nOptions:\n{options}";

#[derive(Parser)]
#[command(name = "keyserver", version, about = "The Reelswarm keyserver: keeps keys, takes money, releases keys", before_help = EXAMPLES)]
#[command(help_template = TEMPLATE, disable_help_subcommand = true, args_override_self = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

type Global = command::Global<Config>;

#[derive(Subcommand)]
enum Command {
    /// Run this keyserver
    Run(RunArgs),
    /// Sell prepaid passes
    #[command(subcommand)]
    Pass(operator::PassCommand),
    /// Look at orders, refund them
    #[command(subcommand)]
    Order(operator::OrderCommand),
    /// What accounts pay with: bills and their limits, cards
    #[command(subcommand)]
    Billing(money::BillingCommand),
    /// The ways to pay
    #[command(subcommand)]
    Gateway(money::GatewayCommand),
    /// See who has the key of an order, take it back
    #[command(subcommand)]
    Grant(rights::GrantCommand),
    /// Admit publishers
    #[command(subcommand)]
    Publisher(operator::PublisherCommand),
    /// Check, show or export the journal
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Find and mend damage in the journal of a stopped keyserver
    Recover(recover::RecoverArgs),
    /// Change keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Set up a till
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Print who this keyserver is
    Id,
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    #[command(hide = true)]
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
    /// Believe the memberships of this tracker (trusted_trackers); may be given several times
    #[arg(long, value_name = "ID")]
    trust_tracker: Vec<ServerId>,
    /// Go on although the journal ends before what was once here, as after restoring a backup
    #[arg(long)]
    accept_rollback: bool,
    /// Stop when the program that started this one is gone
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

#[derive(Subcommand)]
enum WebhookCommand {
    /// The secret that a till signs with
    #[command(subcommand)]
    Secret(SecretCommand),
}

#[derive(Subcommand)]
enum SecretCommand {
    /// Make a new secret and print it; the one before holds until the next change
    New,
}

/// The whole program: parses the arguments (the first being the program's name), runs, and answers how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match command::parse(command(), args) {
        Ok(Cli { global, command }) => run_main(global.json, Box::pin(dispatch(global, command))),
        Err(exit) => exit,
    }
}

fn command() -> clap::Command {
    command::brief(Cli::command())
}

async fn dispatch(global: Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run_daemon(&global, args).await,
        Command::Pass(command) => operator::pass(&global, command).await,
        Command::Order(command) => operator::order(&global, command).await,
        Command::Billing(command) => money::billing(&global, command).await,
        Command::Gateway(command) => money::gateway(&global, command).await,
        Command::Grant(command) => rights::grant(&global, command).await,
        Command::Publisher(command) => operator::publisher(&global, command).await,
        Command::Audit(command) => audit::run(&global, command),
        Command::Key(command) => key::run(&global, command).await,
        Command::Recover(args) => recover::run(&global, &args),
        Command::Webhook(WebhookCommand::Secret(SecretCommand::New)) => new_webhook_secret(&global),
        Command::Id => id(&global),
        Command::Config(command) => command.run::<Config>(&global.sources(), global.json, &mut std::io::stdout()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut self::command(), "keyserver", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

async fn run_daemon(global: &Global, args: RunArgs) -> anyhow::Result<Exit> {
    logs::init(&global.logs)?;
    let trackers: Vec<String> = args.trust_tracker.iter().map(ServerId::to_string).collect();
    let sources = global.sources().flag("--listen", "server.listen", args.listen).flag(
        "--trust-tracker",
        "trusted_trackers",
        Some(trackers.join(",")).filter(|list| !list.is_empty()),
    );
    let shutdown = Shutdown::listen()?;
    if args.exit_with_parent {
        shutdown.end_with_parent();
    }
    let announce = |ready: &server::Ready| command::say_ready(global.json, "keyserver", &ready.url, "/", &ready.id);
    server::run(global.data_folder()?, &sources, args.accept_rollback, shutdown, announce).await
}

#[derive(Serialize)]
struct Identity {
    id: ServerId,
    hpke_public: String,
}

fn id(global: &Global) -> anyhow::Result<Exit> {
    let folder = DataFolder::inspect(global.data_folder()?)?;
    let key = |name| {
        secrets::read_key(&folder.file(name)).map_err(|failure| match failure.exit {
            Exit::NotFound => Failure::new(Exit::NotFound, "E-KEYSERVER-03", "this keyserver has no id yet")
                .why(format!("there is no {name} in {}", folder.path().display()))
                .hint("it is made at the first `keyserver run`"),
            _ => failure,
        })
    };
    let signing = SigningKey::from_bytes(key(vault::IDENTITY)?.as_slice()).expect("a key file has 32 bytes");
    let deposit = HpkeSecret::from_bytes(key(vault::DEPOSIT)?.as_slice()).expect("a key file has 32 bytes");
    let identity = Identity { id: signing.server_id(), hpke_public: deposit.public().to_string() };
    global.print(&identity, || format!("{}\n", identity.id))
}

#[derive(Serialize)]
struct NewSecret<'a> {
    secret: &'a str,
    path: &'static str,
}

fn new_webhook_secret(global: &Global) -> anyhow::Result<Exit> {
    let folder = DataFolder::inspect(global.data_folder()?)?;
    let secret = secret::renew(folder.path())?;
    let answer = NewSecret { secret: &secret, path: crate::till::PATH };
    global.print(&answer, || format!("{}\n", *secret))
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
        let example = help.find("keyserver run").expect("there are examples");
        assert!(example < help.find("Usage:").expect("there is a usage line"), "{help}");
        assert!(help.lines().count() <= 36, "{} lines:\n{help}", help.lines().count());
    }
}
