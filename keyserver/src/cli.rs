//! The command line: the daemon, and what its operator asks of it.
//!
//! Commands about passes, orders and publishers ask the keyserver that runs on the data folder, with the operator's
//! token from there. `audit` and `webhook` work on the files, whether it runs or not.

mod audit;
mod operator;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use daemon::config::{ConfigArgs, ConfigCommand, Settings, Sources};
use daemon::logs::{self, LogArgs};
use daemon::{DataFolder, Exit, Failure, Shutdown, data_folder, run_main, secrets};
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
  keyserver pass create --credits 10 --valid 90d
  keyserver audit verify                      check the journal's chain";

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

/// What every command understands.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Data folder [default: $XDG_DATA_HOME/reelswarm/keyserver]
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
    /// Run this keyserver
    Run(RunArgs),
    /// Sell prepaid passes
    #[command(subcommand)]
    Pass(operator::PassCommand),
    /// Look at orders, refund them
    #[command(subcommand)]
    Order(operator::OrderCommand),
    /// Admit publishers
    #[command(subcommand)]
    Publisher(operator::PublisherCommand),
    /// Check, show or export the journal
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Set up a till
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Print who this keyserver is
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
    /// Believe the memberships of this tracker (trusted_trackers); may be given several times
    #[arg(long, value_name = "ID")]
    trust_tracker: Vec<ServerId>,
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
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let Cli { global, command } = match parsed {
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
        Command::Pass(command) => operator::pass(&global, command).await,
        Command::Order(command) => operator::order(&global, command).await,
        Command::Publisher(command) => operator::publisher(&global, command).await,
        Command::Audit(command) => audit::run(&global, command),
        Command::Webhook(WebhookCommand::Secret(SecretCommand::New)) => new_webhook_secret(&global),
        Command::Id => id(&global),
        Command::Config(command) => {
            let sources = Sources::usual::<Config>(&global.config);
            command.run::<Config>(&sources, global.json, &mut std::io::stdout())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut self::command(), "keyserver", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

async fn run_daemon(global: &Global, args: RunArgs) -> anyhow::Result<Exit> {
    logs::init(&global.logs)?;
    let trackers: Vec<String> = args.trust_tracker.iter().map(ServerId::to_string).collect();
    let sources = Sources::usual::<Config>(&global.config).flag("--listen", "server.listen", args.listen).flag(
        "--trust-tracker",
        "trusted_trackers",
        Some(trackers.join(",")).filter(|list| !list.is_empty()),
    );
    let shutdown = Shutdown::listen()?;
    if args.exit_with_parent {
        shutdown.end_with_parent();
    }
    let announce = |ready: &server::Ready| {
        let mut out = std::io::stdout().lock();
        let server::Ready { url, id } = ready;
        match global.json {
            true => {
                let line = serde_json::json!({ "ready": "keyserver", "url": url, "id": id, "pid": std::process::id() });
                writeln!(out, "{line}")?;
            }
            false => writeln!(out, "keyserver ready {url}/ id {id}")?,
        }
        out.flush()
    };
    server::run(global.data_folder()?, &sources, shutdown, announce).await
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

impl Global {
    /// The data folder that the command is about.
    fn data_folder(&self) -> Result<PathBuf, Failure> {
        self.data.clone().map_or_else(|| data_folder::default_path(Config::ROLE), Ok)
    }

    /// Prints an answer: as JSON if asked to, else as the text that is made of it.
    fn print<T: Serialize>(&self, answer: &T, text: impl FnOnce() -> String) -> anyhow::Result<Exit> {
        let mut out = std::io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string(answer)?)?,
            false => write!(out, "{}", text())?,
        }
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
        let example = help.find("keyserver run").expect("there are examples");
        assert!(example < help.find("Usage:").expect("there is a usage line"), "{help}");
        assert!(help.lines().count() <= 25, "{} lines:\n{help}", help.lines().count());
    }
}
