//! How a program here ends, and how it says why.
//!
//! One table of exit codes for every role, and one shape for every error a person can meet: what happened, why, what
//! to do, and a code. A [`Failure`] keeps that shape on the terminal, in JSON, as a gRPC status and as a problem
//! document, and comes back whole when a command line tool receives it from a daemon. Text from other machines is
//! stripped of control characters before it reaches a terminal. Never decides what is an error: callers do.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of our error details. Details of another domain are not ours to read.
const DOMAIN: &str = "reelswarm";

/// The longest text that one field of a [`Failure`] carries over the network.
/// Error details travel in HTTP/2 headers. All fields of this length, the message twice, in base64 and percent-encoded,
/// stay below the 16 KiB that peers commonly allow.
const MAX_FIELD_ON_WIRE: usize = 1024;

/// How long blocking work may go on after the main future has ended.
const RUNTIME_STOP: Duration = Duration::from_secs(2);

/// The exit codes, identical in every role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done, or it was already so.
    Done = 0,
    /// Failed in a way that has no code of its own; the message tells.
    Failed = 1,
    /// The command line or the request makes no sense.
    Usage = 2,
    /// The configuration is wrong.
    Config = 3,
    /// What was asked for does not exist.
    NotFound = 4,
    /// Not allowed, or the credentials are missing or wrong.
    NotAllowed = 5,
    /// Unreachable or timed out; trying again may help.
    Unreachable = 6,
    /// A hash, a signature or the audit chain does not verify.
    Integrity = 7,
    /// Payment is needed, has not cleared, or the time to use it is over.
    Payment = 8,
    /// Storage is full or a quota is used up.
    Storage = 9,
    /// Something else is in the way: already running, already taken, already different.
    Conflict = 10,
    /// This program, its data or its peer is too old or too new.
    VersionMismatch = 11,
    /// Checks ran and found something.
    ChecksFailed = 12,
    /// Stopped by SIGINT after a clean drain.
    Interrupted = 130,
    /// Stopped by SIGTERM after a clean drain.
    Terminated = 143,
}

