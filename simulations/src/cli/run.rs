//! Running one scenario: `run`, `twice`, `replay`.

use clap::Args;
use daemon::units::Duration;
use daemon::{Exit, Failure, Shutdown};
use serde_json::{Map, Value, json};

use super::show::{Show, peak_rss_bytes};
use super::{Changes, Chosen};
use crate::expect::{self, Expectation};
use crate::scenario::Scenario;
use crate::world::{Canary, Outcome, Step, World};

/// Events between two looks at the terminal and at Ctrl-C.
const EVENTS_AT_ONCE: usize = 20_000;

/// `replay`: what is asked.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A ready scenario, or a .toml file
    scenario: String,
    #[command(flatten)]
    changes: Changes,
    /// Stop at this virtual time, such as 2m
    #[arg(long, value_name = "TIME")]
    until: Option<Duration>,
    /// Tell what happens to this box
    #[arg(long = "box", value_name = "NUMBER")]
    number: u32,
}

/// How a run ended.
pub(super) struct Finished {
    pub(super) outcome: Outcome,
    pub(super) digest: String,
    pub(super) wall_seconds: f64,
    pub(super) ended: &'static str,
    pub(super) interrupted: Option<Exit>,
    pub(super) lines: Vec<String>,
}

pub(super) async fn run(json: bool, chosen: &Chosen) -> anyhow::Result<Exit> {
    let scenario = chosen.changes.load(&chosen.scenario)?;
    // A name that no run has shall not be found after a minute.
    expect::judge(&scenario.expect, &World::new(&small(&scenario), None, None).outcome().results)?;
    let shutdown = Shutdown::listen()?;
    let mut show = Show::new(json);
    let finished = simulate(&scenario, &chosen.scenario, chosen.changes.canary()?, &mut show, &shutdown).await?;
    let expectations = expect::judge(&scenario.expect, &finished.outcome.results)?;
    match json {
        true => println!("{}", object(&scenario, &chosen.scenario, &finished, &expectations)),
        false => print!("{}", text(&scenario, &chosen.scenario, &finished, &expectations)),
    }
    let as_expected = expectations.iter().all(|expectation| expectation.ok);
    Ok(match finished.interrupted {
        Some(exit) => exit,
        None if as_expected => Exit::Done,
        None => Exit::ChecksFailed,
    })
}

pub(super) async fn twice(json: bool, chosen: &Chosen) -> anyhow::Result<Exit> {
    let scenario = chosen.changes.load(&chosen.scenario)?;
    let shutdown = Shutdown::listen()?;
    let mut digests = Vec::new();
    for _ in 0..2 {
        let mut show = Show::new(json);
        let finished = simulate(&scenario, &chosen.scenario, None, &mut show, &shutdown).await?;
        if let Some(exit) = finished.interrupted {
            return Ok(exit);
        }
        digests.push((finished.digest, finished.outcome.results["events"]));
    }
    let same = digests[0] == digests[1];
    match json {
        true => println!("{}", json!({ "same": same, "digests": digests.iter().map(|it| &it.0).collect::<Vec<_>>() })),
        false if same => println!("both runs are the same: {} events, digest {}", digests[0].1, digests[0].0),
        false => println!("the runs differ: digest {} and {}", digests[0].0, digests[1].0),
    }
    Ok(if same { Exit::Done } else { Exit::ChecksFailed })
}

pub(super) async fn replay(json: bool, args: &ReplayArgs) -> anyhow::Result<Exit> {
    let mut scenario = args.changes.load(&args.scenario)?;
    if args.number >= scenario.boxes {
        let what = format!("there is no box {}", args.number);
        let why = format!("the scenario has {}, numbered from 0", scenario.boxes);
        return Err(Failure::new(Exit::Usage, "E-SIM-05", what).why(why).into());
    }
    if let Some(until) = args.until {
        scenario.until = until;
    }
    let shutdown = Shutdown::listen()?;
    let mut show = Show::nothing();
    let watched = Some(args.number);
    let finished = simulate_watching(&scenario, &args.scenario, watched, args.changes.canary()?, &mut show, &shutdown);
    let finished = finished.await?;
    for line in &finished.lines {
        match json {
            true => println!("{}", json!({ "event": line })),
            false => println!("{line}"),
        }
    }
    Ok(finished.interrupted.unwrap_or(Exit::Done))
}

