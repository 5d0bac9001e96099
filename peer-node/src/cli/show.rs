//! How figures read to a person.

use std::time::Duration;

use swarm_proto::pb::common::MomentLimit;
use swarm_proto::pb::common::moment_limit::Limit;
use swarm_proto::pb::node::{TitleState, TitleStatus};
use swarm_proto::pb::tracker::EstimateResponse;
use swarm_proto::pb::tracker::delivery::When;
use swarm_proto::time::Utc;

/// An amount of data: `3.1 GB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut amount = bytes as f64;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    match (unit, amount) {
        (0, _) => format!("{bytes} B"),
        (_, small) if small < 9.95 => format!("{small:.1} {}", UNITS[unit]),
        (_, large) => format!("{large:.0} {}", UNITS[unit]),
    }
}

/// A rate: `3.1 MB/s`.
pub fn rate(bytes_per_sec: u64) -> String {
    format!("{}/s", bytes(bytes_per_sec))
}

/// How much of a title is here, in whole percent; 100 only when all of it is.
pub fn percent(title: &TitleStatus) -> u32 {
    match title.n_chunks {
        0 => 0,
        all => u32::try_from(u64::from(title.chunks_held) * 100 / u64::from(all)).unwrap_or(100),
    }
}

/// Who gave how much: `82 % neighbours, 18 % ISP`.
pub fn split(boxes: u64, seeds: u64) -> String {
    let all = u128::from(boxes) + u128::from(seeds);
    let neighbours = (u128::from(boxes) * 100 + all / 2).checked_div(all).unwrap_or(0);
    format!("{neighbours} % neighbours, {} % ISP", 100 - neighbours)
}

/// A length of time, in its largest unit: `12 s`, `5 min`, `3 h`, `2 days`.
pub fn ago(passed: Duration) -> String {
    match passed.as_secs() {
        secs @ ..120 => format!("{secs} s"),
        secs @ ..7_200 => format!("{} min", secs / 60),
        secs @ ..172_800 => format!("{} h", secs / 3_600),
        secs => format!("{} days", secs / 86_400),
    }
}

/// When a title will be here, as the tracker says: `ready in about 12 min, at 3.1 MB/s`.
pub fn ready(told: &EstimateResponse, now: Utc) -> String {
    match told.ready_utc_ms {
        Some(_) if told.missing_bytes == 0 => "all of it is on this disk".to_owned(),
        Some(ready) => {
            let until = Utc::from_millis(ready).since(now).max(Duration::from_secs(1));
            format!("ready in about {}, at {}", ago(until), rate(told.bytes_per_sec))
        }
        None => format!("not here before something changes: {}", text(&told.not_before)),
    }
}

/// What stands for an expiry that there is not.
pub const UNLIMITED: &str = "unlimited";

/// The effective expiry of a right, the same on every screen: a moment, or "unlimited"; nothing without a right.
pub fn expiry(limit: Option<&MomentLimit>) -> Option<String> {
    match limit?.limit? {
        Limit::UtcMs(millis) => Some(Utc::from_millis(millis).to_string()),
        Limit::Unlimited(_) => Some(UNLIMITED.to_owned()),
    }
}

/// What a person is told of the expiry of a title that can be played; nothing when there is none.
pub fn begin_before(title: &TitleStatus) -> Option<String> {
    expiry(title.expiry.as_ref()).filter(|expiry| expiry != UNLIMITED).map(|expiry| format!("begin before {expiry}"))
}

/// A text as it stands at the beginning of a line.
pub fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

/// When a title is wanted, if somebody has said so: `tonight`, `not before 2026-12-24T18:00:00.000Z`.
pub fn delivery(title: &TitleStatus) -> String {
    match title.delivery.and_then(|delivery| delivery.when) {
        None => String::new(),
        Some(When::Anytime(_)) => "anytime".to_owned(),
        Some(When::OffPeak(_)) => "tonight".to_owned(),
        Some(When::NotBeforeUtcMs(millis)) => format!("not before {}", Utc::from_millis(millis)),
    }
}

