//! What a scenario expects, and whether it came so.

use std::collections::BTreeMap;

use daemon::{Exit, Failure};
use serde::Serialize;

/// Below this similarity a suggestion would confuse more than it helps.
const MIN_SIMILARITY: f64 = 0.7;

/// One expectation and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expectation {
    /// The name of a result.
    pub name: String,
    /// The bound, as the scenario writes it.
    pub bound: String,
    /// What it was; none: the run did not get so far.
    pub value: Option<f64>,
    /// Whether it is as expected.
    pub ok: bool,
}

/// A bound on a result.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound {
    relation: Relation,
    value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Relation {
    AtMost,
    AtLeast,
    Below,
    Above,
    Equal,
}

/// Holds what is expected against what came out. A name that no run has is refused with the nearest that one has.
pub fn judge(
    expected: &BTreeMap<String, String>,
    results: &BTreeMap<&'static str, f64>,
) -> Result<Vec<Expectation>, Failure> {
    let judge_one = |(name, bound): (&String, &String)| {
        let parsed = Bound::read(bound).ok_or_else(|| {
            Failure::new(Exit::Config, "E-SIM-02", format!("expect.{name} = {bound:?} is no bound"))
                .hint("write it as \"<= 1.05\", with one of <= >= < > ==")
        })?;
        if !ALL_RESULTS.contains(&name.as_str()) && !results.contains_key(name.as_str()) {
            return Err(unknown(name));
        }
        let value = results.get(name.as_str()).copied();
        let ok = value.is_some_and(|value| parsed.admits(value));
        Ok(Expectation { name: name.clone(), bound: bound.clone(), value, ok })
    };
    expected.iter().map(judge_one).collect()
}

/// Results that only some runs have.
const ALL_RESULTS: &[&str] = &[
    "last_seconds",
    "median_seconds",
    "p95_seconds",
    "last_over_fluid_limit",
    "median_over_fluid_limit",
    "p95_over_fluid_limit",
    "last_minus_fluid_limit_seconds",
    "last_over_budget_limit",
    "fluid_limit_seconds",
    "budget_limit_seconds",
    "servers_only_last_seconds",
    "plays_without_stall",
    "median_start_seconds",
];

fn unknown(name: &str) -> Failure {
    let near = ALL_RESULTS
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match near {
        Some((_, near)) => format!("did you mean {near}?"),
        None => "simulations run SCENARIO --json prints every result there is".to_owned(),
    };
    Failure::new(Exit::Config, "E-SIM-03", format!("expect.{name}: no run has a result of this name")).hint(hint)
}

impl Bound {
    fn read(text: &str) -> Option<Bound> {
        let text = text.trim();
        let relations = [
            ("<=", Relation::AtMost),
            (">=", Relation::AtLeast),
            ("==", Relation::Equal),
            ("<", Relation::Below),
            (">", Relation::Above),
        ];
        let (rest, relation) =
            relations.iter().find_map(|(sign, relation)| Some((text.strip_prefix(sign)?, *relation)))?;
        let value = rest.trim().parse().ok().filter(|value: &f64| value.is_finite())?;
        Some(Bound { relation, value })
    }

    fn admits(self, value: f64) -> bool {
        match self.relation {
            Relation::AtMost => value <= self.value,
            Relation::AtLeast => value >= self.value,
            Relation::Below => value < self.value,
            Relation::Above => value > self.value,
            Relation::Equal => value == self.value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, bound: &str, value: f64) -> Result<Vec<Expectation>, Failure> {
        judge(&BTreeMap::from([(name.to_owned(), bound.to_owned())]), &BTreeMap::from([("offload", value)]))
    }

    #[test]
    fn a_result_is_held_against_its_bound() {
        for (bound, ok) in [(">= 0.9", true), ("> 0.95", false), ("<= 0.95", true), ("< 0.95", false), ("==0.95", true)]
        {
            let judged = judged("offload", bound, 0.95).expect("a bound");
            assert_eq!(judged[0].ok, ok, "{bound}");
        }
    }

    #[test]
    fn a_result_that_a_run_did_not_reach_fails_its_expectation() {
        let judged = judged("last_seconds", "<= 5", 1.0).expect("a name that runs can have");
        assert_eq!((judged[0].value, judged[0].ok), (None, false));
    }

    #[test]
    fn unknown_names_and_bad_bounds_are_refused() {
        let failure = judged("last_over_fluid_limits", "<= 1", 1.0).expect_err("no such result");
        assert_eq!(failure.hint.as_deref(), Some("did you mean last_over_fluid_limit?"));
        assert_eq!(judged("offload", "about 1", 1.0).expect_err("no bound").code, "E-SIM-02");
    }
}
