//! An age limit, as people type it and read it.

use std::str::FromStr;

use swarm_proto::catalog::MAX_RATING_AGE;
use swarm_proto::limit::Limit;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::rating_limit::Limit as Form;

/// An age, or `unlimited`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rating(Limit<u32>);

impl FromStr for Rating {
    type Err = String;

    fn from_str(text: &str) -> Result<Rating, String> {
        match (text, text.parse::<u32>()) {
            ("unlimited", _) => Ok(Rating(Limit::Unlimited)),
            (_, Ok(age)) if age <= MAX_RATING_AGE => Ok(Rating(Limit::Of(age))),
            _ => Err(format!("write an age of 0 to {MAX_RATING_AGE}, or unlimited")),
        }
    }
}

impl From<Rating> for pb::RatingLimit {
    fn from(Rating(limit): Rating) -> pb::RatingLimit {
        let limit = match limit {
            Limit::Of(age) => Form::Age(age),
            Limit::Unlimited => Form::Unlimited(pb_common::Unlimited {}),
        };
        pb::RatingLimit { limit: Some(limit) }
    }
}

/// A limit in an answer, for people.
pub(super) fn text(limit: Option<pb::RatingLimit>) -> String {
    match limit.and_then(|it| it.limit) {
        Some(Form::Age(age)) => age.to_string(),
        Some(Form::Unlimited(_)) | None => Limit::<u32>::Unlimited.to_string(),
    }
}