/// The state of a title as one word for scripts.
pub fn state(title: &TitleStatus) -> &'static str {
    match title.state() {
        TitleState::Unspecified => "unqueued",
        TitleState::Waiting => "waiting",
        TitleState::Arriving => "arriving",
        TitleState::Available => "available",
        TitleState::Paused => "paused",
        TitleState::Scheduled => "scheduled",
    }
}

/// Text from afar without characters that could move a terminal's cursor or reverse its writing.
pub fn text(text: &str) -> String {
    let harmless = |c: char| match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// Lines of equal columns, the first line being the heading.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(&row.each_ref().map(String::as_str)));
    std::iter::once(line(&heading)).chain(body).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_say_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(999_600), "1.0 MB");
        assert_eq!(bytes(3_141_592), "3.1 MB");
        assert_eq!(bytes(34_359_738_368), "34 GB");
        assert_eq!(rate(12_000_000), "12 MB/s");
        assert_eq!(bytes(u64::MAX), "18446744 TB");
    }

    #[test]
    fn bar_is_full_only_when_everything_is_here() {
        let title = |held| TitleStatus { n_chunks: 300, chunks_held: held, ..TitleStatus::default() };
        assert_eq!([0, 150, 299, 300].map(|held| percent(&title(held))), [0, 50, 99, 100]);
        assert_eq!(percent(&TitleStatus::default()), 0);
    }

    #[test]
    fn split_adds_up_to_a_hundred() {
        assert_eq!(split(82, 18), "82 % neighbours, 18 % ISP");
        assert_eq!(split(0, 5), "0 % neighbours, 100 % ISP");
        assert_eq!(split(u64::MAX, u64::MAX), "50 % neighbours, 50 % ISP");
    }

    #[test]
    fn expiry_reads_the_same_wherever_it_is_shown() {
        let title = |limit| TitleStatus { expiry: Some(MomentLimit { limit: Some(limit) }), ..TitleStatus::default() };
        let ends = title(Limit::UtcMs(1_795_362_936_000));
        assert_eq!(expiry(ends.expiry.as_ref()).as_deref(), Some("2026-11-22T15:55:36.000Z"));
        assert_eq!(begin_before(&ends).as_deref(), Some("begin before 2026-11-22T15:55:36.000Z"));
        let never = title(Limit::Unlimited(swarm_proto::pb::common::Unlimited {}));
        assert_eq!((expiry(never.expiry.as_ref()).as_deref(), begin_before(&never)), (Some(UNLIMITED), None));
        assert_eq!(expiry(None), None, "without a right there is nothing to end");
    }

    #[test]
    fn promise_says_when_or_why_not() {
        let now = Utc::from_secs(1_800_000_000);
        let told = EstimateResponse { missing_bytes: 1, bytes_per_sec: 3_100_000, ..EstimateResponse::default() };
        let in_12_minutes = EstimateResponse { ready_utc_ms: Some(now.as_millis() + 725_000), ..told.clone() };
        assert_eq!(ready(&in_12_minutes, now), "ready in about 12 min, at 3.1 MB/s");
        let late = EstimateResponse { ready_utc_ms: Some(0), ..told.clone() };
        assert_eq!(ready(&late, now), "ready in about 1 s, at 3.1 MB/s");
        let here = EstimateResponse { missing_bytes: 0, ..late };
        assert_eq!(ready(&here, now), "all of it is on this disk");
        let never = EstimateResponse { not_before: "no source holds it yet".to_owned(), ..told };
        assert_eq!(ready(&never, now), "not here before something changes: no source holds it yet");
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(text("a\u{1b}[2Jb\u{202e}c\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["1".to_owned(), "Atlas".to_owned()], ["10".to_owned(), "Reef".to_owned()]];
        assert_eq!(table(["#", "TITLE"], &rows), "#   TITLE\n1   Atlas\n10  Reef\n");
    }
}