impl Exit {
    const ALL: [Exit; 15] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Config,
        Exit::NotFound,
        Exit::NotAllowed,
        Exit::Unreachable,
        Exit::Integrity,
        Exit::Payment,
        Exit::Storage,
        Exit::Conflict,
        Exit::VersionMismatch,
        Exit::ChecksFailed,
        Exit::Interrupted,
        Exit::Terminated,
    ];

    /// The number the shell sees.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The exit with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Exit> {
        Exit::ALL.into_iter().find(|exit| exit.number() == number)
    }

    fn grpc(self) -> Code {
        match self {
            Exit::Done => Code::Ok,
            Exit::Failed => Code::Internal,
            Exit::Usage => Code::InvalidArgument,
            Exit::NotFound => Code::NotFound,
            Exit::NotAllowed => Code::PermissionDenied,
            Exit::Unreachable => Code::Unavailable,
            Exit::Integrity => Code::DataLoss,
            Exit::Storage => Code::ResourceExhausted,
            Exit::Conflict => Code::AlreadyExists,
            Exit::Config | Exit::Payment | Exit::VersionMismatch | Exit::ChecksFailed => Code::FailedPrecondition,
            Exit::Interrupted | Exit::Terminated => Code::Cancelled,
        }
    }

    /// What a status means that carries none of our details, such as one made by the transport.
    fn of_grpc(code: Code) -> Exit {
        match code {
            Code::Ok => Exit::Done,
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::NotFound => Exit::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NotAllowed,
            Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
            Code::DataLoss => Exit::Integrity,
            Code::ResourceExhausted => Exit::Storage,
            Code::AlreadyExists | Code::Aborted => Exit::Conflict,
            Code::Unimplemented => Exit::VersionMismatch,
            Code::FailedPrecondition | Code::Cancelled | Code::Unknown | Code::Internal => Exit::Failed,
        }
    }

    fn http(self) -> StatusCode {
        match self {
            Exit::Done => StatusCode::OK,
            Exit::Usage => StatusCode::BAD_REQUEST,
            Exit::NotFound => StatusCode::NOT_FOUND,
            Exit::NotAllowed => StatusCode::FORBIDDEN,
            Exit::Payment => StatusCode::PAYMENT_REQUIRED,
            Exit::Conflict | Exit::VersionMismatch => StatusCode::CONFLICT,
            Exit::Storage => StatusCode::INSUFFICIENT_STORAGE,
            Exit::Unreachable | Exit::Interrupted | Exit::Terminated => StatusCode::SERVICE_UNAVAILABLE,
            Exit::Failed | Exit::Config | Exit::Integrity | Exit::ChecksFailed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<()> for Exit {
    fn from((): ()) -> Exit {
        Exit::Done
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

/// An error as a person meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class of the failure, and the exit code of a program that ends with it.
    pub exit: Exit,
    /// A stable name such as `E-CONFIG-01`, for documentation and for search.
    pub code: Cow<'static, str>,
    /// What happened: lower case, no full stop.
    pub what: String,
    /// Why it happened, where that adds something.
    pub why: Option<String>,
    /// What to do about it: a command to run or a setting to change.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of this class and code: `what` happened.
    pub fn new(exit: Exit, code: impl Into<Cow<'static, str>>, what: impl fmt::Display) -> Failure {
        Failure { exit, code: code.into(), what: what.to_string(), why: None, hint: None }
    }

    /// Adds the reason.
    pub fn why(mut self, why: impl fmt::Display) -> Failure {
        self.why = Some(why.to_string());
        self
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl fmt::Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }

    /// A failure of the file system, classed by its kind; `what` names the intention and the path.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Failure {
        let (exit, code) = class_of_io(error);
        Failure::new(exit, code, what).why(error)
    }

    /// Whether doing the same again may succeed.
    pub fn retryable(&self) -> bool {
        self.exit == Exit::Unreachable
    }

    /// The failure that this error stands for, wherever in its chain it hides.
    ///
    /// Contexts put above a failure are kept in front of what happened. An error without any failure in it becomes
    /// one of class [`Exit::Failed`], or of the class of the file system error at its root.
    pub fn of(error: &anyhow::Error) -> Failure {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            let mut failure = failure.clone();
            let outer = contexts_above(error, &failure.to_string());
            failure.what = [outer.as_slice(), &[failure.what]].concat().join(": ");
            return failure;
        }
        if let Some(status) = error.downcast_ref::<Status>() {
            let mut failure = Failure::from(status);
            let outer = contexts_above(error, &status.to_string());
            failure.what = [outer.as_slice(), &[failure.what]].concat().join(": ");
            return failure;
        }
        let (exit, code) = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<io::Error>())
            .map_or((Exit::Failed, "E-FAILED-01"), class_of_io);
        let failure = Failure::new(exit, code, error);
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        if causes.is_empty() { failure } else { failure.why(causes.join(": ")) }
    }

    /// The failure as the object that `--json` prints.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "code": self.code, "message": self.what, "cause": self.why, "hint": self.hint, "retryable": self.retryable(),
        }})
    }

    /// The failure as a problem document (RFC 9457), answered with this status.
    pub fn problem(&self, status: StatusCode) -> Response {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": self.what,
            "status": status.as_u16(),
            "detail": self.why,
            "code": self.code,
            "hint": self.hint,
            "retryable": self.retryable(),
        });
        let content_type = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, content_type)], problem.to_string()).into_response()
    }

    /// The failure as lines for a terminal: what, why, what to try.
    pub fn to_text(&self) -> String {
        let mut text = format!("error[{}]: {}", printable(&self.code), printable(&self.what));
        if let Some(why) = &self.why {
            text.push_str(&format!("\n  why: {}", printable(why)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n  try: {}", printable(hint)));
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let mut metadata = vec![("exit".to_owned(), failure.exit.number().to_string())];
        metadata.extend(failure.why.as_deref().map(|why| ("why".to_owned(), clipped(why).to_owned())));
        metadata.extend(failure.hint.as_deref().map(|hint| ("hint".to_owned(), clipped(hint).to_owned())));
        let details = ErrorDetails::with_error_info(
            failure.code.as_ref(),
            DOMAIN,
            metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
        Status::with_error_details(failure.exit.grpc(), clipped(&failure.what), details)
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Failure {
        let Some(info) = status.get_details_error_info().filter(|info| info.domain == DOMAIN) else {
            return failure_of_bare(status);
        };
        let exit = info
            .metadata
            .get("exit")
            .and_then(|number| Exit::from_number(number.parse().ok()?))
            .filter(|exit| *exit != Exit::Done)
            .unwrap_or_else(|| Exit::of_grpc(status.code()));
        Failure {
            exit,
            code: Cow::Owned(info.reason),
            what: status.message().to_owned(),
            why: info.metadata.get("why").cloned(),
            hint: info.metadata.get("hint").cloned(),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::from(&status)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.problem(self.exit.http())
    }
}

/// Runs a program to its end on a runtime of its own, and says on stderr why it failed, if it did.
///
/// With `json` the failure is one JSON object on one line, otherwise text for a person.
pub fn run_main<E: Into<Exit>>(json: bool, main: impl Future<Output = anyhow::Result<E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(json, &Failure::io("failed to start the runtime", &error)),
    };
    let result = runtime.block_on(main);
    runtime.shutdown_timeout(RUNTIME_STOP);
    match result {
        Ok(exit) => exit.into().into(),
        Err(error) => report(json, &Failure::of(&error)),
    }
}

fn report(json: bool, failure: &Failure) -> ExitCode {
    match json {
        true => eprintln!("{}", failure.to_json()),
        false => eprintln!("{}", failure.to_text()),
    }
    failure.exit.into()
}

fn class_of_io(error: &io::Error) -> (Exit, &'static str) {
    match error.kind() {
        io::ErrorKind::NotFound => (Exit::NotFound, "E-FILE-01"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (Exit::NotAllowed, "E-FILE-02"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (Exit::Storage, "E-DISK-01"),
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => (Exit::Unreachable, "E-NET-01"),
        io::ErrorKind::AddrInUse => (Exit::Conflict, "E-PORT-01"),
        _ => (Exit::Failed, "E-IO-01"),
    }
}

/// The messages of a chain down to the one that reads `inner`.
fn contexts_above(error: &anyhow::Error, inner: &str) -> Vec<String> {
    let messages: Vec<String> = error.chain().map(ToString::to_string).collect();
    let depth = messages.iter().position(|message| message == inner).unwrap_or(0);
    messages.into_iter().take(depth).collect()
}

/// A status without our details: from the transport, or from a server that is not ours.
fn failure_of_bare(status: &Status) -> Failure {
    let exit = Exit::of_grpc(status.code());
    let what = if status.message().is_empty() { status.code().description() } else { status.message() };
    let failure = Failure::new(exit, format!("E-GRPC-{:02}", status.code() as i32), what);
    match exit {
        Exit::Unreachable => {
            failure.hint("check that the other side runs and that its address is right, then try again")
        }
        Exit::VersionMismatch => failure.hint("the other side does not know this call: update the older of the two"),
        _ => failure,
    }
}

fn clipped(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_FIELD_ON_WIRE)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// The text without characters that could move a terminal's cursor, change its colours or reverse its writing.
fn printable(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' => c,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn disk_full() -> Failure {
        Failure::new(Exit::Storage, "E-DISK-02", "not enough space for \"Atlas\"")
            .why("needs 3.1 GB more")
            .hint("peer-node queue rm atlas")
    }

    #[test]
    fn failure_survives_the_way_over_grpc() {
        assert_eq!(Failure::from(Status::from(disk_full())), disk_full());
    }

    #[test]
    fn every_exit_survives_the_way_over_grpc() {
        for exit in Exit::ALL.into_iter().filter(|exit| *exit != Exit::Done) {
            let sent = Failure::new(exit, "E-TEST-01", "it did");
            assert_eq!(Failure::from(Status::from(sent.clone())), sent);
        }
    }

    #[test]
    fn status_of_a_stranger_is_classed_by_its_code() {
        let class = |code| Failure::from(Status::new(code, "no")).exit;
        assert_eq!(class(Code::NotFound), Exit::NotFound);
        assert_eq!(class(Code::Unauthenticated), Exit::NotAllowed);
        assert_eq!(class(Code::Unavailable), Exit::Unreachable);
        assert_eq!(class(Code::DeadlineExceeded), Exit::Unreachable);
        assert_eq!(class(Code::Aborted), Exit::Conflict);
        assert_eq!(class(Code::DataLoss), Exit::Integrity);
        assert_eq!(class(Code::ResourceExhausted), Exit::Storage);
    }

    #[test]
    fn a_failing_peer_cannot_claim_success() {
        let details = ErrorDetails::with_error_info(
            "E",
            DOMAIN,
            [("exit".to_owned(), "0".to_owned())].into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
        let status = Status::with_error_details(Code::NotFound, "gone", details);
        assert_eq!(Failure::from(status).exit, Exit::NotFound);
    }

    #[test]
    fn failure_is_found_below_its_contexts() {
        let error = Err::<(), _>(disk_full()).context("failed to fetch Atlas").unwrap_err();
        let found = Failure::of(&error);
        assert_eq!(found.exit, Exit::Storage);
        assert_eq!(found.what, "failed to fetch Atlas: not enough space for \"Atlas\"");
        assert_eq!(found.hint, disk_full().hint);
    }

    #[test]
    fn status_is_found_below_its_contexts() {
        let error = Err::<(), _>(Status::from(disk_full())).context("failed to publish").unwrap_err();
        let found = Failure::of(&error);
        assert_eq!((found.exit, found.code.as_ref()), (Exit::Storage, "E-DISK-02"));
        assert_eq!(found.what, "failed to publish: not enough space for \"Atlas\"");
    }

    #[test]
    fn plain_errors_tell_their_causes() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = anyhow::Error::from(missing).context("failed to open film.mp4");
        let found = Failure::of(&error);
        assert_eq!((found.exit, found.what.as_str()), (Exit::NotFound, "failed to open film.mp4"));
        assert_eq!(found.why.as_deref(), Some("no such file"));
    }

    #[test]
    fn terminal_sees_what_why_and_what_to_try() {
        assert_eq!(
            disk_full().to_text(),
            "error[E-DISK-02]: not enough space for \"Atlas\"\n  why: needs 3.1 GB more\n  try: peer-node queue rm atlas"
        );
    }

    #[test]
    fn escape_codes_from_afar_do_not_reach_the_terminal() {
        let text = Failure::new(Exit::Failed, "E", "a\u{1b}[2Jb\u{202e}c").to_text();
        assert_eq!(text, "error[E]: a\u{fffd}[2Jb\u{fffd}c");
    }

    #[test]
    fn web_page_sees_a_problem_document() {
        let response = Failure::new(Exit::Payment, "E-PAY-01", "not paid").into_response();
        assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn long_texts_are_clipped_between_characters() {
        let long = Failure::new(Exit::Failed, "E", "ä".repeat(MAX_FIELD_ON_WIRE)).why("ö".repeat(MAX_FIELD_ON_WIRE));
        let received = Failure::from(Status::from(long));
        assert_eq!(received.what.len(), MAX_FIELD_ON_WIRE);
    }
}
