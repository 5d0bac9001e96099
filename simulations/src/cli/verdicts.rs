//! Running scenarios against one another: `compare`, `sweep`.

use std::collections::BTreeMap;

use clap::Args;
use daemon::{Exit, Failure, Shutdown};
use serde_json::json;

use super::Changes;
use super::run::{number, simulate};
use super::show::Show;
use crate::scenario::Scenario;
use crate::statistics::{Paired, paired};

/// Fewer seeds than this say little.
const SEEDS_ENOUGH: u64 = 5;

/// More seeds than this are a job for several computers.
const SEEDS_MAX: u64 = 1_000;

/// Values of one sweep.
const VALUES_MAX: usize = 100;

/// What is compared when nothing else is named, and whether less is better.
const COMPARED: &[(&str, bool)] = &[
    ("last_seconds", true),
    ("p95_seconds", true),
    ("median_seconds", true),
    ("offload", false),
    ("seed_sends_per_chunk", true),
    ("waste", true),
    ("transit_copies_per_site", true),
    ("fairness", false),
];

/// `compare`: what is asked.
#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// A ready scenario, or a .toml file: the one to be beaten
    a: String,
    /// Another one
    b: String,
    #[command(flatten)]
    changes: Changes,
    /// Run both on so many seeds
    #[arg(long, value_name = "K", default_value_t = SEEDS_ENOUGH)]
    seeds: u64,
    /// Set a key of the second scenario only
    #[arg(long, value_name = "KEY=VALUE")]
    set_b: Vec<String>,
}

/// `sweep`: what is asked.
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// A ready scenario, or a .toml file
    scenario: String,
    #[command(flatten)]
    changes: Changes,
    /// The key and its values, such as `machines.slots=4,8,16`
    #[arg(long, value_name = "KEY=V1,V2")]
    over: String,
}

pub(super) async fn compare(json: bool, args: &CompareArgs) -> anyhow::Result<Exit> {
    if !(2..=SEEDS_MAX).contains(&args.seeds) {
        let what = format!("--seeds {} is not between 2 and {SEEDS_MAX}", args.seeds);
        return Err(Failure::new(Exit::Usage, "E-SIM-07", what).hint("one seed tells nothing about another").into());
    }
    let a = args.changes.load(&args.a)?;
    let b = Changes { set: [args.changes.set.as_slice(), &args.set_b].concat(), ..args.changes.clone() };
    let b = b.load(&args.b)?;
    let shutdown = Shutdown::listen()?;
    let mut pairs: BTreeMap<&'static str, Vec<(f64, f64)>> = BTreeMap::new();
    for k in 0..args.seeds {
        let mut results = Vec::new();
        for (scenario, name) in [(&a, &args.a), (&b, &args.b)] {
            let seeded = Scenario { seed: a.seed + k, ..scenario.clone() };
            let mut show = Show::new(json);
            let finished = simulate(&seeded, name, None, &mut show, &shutdown).await?;
            if let Some(exit) = finished.interrupted {
                return Ok(exit);
            }
            results.push(finished.outcome.results);
        }
        for (name, before) in &results[0] {
            if let Some(after) = results[1].get(name) {
                pairs.entry(*name).or_default().push((*before, *after));
            }
        }
    }
    let compared = COMPARED.iter().filter_map(|(name, less)| Some((*name, *less, paired(pairs.get(name)?)?)));
    let compared: Vec<(&str, bool, Paired)> = compared.collect();
    for (name, _, it) in &compared {
        match json {
            true => println!(
                "{}",
                json!({ "name": name, "a": it.a, "b": it.b, "difference": it.difference, "interval_95": it.half_width,
                        "seeds": it.n })
            ),
            false => println!(
                "{name:<26} {:>12} → {:>12}   {:+.4} ± {:.4}",
                number(it.a),
                number(it.b),
                it.difference,
                it.half_width
            ),
        }
    }
    let verdict = verdict(&compared);
    let few = args.seeds < SEEDS_ENOUGH;
    match json {
        true => println!("{}", json!({ "verdict": verdict, "too_few_seeds": few })),
        false => {
            println!("{}: {verdict}", args.b);
            if few {
                println!("{} seeds are few: with {SEEDS_ENOUGH} or more the intervals can be believed", args.seeds);
            }
        }
    }
    Ok(Exit::Done)
}

/// What differs, in one sentence.
fn verdict(compared: &[(&str, bool, Paired)]) -> String {
    let differing = compared.iter().filter(|(_, _, it)| it.differs());
    let parts: Vec<String> = differing
        .map(|(name, less, it)| {
            let better = (it.difference < 0.0) == *less;
            let word = if better { "better" } else { "worse" };
            match it.a == 0.0 {
                true => format!("{name} {:+.4} ± {:.4} ({word})", it.difference, it.half_width),
                false => {
                    let (by, width) = (it.difference / it.a * 100.0, it.half_width / it.a.abs() * 100.0);
                    format!("{name} {by:+.1} % ± {width:.1} ({word})")
                }
            }
        })
        .collect();
    let same: Vec<&str> = compared.iter().filter(|(_, _, it)| !it.differs()).map(|(name, ..)| *name).collect();
    match (parts.is_empty(), same.is_empty()) {
        (true, _) => "no difference that these seeds can show".to_owned(),
        (false, true) => parts.join(", "),
        (false, false) => format!("{}; no difference shown in {}", parts.join(", "), same.join(", ")),
    }
}

pub(super) async fn sweep(json: bool, args: &SweepArgs) -> anyhow::Result<Exit> {
    let Some((key, values)) = args.over.split_once('=') else {
        let what = format!("--over {} names no values", args.over);
        return Err(Failure::new(Exit::Usage, "E-SIM-08", what).hint("such as --over machines.slots=4,8,16").into());
    };
    let values: Vec<&str> = values.split(',').collect();
    if values.len() > VALUES_MAX {
        let what = format!("--over has {} values, at most {VALUES_MAX} are swept", values.len());
        return Err(Failure::new(Exit::Usage, "E-SIM-08", what).into());
    }
    let shutdown = Shutdown::listen()?;
    for value in values {
        let set = [args.changes.set.as_slice(), &[format!("{key}={value}")]].concat();
        let scenario = Changes { set, ..args.changes.clone() }.load(&args.scenario)?;
        let mut show = Show::new(json);
        let finished = simulate(&scenario, &args.scenario, None, &mut show, &shutdown).await?;
        let results = &finished.outcome.results;
        match json {
            true => println!("{}", json!({ "key": key, "value": value, "results": results })),
            false => {
                let shown =
                    ["last_over_fluid_limit", "median_over_fluid_limit", "offload", "seed_sends_per_chunk", "waste"];
                let shown = shown.iter().filter_map(|name| Some(format!("{name} {}", number(*results.get(name)?))));
                println!("{key}={value}  {}", shown.collect::<Vec<_>>().join("  "));
            }
        }
        if let Some(exit) = finished.interrupted {
            return Ok(exit);
        }
    }
    Ok(Exit::Done)
}
