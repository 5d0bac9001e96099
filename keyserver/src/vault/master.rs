//! Where the master key comes from: a file of its own, or a command that prints it.
//!
//! A command is how a key management service or a security module is asked: whatever unwraps the key there is the
//! operator's program, and the key never lies on this machine's disk. It is run at each start, without a shell, and has
//! to answer within a time.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Exit, Failure};
use zeroize::Zeroizing;

/// How long the command may take: a security module that has to be asked over a network needs seconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Most that is read of what it prints: a key in hex and the end of a line are 65 bytes.
const MAX_ANSWER: u64 = 128;

/// Runs a command, the first word being the program, and reads the key that it prints.
pub(crate) fn ask(command: &[String]) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let (program, args) = command.split_first().expect("an empty command is no command");
    let failed = |why: String| {
        Failure::new(Exit::Config, "E-VAULT-06", format!("{program} did not give the master key"))
            .why(why)
            .hint("run the command of vault.master_command by hand: it has to print 32 bytes or 64 hex digits")
    };
    let spawned = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + ANSWERS_WITHIN;
    let ended = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(ended) => break ended,
            None if Instant::now() >= deadline => {
                // It may have ended this instant; either way it is of no more use.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("it took longer than {} s", ANSWERS_WITHIN.as_secs())));
            }
            None => std::thread::sleep(LOOK_EVERY),
        }
    };
    if !ended.success() {
        return Err(failed(format!("it ended with {ended}")));
    }
    let mut answer = Zeroizing::new(Vec::with_capacity(MAX_ANSWER as usize));
    let stdout = child.stdout.take().expect("it is piped");
    stdout.take(MAX_ANSWER).read_to_end(&mut answer).map_err(|error| failed(error.to_string()))?;
    key_in(&answer).ok_or_else(|| failed(format!("it printed {} bytes, which are no key", answer.len())))
}

/// A key as 32 bytes, or as 64 hex digits with or without the end of a line.
fn key_in(answer: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    if let Ok(key) = answer.try_into() {
        return Some(Zeroizing::new(key));
    }
    let bytes = Zeroizing::new(data_encoding::HEXLOWER_PERMISSIVE.decode(answer.trim_ascii_end()).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Zeroizing<[u8; 32]>, Failure> {
        ask(&["sh", "-c", script].map(str::to_owned))
    }

    #[test]
    fn a_command_gives_the_key_as_bytes_or_as_hex() {
        let hex = "0123456789abcdef".repeat(4);
        let key = data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hex");
        assert_eq!(sh(&format!("echo {hex}")).expect("a key").as_slice(), key);
        assert_eq!(sh(&format!("printf {}", hex.to_uppercase())).expect("a key").as_slice(), key);
        assert_eq!(sh("head -c 32 /dev/zero").expect("a key").as_slice(), [0; 32]);
    }

    #[test]
    fn a_command_that_fails_or_prints_something_else_is_refused_with_the_reason() {
        let why = |script| sh(script).expect_err("refused").why.expect("a reason");
        assert!(why("exit 3").contains("exit status: 3"));
        assert!(why("echo no key").contains("printed 7 bytes"));
        assert!(why("head -c 33 /dev/zero").contains("printed 33 bytes"));
        assert_eq!(ask(&["/no/such/program".to_owned()]).expect_err("refused").code, "E-VAULT-06");
    }
}
