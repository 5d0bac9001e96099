//! Where a daemon's events go: to stderr, as lines for a person or as JSON for a machine.
//!
//! stdout stays free for data. The level comes from `--log-level`, else from `RUST_LOG`, else it is `info`. Colours
//! appear on a terminal only, and never when `NO_COLOR` is set.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, Failure};

/// The flags about logs that every program has.
#[derive(Debug, Clone, Default, Args)]
pub struct LogArgs {
    /// What to log: a level, or a filter such as `info,tracker=debug` [default: info, or RUST_LOG]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Logs")]
    pub log_level: Option<String>,

    /// How to write the log
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t, help_heading = "Logs")]
    pub log_format: LogFormat,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for a person
    #[default]
    Pretty,
    /// One JSON object per line
    Json,
}

/// Starts logging. A second call in one process changes nothing, so that tests may call it freely.
pub fn init(args: &LogArgs) -> Result<(), Failure> {
    let filter = filter(args.log_level.as_deref(), std::env::var("RUST_LOG").ok().as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let outcome = match args.log_format {
        LogFormat::Pretty => builder.with_ansi(colours_wanted()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("logging was already started");
    }
    Ok(())
}

fn filter(flag: Option<&str>, environment: Option<&str>) -> Result<EnvFilter, Failure> {
    let (text, origin) = match (flag, environment.filter(|text| !text.is_empty())) {
        (Some(flag), _) => (flag, "--log-level"),
        (None, Some(environment)) => (environment, "RUST_LOG"),
        (None, None) => ("info", "default"),
    };
    EnvFilter::builder().parse(text).map_err(|error| {
        Failure::new(Exit::Config, "E-LOG-01", format!("{origin} is not a log filter: {text}"))
            .why(error)
            .hint("error, warn, info, debug or trace; or a filter such as info,tracker=debug")
    })
}

fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_beats_environment_beats_info() {
        assert_eq!(filter(Some("warn"), Some("trace")).unwrap().to_string(), "warn");
        assert_eq!(filter(None, Some("trace")).unwrap().to_string(), "trace");
        assert_eq!(filter(None, Some("")).unwrap().to_string(), "info");
        assert_eq!(filter(None, None).unwrap().to_string(), "info");
    }

    #[test]
    fn filter_that_makes_no_sense_is_refused() {
        let failure = filter(Some("info,=="), None).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_ref()), (Exit::Config, "E-LOG-01"));
    }
}
