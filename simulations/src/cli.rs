//! The program `simulations`: what can be asked of it, and who answers.

mod run;
mod show;
mod verdicts;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use daemon::{Exit, Failure, run_main};

use crate::scenario::Scenario;
use crate::world::Canary;

/// Shown above everything else: most people look for a command to copy.
const EXAMPLES: &str = "\
Examples:
  simulations run flash_crowd --boxes 1000             a thousand boxes, one new title
  simulations run churn --boxes 300 --seed 7 --json    for scripts: the last object has the results
  simulations compare flash_crowd other.toml --seeds 5 which is better, and how sure that is
  simulations twice churn --boxes 200                  the same seed gives the same run, or exit 12";

#[derive(Parser)]
#[command(
    name = "simulations",
    version,
    about = "Whole Reelswarm swarms in virtual time, run by the machines that ship"
)]
#[command(before_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one scenario and hold the results against what it expects
    Run(Chosen),
    /// Run a scenario twice and say whether both runs are the same
    Twice(Chosen),
    /// Run two scenarios on the same seeds and say which is better
    Compare(verdicts::CompareArgs),
    /// Run a scenario once for each of several values of one key
    Sweep(verdicts::SweepArgs),
    /// Run a scenario again and tell what happened to one box
    Replay(run::ReplayArgs),
    /// List the ready scenarios
    List,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Which scenario, and what is changed about it.
#[derive(Debug, Clone, Args)]
struct Chosen {
    /// A ready scenario, or a .toml file
    scenario: String,
    #[command(flatten)]
    changes: Changes,
}

/// What is changed about a scenario.
#[derive(Debug, Clone, Args)]
struct Changes {
    /// How many boxes
    #[arg(long, value_name = "N")]
    boxes: Option<u32>,
    /// What all chance comes from
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Set any key of the scenario, such as `titles.chunks=64`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Plants a fault that the checks must find: verification, ban or bytes
    #[arg(long, hide = true, value_name = "FAULT")]
    canary: Option<String>,
}

impl Changes {
    fn load(&self, name: &str) -> Result<Scenario, Failure> {
        let boxes = self.boxes.map(|n| format!("boxes={n}"));
        let seed = self.seed.map(|n| format!("seed={n}"));
        let set: Vec<String> = self.set.iter().cloned().chain(boxes).chain(seed).collect();
        Scenario::load(name, &set)
    }

    fn canary(&self) -> Result<Option<Canary>, Failure> {
        match self.canary.as_deref() {
            None => Ok(None),
            Some("verification") => Ok(Some(Canary::SkipsVerification(1))),
            Some("ban") => Ok(Some(Canary::BansTheHonest)),
            Some("bytes") => Ok(Some(Canary::InventsBytes)),
            Some(other) => Err(Failure::new(Exit::Usage, "E-SIM-04", format!("there is no canary {other}"))
                .hint("one of verification, ban, bytes")),
        }
    }
}

/// The whole program: parses the arguments (the first being the program's name), runs, and answers how it ended.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A terminal that is gone needs no help text.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    run_main(cli.json, dispatch(cli))
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let json = cli.json;
    match cli.command {
        Command::Run(chosen) => run::run(json, &chosen).await,
        Command::Twice(chosen) => run::twice(json, &chosen).await,
        Command::Replay(args) => run::replay(json, &args).await,
        Command::Compare(args) => verdicts::compare(json, &args).await,
        Command::Sweep(args) => verdicts::sweep(json, &args).await,
        Command::List => {
            list(json);
            Ok(Exit::Done)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "simulations", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    }
}

fn list(json: bool) {
    for (name, _) in Scenario::ready() {
        let scenario = Scenario::load(name, &[]).expect("ready scenarios can be read");
        match json {
            true => println!("{}", serde_json::json!({ "name": name, "about": scenario.about })),
            false => println!("{name:<18} {}", scenario.about),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
