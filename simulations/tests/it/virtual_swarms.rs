//! Swarms in virtual time: the machines that ship, small crowds, and faults that must be found.

use simulations::scenario::Scenario;
use simulations::world::{Canary, Outcome, Rule, Step, Violation, World};

/// A ready scenario with few boxes and short titles.
fn small(name: &str, set: &[&str]) -> Scenario {
    let few = ["boxes=40", "titles.chunks=32"];
    let set: Vec<String> = few.iter().chain(set).map(|it| (*it).to_owned()).collect();
    Scenario::load(name, &set).expect("a ready scenario")
}

fn run(scenario: &Scenario, canary: Option<Canary>) -> Result<(Outcome, String), Violation> {
    let mut world = World::new(scenario, None, canary);
    while world.step(10_000)? == Step::Goes {}
    Ok((world.outcome(), world.digest()))
}

fn outcome(scenario: &Scenario) -> Outcome {
    run(scenario, None).unwrap_or_else(|violation| panic!("{violation}")).0
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let digest = |seed: &str| run(&small("churn", &[seed]), None).expect("a sound run").1;
    assert_eq!(digest("seed=7"), digest("seed=7"));
    assert_ne!(digest("seed=7"), digest("seed=8"));
}

#[test]
fn everybody_who_stays_gets_what_they_want_in_every_ready_scenario() {
    for (name, _) in Scenario::ready() {
        let outcome = outcome(&small(name, &[]));
        assert_eq!(outcome.results["complete"], 1.0, "{name}");
        assert_eq!(outcome.results["honest_banned"], 0.0, "{name}");
    }
}

#[test]
fn liars_are_banned_and_waste_little() {
    let outcome = outcome(&small("liars", &[]));
    assert!(outcome.results["crooks_banned"] > 0.0);
    assert!(outcome.results["waste_forged"] < 0.3, "{}", outcome.results["waste_forged"]);
}

#[test]
fn a_tracker_that_restarts_is_found_again_and_nobody_is_left_waiting() {
    let outcome = outcome(&small("flash_crowd", &["faults.tracker_away=[{at=\"1s\", lasts=\"5s\"}]"]));
    assert_eq!(outcome.results["complete"], 1.0);
}

#[test]
fn what_crosses_between_sites_passes_through_their_borders() {
    let sites = "sites=[{name=\"north\", share=0.5}, {name=\"south\", share=0.5, in_mbit=40}]";
    let outcome = outcome(&small("flash_crowd", &[sites, "seeds.site=north", "until=2m"]));
    let (into_south, secs) = (outcome.between[0][1], outcome.results["virtual_seconds"]);
    assert!(into_south > 0);
    assert!(into_south as f64 <= secs * 40.0 * 125_000.0, "{into_south} bytes in {secs} s");
}

#[test]
fn planted_faults_are_found() {
    let found = |canary| run(&small("liars", &[]), Some(canary)).expect_err("a fault was planted").rule;
    let verification = found(Canary::SkipsVerification(1));
    assert!(matches!(verification, Rule::OnlyVerifiedIsPassedOn | Rule::ShownIsPublished), "{verification}");
    assert_eq!(found(Canary::BansTheHonest), Rule::HonestAreNotBanned);
    assert_eq!(found(Canary::InventsBytes), Rule::BytesAddUp);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let failure = Scenario::load("churn", &["churn.shares=0.5".to_owned()]).expect_err("no such key");
    assert_eq!(failure.hint.as_deref(), Some("did you mean churn.share?"));
    let failure = Scenario::load("chrun", &[]).expect_err("no such scenario");
    assert_eq!(failure.code, "E-SIM-01");
}