/// Runs a scenario to its end, or until it is asked to stop.
pub(super) async fn simulate(
    scenario: &Scenario,
    name: &str,
    canary: Option<Canary>,
    show: &mut Show,
    shutdown: &Shutdown,
) -> Result<Finished, Failure> {
    simulate_watching(scenario, name, None, canary, show, shutdown).await
}

async fn simulate_watching(
    scenario: &Scenario,
    name: &str,
    watched: Option<u32>,
    canary: Option<Canary>,
    show: &mut Show,
    shutdown: &Shutdown,
) -> Result<Finished, Failure> {
    let mut world = World::new(scenario, watched, canary);
    let (ended, interrupted) = loop {
        let step = world.step(EVENTS_AT_ONCE).map_err(|violation| {
            let until = violation.at_micros.div_ceil(1_000_000) + 1;
            let replay = format!(
                "simulations replay {name} --boxes {} --seed {} --until {until}s --box 0",
                scenario.boxes, scenario.seed
            );
            Failure::new(Exit::ChecksFailed, "E-SIM-06", violation.rule)
                .why(format!("{} of scenario {name}, {} boxes, seed {}", violation, scenario.boxes, scenario.seed))
                .hint(replay)
        })?;
        show.look(&world);
        match step {
            Step::Done => break ("done", None),
            Step::TimeUp => break ("time up", None),
            Step::Goes => {}
        }
        // Lets the task that listens for signals run.
        tokio::task::yield_now().await;
        if shutdown.is_requested() {
            break ("interrupted", Some(shutdown.drain().await));
        }
    };
    show.end();
    Ok(Finished {
        outcome: world.outcome(),
        digest: world.digest(),
        wall_seconds: show.elapsed().as_secs_f64(),
        ended,
        interrupted,
        lines: world.lines().to_vec(),
    })
}

/// As little of a scenario as has all names of results.
fn small(scenario: &Scenario) -> Scenario {
    Scenario { boxes: 1, ..scenario.clone() }
}

fn object(scenario: &Scenario, name: &str, finished: &Finished, expectations: &[Expectation]) -> Value {
    let mut object = Map::new();
    object.insert("scenario".to_owned(), name.into());
    object.insert("boxes".to_owned(), scenario.boxes.into());
    object.insert("seed".to_owned(), scenario.seed.into());
    object.insert("ended".to_owned(), finished.ended.into());
    object.insert("wall_seconds".to_owned(), finished.wall_seconds.into());
    object.insert("nanos_per_chunk".to_owned(), nanos_per_chunk(finished).into());
    object.insert("peak_rss_bytes".to_owned(), peak_rss_bytes().into());
    object.insert("digest".to_owned(), finished.digest.clone().into());
    object.extend(finished.outcome.results.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    object.insert("expectations".to_owned(), json!(expectations));
    Value::Object(object)
}

fn text(scenario: &Scenario, name: &str, finished: &Finished, expectations: &[Expectation]) -> String {
    let results = &finished.outcome.results;
    let mut text = format!("{name}: {} boxes, seed {}, {}\n", scenario.boxes, scenario.seed, finished.ended);
    for (name, value) in results {
        text.push_str(&format!("  {name:<34} {}\n", number(*value)));
    }
    let nanos = nanos_per_chunk(finished);
    let memory = peak_rss_bytes().unwrap_or(0) >> 20;
    text.push_str(&format!("  {:.1} s, {nanos:.0} ns a chunk, {memory} MiB\n", finished.wall_seconds));
    text.push_str(&format!("  digest {}\n", finished.digest));
    for it in expectations {
        let mark = if it.ok { '✓' } else { '✗' };
        let value = it.value.map_or("not reached".to_owned(), number);
        text.push_str(&format!("{mark} {} {} ({value})\n", it.name, it.bound));
    }
    text
}

/// What each delivered chunk has cost this computer.
fn nanos_per_chunk(finished: &Finished) -> f64 {
    finished.wall_seconds * 1e9 / finished.outcome.results["chunks_delivered"].max(1.0)
}

/// A number as people read it.
pub(super) fn number(value: f64) -> String {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => format!("{value:.0}"),
        false => format!("{value:.4}"),
    }
}
